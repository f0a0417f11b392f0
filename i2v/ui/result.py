"""What the page shows of a job that has ended: its video, its files and what made it, or why there is no video.

static/result.html, result.css and result.js draw it; the functions of `build_result` are what they ask of the server.
"""

from __future__ import annotations

import json
from typing import Any, Literal
from urllib.parse import quote

import gradio as gr
from pydantic import Field

from i2v.jobs.folder import if_there
from i2v.jobs.model import JobState
from i2v.service import Service, Snapshot
from i2v.ui.error_card import error_card
from i2v.ui.html_part import build_drawn
from i2v.ui.language import Language
from i2v.ui.run_words import run_facts
from i2v.ui.script_calls import JOB_ID, Asked, checked_call

__all__ = ["NOTHING_YET", "build_result", "file_address", "result_box"]

NOTHING_YET: dict[str, Any] = {"job": ""}
_KINDS = ("mp4", "gif", "webp", "png")
_OWN = ("image_sha256",)  # of a request; it says nothing to a person
_LOG_LINES = 40


class _Job(Asked):
    job: str = Field(pattern=JOB_ID)


class _Convert(_Job):
    kind: Literal["gif", "webp", "png"]


class _Favourite(_Job):
    on: bool


class _Discard(_Job):
    undo: bool


def file_address(path: Any) -> str:
    """Return where the browser finds a file of a job or an example: relative, for the page may be behind a proxy."""
    return f"gradio_api/file={quote(path.as_posix())}"


def result_box(service: Service, snapshot: Snapshot, language: Language) -> dict[str, Any]:
    """Return the box of a job; without a video there is only what can be done again."""
    job, video, poster = snapshot.job, snapshot.file("mp4"), if_there(snapshot.folder.poster)
    if not snapshot.is_over:
        return NOTHING_YET
    box = {
        "job": job.id,
        "state": job.state.value,
        "prompt": job.prompt,
        "facts": run_facts(job.request, snapshot.result, language),
        "settings": json.dumps({k: v for k, v in job.request.items() if k not in _OWN}, ensure_ascii=False, indent=1),
        "size": [job.request["width"], job.request["height"]],
        "favourite": job.favourite,
    }
    if job.state is JobState.FAILED:
        return box | {"card": error_card(service, snapshot, language)}
    if video is None:
        return box
    return box | {
        "video": file_address(video),
        "poster": file_address(poster) if poster else "",
        "files": [_file(service, snapshot, kind) for kind in _KINDS],
    }


def _file(service: Service, snapshot: Snapshot, kind: str) -> dict[str, str]:
    """Return where a file is, "" where it can still be made, and what it is called when it is saved."""
    path = snapshot.file(kind)
    name = service.library.file_name(snapshot, kind)
    return {"kind": kind, "url": file_address(path) if path else "", "name": name}


def build_result(service: Service) -> gr.HTML:
    """Return the part."""
    library = service.library

    def convert(asked: _Convert, _: Language) -> dict[str, Any]:
        return {"url": file_address(library.converted(asked.job, asked.kind))}

    def favourite(asked: _Favourite, _: Language) -> dict[str, Any]:
        library.set_favourite(asked.job, asked.on)
        return {"on": asked.on}

    def discard(asked: _Discard, _: Language) -> dict[str, Any]:
        """Delete the job, or bring it back."""
        (library.restore if asked.undo else library.delete)(asked.job)
        return {}

    def log(_: _Job, __: Language) -> dict[str, Any]:
        """Return the end of the log, for an error's details."""
        return {"lines": service.log_tail(_LOG_LINES)}

    calls = (
        checked_call("convert", _Convert, convert),
        checked_call("favourite", _Favourite, favourite),
        checked_call("discard", _Discard, discard),
        checked_call("log", _Job, log),
    )
    return build_drawn("result", NOTHING_YET, elem_id="result", calls=calls)
