"""The endpoints with a name, for programs that use gradio_client: the same jobs as on the page and by REST."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import FileData
from gradio.events import api
from gradio.utils import get_upload_folder

from i2v.errors import I2VError, InputError, UnknownJobError
from i2v.rest.answers import job_answer
from i2v.rest.fields import request_values
from i2v.service import Service

__all__ = ["add_client_api"]


def add_client_api(service: Service) -> None:
    """Add the endpoints to the page that is being built."""
    endpoints = ClientEndpoints(service)
    for function in (endpoints.submit_job, endpoints.job, endpoints.cancel_job, endpoints.job_video):
        api(function, api_name=function.__name__, queue=False)


class ClientEndpoints:
    """Each method is one endpoint; a job is told as by GET /api/v1/jobs/{job_id}."""

    def __init__(self, service: Service):
        self._service = service

    def submit_job(self, image: FileData, prompt: str, settings: dict[str, Any] | None = None) -> dict[str, Any]:
        """Queue a job with the other settings by their names, for example {"num_frames": 8}, and return it."""
        with _told():
            given = (settings or {}) | {"prompt": prompt}
            values = request_values([(name, _text(value)) for name, value in given.items() if value is not None])
            if not values.get("prompt"):
                raise InputError("there is no prompt", "Say what should happen.", "prompt")
            return self._told_job(self._service.submit(values, _uploaded(image)).id)

    def job(self, job_id: str) -> dict[str, Any]:
        """Look at one job as it stands now."""
        with _told():
            return self._told_job(job_id)

    def cancel_job(self, job_id: str) -> dict[str, Any]:
        """Cancel a job; one that is over stays as it is."""
        with _told():
            self._service.cancel(job_id)
            return self._told_job(job_id)

    def job_video(self, job_id: str) -> FileData:
        """Fetch the MP4 of a job that is done."""
        with _told():
            snapshot = self._service.snapshot(job_id)
            path = snapshot.file("mp4") if snapshot else None
            if path is None:
                raise InputError("the job has no video", "Wait until it is done.")
            return FileData(path=str(path), orig_name=path.name)

    def _told_job(self, job_id: str) -> dict[str, Any]:
        snapshot = self._service.snapshot(job_id)
        if snapshot is None:
            raise UnknownJobError(f"there is no job {job_id}", "It may have been deleted.")
        return job_answer(snapshot).model_dump(mode="json")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except I2VError as error:
        raise gr.Error(str(error), print_exception=False) from error


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _uploaded(image: Any) -> Path:
    """Return the path of a picture that came by upload. Gradio lets any path of this machine through to gr.api."""
    path = Path(str(image.get("path", "") if isinstance(image, dict) else image)).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()):
        raise InputError("the picture was not uploaded", "Use handle_file from gradio_client.", "image")
    return path
