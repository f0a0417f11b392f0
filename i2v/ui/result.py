"""What the page shows of a job that has ended: its video, its files, and what made it. Pure, but for looking at files.

static/result.html, result.css and result.js draw it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from i2v.service import Service, Snapshot
from i2v.ui.language import Language

__all__ = ["NOTHING_YET", "file_address", "result_box"]

NOTHING_YET: dict[str, Any] = {"job": ""}


def file_address(path: Any) -> str:
    """Return where the browser finds a file of a job or an example: relative, for the page may be behind a proxy."""
    return f"gradio_api/file={quote(path.as_posix())}"


def result_box(service: Service, snapshot: Snapshot, language: Language) -> dict[str, Any]:
    """Return the box of a job; without a video there is only what can be done again."""
    video = snapshot.file("mp4")
    return {"job": snapshot.job.id if snapshot.is_over else "", "video": file_address(video) if video else ""}
