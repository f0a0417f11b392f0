"""A job as it stands at one moment, whether it runs in this process or not: what every face shows of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from i2v.jobs.events import Progress
from i2v.jobs.folder import JobFolder, if_there
from i2v.jobs.model import TERMINAL, Job
from i2v.jobs.result import ForecastNote, MemorySample, PlanNote, RunResult, Stage, StageBegan, StepDown
from i2v.worker.dispatcher import LiveJob

__all__ = ["Snapshot"]


@dataclass(frozen=True)
class Snapshot:
    """One job as it stands now, for showing. `live` is None unless the job runs in this very process."""

    job: Job
    live: LiveJob | None
    queue_position: int | None
    folder: JobFolder

    @property
    def is_over(self) -> bool:
        return self.job.state in TERMINAL

    @property
    def progress(self) -> Progress | None:
        return (self.live.progress if self.live else None) or self.job.progress

    @property
    def result(self) -> RunResult:
        """What the job ended with; one without a word where it has no result."""
        return self.job.result or RunResult()

    # Of the run, while it goes on in this process and afterwards

    @property
    def plan(self) -> PlanNote | None:
        if self.live:
            return self.live.planned.plan if self.live.planned else None
        return self.result.plan

    @property
    def forecast(self) -> ForecastNote | None:
        if self.live:
            return self.live.planned.forecast if self.live.planned else None
        return self.result.forecast

    @property
    def samples(self) -> Sequence[MemorySample]:
        return list(self.live.samples) if self.live else self.result.samples

    @property
    def stages(self) -> Sequence[StageBegan]:
        return list(self.live.stages) if self.live else self.result.stages

    @property
    def step_downs(self) -> Sequence[StepDown]:
        return list(self.live.step_downs) if self.live else self.result.step_downs

    @property
    def warnings(self) -> Sequence[str]:
        return list(self.live.warnings) if self.live else self.result.warnings

    @property
    def frames_ready(self) -> int:
        """How many small frames are in the folder; 0 when the run is over. One that failed to be written may lack."""
        progress = self.progress
        return progress.step if progress and progress.stage is Stage.DECODE and not self.is_over else 0

    def file(self, kind: str = "mp4") -> Path | None:
        """A finished file of the job, if it is there."""
        name = self.result.files.get(kind)
        return if_there(self.folder.file(name)) if name else None
