"""What the live panel shows: a job's snapshot turned into a plain dictionary. Pure, but for reading the preview file.

static/panel.html, panel.css and panel.js draw it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from i2v import devices
from i2v.jobs.model import JobState
from i2v.service import Service, Snapshot, describe_error
from i2v.ui.language import Language

__all__ = ["idle_panel", "job_panel", "peak_words"]

_MOST_POINTS = 240
_STATE_WORDS = {
    JobState.QUEUED: "Waiting",
    JobState.STOPPING: "Stopping, keeping what is there…",
    JobState.CANCELLING: "Cancelling…",
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
_GIB = 1 << 30
_UNITS = {"load": "load", "encode": "encode", "denoise": "step", "decode": "frame"}


def idle_panel(language: Language) -> dict[str, Any]:
    """Return the panel when no job is looked at: the machine's memory."""
    return {"state": "idle", "state_words": "Ready", "memory": _machine_memory(), "running": False}


def job_panel(service: Service, snapshot: Snapshot, preview_seen: int, language: Language) -> dict[str, Any]:
    """Return the panel of a job. The preview is sent only when it is newer than `preview_seen`."""
    job, progress = snapshot.job, snapshot.progress
    plan, step_downs = _plan(snapshot), _from_run(snapshot, "step_downs")
    running = job.state in (JobState.RUNNING, JobState.STOPPING, JobState.CANCELLING)
    stage = progress.get("stage", "")
    number = snapshot.live.preview_number if snapshot.live else 0
    preview = snapshot.picture("preview.webp") if running and number > preview_seen else None
    return {
        "state": job.state.value,
        "state_words": _words(snapshot, stage),
        "running": running,
        "stage": _UNITS.get(stage, ""),
        "step": progress.get("step", 0),
        "total": progress.get("total", 0),
        "fraction": 1.0 if job.state is JobState.DONE else progress.get("fraction", 0.0),
        "per_second": progress.get("per_second") if running else None,
        "elapsed_s": progress.get("elapsed_s"),
        "eta_s": progress.get("eta_s") if job.state in (JobState.RUNNING, JobState.STOPPING) else None,
        "message": describe_error(job.error) if job.state is JobState.FAILED else "",
        "plan": f"Plan: {plan['reason']}" if plan.get("reason") else "",
        "step_downs": [_step_down_sentence(step) for step in step_downs],
        "warnings": _from_run(snapshot, "warnings"),
        "preview": _data_uri(preview) if preview else None,
        "keep_preview": running and number > 0,
        "memory": _job_memory(snapshot, plan, step_downs) or _machine_memory(),
    }


def peak_words(peak_bytes: int, foreseen: Mapping[str, Any]) -> str:
    """Say a measured peak, beside what a job's stored forecast had foreseen for it."""
    expected = foreseen.get("comparable_bytes")
    if not expected:
        return f"peak {peak_bytes / _GIB:.2f} GiB"
    return f"peak {peak_bytes / _GIB:.2f} of {expected / _GIB:.2f} GiB foreseen"


def _from_run(snapshot: Snapshot, name: str) -> list[Any]:
    """Return the "step_downs" or "warnings" of a run, while it runs and afterwards."""
    return list(getattr(snapshot.live, name) if snapshot.live else (snapshot.job.result or {}).get(name, []))


def _step_down_sentence(step: Mapping[str, Any]) -> str:
    where = step["stage"]
    if where in ("denoise", "decode"):
        where += f", {_UNITS[where]} {step['step']}"
    return f"Stepped down after {step['t_s']:.0f} s ({where}): {step['why']}. From {step['before']} to {step['after']}."


def _words(snapshot: Snapshot, stage: str) -> str:
    state = snapshot.job.state
    if state is JobState.RUNNING:
        return _STAGE_WORDS.get(stage, "Starting the worker")
    if state is JobState.QUEUED and snapshot.queue_position:
        return f"Waiting, {snapshot.queue_position} ahead"
    return _STATE_WORDS[state]


def _plan(snapshot: Snapshot) -> dict[str, Any]:
    """Return the plan at work, with its forecast where the run told one."""
    if snapshot.live and snapshot.live.plan:
        return snapshot.live.plan
    result = snapshot.job.result or {}
    return {"forecast": result.get("forecast"), **result.get("plan", {})}


def _data_uri(path: Path) -> str:
    return "data:image/webp;base64," + base64.b64encode(path.read_bytes()).decode()


def _job_memory(snapshot: Snapshot, plan: Mapping[str, Any], step_downs: list[dict[str, Any]]) -> dict[str, Any] | None:
    samples, foreseen = snapshot.samples, plan.get("forecast") or {}
    if not samples:
        return None
    last, on_gpu = samples[-1], samples[-1]["kind"] == "gpu"
    every = max(1, -(-len(samples) // _MOST_POINTS))
    kept = [*samples[:-1:every], last]
    return {
        "label": "VRAM of this run" if on_gpu else "RAM of the worker process",
        "device_label": "· whole card " if on_gpu else "· whole machine ",
        "used_bytes": last["allocated_bytes"],
        "peak_bytes": last["peak_bytes"],
        "peak_words": peak_words(last["peak_bytes"], foreseen),
        "foreseen_bytes": foreseen.get("comparable_bytes", 0),
        "device_used_bytes": last["device_used_bytes"],
        "device_total_bytes": last["device_total_bytes"],
        "points": [[round(sample["t_s"], 2), sample["allocated_bytes"]] for sample in kept],
        "marks": [step["t_s"] for step in step_downs],
    }


def _machine_memory() -> dict[str, Any]:
    card = devices.first_visible_gpu(devices.gpus())
    if card:
        used, total, label = card.used_bytes, card.total_bytes, card.name
    else:
        memory = devices.machine_memory()
        used, total, label = memory.used_bytes, memory.total_bytes, "System RAM (no GPU found)"
    return {
        "label": label,
        "device_label": "· in use ",
        "used_bytes": used,
        "peak_bytes": 0,
        "device_used_bytes": used,
        "device_total_bytes": total,
        "points": [],
    }
