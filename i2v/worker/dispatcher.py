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
from typing import Any

from i2v.errors import Cancelled, I2VError, StorageError, WorkerDiedError
from i2v.jobs.folder import JobFolder
from i2v.jobs.model import Job, JobState
from i2v.jobs.store import JobStore
from i2v.machine import devices
from i2v.settings import Settings
from i2v.worker.executor import Executor
from i2v.worker.past_runs import past_experience
from i2v.worker.protocol import Event
from i2v.worker.totals import RunTotals

__all__ = ["Dispatcher", "LiveJob"]

_log = logging.getLogger(__name__)
_POLL_S, _IDLE_POLL_S = 0.1, 0.4  # whoever queues a job in this process wakes the dispatcher
_RECORD_S = 0.5  # progress goes to the store at most this often, and at every change of stage
_CANCEL_GRACE_S = 30.0
_KEPT_SAMPLES = 1200  # ten minutes at two samples a second, then every second one is dropped


@dataclass
class LiveJob:
    """What can be watched of a job that runs in this app.

    `stages`: {"stage", "t_s"} of each that began. It, `samples` and `step_downs` count `t_s` from the run's beginning.
    """

    job_id: str
    attempt: int
    progress: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)
    step_downs: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    preview_number: int = 0
    samples: deque[dict[str, Any]] = field(default_factory=deque)

    def add_sample(self, sample: dict[str, Any]) -> None:
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
                self._finish(job, JobState.FAILED, error=_as_error(error))

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
            {
                "job_id": job.id,
                "attempt": job.attempt,
                "request": json.dumps(job.request),
                "home": str(self._settings.home),
                "folder": str(self._settings.job_folder(job.id)),
                "experience": past_experience(self._store, self._settings.home).to_message(),
            }
        )
        while not self._stop.is_set():
            event = self._executor.poll(_POLL_S)
            ended = watcher.see(event) if event else None
            if ended:
                state, result, error = ended
                self._finish(job, state, result, error)
                return
            watcher.pass_requests_on()
        self._finish(job, *watcher.interrupted())

    def _finish(
        self,
        job: Job,
        state: JobState,
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> None:
        frames = JobFolder(self._settings.job_folder(job.id)).frames
        shutil.rmtree(frames, ignore_errors=True)  # if the worker was killed
        for pause_s in (1.0, 5.0, 30.0, 0.0):  # a locked or full disk may recover; the result must not be lost
            try:
                taken = self._store.finish(job.id, job.attempt, state, result, error)
                if taken:
                    self.totals.add(state, result)
                _log.log(
                    logging.INFO if taken else logging.WARNING,
                    "job %s attempt %d: %s%s",
                    job.id,
                    job.attempt,
                    state,
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
        self.live = LiveJob(job.id, job.attempt)
        self._recorded_s, self._looked_s = 0.0, 0.0
        self._cancel_sent_s: float | None = None
        self._keep_sent = False

    def see(self, event: Event) -> tuple[JobState, dict[str, Any] | None, dict[str, Any] | None] | None:
        """Take in an event; return (state, result, error) when it ends the run."""
        if (event.job_id, event.attempt) != (self._job.id, self._job.attempt):
            return None
        match event.type:
            case "progress":
                self._progress(event.data)
            case "memory":
                self.live.add_sample(event.data)
            case "preview":
                self.live.preview_number = event.data["number"]
            case "plan":
                self.live.plan = event.data
            case "step_down":
                self.live.step_downs.append(event.data)
            case "warning":
                self.live.warnings.append(event.data["message"])
            case "done":
                seen = {"samples": _thinned(self.live.samples), "stages": self.live.stages}
                return JobState.DONE, event.data | seen, None
            case "failed":
                state = JobState.CANCELLED if event.data["kind"] == "Cancelled" else JobState.FAILED
                return state, None, self._with_step_downs(event.data)
            case "lost":
                return self._lost(event.data["exit_code"])
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
            self._executor.request_keep(job.id, job.attempt)
        if job is None or job.state is not JobState.CANCELLING:
            return
        if self._cancel_sent_s is None:
            self._cancel_sent_s = now
            self._executor.request_cancel(job.id, job.attempt)
        elif now - self._cancel_sent_s > _CANCEL_GRACE_S:
            self._executor.kill()

    def _progress(self, progress: dict[str, Any]) -> None:
        now = time.monotonic()
        new_stage = progress["stage"] != self.live.progress.get("stage")
        if new_stage:
            self.live.stages.append({"stage": progress["stage"], "t_s": round(progress["elapsed_s"], 3)})
        self.live.progress = progress
        if new_stage or now - self._recorded_s > _RECORD_S:
            self._recorded_s = now
            try:
                self._store.record_progress(self._job.id, self._job.attempt, progress)
            except StorageError as error:  # the next report makes up for it; the run is worth more
                _log.warning("progress could not be stored: %s", error)

    def interrupted(self) -> tuple[JobState, None, dict[str, Any]]:
        """Return how a run ends that this app gives up because it is being stopped."""
        if self._cancel_sent_s is not None:
            return JobState.CANCELLED, None, Cancelled("the job was cancelled").to_dict()
        error = WorkerDiedError("i2v was stopped while this job ran", "Press Try again to run it once more.")
        return JobState.FAILED, None, error.to_dict()

    def _lost(self, exit_code: int | None) -> tuple[JobState, None, dict[str, Any]]:
        if self._cancel_sent_s is not None:
            return JobState.CANCELLED, None, Cancelled("the job was cancelled").to_dict()
        stage = self.live.progress.get("stage", "start")
        error = WorkerDiedError(
            f"the worker process ended unexpectedly during {stage} (exit code {exit_code})",
            "The machine may have run out of memory: press Try again, or choose a smaller size.",
        )
        return JobState.FAILED, None, self._with_step_downs(error.to_dict())

    def _with_step_downs(self, error: dict[str, Any]) -> dict[str, Any]:
        """Return an error with what the run had already done to go on."""
        return error | {"step_downs": list(self.live.step_downs)} if self.live.step_downs else error


def _as_error(error: Exception) -> dict[str, Any]:
    if isinstance(error, I2VError):
        return error.to_dict()
    what = "the worker process could not be started" if isinstance(error, OSError) else "the job could not be run"
    return WorkerDiedError(f"{what} ({type(error).__name__})", "The log has the details.").to_dict()


def _thinned(samples: deque[dict[str, Any]], most: int = 240) -> list[dict[str, Any]]:
    every = max(1, -(-len(samples) // most))
    return list(samples)[::every]
