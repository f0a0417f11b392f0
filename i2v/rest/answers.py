"""What the REST face answers of jobs and models: documented by its types, and without paths of this machine."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, Field

from i2v.jobs.events import Progress
from i2v.jobs.folder import if_there
from i2v.jobs.model import JobState
from i2v.jobs.result import ErrorNote, MemorySample, StepDown
from i2v.presets.model_preset import Bounds, Defaults
from i2v.rest.refusals import ErrorBody
from i2v.service import ModelState, Snapshot

__all__ = ["FileAnswer", "HealthAnswer", "JobAnswer", "JobsAnswer", "ModelAnswer", "ModelsAnswer", "job_answer"]

_ELSEWHERE = ("files", "file_bytes", "samples", "plan", "step_downs", "warnings")  # shown otherwise, or too long


class FileAnswer(BaseModel):
    """A finished file and where it is fetched."""

    url: str
    bytes: int


class JobAnswer(BaseModel):
    """One job at one moment. `revision` names this very answer: any change gives another one."""

    id: str
    revision: str = ""
    state: JobState
    is_over: bool
    attempt: int
    request: dict[str, Any]
    image_name: str
    favourite: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    queue_position: int | None
    progress: Progress | None
    memory: MemorySample | None
    plan: dict[str, Any] | None
    step_downs: list[StepDown]
    warnings: list[str]
    error: ErrorBody | None
    result: dict[str, Any] | None
    files: dict[str, FileAnswer]
    url: str
    events_url: str
    poster_url: str | None


class JobsAnswer(BaseModel):
    """A page of jobs, newest first; `total` is how many there are without limit and offset."""

    jobs: list[JobAnswer]
    total: int
    limit: int
    offset: int


class ModelAnswer(BaseModel):
    """One model, whether it is here, and what it takes."""

    name: str
    title: str
    summary: str
    installed: bool
    disk_bytes: int
    download_bytes: int
    parameters: int
    licence: str
    licence_note: str
    size_multiple: int = Field(description="of which width and height must be")
    sizes: tuple[tuple[int, int], ...] = Field(description="the only widths and heights there are; none for any")
    frame_rule: str = Field(description="which numbers of frames there are, such as 4k+1; empty for any")
    side_px: Bounds
    max_pixels: int
    num_frames: Bounds
    fps: Bounds
    num_inference_steps: Bounds
    guidance_scale: Bounds
    precisions: tuple[str, ...]
    can_loop: bool
    defaults: Defaults

    @classmethod
    def of(cls, state: ModelState) -> ModelAnswer:
        preset = state.preset
        rules = preset.rules
        told: dict[str, Any] = {"size_multiple": rules.size_multiple, "can_loop": rules.can_loop}
        told |= {"frame_rule": rules.frames.words(), "sizes": rules.sizes}
        told |= {name: getattr(preset, name) for name in cls.model_fields if hasattr(preset, name)}
        hub_bytes = preset.hub.download_bytes if preset.hub else 0
        return cls(installed=state.installed, disk_bytes=state.disk_bytes, download_bytes=hub_bytes, **told)


class ModelsAnswer(BaseModel):
    """Every model, the built-in one first."""

    models: list[ModelAnswer]


class HealthAnswer(BaseModel):
    """`status` is "ok" when every part lives."""

    status: str
    version: str
    store: bool
    dispatcher: bool


def job_answer(snapshot: Snapshot, root_path: str = "") -> JobAnswer:
    """Return a job as it is told; `root_path` is what a proxy puts before our addresses."""
    job, result = snapshot.job, snapshot.result.to_json()
    url, samples = f"{root_path}/api/v1/jobs/{job.id}", snapshot.samples
    answer = JobAnswer(
        id=job.id,
        state=job.state,
        is_over=snapshot.is_over,
        attempt=job.attempt,
        request=job.request,
        image_name=job.image_name,
        favourite=job.favourite,
        created_at=_moment(job.created_at),
        started_at=_moment_or_none(job.started_at),
        finished_at=_moment_or_none(job.finished_at),
        queue_position=snapshot.queue_position,
        progress=snapshot.progress,
        memory=samples[-1] if samples else None,
        plan=_plan(snapshot),
        step_downs=list(snapshot.step_downs),
        warnings=list(snapshot.warnings),
        error=_error(job.error) if job.error else None,
        result={name: value for name, value in result.items() if name not in _ELSEWHERE} or None,
        files=_files(snapshot, url),
        url=url,
        events_url=f"{url}/events",
        poster_url=f"{url}/poster" if if_there(snapshot.folder.poster) else None,
    )
    digest = hashlib.blake2b(answer.model_dump_json().encode(), digest_size=8).hexdigest()
    return answer.model_copy(update={"revision": digest})


def _error(note: ErrorNote) -> ErrorBody:
    return ErrorBody(
        kind=note.kind, message=note.message, remedy=note.remedy, field=note.field, nearest=dict(note.nearest)
    )


def _plan(snapshot: Snapshot) -> dict[str, Any] | None:
    """Return the plan; while the run goes on with its forecast, which is in the result afterwards."""
    if snapshot.plan is None:
        return None
    forecast = snapshot.forecast if snapshot.live else None
    return snapshot.plan.to_json() | ({"forecast": forecast.to_json()} if forecast else {})


def _files(snapshot: Snapshot, url: str) -> dict[str, FileAnswer]:
    sizes = snapshot.result.file_bytes
    kinds = [kind for kind in snapshot.result.files if snapshot.file(kind)]
    return {kind: FileAnswer(url=f"{url}/files/{kind}", bytes=sizes.get(kind, 0)) for kind in kinds}


def _moment(epoch_s: float) -> datetime:
    return datetime.fromtimestamp(epoch_s, UTC)


def _moment_or_none(epoch_s: float | None) -> datetime | None:
    return None if epoch_s is None else _moment(epoch_s)
