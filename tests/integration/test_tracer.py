"""Tracing a model's memory: it leaves no process behind, can be cancelled, and says once that it failed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from i2v.cli import main as command_line
from i2v.engine.run import Engine, RunSpec
from i2v.errors import Cancelled, GenerationError
from i2v.memory.forecast import tables
from i2v.models import trace_process
from i2v.models.download import model_folder
from i2v.models.trace_process import forms_of
from i2v.presets.model_preset import preset_named
from i2v.request import build_request
from i2v.rest.routes import add_rest
from i2v.service import Service
from i2v.settings import Settings
from i2v.ui.forecast_box import look_ahead
from i2v.ui.language import languages
from i2v.worker.tracer import RETRY_AFTER_S, Tracer
from tests.unit.test_decoded_once import FIELDS

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0
TRACER = """
import sys, time
from pathlib import Path
from i2v.presets.model_preset import preset_named
from i2v.worker.tracer import Tracer
assert Tracer(Path(sys.argv[1])).forms(preset_named("i2vgen-xl"), "fp32") is None
print("going", flush=True)
time.sleep(600)
"""


def unlike_any_table(home: Path) -> Path:
    """Install an I2VGen-XL, of which only a configuration is there, that i2v has no table of."""
    folder = model_folder(preset_named("i2vgen-xl"), home)
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text(json.dumps({"cross_attention_dim": 1032}))
    return folder


def until(what: Callable[[], Any]) -> Any:
    """Return what `what` gives as soon as it is something."""
    deadline = time.monotonic() + LIMIT_S
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
    return found


def traces_below(pid: int) -> list[psutil.Process]:
    """Return the tracing process below a process with both that share its work, or nothing yet."""
    found = [child for child in psutil.Process(pid).children(recursive=True) if _is_trace(child)]
    return found if len(found) >= 3 else []


def _is_trace(process: psutil.Process) -> bool:
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "build_forms" in line or "spawn_main" in line


def assert_all_end(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=LIMIT_S)
    for process in alive:
        process.kill()
    assert not alive


def test_a_killed_program_leaves_no_trace_running(home: Path) -> None:
    unlike_any_table(home)
    program = subprocess.Popen([sys.executable, "-c", TRACER, str(home)], cwd=ROOT, stdout=subprocess.PIPE)
    assert program.stdout
    with program.stdout as told:
        assert told.readline() == b"going\n"
        traces = until(lambda: traces_below(program.pid))
        program.send_signal(signal.SIGKILL)
        program.wait()
    assert_all_end(traces)


def test_closing_ends_a_trace_with_all_its_processes(home: Path) -> None:
    unlike_any_table(home)
    tracer = Tracer(home)
    assert tracer.forms(preset_named("i2vgen-xl"), "fp32") is None
    traces = until(lambda: traces_below(psutil.Process().pid))
    tracer.close()
    assert_all_end(traces)


def test_a_run_is_cancelled_while_its_memory_is_traced(home: Path) -> None:
    unlike_any_table(home)
    request = build_request({"model": "i2vgen-xl", "prompt": "x"}, (512, 512))
    spec, traces = RunSpec("0" * 32, 1, request, home, home), []

    def cancelled() -> bool:
        traces[:] = traces or traces_below(psutil.Process().pid)
        return bool(traces)

    with pytest.raises(Cancelled):
        Engine().run(spec, lambda *_: None, cancelled)
    assert_all_end(traces)


# A trace that fails


@pytest.fixture
def failing(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """No table is known, and every trace fails. Returns the traces that were begun, by their process."""
    begun: list[int] = []
    start = subprocess.Popen

    def counted(*arguments: Any, **more: Any) -> Any:
        begun.append(1)
        return start([sys.executable, "-c", "raise SystemExit(3)"], **more)

    monkeypatch.setattr(trace_process, "find_forms", lambda *_: None)
    monkeypatch.setattr(trace_process, "shipped_forms", lambda *_: None)
    monkeypatch.setattr(trace_process, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": counted}))
    return begun


SENTENCE = "The memory that motion takes could not be worked out (exit code 3). Download the model again,"


def test_a_failed_trace_is_said_and_not_begun_again_until_there_is_reason_to(home: Path, failing: list[int]) -> None:
    now, preset = [0.0], preset_named("motion")
    tracer = Tracer(home, clock=lambda: now[0])

    def assert_told(times: int) -> None:
        for _ in range(3):
            with pytest.raises(GenerationError) as told:
                tracer.forms(preset, "fp32", wait=True)
            assert str(told.value).startswith(SENTENCE)
        assert len(failing) == times

    assert_told(1)
    now[0] += RETRY_AFTER_S - 1
    assert_told(1)
    now[0] += 2
    assert_told(2)
    tracer.forget()
    assert_told(3)
    tracer.close()


def test_a_trace_that_fails_in_the_background_is_told_at_a_later_look(home: Path, failing: list[int]) -> None:
    tracer, preset = Tracer(home), preset_named("motion")

    def told() -> str:
        try:
            return "" if tracer.forms(preset, "fp32") is None else "formulas"
        except GenerationError as error:
            return str(error)

    assert until(told).startswith(SENTENCE)
    assert len(failing) == 1


def test_a_model_whose_trace_fails_is_taken_to_be_like_its_preset(
    home: Path, failing: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_process, "shipped_forms", tables.shipped_forms)
    preset = preset_named("motion")
    assert forms_of(preset, home, "fp32") == tables.shipped_forms(preset)
    assert Tracer(home).forms(preset, "fp32", wait=True) == tables.shipped_forms(preset)


def test_every_face_tells_a_failed_trace_in_one_sentence(
    home: Path, photo: Path, failing: list[int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "set_up_logging", lambda *_: None)
    assert command_line.main(["forecast"]) == 1
    assert capsys.readouterr().err.startswith(f"i2v: {SENTENCE}")
    service = Service(Settings(home, "WARNING"))
    try:
        with pytest.raises(GenerationError):
            service.forecast({"prompt": ""}, (512, 512), wait=True)
        box = look_ahead(service, FIELDS, languages()["zh-CN"])
        assert (box["state"], box["message"][:4]) == ("wrong", "无法算出")
        assert service.fits("motion") == "unknown"
        app = FastAPI(openapi_url=None)
        add_rest(app, service, None)
        answer = TestClient(app).get("/api/v1/forecast")
        assert (answer.status_code, answer.json()["error"]["kind"]) == (503, "GenerationError")
        assert "retry-after" not in answer.headers
        with pytest.raises(GenerationError, match="could not be worked out"):  # the worker could not plan it either
            service.submit({"prompt": "zoom in"}, photo)
        assert service.active_jobs() == []
        assert len(failing) == 2  # one of the command line, one of the service
    finally:
        service.close()
