"""What the page is given to show of a job: the live panel, its result, and the card of an error, as plain values."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from i2v.errors import (
    GenerationError,
    I2VError,
    InputError,
    ModelFilesError,
    NotFiniteError,
    OutOfMemoryError,
    StorageError,
)
from i2v.jobs.events import Planned
from i2v.jobs.folder import JobFolder
from i2v.jobs.model import Job, JobState
from i2v.jobs.result import ErrorNote, ForecastNote, MemorySample, PlanNote, RunResult, Stage, StepDown
from i2v.request import build_request
from i2v.service import Service, Snapshot
from i2v.settings import Settings
from i2v.ui.error_card import error_card, refusal_card
from i2v.ui.language import ENGLISH, languages
from i2v.ui.panel import Seen, build_panel, idle_panel, job_panel
from i2v.ui.result import build_result, result_box
from i2v.worker.dispatcher import LiveJob
from tests.integration.past_jobs import GIB, STEP_DOWN, progress_at, run_result

CHINESE = languages()["zh-CN"]
JOB_ID = "0123456789abcdef0123456789abcdef"
NEW = Seen()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(Settings(tmp_path / "home"))
    yield service
    service.close()


def snapshot(folder: Path, state: JobState, live: LiveJob | None = None, **job: Any) -> Snapshot:
    values = {"model": "motion", "prompt": "zoom in", "num_frames": 24, "seed": 7}
    request = build_request(values, (768, 512)).model_dump(mode="json")
    known: dict[str, Any] = {"error": None, "result": None, "progress": None} | job
    progress, error = known["progress"], known["error"]
    result = RunResult.model_validate(known["result"]) if known["result"] else None
    made = Job(JOB_ID, state, 1, request, "cat.png", "web", None, None, progress, error, result, False, 0.0, 0.0, 0.0)
    return Snapshot(made, live, 2 if state is JobState.QUEUED else None, JobFolder(folder))


def running(folder: Path, seconds: int, stage: Stage = Stage.DENOISE, state: JobState = JobState.RUNNING) -> Snapshot:
    plan, forecast = PlanNote(reason="because", words="fp16"), ForecastNote(comparable_bytes=4 * GIB)
    live = LiveJob(JOB_ID, 1, planned=Planned(plan=plan, forecast=forecast))
    live.progress = progress_at(stage, 5, fraction=0.21, elapsed_s=3.0)
    for sample in run_result()["samples"][:seconds]:
        live.add_sample(MemorySample(**sample))
    return snapshot(folder, state, live)


def times(panel: dict[str, Any]) -> list[float]:
    return [point[0] for point in panel["memory"]["points"]]


# The live panel


def test_the_panel_says_stage_step_speed_and_time_left(tmp_path: Path, service: Service) -> None:
    panel, _ = job_panel(service, running(tmp_path, 10), NEW, ENGLISH)
    told = {name: panel[name] for name in ("state_words", "step", "total", "per_second", "eta_s", "fraction")}
    assert told == {
        "state_words": "Denoising",
        "step": 5,
        "total": 50,
        "per_second": 0.5,
        "eta_s": 60.0,
        "fraction": 0.21,
    }
    assert job_panel(service, running(tmp_path, 10), NEW, CHINESE)[0]["state_words"] == "正在去噪"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (JobState.QUEUED, "Waiting, 2 ahead"),
        (JobState.CANCELLING, "Cancelling…"),
        (JobState.STOPPING, "Stopping, keeping what is there…"),
        (JobState.CANCELLED, "Cancelled"),
        (JobState.FAILED, "Failed"),
        (JobState.DONE, "Done"),
    ],
)
def test_every_state_has_its_words(tmp_path: Path, service: Service, state: JobState, words: str) -> None:
    panel, _ = job_panel(service, snapshot(tmp_path, state), NEW, ENGLISH)
    assert panel["state_words"] == words
    assert job_panel(service, snapshot(tmp_path, state), NEW, CHINESE)[0]["state_words"] != words


def test_a_tick_sends_only_the_points_that_the_tab_has_not_seen(tmp_path: Path, service: Service) -> None:
    first, seen = job_panel(service, running(tmp_path, 10), NEW, ENGLISH)
    assert first["memory"]["whole"]
    assert len(times(first)) == 10
    second, seen = job_panel(service, running(tmp_path, 12), seen, ENGLISH)
    assert not second["memory"]["whole"]
    assert times(second) == [2.5, 2.75]
    assert len(json.dumps(second)) < 2000


def test_all_points_are_sent_anew_when_the_stage_changes(tmp_path: Path, service: Service) -> None:
    _, seen = job_panel(service, running(tmp_path, 10), NEW, ENGLISH)
    panel, _ = job_panel(service, running(tmp_path, 12, stage=Stage.DECODE), seen, ENGLISH)
    assert panel["memory"]["whole"]
    assert len(times(panel)) == 12


def test_a_long_run_is_thinned_to_what_a_tick_can_carry(tmp_path: Path, service: Service) -> None:
    live = LiveJob(JOB_ID, 1)
    for step in range(1000):
        live.add_sample(MemorySample(**run_result()["samples"][7] | {"t_s": step / 2}))
    panel, _ = job_panel(service, snapshot(tmp_path, JobState.RUNNING, live), NEW, ENGLISH)
    assert len(times(panel)) <= 241
    assert times(panel)[-1] == 499.5
    assert len(json.dumps(panel)) < 15_000


def test_a_finished_job_shows_stages_forecast_peak_and_step_downs(tmp_path: Path, service: Service) -> None:
    panel, _ = job_panel(service, snapshot(tmp_path, JobState.DONE, result=run_result()), NEW, ENGLISH)
    memory = panel["memory"]
    assert memory["peak_words"] == "peak 4.45 of 4.20 GiB foreseen"
    assert memory["stages"][2] == [2.1, "Denoise"]
    assert memory["marks"] == [4.2]
    assert panel["events"] == [
        "Stepped down after 4 s (denoise, step 3): memory ran out. "
        "From fp16, whole clip at once, weights resident to fp16, exact chunks of 8 frames, models take turns."
    ]
    assert panel["plan"] == "Plan: fp16, exact chunks of 8 frames, models take turns"
    assert "stepped down" in panel["why"]
    assert panel["fraction"] == 1.0


def test_the_panel_speaks_chinese_to_the_last_word(tmp_path: Path, service: Service) -> None:
    panel, _ = job_panel(service, snapshot(tmp_path, JobState.DONE, result=run_result()), NEW, CHINESE)
    said = [*panel["events"], panel["plan"], panel["why"], panel["state_words"], panel["memory"]["peak_words"]]
    assert [text for text in said if not any("一" <= letter <= "鿿" for letter in text)] == []
    assert "memory" not in panel["events"][0]


def test_frames_that_are_made_already_are_shown_while_the_rest_is_made(tmp_path: Path, service: Service) -> None:
    now = running(tmp_path, 3, stage=Stage.DECODE)
    assert now.live
    now.live.preview_number = 50
    assert job_panel(service, now, NEW, ENGLISH)[0]["preview"] == "1.50"
    now.live.progress = progress_at(Stage.DECODE, 3)
    frames = job_panel(service, now, NEW, ENGLISH)[0]["frames"]
    assert (frames["ready"], frames["total"], frames["fps"]) == (3, 50, now.job.request["fps"])


def test_a_tab_gets_the_preview_then_the_frames_that_it_has_not(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def built() -> gr.HTML:
        with gr.Blocks():
            return build_panel(service)

    now = running(tmp_path, 3)
    assert now.live
    monkeypatch.setattr(service, "snapshot", lambda job: now if job == JOB_ID else None)
    part, asked = asyncio.run(built()), {"job": JOB_ID, "have": 0}
    assert part.pictures(asked, None) == {"preview": "", "frames": []}  # it is being replaced just now
    (tmp_path / "preview.webp").write_bytes(b"x")
    assert part.pictures(asked, None)["preview"] == "data:image/webp;base64,eA=="
    now.live.progress = progress_at(Stage.DECODE, 30)
    now.folder.frames.mkdir()
    for number in range(30):
        (now.folder.frame(number)).write_bytes(b"x")
    assert len(part.pictures(asked, None)["frames"]) == 16
    assert part.pictures(asked | {"have": 28}, None)["frames"] == ["data:image/jpeg;base64,eA=="] * 2
    assert part.pictures(asked | {"have": 99}, None)["frames"] == []
    for wrong in ({"job": JOB_ID}, asked | {"have": -1}, asked | {"job": "../x"}, asked | {"job": "ab"}, None):
        assert part.pictures(wrong, None)["error"]


def test_without_a_job_the_panel_shows_the_machine() -> None:
    panel = idle_panel()
    assert (panel["state"], panel["job"], panel["running"]) == ("idle", "", False)
    assert panel["memory"]["device_total_bytes"] > 0


# The result


def test_the_result_tells_what_made_it_in_separate_pieces(tmp_path: Path, service: Service) -> None:
    stopped = {"stage": "denoise", "step": 12, "total": 50}
    done = snapshot(tmp_path, JobState.DONE, result=run_result(stopped=stopped, files={"mp4": "a.mp4"}))
    (tmp_path / "a.mp4").write_bytes(b"x")
    box = result_box(service, done, ENGLISH)
    assert box["prompt"] == "zoom in"
    assert {"768 × 512", "24 frames at 12 fps", "seed 7", "kept after step 12 of 50", "12.0 s"} <= set(box["facts"])
    assert "VRAM peak 4.45 of 4.20 GiB foreseen" in box["facts"]
    assert json.loads(box["settings"])["num_frames"] == 24
    assert [(file["kind"], bool(file["url"])) for file in box["files"]] == [
        ("mp4", True),
        ("gif", False),
        ("webp", False),
        ("png", False),
    ]
    assert "第 12 / 50 步后停止并保留" in result_box(service, done, CHINESE)["facts"]


def test_a_video_that_was_stopped_while_decoding_has_fewer_frames(tmp_path: Path, service: Service) -> None:
    stopped = {"stage": "decode", "step": 9, "total": 24}
    box = result_box(service, snapshot(tmp_path, JobState.DONE, result=run_result(stopped=stopped)), ENGLISH)
    assert "9 frames at 12 fps" in box["facts"]
    assert "kept after frame 9 of 24" in box["facts"]


def test_a_running_job_has_no_result_yet(tmp_path: Path, service: Service) -> None:
    assert result_box(service, running(tmp_path, 3), ENGLISH) == {"job": ""}


async def built(service: Service) -> gr.HTML:  # within a loop, else Gradio opens one and leaves it open
    with gr.Blocks():
        return build_result(service)


@pytest.mark.parametrize("call", ["convert", "favourite", "discard", "log"])
@pytest.mark.parametrize("data", [None, [], {"job": "../../etc"}, {"job": JOB_ID, "kind": "exe"}, {"job": "a", "x": 1}])
def test_what_a_browser_makes_up_is_refused_in_a_sentence(service: Service, call: str, data: Any) -> None:
    part = asyncio.run(built(service))
    assert "does not know" in getattr(part, call)(data, None)["error"]


def test_a_job_that_is_gone_is_told_and_not_raised(service: Service) -> None:
    part = asyncio.run(built(service))
    for call, data in (("convert", {"kind": "gif"}), ("favourite", {"on": True}), ("discard", {"undo": False})):
        assert getattr(part, call)({"job": JOB_ID, **data}, None)["error"], call


# The card of an error


def failed(folder: Path, error: I2VError, **others: Any) -> Snapshot:
    return snapshot(folder, JobState.FAILED, error=ErrorNote.of(error).model_copy(update=others))


def test_the_card_says_what_happened_what_was_done_and_what_to_do(tmp_path: Path, service: Service) -> None:
    (tmp_path / "latents.safetensors").write_bytes(b"x")
    error = OutOfMemoryError("memory ran out during decode, with the smallest plan already", "Choose fewer frames.")
    card = error_card(service, failed(tmp_path, error, step_downs=(StepDown(**STEP_DOWN),)), ENGLISH)
    assert card["what"] == "Memory ran out during decode, with the smallest plan already."
    assert card["todo"] == "Choose fewer frames."
    assert "Stepped down after 4 s" in card["did"][0]
    assert "latents were kept" in card["did"][1]
    assert card["kind"] == "OutOfMemoryError"


@pytest.mark.parametrize(
    ("error", "wishes"),
    [
        (OutOfMemoryError("a"), ["retry", "refill"]),
        (StorageError("a"), ["retry"]),
        (GenerationError("a"), ["retry"]),
        (ModelFilesError("a"), ["system", "retry"]),
        (NotFiniteError("a"), ["refill", "retry"]),
    ],
)
def test_each_kind_of_error_has_its_remedies(
    tmp_path: Path, service: Service, error: I2VError, wishes: list[str]
) -> None:
    actions = error_card(service, failed(tmp_path, error), ENGLISH)["actions"]
    assert [action["value"]["do"] for action in actions] == wishes
    for action in actions:
        if action["value"]["do"] == "refill":
            assert action["value"]["fields"]
            assert action["words"].startswith("Use ")


def test_a_start_that_was_refused_is_a_card_whose_buttons_change_only_what_does_not_fit(service: Service) -> None:
    values = {"model": "motion", "prompt": "x", "width": 3840, "height": 2160, "num_frames": 24, "vram_gib": 1.2}
    service.forecast(values, (3840, 2160), wait=True)
    error = InputError("this does not fit: it is too large", "What fits: --size 64x64.", field="width")
    card = refusal_card(service, error, values, (3840, 2160), ENGLISH)
    assert card["what"] == "This does not fit: it is too large."
    assert card["todo"] == "This would fit:"
    assert [action["value"]["do"] for action in card["actions"]] == ["fill"]
    assert set(card["actions"][0]["value"]["fields"]) == {"match_picture", "width", "height"}


def test_a_start_that_no_setting_helps_keeps_its_remedy(service: Service) -> None:
    values = {"model": "motion", "prompt": "x", "width": 512, "height": 512, "num_frames": 2}
    error = StorageError("only 1 MiB are free", "Free disk space.")
    card = refusal_card(service, error, values | {"model": "gone"}, (512, 512), ENGLISH)
    assert (card["todo"], card["actions"]) == ("Free disk space.", [])
