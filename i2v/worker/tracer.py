"""Knows every model's memory formulas, or is having them traced (models/trace_process.py). No torch here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from i2v.errors import GenerationError, I2VError
from i2v.memory.forecast.forms import ModelForms
from i2v.models.trace_process import TraceProcess, forms_after_trace, known_forms
from i2v.presets.model_preset import ModelPreset

__all__ = ["RETRY_AFTER_S", "Tracer"]

RETRY_AFTER_S = 300.0  # a trace that failed for want of memory, say, may do better then
_Key = tuple[str, str]


class Tracer:
    """Knows the formulas of every model, or is finding them out. Any number of threads may use it."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.monotonic):
        self._home, self._clock = home, clock
        self._found: dict[_Key, ModelForms] = {}
        self._going: dict[_Key, TraceProcess] = {}
        self._failed: dict[_Key, tuple[float, GenerationError]] = {}
        self._lock = threading.Lock()

    def forms(self, preset: ModelPreset, precision: str, wait: bool = False) -> ModelForms | None:
        """Return a model's formulas, None while they are being traced; with `wait`, when they are there.

        Raises GenerationError when they could not be traced. That is remembered, and the trace begun anew only after
        `forget` or RETRY_AFTER_S.
        """
        key = (preset.name, precision)
        with self._lock:
            if key in self._found:
                return self._found[key]
            self._raise_if_failed(key)
            process = self._going.get(key)
            if process is None:
                known = known_forms(preset, self._home, precision)
                if known:
                    self._found[key] = known
                    return known
                process = self._going[key] = TraceProcess(preset, self._home, precision)
        exit_code = process.wait(None if wait else 0)
        if exit_code is None:
            return None
        with self._lock:
            if self._going.get(key) is process:
                del self._going[key]
                process.end()
                self._settle(key, preset, exit_code)
        return self.forms(preset, precision, wait)  # from what is settled now, by this thread or another

    def _settle(self, key: _Key, preset: ModelPreset, exit_code: int) -> None:
        try:
            self._found[key] = forms_after_trace(preset, self._home, key[1], exit_code)
        except GenerationError as error:
            self._failed[key] = self._clock(), error

    def _raise_if_failed(self, key: _Key) -> None:
        when, error = self._failed.get(key, (0.0, None))
        if error is None:
            return
        if self._clock() - when < RETRY_AFTER_S:
            raise I2VError.from_dict(error.to_dict())  # anew: a kept one would gather the trace of each caller
        del self._failed[key]

    def forget(self) -> None:
        """Look at the models' files anew the next time; what is being traced of the old ones ends."""
        with self._lock:
            self._found.clear()
            self._failed.clear()
            self._end_all()

    def close(self) -> None:
        """End what is still going on."""
        with self._lock:
            self._end_all()

    def _end_all(self) -> None:
        for process in self._going.values():
            process.end()
        self._going.clear()
