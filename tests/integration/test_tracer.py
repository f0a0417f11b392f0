"""What tracing a model's memory leaves behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from i2v.presets.model_preset import preset_named
from i2v.worker import tracer as module
from i2v.worker.tracer import Tracer

WITH_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
print(child.pid, flush=True)
time.sleep(120)
"""


def test_closing_ends_a_trace_with_all_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen([sys.executable, "-c", WITH_CHILD], stdout=subprocess.PIPE)
    assert process.stdout
    with process.stdout as told:
        child = psutil.Process(int(told.readline()))
    monkeypatch.setattr(module, "find_forms", lambda *_: None)
    tracer = Tracer(tmp_path)
    monkeypatch.setattr(tracer, "_start", lambda *_: process)
    assert tracer.forms(preset_named("i2vgen-xl"), "fp16") is None
    tracer.close()
    assert process.poll() is not None
    child.wait(10)
    assert not child.is_running()
