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
    "load": "Loading the model",
    "encode": "Reading picture and prompt",
    "denoise": "Denoising",
    "decode": "Making frames",
}
_RUNNING = (JobState.RUNNING, JobState.STOPPING, JobState.CANCELLING)
_COUNTED = ("denoise", "decode")
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
    stage = str(progress.get("stage", ""))
    now = Seen(
        job=job.id,
        state=job.state.value,
        stage=stage,
        point_s=snapshot.samples[-1]["t_s"] if snapshot.samples else -1.0,
    )
    same = (seen.job, seen.state, seen.stage) == (now.job, now.state, now.stage)
    plan, step_downs = _plan(snapshot), _from_run(snapshot, "step_downs")
    memory = job_memory(snapshot, plan, step_downs, seen.point_s if same else -1.0, language)
    panel = {
        "job": job.id,
        "state": job.state.value,
        "running": job.state in _RUNNING,
        "size": [job.request.get("width", 1), job.request.get("height", 1)],
        **_progress(service, snapshot, stage, language),
        **_pictures(snapshot),
        **plan_words(plan, language),
        "events": [step_down_sentence(step, language) for step in step_downs]
        + [language.retell(warning) for warning in _from_run(snapshot, "warnings")],
        "memory": memory or machine_memory(language),
    }
    return panel, now


def _progress(service: Service, snapshot: Snapshot, stage: str, language: Language) -> dict[str, Any]:
    """Return where the run stands; `eta_s` is the time left, `wait_s` the time until a queued job begins."""
    state, progress = snapshot.job.state, snapshot.progress
    running = state in _RUNNING
    return {
        "state_words": _words(snapshot, stage, language),
        "stage": stage if running else "",
        "step": progress.get("step", 0),
        "total": progress.get("total", 0) if running and stage in _COUNTED else 0,
        "fraction": 1.0 if state is JobState.DONE else round(progress.get("fraction", 0.0), 4),
        "per_second": progress.get("per_second") if running else None,
        "elapsed_s": progress.get("elapsed_s"),
        "eta_s": progress.get("eta_s") if state in (JobState.RUNNING, JobState.STOPPING) else None,
        "wait_s": service.wait_s(snapshot.job.id) if state is JobState.QUEUED else None,
    }


def _words(snapshot: Snapshot, stage: str, language: Language) -> str:
    state = snapshot.job.state
    if state is JobState.RUNNING:
        return language.say(_STAGE_WORDS.get(stage, "Starting the worker"))
    if state is JobState.QUEUED and snapshot.queue_position:
        return language.say("Waiting, {n} ahead", n=snapshot.queue_position)
    return language.say(_STATE_WORDS[state])


def _pictures(snapshot: Snapshot) -> dict[str, Any]:
    """Return which preview is the newest, "" for none, and how many frames are made already."""
    if snapshot.job.state not in _RUNNING or snapshot.live is None:
        return {"preview": "", "frames": None}
    number, ready = snapshot.live.preview_number, snapshot.frames_ready
    frames = {"ready": ready, "total": snapshot.progress.get("total", 0), "fps": snapshot.job.request["fps"]}
    return {"preview": f"{snapshot.job.attempt}.{number}" if number else "", "frames": frames if ready else None}


def _from_run(snapshot: Snapshot, name: str) -> list[Any]:
    """Return the "step_downs" or "warnings" of a run, while it runs and afterwards."""
    return list(getattr(snapshot.live, name) if snapshot.live else (snapshot.job.result or {}).get(name, []))


def _plan(snapshot: Snapshot) -> dict[str, Any]:
    """Return the plan at work, with its forecast where the run told one."""
    if snapshot.live and snapshot.live.plan:
        return snapshot.live.plan
    result = snapshot.job.result or {}
    return {"forecast": result.get("forecast"), **result.get("plan", {})}
