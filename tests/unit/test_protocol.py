"""What the app and its worker say to each other: checked on arrival, whichever side wrote it."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from i2v.jobs.events import EVENTS, Heartbeat, Loaded, Lost, Planned, Preview, Ready, Unloaded, Warned
from i2v.jobs.result import ErrorNote, ForecastNote, MemorySample, Note, PlanNote, RunResult, StepDown
from i2v.memory.forecast.experience import Experience
from i2v.worker import executor as executor_module
from i2v.worker.executor import LocalExecutor
from i2v.worker.protocol import (
    COMMANDS,
    Cancel,
    Keep,
    Message,
    MessageWriter,
    ProtocolError,
    Run,
    RunId,
    Stop,
    Unload,
    read_messages,
)
from tests.integration.past_jobs import STEP_DOWN, progress_at, run_result

RUN = RunId("0f" * 16, 2)
SAID: tuple[Note, ...] = (
    Ready(pid=7),
    Heartbeat(),
    Loaded(model="motion", device="cpu", precision="fp32", bytes=5),
    Unloaded(),
    Planned(plan=PlanNote.model_validate({"name": "turns", "knobs": {"rows": 32}}), forecast=ForecastNote(seconds=3)),
    progress_at(eta_s=None),
    MemorySample(**run_result()["samples"][0]),
    Preview(number=3),
    StepDown(**STEP_DOWN),
    Warned(message="Wärme “überall”"),
    RunResult.model_validate(run_result(stopped={"stage": "decode", "step": 3, "total": 9})),
    ErrorNote(kind="StorageError", message="no", step_downs=(StepDown(**STEP_DOWN),)),
    Run(request='{"prompt": "x"}', home=Path("/a b"), folder=Path("/ü"), experience=Experience(rates={"cpu": 1.5})),
    Cancel(),
    Keep(),
    Unload(),
    Stop(),
)


def read(*lines: bytes) -> list[Message]:
    return list(read_messages(io.BytesIO(b"".join(lines)), dict(COMMANDS) | dict(EVENTS)))


def line(**changes: Any) -> bytes:
    values = {"type": "preview", "job_id": "a", "attempt": 1, "data": {"number": 1}} | changes
    return json.dumps(values).encode() + b"\n"


def test_everything_that_can_be_said_arrives_as_it_was() -> None:
    assert {type(said) for said in SAID} == set(EVENTS.values()) | set(COMMANDS.values())
    stream = io.BytesIO()
    for said in SAID:
        MessageWriter(stream).send(Message(said, RUN))
    assert read(stream.getvalue()) == [Message(said, RUN) for said in SAID]
    assert stream.getvalue().count(b"\n") == len(SAID), "one line each"


def test_what_is_not_known_is_logged_once_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    strange = line(type="thermometer", data={"c": 60})
    found = read(strange, line(), strange, line(type="x" * 999), strange)
    assert found == [Message(Preview(number=1), RunId("a", 1))]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "'thermometer'" in told[0]
    assert max(map(len, told)) < 200


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        (b"Loading weights: 100%\n", "no JSON"),
        (b"\xff\xfe\n", "no JSON"),
        (b"[" * 100_000 + b"\n", "no JSON"),
        (b"[]\n", "dictionary"),
        (b"{}\n", "type"),
        (line(attempt="now"), "attempt"),
        (line(data=[]), "data"),
        (line(data={}), "Preview.number"),
        (line(data={"number": 1, "prompt": "secret words"}), "Preview.prompt"),
        (line(type="progress", data=progress_at().to_json() | {"stage": "secret words"}), "Progress.stage"),
    ],
)
def test_what_is_malformed_is_an_error_that_says_where_and_not_what(wrong: bytes, where: str) -> None:
    with pytest.raises(ProtocolError, match=where) as raised:
        read(line(), wrong)
    assert "secret words" not in str(raised.value)
    assert len(str(raised.value)) < 300


def test_a_line_cut_short_by_a_dying_process_ends_the_stream() -> None:
    assert read(line(), line()[:-9]) == [Message(Preview(number=1), RunId("a", 1))]


def test_a_worker_that_is_not_understood_is_ended_and_its_run_is_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script = 'import sys, time; sys.stdin.readline(); print(\'{"type": "progress"}\', flush=True); time.sleep(600)'
    started: list[subprocess.Popen[bytes]] = []

    class Babbling(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **kwargs: Any):
            super().__init__([command[0], "-c", script], **kwargs)
            started.append(self)

    monkeypatch.setattr(executor_module.subprocess, "Popen", Babbling)
    executor = LocalExecutor()
    executor.start(RUN, Run(request="{}", home=Path("/h"), folder=Path("/f"), experience=Experience()))
    message, deadline = None, time.monotonic() + 60
    while message is None and time.monotonic() < deadline:
        message = executor.poll(0.1)
    assert message is not None
    assert message.run == RUN
    assert message.said == Lost(exit_code=-9 if os.name == "posix" else 1)
    assert executor.state().pid is None
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "not understood: a message of" in errors[0]
    executor.close(0.1)
