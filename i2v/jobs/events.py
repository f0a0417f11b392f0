"""What a worker tells while it works. Each event is the value that it tells of; `EVENTS` has its name on the pipe.

A run tells `Planned`, `Progress`, `MemorySample`, `Preview`, `StepDown`, `Warned`, and whether a model was `Loaded` or
`Unloaded`; a `RunResult` or an `ErrorNote` ends it. The process tells that it is `Ready` and, by `Heartbeat`, alive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from i2v.jobs.result import ErrorNote, ForecastNote, MemorySample, Note, PlanNote, RunResult, Stage, StepDown

__all__ = [
    "EVENTS",
    "Heartbeat",
    "Loaded",
    "Lost",
    "Planned",
    "Preview",
    "Progress",
    "Ready",
    "Report",
    "RunEvent",
    "Unloaded",
    "Warned",
]


class Ready(Note):
    """The worker process has loaded its libraries."""

    pid: int


class Heartbeat(Note):
    """The worker process lives."""


class Loaded(Note):
    """A model is held now; `bytes` are those of its weights."""

    model: str
    device: str
    precision: str
    bytes: int


class Unloaded(Note):
    """No model is held now."""


class Planned(Note):
    """The plan that is at work from now on, and what was foreseen of the run."""

    plan: PlanNote
    forecast: ForecastNote


class Progress(Note):
    """Where a run stands. `eta_s` covers everything that is left, decoding included; None while nothing is known."""

    stage: Stage
    step: int
    total: int
    fraction: float
    elapsed_s: float
    eta_s: float | None
    per_second: float | None  # steps or frames of the current stage


class Preview(Note):
    """A newer preview is in the job's folder: that of this step."""

    number: int


class Warned(Note):
    """Something a person should know while the run goes on."""

    message: str


class Lost(Note):
    """The worker process is gone. Told by the app's side; never on the pipe. `exit_code` None: there was no process."""

    exit_code: int | None


RunEvent = Loaded | Unloaded | Planned | Progress | MemorySample | Preview | StepDown | Warned
Report = Callable[[RunEvent], None]

EVENTS: Mapping[str, type[Note]] = MappingProxyType(
    {
        "ready": Ready,
        "heartbeat": Heartbeat,
        "loaded": Loaded,
        "unloaded": Unloaded,
        "plan": Planned,
        "progress": Progress,
        "memory": MemorySample,
        "preview": Preview,
        "step_down": StepDown,
        "warning": Warned,
        "done": RunResult,
        "failed": ErrorNote,
    }
)
