"""Two videos side by side: their files, and what is different in how they were made. static/compare.* draw it."""

from __future__ import annotations

from typing import Any

import gradio as gr
from pydantic import Field

from i2v.errors import InputError, UnknownJobError
from i2v.service import Service, Snapshot
from i2v.ui.history import model_title
from i2v.ui.html_part import build_drawn
from i2v.ui.language import Language
from i2v.ui.result import file_address
from i2v.ui.script_calls import JOB_ID, Asked, checked_call

__all__ = ["build_compare", "compare_jobs"]


class _PairAsked(Asked):
    a: str = Field(pattern=JOB_ID)
    b: str = Field(pattern=JOB_ID)


def build_compare(service: Service) -> gr.HTML:
    """Return the part. It shows two jobs when the event i2v:compare on document names them: {"a": id, "b": id}."""

    def compare(asked: _PairAsked, language: Language) -> dict[str, Any]:
        return compare_jobs(_with_video(service, asked.a), _with_video(service, asked.b), language)

    return build_drawn("compare", {}, elem_id="compare", calls=[checked_call("compare", _PairAsked, compare)])


def _with_video(service: Service, job_id: str) -> Snapshot:
    snapshot = service.snapshot(job_id)
    if snapshot is None:
        raise UnknownJobError(f"there is no job {job_id}", "It may have been deleted.")
    if snapshot.file("mp4") is None:
        raise InputError("this job has no video")
    return snapshot


def compare_jobs(a: Snapshot, b: Snapshot, language: Language) -> dict[str, Any]:
    """Return both jobs' facts, and the settings in which they differ: {"name", "a", "b"}, in the form's order."""
    said_a, said_b = _settings(a, language), _settings(b, language)
    differing = [name for name in said_a | said_b if said_a.get(name) != said_b.get(name)]
    rows = [{"name": name, "a": said_a.get(name, "–"), "b": said_b.get(name, "–")} for name in differing]
    return {"a": _facts(a), "b": _facts(b), "rows": rows}


def _facts(snapshot: Snapshot) -> dict[str, Any]:
    job, result, video = snapshot.job, snapshot.result, snapshot.file("mp4")
    return {
        "id": job.id,
        "prompt": job.prompt,
        "video": file_address(video) if video else "",
        "fps": job.request.get("fps"),
        "shape": round(job.request["width"] / job.request["height"], 4),
        "seconds": job.took_s if result.seconds is None else result.seconds,
        "peak_bytes": result.peak_bytes,
        "peak_kind": result.peak_kind or "",
    }


def _settings(snapshot: Snapshot, language: Language) -> dict[str, str]:
    """Return everything that can be set, in words."""
    request, say = snapshot.job.request, language.say
    get = request.get
    said = {
        say("Model"): language.retell(model_title(request)),
        say("Prompt"): get("prompt"),
        say("Negative prompt"): get("negative_prompt"),
        say("Start image"): snapshot.job.image_name,
        say("Size"): f"{get('width')} × {get('height')}",
        say("Frames"): get("num_frames"),
        say("FPS"): get("fps"),
        say("Steps"): get("num_inference_steps"),
        say("Guidance"): f"{get('guidance_scale', 0):g}",
        say("Seed"): get("seed"),
        say("Loop"): say("yes") if get("loop") else say("no"),
        say("Picture"): say("Show the whole picture") if get("image_fit") == "fit" else say("Crop to fill"),
        say("Precision"): _precision(snapshot),
        say("Frames per chunk"): get("chunk_frames") or say("as large as fits"),
        say("Use at most (GiB)"): get("vram_gib") or say("all that is free"),
        say("RAM: use at most (GiB)"): get("ram_gib") or say("all that is free"),
    }
    return {name: str(value) for name, value in said.items() if value not in (None, "")}


def _precision(snapshot: Snapshot) -> str:
    """Return the precision that was asked for or, where i2v chose, the one that was chosen."""
    asked = str(snapshot.job.request.get("precision", ""))
    chosen = snapshot.result.plan.precision if snapshot.result.plan else ""
    return chosen if asked in ("", "auto") and chosen else asked
