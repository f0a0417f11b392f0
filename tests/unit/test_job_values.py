"""Events, results and errors as values: their JSON is what it always was, and what older versions left still loads."""

from __future__ import annotations

import copy
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from i2v import errors
from i2v.errors import Cancelled, InputError, OutOfMemoryError
from i2v.jobs.events import EVENTS, Progress
from i2v.jobs.model import JobState
from i2v.jobs.result import ErrorNote, MemorySample, Note, PlanNote, RunResult, StepDown
from i2v.jobs.stored import read_stored
from i2v.request import build_request
from i2v.rest.answers import job_answer
from i2v.service import Service
from i2v.settings import Settings
from i2v.ui.compare import compare_jobs
from i2v.ui.history import history_card
from i2v.ui.language import ENGLISH
from i2v.ui.panel import Seen, job_panel
from i2v.ui.result import result_box
from tests.integration.past_jobs import STEP_DOWN, run_result

SAMPLE: dict[str, Any] = {"kind": "ram", "t_s": 0.5, "allocated_bytes": 7, "reserved_bytes": 7, "peak_bytes": 9}
SAMPLE |= {"device_used_bytes": 80, "device_total_bytes": 100}
FORECAST: dict[str, Any] = {"peak_vram_bytes": 0, "peak_ram_bytes": 900, "comparable_bytes": 900, "counted_bytes": 700}
FORECAST |= {"operations": 1e9, "pixels": 4096, "seconds": 3.5}
PLAN: dict[str, Any] = {
    "name": "resident",
    "device": "cpu",
    "precision": "fp32",
    "compute": "fp32",
    "weights": "resident",
}
PLAN |= {"frames": None, "parks_skips": False, "vae_rows": None, "reason": "fp32: it fits.", "exact": True}
PLAN |= {"words": "fp32, whole clip at once, weights resident"}
FIRST: dict[str, Any] = {  # as the first draft wrote it: no forecast, a plan of four values
    "files": {"mp4": "i2v-01234567.mp4"},
    "file_bytes": {"mp4": 12},
    "seconds": 2.5,
    "stage_seconds": {"load": 0.5, "encode": 0.1, "denoise": 1.5, "decode": 0.4},
    "peak_bytes": 300,
    "peak_kind": "ram",
    "frames_sha256": "ab",
    "plan": {"device": "cpu", "precision": "fp32", "weights": "resident", "reason": "fp32, weights resident: asked."},
    "weights_bytes": 200,
    "samples": [SAMPLE],
}
FORESEEN: dict[str, Any] = FIRST | {  # with plans and forecasts, which did not yet count their bytes
    "plan": PLAN | {"frames": 8, "parks_skips": True, "vae_rows": 32},
    "forecast": {name: value for name, value in FORECAST.items() if name != "counted_bytes"},
    "step_downs": [STEP_DOWN],
    "warnings": ["VRAM stays above 90%"],
    "weights": {"precision": "fp32", "total_bytes": 200, "bytes_by_dtype": {"float32": 200}}
    | {"quantised_share": 1.0, "sentence": "denoiser: 0.00 GiB of weights, 100 % as fp32"},
}
STOPPED: dict[str, Any] = FORESEEN | {  # with what was there kept, and when each stage began
    "stopped": {"stage": "decode", "step": 3, "total": 12},
    "num_frames": 3,
    "forecast": FORECAST,
    "stages": [{"stage": "load", "t_s": 0.0}, {"stage": "denoise", "t_s": 0.6}],
}


@pytest.mark.parametrize("written", [FIRST, FORESEEN, STOPPED, run_result(), {"files": {"mp4": "a.mp4"}}, {}])
def test_a_result_of_any_version_loads_and_is_written_as_it_was(written: dict[str, Any]) -> None:
    before = copy.deepcopy(written)
    result = read_stored(RunResult, json.loads(json.dumps(written)))
    assert result is not None
    assert result.to_json() == written == before
    assert result.files == written.get("files", {})
    assert result.seconds == written.get("seconds")


@pytest.mark.parametrize("written", [FIRST, FORESEEN, STOPPED, STOPPED | {"later": [1]}, {"files": {}}, {}])
def test_a_result_of_any_version_in_the_database_is_shown_by_every_face(home: Path, written: dict[str, Any]) -> None:
    service = Service(Settings.from_environment())
    request = build_request({"prompt": "zoom in", "seed": 1}, (64, 64)).model_dump(mode="json")
    job = service._store.submit(request, "a.png", "web")
    assert service._store.claim("web", os.getpid(), 1.0)
    assert service._store.finish(job.id, 1, JobState.DONE)
    with closing(sqlite3.connect(service.settings.database)) as database, database:
        database.execute("UPDATE jobs SET result = ?", (json.dumps(written),))
    service._store.add_file(job.id, "gif", "a.gif", 5)
    snapshot = service.snapshot(job.id)
    assert snapshot
    told = job_answer(snapshot)
    shown = {"num_frames", "seconds", "stage_seconds", "peak_bytes", "peak_kind", "frames_sha256", "forecast"}
    shown |= {"stopped", "weights", "weights_bytes", "stages"}
    assert (told.result or {}) == {name: value for name, value in written.items() if name in shown}
    assert (told.plan, told.memory and told.memory.to_json()) == (
        written.get("plan"),
        written.get("samples", [None])[-1],
    )
    panel, _ = job_panel(service, snapshot, Seen(), ENGLISH)
    assert panel["memory"]["points"] == ([[0.5, 0.0, 0.0, 0.0]] if written.get("samples") else [])
    facts = result_box(service, snapshot, ENGLISH)["facts"]
    assert ("2.5 s" in facts) == ("seconds" in written)
    assert history_card(snapshot, ENGLISH)["state"] == "done"
    assert compare_jobs(snapshot, snapshot, ENGLISH)["a"]["peak_bytes"] == written.get("peak_bytes")
    with closing(sqlite3.connect(service.settings.database)) as database:
        ((kept,),) = database.execute("SELECT result FROM jobs")
    assert json.loads(kept) == written | {
        "files": written.get("files", {}) | {"gif": "a.gif"},
        "file_bytes": written.get("file_bytes", {}) | {"gif": 5},
    }, "what this version does not know is not lost when a file is added"
    service.close()


def test_what_a_result_lacks_has_its_default() -> None:
    result = read_stored(RunResult, FIRST)
    assert result
    assert (result.forecast, result.stopped, result.num_frames) == (None, None, None)
    assert (result.step_downs, result.stages) == ((), ())
    assert result.plan
    assert (result.plan.words, result.plan.compute, result.plan.exact) == ("", "", True)
    later = read_stored(RunResult, FORESEEN)
    assert later
    assert later.forecast
    assert (later.forecast.pixels, later.forecast.counted_bytes) == (4096, None)
    assert later.step_downs == (StepDown(**STEP_DOWN),)


def test_what_another_version_wrote_besides_is_ignored_but_for_the_plan() -> None:
    written = copy.deepcopy(STOPPED) | {"energy_j": 5, "plan": PLAN | {"residency": {"unet": "turns"}}}
    written["samples"][0]["temperature_c"] = 60
    written["stopped"]["by"] = "a person"
    result = read_stored(RunResult, written)
    assert result
    assert result.to_json() == STOPPED | {"plan": written["plan"]}
    with pytest.raises(ValidationError):
        RunResult.model_validate(written)


def test_a_damaged_value_counts_as_missing_and_takes_nothing_else_with_it() -> None:
    whole = dict(SAMPLE, t_s=9.0)
    samples = [{"kind": "tape"}, dict(SAMPLE, t_s=None), whole, "x", {"t_s": 1, "new": 2}, whole]
    written = FIRST | {"samples": samples, "seconds": "soon", "peak_kind": "tape", "plan": [], "step_downs": [{}]}
    written |= {"stage_seconds": {"denoise": 1.5, "rehearse": 2.0, "load": "x"}, "stopped": {"stage": "decode"}}
    result = read_stored(RunResult, written)
    assert result
    assert [sample.t_s for sample in result.samples] == [9.0, 9.0]
    assert (result.seconds, result.peak_kind, result.plan, result.step_downs) == (None, None, None, ())
    assert (result.stage_seconds, result.stopped) == ({"denoise": 1.5}, None)
    assert (result.files, result.frames_sha256) == (FIRST["files"], "ab")


@pytest.mark.parametrize("written", [{}, None, [], "x", {"fraction": 0.5}, {"stage": "warp", "step": 1}])
def test_a_progress_that_is_none_is_none(written: object) -> None:
    assert read_stored(Progress, written) is None


def test_an_error_keeps_its_keys_and_comes_back_as_what_it_was() -> None:
    error = OutOfMemoryError("memory ran out", "Choose fewer frames.")
    note = ErrorNote.of(error)
    assert note.to_json() == error.to_dict()
    assert isinstance(note.to_error(), OutOfMemoryError)
    assert str(note.to_error()) == str(error)
    refused = ErrorNote.of(InputError("no", field="width", nearest={"width": 64})).to_error()
    assert isinstance(refused, InputError)
    assert (refused.field, refused.nearest) == ("width", {"width": 64})
    with_steps = note.model_copy(update={"step_downs": (StepDown(**STEP_DOWN),)})
    assert with_steps.to_json() == error.to_dict() | {"step_downs": [STEP_DOWN]}
    assert (note.is_cancelled, ErrorNote.of(Cancelled("x")).is_cancelled) == (False, True)
    bare = read_stored(ErrorNote, {"kind": "NotOfThisVersion", "code": 3})
    assert bare
    assert str(bare.to_error()) == "The job could not be run."


@pytest.mark.parametrize("name", errors.__all__)
def test_every_kind_of_error_can_be_sent_and_kept(name: str) -> None:
    error = getattr(errors, name)("it went wrong", "Do better.")
    told = ErrorNote.of(error)
    assert type(told.to_error()) is type(error)
    assert told.to_json() == error.to_dict() == told.to_error().to_dict()


def test_a_value_is_strict_and_cannot_be_changed() -> None:
    sample = MemorySample.model_validate(SAMPLE)
    with pytest.raises(ValidationError):
        sample.t_s = 1.0
    with pytest.raises(ValidationError):
        MemorySample.model_validate(SAMPLE | {"extra": 1})
    assert PlanNote.model_validate(PLAN | {"knobs": [1]}).to_json() == PLAN | {"knobs": [1]}
    assert all(issubclass(kind, Note) for kind in EVENTS.values())
    assert len(set(EVENTS.values())) == len(EVENTS), "an event's class says which one it is"
