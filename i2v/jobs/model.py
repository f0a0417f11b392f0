"""What a job is and which way its state may move. Pure: knows nothing of databases, processes or clocks.

queued ──▶ running ─────────▶ done         running, stopping and cancelling also ──▶ failed
   │        │ │  └─────┐       ▲            failed and cancelled ──▶ queued (retry)
   │        │ ▼        │       │
   │        │ stopping ┼───────┤            stopping: asked to stop and keep what is there
   │        ▼ ▼        │       │
   │     cancelling ───┼───────┘            cancelling ──▶ done: it finished before the cancel took effect
   │        ▼          ▼
   └──────▶ cancelled ◀┘
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from i2v.jobs.events import Progress
from i2v.jobs.result import ErrorNote, RunResult

__all__ = ["ACTIVE", "HELD", "TERMINAL", "TRANSITIONS", "Job", "JobState", "may_follow", "states_before"]


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    STOPPING = "stopping"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    DONE = "done"
    FAILED = "failed"


TERMINAL = frozenset({JobState.CANCELLED, JobState.DONE, JobState.FAILED})
ACTIVE = frozenset(JobState) - TERMINAL
HELD = ACTIVE - {JobState.QUEUED}  # a dispatcher has the job

TRANSITIONS: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
        JobState.RUNNING: frozenset({JobState.STOPPING, JobState.CANCELLING}) | TERMINAL,
        JobState.STOPPING: frozenset({JobState.CANCELLING}) | TERMINAL,
        JobState.CANCELLING: TERMINAL,
        JobState.CANCELLED: frozenset({JobState.QUEUED}),
        JobState.FAILED: frozenset({JobState.QUEUED}),
        JobState.DONE: frozenset(),
    }
)


def may_follow(old: JobState, new: JobState) -> bool:
    """Say whether a job in state `old` may move to `new`."""
    return new in TRANSITIONS[old]


def states_before(new: JobState) -> frozenset[JobState]:
    """Return the states from which a job may move to `new`."""
    return frozenset(old for old in JobState if may_follow(old, new))


@dataclass(frozen=True)
class Job:
    """One job as the store knew it at one moment. Times are UTC epoch seconds.

    `attempt` is 0 until the job is first claimed and counts on through retries: it tells a late event from a
    current one. `image_name` is the name the person's file had, for display only. `runner` names the
    dispatcher that may take the job ("web", "cli:<pid>"); `runner_pid` and `runner_started` are the process
    that queued it or, once claimed, runs it: its start tells it from a later process with the same pid.
    `request` is JSON as it was when the job was queued, perhaps by another version of i2v.
    """

    id: str
    state: JobState
    attempt: int
    request: dict[str, Any]
    image_name: str
    runner: str
    runner_pid: int | None
    runner_started: float | None
    progress: Progress | None
    error: ErrorNote | None
    result: RunResult | None
    favourite: bool
    created_at: float
    started_at: float | None
    finished_at: float | None

    @property
    def prompt(self) -> str:
        """What was asked for, for titles and lists."""
        return str(self.request.get("prompt", ""))

    @property
    def took_s(self) -> float | None:
        """How long the last attempt ran, None unless it ended; not negative, whatever the clock did."""
        if self.started_at is None or self.finished_at is None:
            return None
        return max(0.0, self.finished_at - self.started_at)
