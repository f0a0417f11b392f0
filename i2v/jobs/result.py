"""What a run tells of itself and what is kept of it: its plan, forecast, memory, stages, result and error as values.

They cross the worker's pipe, sit in the database and are shown by every face, so their fields are the keys of their
JSON. What an older version did not write has a default here; `stored.py` reads what it wrote besides. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from i2v.errors import Cancelled, I2VError

__all__ = [
    "ErrorNote",
    "ForecastNote",
    "MemoryKind",
    "MemorySample",
    "Note",
    "PlanNote",
    "RunResult",
    "Stage",
    "StageBegan",
    "StepDown",
    "Stopped",
    "WeightsNote",
]


class Stage(StrEnum):
    """The parts of a run, in order."""

    LOAD = "load"
    ENCODE = "encode"
    DENOISE = "denoise"
    DECODE = "decode"


class MemoryKind(StrEnum):
    """Whose memory was measured: torch's on the card, or the process's own."""

    GPU = "gpu"
    RAM = "ram"


class Note(BaseModel):
    """A value that travels as JSON. Equal notes may differ in which fields were given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that were given, as plain JSON values: what an older version left out stays out."""
        return self.model_dump(mode="json", exclude_unset=True)


class PlanNote(Note):
    """A memory plan as it was when it ran. What else the plan had is kept as it is, and not looked at."""

    model_config = ConfigDict(extra="allow")

    name: str = ""
    device: str = ""
    precision: str = ""
    compute: str = ""
    weights: str = ""
    words: str = ""
    exact: bool = True
    reason: str = ""


class ForecastNote(Note):
    """What was foreseen of a run. `comparable_bytes` is what its measured peak is compared with, 0 for nothing.

    `counted_bytes`, `operations` and `pixels`: None where an older version did not write them.
    """

    peak_vram_bytes: int = 0
    peak_ram_bytes: int = 0
    comparable_bytes: int = 0
    counted_bytes: int | None = None
    operations: float | None = None
    pixels: int | None = None
    seconds: float | None = None


class MemorySample(Note):
    """Memory at one moment, of torch's allocator and the whole card, or of this process and the whole machine."""

    kind: MemoryKind
    t_s: float  # since the run began
    allocated_bytes: int  # by torch on the GPU, or held by the process
    reserved_bytes: int  # by torch's caching allocator; the same as allocated on a CPU
    peak_bytes: int  # largest allocated so far in this run
    device_used_bytes: int  # all processes together
    device_total_bytes: int


class StageBegan(Note):
    """When a stage of a run began, in seconds since the run did."""

    stage: Stage
    t_s: float


class StepDown(Note):
    """A change to a smaller plan: where and when, why, and both plans in words."""

    stage: Stage
    step: int
    t_s: float
    why: str
    before: str
    after: str


class Stopped(Note):
    """Where a person stopped a run to keep what was there: after this step, or this frame, of so many."""

    stage: Stage
    step: int
    total: int


class WeightsNote(Note):
    """What the loaded weights turned out to be. `total_bytes` counts every module, the other fields the denoiser."""

    precision: str = ""
    total_bytes: int = 0
    bytes_by_dtype: Mapping[str, int] = {}
    quantised_share: float = 0.0
    sentence: str = ""


class RunResult(Note):
    """What a finished run made and took. `files` are names in the job's folder, by kind ("mp4", "gif", ...).

    `samples` and `stages` are added by the app's side, which saw them come. Seconds and peak are None where unknown.
    """

    files: Mapping[str, str] = {}
    file_bytes: Mapping[str, int] = {}
    num_frames: int | None = None
    seconds: float | None = None
    stage_seconds: Mapping[Stage, float] = {}
    peak_bytes: int | None = None
    peak_kind: MemoryKind | None = None
    frames_sha256: str = ""
    plan: PlanNote | None = None
    forecast: ForecastNote | None = None
    step_downs: tuple[StepDown, ...] = ()
    warnings: tuple[str, ...] = ()
    stopped: Stopped | None = None
    weights: WeightsNote | None = None
    weights_bytes: int = 0
    samples: tuple[MemorySample, ...] = ()
    stages: tuple[StageBegan, ...] = ()


class ErrorNote(Note):
    """An I2VError on its way to the faces, with the step-downs of the run that it ended.

    `nearest`: of an InputError, the legal values nearest to what was asked for, by field.
    """

    kind: str = "GenerationError"
    message: str = "the job could not be run"
    remedy: str = ""
    field: str | None = None
    exit_status: int = 1
    nearest: Mapping[str, int] = {}
    step_downs: tuple[StepDown, ...] = ()

    @classmethod
    def of(cls, error: I2VError) -> ErrorNote:
        """Return what is kept of an error."""
        return cls.model_validate(error.to_dict())

    @property
    def is_cancelled(self) -> bool:
        """Whether it only says that the person stopped the job."""
        return self.kind == Cancelled.__name__

    def to_error(self) -> I2VError:
        """Return the error again; an unknown kind becomes a GenerationError."""
        return I2VError.from_dict(self.model_dump())
