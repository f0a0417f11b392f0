"""Has a model's memory formulas traced in a process of its own when there is no table for it yet. No torch here."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psutil

from i2v.memory.forecast.forms import ModelForms
from i2v.memory.forecast.tables import find_forms, shipped_forms
from i2v.models.download import model_folder
from i2v.presets.model_preset import ModelPreset

__all__ = ["Tracer"]

_log = logging.getLogger(__name__)


class Tracer:
    """Knows the formulas of every model, or is finding them out."""

    def __init__(self, home: Path):
        self._home = home
        self._found: dict[tuple[str, str], ModelForms] = {}
        self._going: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def forms(self, preset: ModelPreset, precision: str, wait: bool = False) -> ModelForms | None:
        """Return a model's formulas, None while they are being traced; with `wait`, when they are there.

        A model that cannot be traced is taken to be like its preset.
        """
        key = (preset.name, precision)
        with self._lock:
            if key in self._found:
                return self._found[key]
            forms = self._look(preset, precision)
            if forms is None and key not in self._going:
                self._going[key] = self._start(preset, precision)
            process = self._going.get(key)
        if forms is None and process is not None:
            if wait:
                process.wait()
            if process.poll() is None:
                return None
            forms = self._look(preset, precision) or self._fallback(preset)
        if forms is not None:
            self._found[key] = forms
        return forms

    def forget(self) -> None:
        """Look at the models' files anew the next time."""
        with self._lock:
            self._found.clear()
            self._going = {key: process for key, process in self._going.items() if process.poll() is None}

    def close(self) -> None:
        """End what is still going on."""
        for process in self._going.values():
            if process.poll() is None:
                _terminate_family(process)
            process.wait()

    def _look(self, preset: ModelPreset, precision: str) -> ModelForms | None:
        return find_forms(preset, model_folder(preset, self._home), self._home, precision)

    def _fallback(self, preset: ModelPreset) -> ModelForms | None:
        _log.warning("the memory of %s could not be traced; its preset's table is used", preset.name)
        return shipped_forms(preset)

    def _start(self, preset: ModelPreset, precision: str) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).parents[2])
        environment = os.environ | {
            "I2V_HOME": str(self._home),
            "CUDA_VISIBLE_DEVICES": "",  # tracing needs no card, and must not take memory on one
            "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        command = [sys.executable, "-m", "i2v.models.build_forms", preset.name, "--precision", precision]
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _terminate_family(process: subprocess.Popen[bytes]) -> None:
    """End a process and those it has started: left alone, they would wait for it for ever."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    process.terminate()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.terminate()
