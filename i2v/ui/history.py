"""The history: every video that was made, by whichever face, a page at a time. static/history.* draw it.

What is sent of a job is a card: a plain dictionary of facts; the script says them in the browser's language and way.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from pydantic import Field

from i2v.jobs.folder import if_there
from i2v.jobs.model import JobState
from i2v.presets.model_preset import load_presets
from i2v.service import Service, Snapshot
from i2v.ui.html_part import build_drawn
from i2v.ui.language import Language
from i2v.ui.result import file_address
from i2v.ui.script_calls import JOB_ID, Asked, checked_call

__all__ = ["JobAsked", "build_history", "history_card"]

_MOST_CARDS = 96
_MOST_PICTURE_BYTES = 4 << 20  # a start picture as large as that is too slow to show on a card


class _PageAsked(Asked):
    offset: int = Field(0, ge=0, le=1_000_000)
    limit: int = Field(24, ge=1, le=_MOST_CARDS)
    search: str = Field("", max_length=500)
    favourites: bool = False


class JobAsked(Asked):
    """One job, by its id."""

    id: str = Field(pattern=JOB_ID)


class _FavouriteAsked(JobAsked):
    on: bool


def build_history(service: Service) -> gr.HTML:
    """Return the part; choosing a card is the event `select`, with the job's id as its value."""
    history = _History(service)
    calls = (
        checked_call("history_page", _PageAsked, history.page),
        checked_call("favourite", _FavouriteAsked, history.favourite),
        checked_call("remove", JobAsked, history.remove),
        checked_call("restore", JobAsked, history.restore),
    )
    return build_drawn("history", {}, elem_id="history", calls=calls)


class _History:
    """What the script may ask for."""

    def __init__(self, service: Service):
        self._service = service

    def page(self, asked: _PageAsked, language: Language) -> dict[str, Any]:
        """Return the cards asked for, newest first, how many there are of such, and what is on the disk."""
        found = self._service.history(asked.limit, asked.offset, asked.search, favourites=asked.favourites)
        disk = self._service.library.disk_use()
        return {
            "cards": [history_card(snapshot, language) for snapshot in found],
            "total": self._service.count_jobs(asked.search, favourites=asked.favourites),
            "disk": {"videos": disk.jobs_bytes, "bin": disk.trash_bytes, "free": disk.free_bytes},
        }

    def favourite(self, asked: _FavouriteAsked, language: Language) -> dict[str, Any]:
        """Mark or unmark a job."""
        self._service.library.set_favourite(asked.id, asked.on)
        return {"on": asked.on}

    def remove(self, asked: JobAsked, language: Language) -> dict[str, Any]:
        """Put a job in the bin."""
        self._service.library.delete(asked.id)
        return {}

    def restore(self, asked: JobAsked, language: Language) -> dict[str, Any]:
        """Take a job out of the bin."""
        self._service.library.restore(asked.id)
        return {}


def history_card(snapshot: Snapshot, language: Language) -> dict[str, Any]:
    """Return what a card shows. `picture` is what the video begins with where there is no video yet, or never."""
    job, request = snapshot.job, snapshot.job.request
    is_done, progress = job.state is JobState.DONE, snapshot.progress
    fraction = progress.fraction if progress else 0.0
    poster = if_there(snapshot.folder.poster) if is_done else None
    return {
        "id": job.id,
        "state": job.state.value,
        "is_over": snapshot.is_over,
        "has_video": snapshot.file("mp4") is not None,
        "poster": file_address(poster) if poster else "",
        "picture": "" if poster else _start_picture(snapshot),
        "prompt": job.prompt,
        "model": language.retell(model_title(request)),
        "width": request.get("width"),
        "height": request.get("height"),
        "frames": request.get("num_frames"),
        "created_at": job.created_at,
        "took_s": job.took_s if is_done else None,
        "percent": round(100 * fraction) if job.state is JobState.RUNNING else None,
        "favourite": job.favourite,
        "from_command_line": job.runner.startswith("cli"),
    }


def model_title(request: dict[str, Any]) -> str:
    """Return what the model of a request is called on the page; its name if it is no longer there."""
    name = str(request.get("model", ""))
    preset = load_presets().get(name)
    return preset.title if preset else name


def _start_picture(snapshot: Snapshot) -> str:
    picture = if_there(snapshot.folder.picture)
    if picture is None or picture.stat().st_size > _MOST_PICTURE_BYTES:
        return ""
    return file_address(picture)
