"""The parts of the REST face that need no running app: fields, login, revisions, refusals, metrics."""

from __future__ import annotations

import asyncio
import base64
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from i2v import errors
from i2v.errors import Cancelled, I2VError, InputError, StorageError
from i2v.jobs.folder import JobFolder
from i2v.jobs.model import Job, JobState
from i2v.jobs.result import ErrorNote, RunResult, Stage
from i2v.machine.devices import Gpu
from i2v.request import GenerationRequest
from i2v.rest.answers import JobAnswer, job_answer
from i2v.rest.events import next_revision, revisions, stream
from i2v.rest.fields import FIELD_WORDS, request_values
from i2v.rest.login import read_basic
from i2v.rest.refusals import status_of
from i2v.rest.routes import add_rest
from i2v.service import Service, Snapshot
from i2v.settings import Settings
from i2v.worker.totals import RunTotals
from tests.integration.past_jobs import progress_at

JOB = Job(
    id="0f" * 16,
    state=JobState.RUNNING,
    attempt=1,
    request={"prompt": "pan left", "seed": 1},
    image_name="cat.jpg",
    runner="web",
    runner_pid=1,
    runner_started=1.0,
    progress=progress_at(step=1),
    error=None,
    result=None,
    favourite=False,
    created_at=0.0,
    started_at=1.5,
    finished_at=None,
)


def answer(**changes: Any) -> JobAnswer:
    return job_answer(Snapshot(replace(JOB, **changes), None, None, JobFolder(Path("/nowhere"))))


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    """A service that was never started: its store lives, its dispatcher does not."""
    service = Service(Settings.from_environment())
    yield service
    service.close()


def client(service: Service, check: Callable[[str, str], bool] | None = None) -> TestClient:
    app = FastAPI(openapi_url=None)
    add_rest(app, service, check)
    return TestClient(app, raise_server_exceptions=False)


# Fields


def test_every_field_of_a_request_but_the_hash_can_be_sent() -> None:
    assert set(FIELD_WORDS) == set(GenerationRequest.model_fields) - {"image_sha256"}


def test_texts_become_values_of_the_request() -> None:
    pairs = [("prompt", " pan left "), ("num_frames", "8"), ("guidance_scale", "1.5"), ("loop", "true"), ("seed", "")]
    pairs += [("formats", "gif, webp"), ("formats", "png"), ("negative_prompt", ""), ("vram_gib", "6")]
    assert request_values(pairs) == {
        "prompt": "pan left",
        "num_frames": 8,
        "guidance_scale": 1.5,
        "loop": True,
        "formats": ("gif", "webp", "png"),
        "negative_prompt": "",
        "vram_gib": 6.0,
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("num_frames", "8.5"),
        ("num_frames", "1e3"),
        ("seed", "9" * 5000),
        ("loop", "perhaps"),
        ("formats", "gif,exe"),
        ("precision", "fp7"),
        ("width", "0x40"),
        ("id", "1"),
        ("", "1"),
        ("image_sha256", "0"),
    ],
)
def test_a_text_that_is_no_such_value_is_refused_at_its_field(name: str, text: str) -> None:
    with pytest.raises(InputError) as raised:
        request_values([(name, text)])
    assert raised.value.field == name
    assert len(str(raised.value)) < 400


# Login


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("Basic " + base64.b64encode("me:grün:1".encode()).decode(), ("me", "grün:1")),
        ("basic " + base64.b64encode(b"me:").decode(), ("me", "")),
        ("Basic " + base64.b64encode(b"no colon").decode(), None),
        ("Basic " + base64.b64encode(b"\xff:\xfe").decode(), None),
        ("Basic ???", None),
        ("Basic", None),
        ("Bearer bWU6eA==", None),
        ("", None),
    ],
)
def test_a_basic_header_is_read_or_none(header: str, found: tuple[str, str] | None) -> None:
    assert read_basic(header) == found


def test_a_login_guards_every_address_but_health(service: Service) -> None:
    web = client(service, lambda user, password: (user, password) == ("me", "größer"))
    addresses = {"/api/docs", "/api/openapi.json", "/api/nothing", "/api/", *web.app.openapi()["paths"]}  # type: ignore[attr-defined]
    for path, method in itertools.product(addresses - {"/healthz"}, ("GET", "HEAD", "POST", "PUT", "DELETE")):
        refused = web.request(method, path)
        if path == "/metrics" and method != "GET":
            assert refused.status_code == 405  # behind it is nothing to guard
            continue
        assert refused.status_code == 401, (method, path)
        assert refused.headers["www-authenticate"].startswith("Basic ")
    assert web.get("/metrics").json()["error"]["kind"] == "NotLoggedIn"
    wrong = base64.b64encode(b"me:wrong").decode()
    assert web.get("/metrics", headers={"Authorization": f"Basic {wrong}"}).status_code == 401
    right = {"Authorization": f"Basic {base64.b64encode('me:größer'.encode()).decode()}"}
    for path in ("/metrics", "/api/docs", "/api/openapi.json", "/api/v1/jobs", "/api/v1/models"):
        assert web.get(path, headers=right).status_code == 200, path
    assert web.get("/healthz").json()["version"]


# Refusals


def test_every_error_has_a_status() -> None:
    statuses = {name: status_of(getattr(errors, name)("x")) for name in errors.__all__}
    assert statuses == {
        "Cancelled": 503,
        "GenerationError": 503,
        "I2VError": 503,
        "ImageError": 422,
        "InputError": 422,
        "ModelFilesError": 409,
        "NotFiniteError": 503,
        "OutOfMemoryError": 503,
        "StorageError": 503,
        "UnknownJobError": 404,
        "WorkerDiedError": 503,
    }
    assert all(type(I2VError.from_dict({"kind": name, "message": "x"})).__name__ == name for name in statuses)


def test_a_mistake_of_ours_is_told_without_its_trace(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(service, "models", fail)
    refused = client(service).get("/api/v1/models")
    assert (refused.status_code, refused.json()["error"]["kind"]) == (500, "InternalError")
    assert "secret" not in refused.text


def test_a_store_that_is_gone_and_a_dead_dispatcher_are_told(service: Service) -> None:
    web = client(service)
    idle = web.get("/healthz")
    assert (idle.status_code, idle.json()["status"]) == (503, "failing")
    assert (idle.json()["store"], idle.json()["dispatcher"]) == (True, False)
    service.settings.database.unlink()
    assert web.get("/healthz").json()["store"] is False
    for path in ("/api/v1/jobs", "/api/v1/jobs/0", "/metrics"):
        refused = web.get(path)
        assert (refused.status_code, refused.json()["error"]["kind"]) == (503, "StorageError"), path


def test_a_forecast_that_is_not_ready_says_when_to_ask_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "forecast", lambda *_, **__: None)
    refused = client(service).get("/api/v1/forecast")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")


# Revisions


def test_a_revision_changes_with_the_job_and_only_then() -> None:
    assert answer().revision == answer().revision != ""
    assert answer().revision != answer(progress=progress_at(step=2)).revision
    assert answer().revision != answer(state=JobState.CANCELLING).revision


def test_an_answer_tells_times_in_utc_and_nothing_of_processes() -> None:
    told = answer(error=ErrorNote.of(Cancelled("gone")))
    assert told.model_dump(mode="json")["started_at"] == "1970-01-01T00:00:01.500000Z"
    assert told.error
    assert told.error.kind == "Cancelled"
    assert "runner" not in told.model_dump_json()


def follow(*answers: JobAnswer | Exception | None) -> Callable[[], JobAnswer | None]:
    """Return a `read` that gives one after the other, then the last one for ever."""
    left = itertools.chain(answers, itertools.repeat(answers[-1]))

    def read() -> JobAnswer | None:
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return found

    return read


def test_each_change_is_told_once_and_the_end_ends_it() -> None:
    first, second, done = answer(), answer(attempt=2), answer(state=JobState.DONE)
    read = follow(first, first, StorageError("busy"), second, second, done, first)

    async def told() -> list[JobAnswer | None]:
        return [one async for one in revisions(read, look_s=0.001)]

    assert asyncio.run(told()) == [first, second, done]


def test_a_job_that_is_deleted_meanwhile_ends_the_stream() -> None:
    async def told() -> list[bytes]:
        return [chunk async for chunk in stream(follow(answer(), None))]

    (event,) = asyncio.run(told())
    assert event.startswith(b"data: {")
    assert f"id: {answer().revision}\n".encode() in event


def test_a_quiet_stream_says_that_it_is_still_there() -> None:
    async def told() -> list[bytes]:
        quiet = stream(follow(answer()), seen=answer().revision, heartbeat_s=0.0)
        return [await anext(quiet), await anext(quiet)]

    assert asyncio.run(told()) == [b": still here\n\n"] * 2


def test_a_long_poll_answers_at_a_change_at_the_end_and_when_time_is_over() -> None:
    first, second, done = answer(), answer(attempt=2), answer(state=JobState.DONE)
    began = time.monotonic()
    assert asyncio.run(next_revision(follow(first, second), first.revision, 30)) == second
    assert asyncio.run(next_revision(follow(done), done.revision, 30)) == done
    assert asyncio.run(next_revision(follow(first), "", 30)) == first
    assert time.monotonic() - began < 10
    assert asyncio.run(next_revision(follow(first), first.revision, 0.05)) == first
    assert asyncio.run(next_revision(follow(None), "", 30)) is None


# Metrics


def test_totals_count_runs_and_the_seconds_of_their_stages() -> None:
    totals = RunTotals()
    totals.add(JobState.DONE, RunResult(stage_seconds={Stage.ENCODE: 0.5, Stage.DENOISE: 2.0}))
    totals.add(JobState.DONE, RunResult(stage_seconds={Stage.DENOISE: 1.0}))
    totals.add(JobState.FAILED, None)
    assert totals.ended() == {JobState.DONE: 2, JobState.FAILED: 1}
    assert totals.stages() == {"encode": (1, 0.5), "denoise": (2, 3.0)}


def test_metrics_name_jobs_by_state_and_cards_by_size(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "i2v.machine.devices.gpus", lambda: [Gpu(0, "Card", "1.0", 8 << 30, 3 << 30, uuid="GPU-private")]
    )
    service._store.submit({"prompt": "private"}, "private.jpg", "web")
    web = client(service)
    text = web.get("/metrics").text
    assert 'i2v_jobs{state="queued"} 1.0' in text
    assert 'i2v_jobs{state="done"} 0.0' in text
    assert "i2v_queue_length 1.0" in text
    assert "i2v_worker_starts_total 0.0" in text
    assert 'i2v_device_memory_used_bytes{device="0",name="Card"} 3.221225472e+09' in text
    assert 'i2v_build_info{version="' in text
    assert "private" not in text
    assert "python_info" not in text  # the library's own registry stays out
    openmetrics = web.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")
