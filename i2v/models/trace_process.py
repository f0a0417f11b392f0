"""Has a model's memory formulas traced in a process of its own, which ends with whoever asked for it. No torch here.

The process reads its standard input, a pipe from here: when that closes, for this process let go of it or was killed,
it leaves, and the processes that it shares the work with leave after it (build_forms.py).
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from i2v.errors import GenerationError
from i2v.memory.forecast.forms import ModelForms
from i2v.memory.forecast.tables import find_forms, shipped_forms
from i2v.models.download import model_folder
from i2v.presets.model_preset import ModelPreset

__all__ = ["TraceProcess", "forms_after_trace", "forms_of", "known_forms"]

_log = logging.getLogger(__name__)
_POLL_S = 0.2
_PROGRAM = "i2v.models.build_forms"


class TraceProcess:
    """One trace, begun at once. Its result is a table in the home folder (`known_forms`)."""

    def __init__(self, preset: ModelPreset, home: Path, precision: str):
        root = str(Path(__file__).parents[2])
        environment = os.environ | {
            "I2V_HOME": str(home),
            "CUDA_VISIBLE_DEVICES": "",  # tracing needs no card, and must not take memory on one
            "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        command = [sys.executable, "-m", _PROGRAM, preset.name, "--precision", precision, "--while-input"]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Return the exit code, None if it is not over after `timeout_s`; without one, when it is over."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """End it now, if it is not over, with the processes it has started."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()


def known_forms(preset: ModelPreset, home: Path, precision: str) -> ModelForms | None:
    """Return the formulas of an installed model, None where they have to be traced first."""
    return find_forms(preset, model_folder(preset, home), home, precision)


def forms_after_trace(preset: ModelPreset, home: Path, precision: str, exit_code: int) -> ModelForms:
    """Return what a trace that is over has found; after a failed one, the preset's own table. Raises GenerationError.

    A model is taken to be like its preset when it could not be traced and i2v ships a table for that.
    """
    forms = known_forms(preset, home, precision)
    if forms is None:
        _log.warning("the memory of %s could not be traced (exit code %d)", preset.name, exit_code)
        forms = shipped_forms(preset)
    if forms is None:
        raise GenerationError(
            f"the memory that {preset.name} takes could not be worked out (exit code {exit_code})",
            "Download the model again, or choose another one; the log has the details.",
            field="model",
        )
    return forms


def forms_of(
    preset: ModelPreset, home: Path, precision: str, stop_if_cancelled: Callable[[], None] = lambda: None
) -> ModelForms:
    """Return the formulas of an installed model, having them traced if need be. Raises GenerationError.

    `stop_if_cancelled` is called a few times a second; what it raises ends the trace.
    """
    known = known_forms(preset, home, precision)
    if known:
        return known
    process = TraceProcess(preset, home, precision)
    try:
        while (exit_code := process.wait(_POLL_S)) is None:
            stop_if_cancelled()
    finally:
        process.end()
    return forms_after_trace(preset, home, precision, exit_code)
