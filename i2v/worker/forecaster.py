"""Answers "will it fit, and how long will it take?" for a request, on this machine as it is now. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from i2v.jobs.store import JobStore
from i2v.memory.forecast.experience import Experience
from i2v.memory.ladder import Ladder, compute_precision
from i2v.memory.machine_now import Machine
from i2v.presets.model_preset import preset_named
from i2v.request import GenerationRequest
from i2v.worker.past_runs import past_experience
from i2v.worker.tracer import Tracer

__all__ = ["Forecaster"]

_FRESH_S = 5.0


class Forecaster:
    """Puts formulas, machine and past runs together. `worker_pid` returns the worker's process, if it runs."""

    def __init__(self, store: JobStore, home: Path, worker_pid: Callable[[], int | None]):
        self._store, self._home, self._worker_pid = store, home, worker_pid
        self._tracer = Tracer(home)
        self._experience: tuple[float, Experience] | None = None

    def ladder(self, request: GenerationRequest, wait: bool = False, pretend: bool = False) -> Ladder | None:
        """Return the rungs for a request; None while the model's memory is being traced, unless told to `wait`.

        With `pretend`, the request's `vram_gib` and `ram_gib` are a machine that need not be there. Raises
        InputError, and GenerationError when the memory could not be traced.
        """
        preset = preset_named(request.model)
        pid = self._worker_pid()
        machine = Machine.detect((pid,) if pid else ())
        wished = (request.vram_gib, request.ram_gib)
        machine = machine.pretending(*wished) if pretend else machine.limited(*wished)
        forms = self._tracer.forms(preset, compute_precision(request, preset, machine), wait)
        return Ladder(request, preset, forms, machine, self._past()) if forms else None

    def forget(self) -> None:
        """Look at the models' files anew: one was downloaded."""
        self._tracer.forget()

    def close(self) -> None:
        """End what is still being traced."""
        self._tracer.close()

    def _past(self) -> Experience:
        now = time.monotonic()
        if self._experience is None or now - self._experience[0] > _FRESH_S:
            self._experience = now, past_experience(self._store, self._home)
        return self._experience[1]
