"""What the live panel shows: a job's snapshot turned into a plain dictionary. Pure, but for looking at files.

static/panel.html, panel.css and panel.js draw it. What a job ended with is in result.py.
"""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import gradio as gr
from pydantic import BaseModel, ConfigDict, Field

from i2v.errors import InputError
from i2v.jobs.model import JobState
from i2v.jobs.result import Stage
from i2v.service import Service, Snapshot
from i2v.ui.html_part import build_drawn
from i2v.ui.language import ENGLISH, Language
from i2v.ui.memory_chart import job_memory, machine_memory
from i2v.ui.run_words import plan_words, step_down_sentence
from i2v.ui.script_calls import JOB_ID, Asked, checked_call

__all__ = ["Seen", "build_panel", "idle_panel", "job_panel"]

_STATE_WORDS = {
    JobState.QUEUED: "Waiting",
    JobState.CANCELLING: "Cancelling…",
    JobState.STOPPING: "Stopping, keeping what is there…",
    JobState.CANCELLED: "Cancelled",
    JobState.DONE: "Done",
    JobState.FAILED: "Failed",
}
_STAGE_WORDS = {
    Stage.LOAD: "Loading the model",
    Stage.ENCODE: "Reading picture and prompt",
    Stage.DENOISE: "Denoising",
    Stage.DECODE: "Making frames",
}
_RUNNING = (JobState.RUNNING, JobState.STOPPING, JobState.CANCELLING)
_COUNTED = (Stage.DENOISE, Stage.DECODE)
_MOST_FRAMES = 16  # in one answer


class Seen(BaseModel):
    """What a tab has been shown of a job, so that a tick sends only what is new. The tab keeps it, as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    job: str = ""
    state: str = ""
    stage: str = ""
    point_s: float = -1.0  # the time of the last point of the chart


class _Pictures(Asked):
    job: str = Field(pattern=JOB_ID)
    have: int = Field(ge=0, le=100_000)


def build_panel(service: Service) -> gr.HTML:
    """Return the part, empty until the first tick."""

    def pictures(asked: _Pictures, _: Language) -> dict[str, Any]:
        """Return the frames that are made beyond the first `have`, some at a time; before there are any, the preview.

        They are read here and not served as files, for both are replaced or removed while the run goes on.
        """
        snapshot = service.snapshot(asked.job)
        if snapshot is None:
            raise InputError("that job is no longer there")
        if not snapshot.frames_ready:
            return {"preview": _data_uri(snapshot.folder.preview), "frames": []}
        numbers = range(asked.have, min(snapshot.frames_ready, asked.have + _MOST_FRAMES))
        return {"frames": [_data_uri(snapshot.folder.frame(number)) for number in numbers]}

    calls = (checked_call("pictures", _Pictures, pictures),)
    return build_drawn("panel", {}, "panel", calls=calls, scripts=("panel_chart", "panel_film"))


def _data_uri(path: Path) -> str:
    """Return a picture for the browser, "" for one that is gone."""
    try:
        data = path.read_bytes()
    except OSError:
        return ""
    return f"data:image/{path.suffix.removeprefix('.').replace('jpg', 'jpeg')};base64,{b64encode(data).decode()}"


def idle_panel(language: Language = ENGLISH) -> dict[str, Any]:
    """Return the panel when no job is looked at: the machine's memory."""
    return {
        "job": "",
        "state": "idle",
        "state_words": language.say("Ready"),
        "running": False,
        "memory": machine_memory(language),
    }


def job_panel(service: Service, snapshot: Snapshot, seen: Seen, language: Language) -> tuple[dict[str, Any], Seen]:
    """Return the panel of a job, and what the tab will then have seen of it.

    All points of the chart are sent when the stage changes, so that one a tab has missed is made up for.
    """
    job, progress = snapshot.job, snapshot.progress
    samples = snapshot.samples
    now = Seen(
        job=job.id,
        state=job.state.value,
        stage=progress.stage.value if progress else "",
        point_s=samples[-1].t_s if samples else -1.0,
    )
    same = (seen.job, seen.state, seen.stage) == (now.job, now.state, now.stage)
    memory = job_memory(snapshot, seen.point_s if same else -1.0, language)
    panel = {
        "job": job.id,
        "state": job.state.value,
        "running": job.state in _RUNNING,
        "size": [job.request.get("width", 1), job.request.get("height", 1)],
        **_progress(service, snapshot, language),
        **_pictures(snapshot),
        **plan_words(snapshot.plan, language),
        "events": [step_down_sentence(step, language) for step in snapshot.step_downs]
        + [language.retell(warning) for warning in snapshot.warnings],
        "memory": memory or machine_memory(language),
    }
    return panel, now


def _progress(service: Service, snapshot: Snapshot, language: Language) -> dict[str, Any]:
    """Return where the run stands; `eta_s` is the time left, `wait_s` the time until a queued job begins."""
    state, progress = snapshot.job.state, snapshot.progress
    at = progress if state in _RUNNING else None
    return {
        "state_words": _words(snapshot, language),
        "stage": at.stage.value if at else "",
        "step": progress.step if progress else 0,
        "total": at.total if at and at.stage in _COUNTED else 0,
        "fraction": 1.0 if state is JobState.DONE else round(progress.fraction if progress else 0.0, 4),
        "per_second": at.per_second if at else None,
        "elapsed_s": progress.elapsed_s if progress else None,
        "eta_s": at.eta_s if at and state is not JobState.CANCELLING else None,
        "wait_s": service.wait_s(snapshot.job.id) if state is JobState.QUEUED else None,
    }


def _words(snapshot: Snapshot, language: Language) -> str:
    state, progress = snapshot.job.state, snapshot.progress
    if state is JobState.RUNNING:
        return language.say(_STAGE_WORDS[progress.stage] if progress else "Starting the worker")
    if state is JobState.QUEUED and snapshot.queue_position:
        return language.say("Waiting, {n} ahead", n=snapshot.queue_position)
    return language.say(_STATE_WORDS[state])


def _pictures(snapshot: Snapshot) -> dict[str, Any]:
    """Return which preview is the newest, "" for none, and how many frames are made already."""
    if snapshot.job.state not in _RUNNING or snapshot.live is None:
        return {"preview": "", "frames": None}
    number, ready = snapshot.live.preview_number, snapshot.frames_ready
    total = snapshot.progress.total if snapshot.progress else 0
    frames = {"ready": ready, "total": total, "fps": snapshot.job.request["fps"]}
    return {"preview": f"{snapshot.job.attempt}.{number}" if number else "", "frames": frames if ready else None}
