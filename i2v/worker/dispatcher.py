"""Takes queued jobs from the store, has an executor run them, and writes what becomes of them into the store.

One thread per app. The store is the truth; what lives only here (the memory samples of the running job, the number of
its latest preview) is for looking at while it runs, and ends up in the job's result.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from i2v.errors import Cancelled, I2VError, StorageError, WorkerDiedError
from i2v.jobs.events import Lost, Planned, Preview, Progress, Warned
from i2v.jobs.folder import JobFolder
from i2v.jobs.model import Job, JobState
from i2v.jobs.result import ErrorNote, MemorySample, RunResult, StageBegan, StepDown
from i2v.jobs.store import JobStore
from i2v.machine import devices
from i2v.settings import Settings
from i2v.worker.executor import Executor
from i2v.worker.past_runs import past_experience
from i2v.worker.protocol import Message, Run, RunId
from i2v.worker.totals import RunTotals

__all__ = ["Dispatcher", "LiveJob"]

_log = logging.getLogger(__name__)
_POLL_S, _IDLE_POLL_S = 0.1, 0.4  # whoever queues a job in this process wakes the dispatcher
_RECORD_S = 0.5  # progress goes to the store at most this often, and at every change of stage
_CANCEL_GRACE_S = 30.0
_KEPT_SAMPLES = 1200  # ten minutes at two samples a second, then every second one is dropped


@dataclass(frozen=True)
class Ending:
    """How a run ended: with a result, an error, or neither."""

    state: JobState
    result: RunResult | None = None
    error: ErrorNote | None = None


@dataclass
class LiveJob:
    """What can be watched of a job that runs in this app."""

    job_id: str
    attempt: int
    progress: Progress | None = None
    planned: Planned | None = None
    stages: list[StageBegan] = field(default_factory=list)
    step_downs: list[StepDown] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    preview_number: int = 0
    samples: deque[MemorySample] = field(default_factory=deque)

    def add_sample(self, sample: MemorySample) -> None:
        self.samples.append(sample)
        if len(self.samples) > _KEPT_SAMPLES:
            self.samples = deque(list(self.samples)[::2])


class Dispatcher:
    """The one thread that moves this app's jobs along."""

    def __init__(self, store: JobStore, executor: Executor, settings: Settings, runner: str):
        self._store, self._executor, self._settings, self._runner = store, executor, settings, runner
        self._pid, self._pid_started = os.getpid(), devices.process_started()
        self._stop, self._wake = threading.Event(), threading.Event()
        self._live: LiveJob | None = None
        self.totals = RunTotals()
        self._warm_up_asked = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="dispatcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether jobs are taken."""
        return self._thread.is_alive() and not self._stop.is_set()

    def warm_up(self) -> None:
        """Have the worker get ready before there is a job."""
        self._warm_up_asked.set()
        self._wake.set()

    def wake(self) -> None:
        """Look at the queue now instead of at the next tick."""
        self._wake.set()

    def live(self, job_id: str) -> LiveJob | None:
        """Return what is known of a running job beyond the store, or None."""
        live = self._live
        return live if live and live.job_id == job_id else None

    def close(self, grace_s: float = 5.0) -> None:
        """Stop the thread, then the worker. A job that runs is recorded as interrupted."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._executor.close(grace_s)

    def _loop(self) -> None:
        while not self._stop.is_set():
            job = self._next_job()
            if job is None:
                self._executor.poll(0.0 if self._wake.is_set() else _POLL_S)
                self._wake.wait(_IDLE_POLL_S)
                self._wake.clear()
                continue
            try:
                self._run(job)
            except Exception as error:  # the thread's outermost edge: the next job must still run
                _log.exception("job %s attempt %d could not be run", job.id, job.attempt)
                self._finish(job, Ending(JobState.FAILED, error=ErrorNote.of(_as_error(error))))

    def _next_job(self) -> Job | None:
        try:
            job = self._store.claim(self._runner, self._pid, self._pid_started)
            if job is None and self._warm_up_asked.is_set():
                self._warm_up_asked.clear()
                self._executor.warm_up()
        except (I2VError, OSError) as error:
            _log.error("no job can be taken now: %s", error)
            self._stop.wait(1.0)
            return None
        return job

    def _run(self, job: Job) -> None:
        _log.info("job %s attempt %d starts", job.id, job.attempt)
        watcher = _RunWatch(self._store, self._executor, job)
        self._live = watcher.live
        self._executor.start(
            watcher.run,
            Run(
                request=json.dumps(job.request),
                home=self._settings.home,
                folder=self._settings.job_folder(job.id),
                experience=past_experience(self._store, self._settings.home),
            ),
        )
        while not self._stop.is_set():
            message = self._executor.poll(_POLL_S)
            ending = watcher.see(message) if message else None
            if ending:
                self._finish(job, ending)
                return
            watcher.pass_requests_on()
        self._finish(job, watcher.interrupted())

    def _finish(self, job: Job, ending: Ending) -> None:
        frames = JobFolder(self._settings.job_folder(job.id)).frames
        shutil.rmtree(frames, ignore_errors=True)  # if the worker was killed
        for pause_s in (1.0, 5.0, 30.0, 0.0):  # a locked or full disk may recover; the result must not be lost
            try:
                taken = self._store.finish(job.id, job.attempt, ending.state, ending.result, ending.error)
                if taken:
                    self.totals.add(ending.state, ending.result)
                _log.log(
                    logging.INFO if taken else logging.WARNING,
                    "job %s attempt %d: %s%s",
                    job.id,
                    job.attempt,
                    ending.state,
                    "" if taken else ", but the store had ended it already",
                )
                break
            except StorageError as failure:
                _log.error("job %s: its end could not be stored: %s", job.id, failure)
                self._stop.wait(pause_s)
        self._live = None


class _RunWatch:
    """Folds one run's events into the live job and the store, and passes on to the worker what a person asks of it."""

    def __init__(self, store: JobStore, executor: Executor, job: Job):
        self._store, self._executor, self._job = store, executor, job
        self.run, self.live = RunId(job.id, job.attempt), LiveJob(job.id, job.attempt)
        self._recorded_s, self._looked_s = 0.0, 0.0
        self._cancel_sent_s: float | None = None
        self._keep_sent = False

    def see(self, message: Message) -> Ending | None:
        """Take in an event; return how the run ended when it did."""
        if message.run != self.run:
            return None
        match message.said:
            case Progress() as progress:
                self._progress(progress)
            case MemorySample() as sample:
                self.live.add_sample(sample)
            case Preview(number=number):
                self.live.preview_number = number
            case Planned() as planned:
                self.live.planned = planned
            case StepDown() as step:
                self.live.step_downs.append(step)
            case Warned(message=sentence):
                self.live.warnings.append(sentence)
            case RunResult() as result:
                seen = {"samples": _thinned(self.live.samples), "stages": tuple(self.live.stages)}
                return Ending(JobState.DONE, result.model_copy(update=seen))
            case ErrorNote() as error:
                state = JobState.CANCELLED if error.is_cancelled else JobState.FAILED
                return Ending(state, error=self._with_step_downs(error))
            case Lost(exit_code=code):
                return self._lost(code)
        return None

    def pass_requests_on(self) -> None:
        """Tell the worker to cancel, or to stop and keep what is there, whichever process asked for it.

        A worker that does not listen to a cancellation is ended.
        """
        now = time.monotonic()
        if now - self._looked_s < 0.3:
            return
        self._looked_s = now
        try:
            job = self._store.get(self._job.id)
        except StorageError as error:
            _log.warning("the job store cannot be read now: %s", error)
            return
        if job and job.state is JobState.STOPPING and not self._keep_sent:
            self._keep_sent = True
            self._executor.request_keep(self.run)
        if job is None or job.state is not JobState.CANCELLING:
            return
        if self._cancel_sent_s is None:
            self._cancel_sent_s = now
            self._executor.request_cancel(self.run)
        elif now - self._cancel_sent_s > _CANCEL_GRACE_S:
            self._executor.kill()

    def _progress(self, progress: Progress) -> None:
        now = time.monotonic()
        new_stage = self.live.progress is None or progress.stage is not self.live.progress.stage
        if new_stage:
            self.live.stages.append(StageBegan(stage=progress.stage, t_s=round(progress.elapsed_s, 3)))
        self.live.progress = progress
        if new_stage or now - self._recorded_s > _RECORD_S:
            self._recorded_s = now
            try:
                self._store.record_progress(self._job.id, self._job.attempt, progress)
            except StorageError as error:  # the next report makes up for it; the run is worth more
                _log.warning("progress could not be stored: %s", error)

    def interrupted(self) -> Ending:
        """Return how a run ends that this app gives up because it is being stopped."""
        if self._cancel_sent_s is not None:
            return _cancelled()
        error = WorkerDiedError("i2v was stopped while this job ran", "Press Try again to run it once more.")
        return Ending(JobState.FAILED, error=ErrorNote.of(error))

    def _lost(self, exit_code: int | None) -> Ending:
        if self._cancel_sent_s is not None:
            return _cancelled()
        stage = self.live.progress.stage if self.live.progress else "start"
        error = WorkerDiedError(
            f"the worker process ended unexpectedly during {stage} (exit code {exit_code})",
            "The machine may have run out of memory: press Try again, or choose a smaller size.",
        )
        return Ending(JobState.FAILED, error=self._with_step_downs(ErrorNote.of(error)))

    def _with_step_downs(self, error: ErrorNote) -> ErrorNote:
        """Return an error with what the run had already done to go on."""
        steps = tuple(self.live.step_downs)
        return error.model_copy(update={"step_downs": steps}) if steps else error


def _cancelled() -> Ending:
    return Ending(JobState.CANCELLED, error=ErrorNote.of(Cancelled("the job was cancelled")))


def _as_error(error: Exception) -> I2VError:
    if isinstance(error, I2VError):
        return error
    what = "the worker process could not be started" if isinstance(error, OSError) else "the job could not be run"
    return WorkerDiedError(f"{what} ({type(error).__name__})", "The log has the details.")


def _thinned(samples: deque[MemorySample], most: int = 240) -> tuple[MemorySample, ...]:
    every = max(1, -(-len(samples) // most))
    return tuple(samples)[::every]
