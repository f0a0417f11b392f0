"""What the page is given of past jobs: cards of the history, and what is different between two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest

from i2v.errors import UnknownJobError
from i2v.jobs.folder import JobFolder
from i2v.jobs.model import Job, JobState
from i2v.jobs.result import RunResult
from i2v.service import Service, Snapshot
from i2v.ui.compare import compare_jobs
from i2v.ui.history import build_history, history_card
from i2v.ui.language import ENGLISH, language_named
from i2v.ui.script_calls import Asked, checked_call
from tests.integration.past_jobs import progress_at

CHINESE = language_named("zh-CN")
REQUEST = {
    "model": "motion",
    "prompt": "pan left",
    "width": 768,
    "height": 512,
    "num_frames": 24,
    "fps": 12,
    "num_inference_steps": 8,
    "guidance_scale": 1.0,
    "seed": 7,
}


def snapshot(folder: Path, state: JobState = JobState.DONE, runner: str = "web", **request: Any) -> Snapshot:
    folder.mkdir(exist_ok=True)
    made = RunResult(files={"mp4": "i2v-x.mp4"}, seconds=2.5, peak_bytes=1 << 30)
    job = Job(
        id="0" * 32,
        state=state,
        attempt=1,
        request=REQUEST | request,
        image_name="cat.png",
        runner=runner,
        runner_pid=None,
        runner_started=None,
        progress=progress_at(fraction=0.37),
        error=None,
        result=made if state is JobState.DONE else None,
        favourite=False,
        created_at=1000.0,
        started_at=1001.0,
        finished_at=1003.5 if state is JobState.DONE else None,
    )
    return Snapshot(job, None, None, JobFolder(folder))


def browser(language: str = "en") -> gr.Request:
    return cast(gr.Request, SimpleNamespace(headers={"accept-language": language}))


def call(part: gr.HTML, name: str) -> Callable[..., dict[str, Any]]:
    return cast(Callable[..., dict[str, Any]], getattr(part, name))


class Past:
    """A service whose library knows one job."""

    def __init__(self) -> None:
        self.library, self.asked = self, list[tuple[Any, ...]]()

    def set_favourite(self, job_id: str, on: bool) -> None:
        if job_id != "known":
            raise UnknownJobError(f"there is no job {job_id}", "It may have been deleted.")
        self.asked.append((job_id, on))

    def history(self, limit: int, offset: int, search: str, favourites: bool) -> list[Snapshot]:
        self.asked.append((limit, offset, search, favourites))
        return []

    def count_jobs(self, search: str, favourites: bool) -> int:
        return 3

    def disk_use(self) -> SimpleNamespace:
        return SimpleNamespace(jobs_bytes=5, trash_bytes=0, free_bytes=9)


@pytest.fixture
def past() -> Past:
    return Past()


@pytest.fixture
def part(past: Past) -> gr.HTML:
    return build_history(cast(Service, past))


def test_a_card_of_a_video_shows_its_poster_and_what_it_took(tmp_path: Path) -> None:
    one = snapshot(tmp_path)
    (tmp_path / "poster.jpg").write_bytes(b"x")
    (tmp_path / "i2v-x.mp4").write_bytes(b"x")
    card = history_card(one, ENGLISH)
    assert card["poster"].endswith("/poster.jpg")
    assert card["picture"] == ""
    assert card["has_video"]
    assert (card["model"], card["width"], card["height"], card["frames"]) == ("Built-in motion", 768, 512, 24)
    assert card["took_s"] == 2.5
    assert card["percent"] is None
    assert not card["from_command_line"]
    assert history_card(one, CHINESE)["model"] == "内置运动模型"


def test_a_card_without_a_video_shows_the_start_picture_and_its_state(tmp_path: Path) -> None:
    (tmp_path / "poster.jpg").write_bytes(b"of an earlier attempt")
    one = snapshot(tmp_path, JobState.RUNNING, runner="cli:12")
    assert history_card(one, ENGLISH)["picture"] == ""
    (tmp_path / "picture.png").write_bytes(b"x")
    card = history_card(one, ENGLISH)
    assert card["picture"].endswith("/picture.png")
    assert (card["poster"], card["has_video"], card["is_over"], card["percent"]) == ("", False, False, 37)
    assert card["from_command_line"]


def test_a_start_picture_too_large_for_a_card_is_left_out(tmp_path: Path) -> None:
    with (tmp_path / "picture.png").open("wb") as file:
        file.truncate(5 << 20)
    assert history_card(snapshot(tmp_path, JobState.FAILED), ENGLISH)["picture"] == ""


def test_a_model_that_is_no_longer_there_is_called_by_its_name(tmp_path: Path) -> None:
    assert history_card(snapshot(tmp_path, model="gone"), ENGLISH)["model"] == "gone"


def test_only_what_differs_is_compared(tmp_path: Path) -> None:
    a = snapshot(tmp_path / "a")
    b = snapshot(tmp_path / "b", num_frames=16, guidance_scale=2.5, loop=True, chunk_frames=4)
    rows = compare_jobs(a, b, ENGLISH)["rows"]
    assert rows == [
        {"name": "Frames", "a": "24", "b": "16"},
        {"name": "Guidance", "a": "1", "b": "2.5"},
        {"name": "Loop", "a": "no", "b": "yes"},
        {"name": "Frames per chunk", "a": "as large as fits", "b": "4"},
    ]
    assert [row["name"] for row in compare_jobs(a, b, CHINESE)["rows"]] == ["帧数", "引导强度", "循环", "每块帧数"]
    assert compare_jobs(a, a, ENGLISH)["rows"] == []


def test_limits_of_memory_are_compared(tmp_path: Path) -> None:
    a, b = snapshot(tmp_path / "a", vram_gib=6.0), snapshot(tmp_path / "b", ram_gib=12.5)
    assert compare_jobs(a, b, ENGLISH)["rows"] == [
        {"name": "Use at most (GiB)", "a": "6.0", "b": "all that is free"},
        {"name": "RAM: use at most (GiB)", "a": "all that is free", "b": "12.5"},
    ]
    assert compare_jobs(a, b, CHINESE)["rows"][1]["name"] == "内存：最多使用（GiB）"


def test_a_comparison_says_what_each_took(tmp_path: Path) -> None:
    one = snapshot(tmp_path)
    facts = compare_jobs(one, one, ENGLISH)["a"]
    assert (facts["seconds"], facts["peak_bytes"], facts["shape"]) == (2.5, 1 << 30, 1.5)


def test_the_history_is_asked_page_by_page(past: Past, part: gr.HTML) -> None:
    page = call(part, "history_page")({"offset": 24, "limit": 24, "search": "cat", "favourites": True}, browser())
    assert past.asked == [(24, 24, "cat", True)]
    assert page == {"cards": [], "total": 3, "disk": {"videos": 5, "bin": 0, "free": 9}}


def test_an_error_comes_as_a_sentence_in_the_language_of_the_browser(past: Past, part: gr.HTML) -> None:
    favourite = call(part, "favourite")
    assert favourite({"id": "known", "on": True}, browser()) == {"on": True}
    assert past.asked == [("known", True)]
    assert "there is no job nobody" in favourite({"id": "nobody", "on": True}, browser())["error"].lower()
    assert "nobody" in favourite({"id": "nobody", "on": True}, browser("zh-CN"))["error"]
    assert not favourite({"id": "nobody", "on": True}, browser("zh-CN"))["error"].isascii()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("history_page", None),
        ("history_page", {"limit": 1000}),
        ("history_page", {"offset": -1}),
        ("history_page", {"search": "x" * 501}),
        ("history_page", {"favourites": "yes"}),
        ("history_page", {"folder": "/etc"}),
        ("favourite", {"id": "known"}),
        ("remove", {"id": "../known"}),
        ("remove", {"id": ["known"]}),
        ("restore", {}),
    ],
)
def test_what_no_script_of_ours_sends_is_refused(past: Past, part: gr.HTML, name: str, data: Any) -> None:
    assert "does not know" in call(part, name)(data, browser())["error"]
    assert past.asked == []


def test_a_mistake_of_our_own_is_not_hidden() -> None:
    def wrong(asked: Asked, language: Any) -> dict[str, Any]:
        raise KeyError("mistake")

    with pytest.raises(KeyError):
        checked_call("wrong", Asked, wrong)({}, browser())
