"""The jobs on disk: the only truth about them, shared by every thread and process of one home folder.

What a method changed is on disk when it returns, whole. Events about a run may come late, twice or never:
what a run writes is accepted only while it is the job's current attempt. A deleted job is found by
nothing but `restore`. Every method may raise StorageError. Times come from the clock it was given, and nothing is
ordered by them. Knows no executors, folders or pages.
"""

from __future__ import annotations

import os
import secrets
import time
import unicodedata
from collections.abc import Callable, Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, delete, func, insert, select, update

from i2v.errors import Cancelled, InputError, UnknownJobError, WorkerDiedError
from i2v.jobs.database import open_engine, reading, writing
from i2v.jobs.events import Progress
from i2v.jobs.migrate import upgrade
from i2v.jobs.model import ACTIVE, HELD, TERMINAL, Job, JobState, states_before
from i2v.jobs.result import ErrorNote, Note, RunResult
from i2v.jobs.schema import JOBS
from i2v.jobs.stored import read_stored
from i2v.machine.devices import process_started

__all__ = ["JobStore"]

Jobs = list[Job]  # inside the class, `list` is the method
Ids = list[str]
_COLUMNS = [JOBS.c[field.name] for field in fields(Job)]
_NOTES: dict[str, type[Note]] = {"progress": Progress, "error": ErrorNote, "result": RunResult}
_IS_THERE = JOBS.c.deleted_at.is_(None)
_CLEAN: dict[str, Any] = {"progress": {}} | dict.fromkeys(("error", "result", "started_at", "finished_at"))
_SEARCHED_WORDS = 16  # SQLite limits how deep a condition may be
_DOOMED = 0.0  # the time of deletion of a job whose files are being removed
_TRY_AGAIN = "Press Try again to run it once more."


class JobStore:
    """The jobs of one database file. Any number of threads may share it; each process opens its own."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time, busy_timeout_s: float = 10.0):
        self._clock = clock
        self._engine = open_engine(path, busy_timeout_s)
        upgrade(self._engine)

    @property
    def engine(self) -> Engine:
        """The database, for what is kept in it besides jobs."""
        return self._engine

    def close(self) -> None:
        """Release the database file."""
        self._engine.dispose()

    # Moving jobs along

    def submit(self, request: dict[str, Any], image_name: str, runner: str, job_id: str | None = None) -> Job:
        """Queue a job behind all others."""
        image_name = _storable(image_name)
        new = insert(JOBS).values(
            **_CLEAN,
            **_queued_by(runner),
            state=JobState.QUEUED,
            id=job_id or secrets.token_hex(16),
            attempt=0,
            request=request,
            image_name=image_name,
            search_text=_folded(f"{request.get('prompt', '')} {image_name}"),
            favourite=False,
        )
        with writing(self._engine) as connection:
            row = connection.execute(new.values(created_at=self._clock()).returning(*_COLUMNS))
            return _job(row.one())

    def claim(self, runner: str, pid: int, pid_started: float) -> Job | None:
        """Take this runner's next queued job for the process named, or None. No two callers get the same."""
        waiting = (JOBS.c.state == JobState.QUEUED) & (JOBS.c.runner == runner)
        following = select(JOBS.c.number).where(waiting).order_by(JOBS.c.queue_number).limit(1)
        with reading(self._engine) as connection:  # asked often: the lock is taken only when there is a job
            if connection.scalar(following) is None:
                return None
        with writing(self._engine) as connection:
            values: dict[str, Any] = {"runner_pid": pid, "runner_started": pid_started, "started_at": self._clock()}
            values["attempt"] = JOBS.c.attempt + 1
            return _move(connection, JobState.RUNNING, JOBS.c.number == following.scalar_subquery(), **values)

    def record_progress(self, job_id: str, attempt: int, progress: Progress) -> bool:
        """Keep the latest progress event; False if this is not the current attempt of a job that runs."""
        with writing(self._engine) as connection:
            change = update(JOBS).where(_is_run(job_id, attempt)).values(progress=progress.to_json())
            return connection.execute(change).rowcount == 1

    def finish(
        self,
        job_id: str,
        attempt: int,
        state: JobState,
        result: RunResult | None = None,
        error: ErrorNote | None = None,
    ) -> bool:
        """End a run as done, failed or cancelled. False, and nothing changes, if it is not the current."""
        if state not in TERMINAL:
            raise ValueError(f"a job cannot finish as {state}")
        with writing(self._engine) as connection:
            notes = {"result": result and result.to_json(), "error": error and error.to_json()}
            ended = _move(connection, state, _is_run(job_id, attempt), **notes, finished_at=self._clock())
            return ended is not None

    def request_cancel(self, job_id: str) -> Job:
        """Cancel a queued job at once, ask a running one to stop, leave one that is over.

        Raises UnknownJobError.
        """
        with writing(self._engine) as connection:
            job = _known(connection, job_id)
            if job.state is JobState.QUEUED:
                return _moved(connection, JobState.CANCELLED, job, finished_at=self._clock())
            if job.state in (JobState.RUNNING, JobState.STOPPING):
                return _moved(connection, JobState.CANCELLING, job)
            return job

    def request_stop(self, job_id: str) -> Job:
        """Ask a running job to end with what it has made, leave one that is stopping, cancelling or over.

        Raises InputError for one that waits, or is unknown.
        """
        with writing(self._engine) as connection:
            job = _known(connection, job_id)
            if job.state is JobState.QUEUED:
                raise InputError("the job has not begun", "Cancel it instead.")
            return _moved(connection, JobState.STOPPING, job) if job.state is JobState.RUNNING else job

    def retry(self, job_id: str, runner: str) -> Job:
        """Queue a failed or cancelled job again, behind all others. Raises InputError for any other."""
        with writing(self._engine) as connection:
            job = _known(connection, job_id)
            if job.state not in states_before(JobState.QUEUED):
                raise InputError(f"the job is {job.state}", "Only a failed or cancelled one can be retried.")
            return _moved(connection, JobState.QUEUED, job, **_CLEAN, **_queued_by(runner))

    def requeue_or_fail_orphans(self, is_alive: Callable[[int, float], bool]) -> Jobs:
        """End the jobs whose process is gone, and return them. `is_alive` gets its pid and its start.

        Jobs queued for the page stay queued: the next page runs them.
        """
        owned = JOBS.c.state.in_(HELD) | (JOBS.c.state == JobState.QUEUED) & JOBS.c.runner.startswith("cli:")
        with writing(self._engine) as connection:
            found = connection.execute(select(*_COLUMNS).where(owned).order_by(JOBS.c.queue_number)).all()
            orphans = [job for job in map(_job, found) if not _has_process(job, is_alive)]
            return [self._end_orphan(connection, job) for job in orphans]

    def _end_orphan(self, connection: Connection, job: Job) -> Job:
        now = self._clock()
        if job.state is JobState.CANCELLING:
            return _moved(connection, JobState.CANCELLED, job, finished_at=now)
        if job.state is JobState.QUEUED:
            gone = Cancelled("the command that queued this job ended before it ran", _TRY_AGAIN)
            return _moved(connection, JobState.CANCELLED, job, finished_at=now, error=ErrorNote.of(gone).to_json())
        died = WorkerDiedError("i2v was stopped while this job ran", _TRY_AGAIN)
        return _moved(connection, JobState.FAILED, job, finished_at=now, error=ErrorNote.of(died).to_json())

    def set_favourite(self, job_id: str, favourite: bool) -> None:
        """Mark or unmark a job. Raises InputError if unknown."""
        with writing(self._engine) as connection:
            job = _known(connection, job_id)
            connection.execute(update(JOBS).where(JOBS.c.id == job.id).values(favourite=favourite))

    def add_file(self, job_id: str, kind: str, name: str, size_bytes: int) -> None:
        """Add a file that was made later to the result of a finished job. Raises InputError if it has none."""
        with writing(self._engine) as connection:
            job = _known(connection, job_id)
            if job.state is not JobState.DONE:
                raise InputError(f"the job is {job.state}", "Only a finished one has files.")
            this = JOBS.c.id == job.id
            written = connection.scalar(select(JOBS.c.result).where(this)) or {}  # whole, by whichever version
            added = {"files": {kind: name}, "file_bytes": {kind: size_bytes}}
            result = written | {key: written.get(key, {}) | more for key, more in added.items()}
            connection.execute(update(JOBS).where(this).values(result=result))

    # Deleting: at first only a mark, so that it can be undone

    def delete(self, job_id: str) -> None:
        """Put a job that is over in the bin, where only `restore` finds it. Raises InputError for any other."""
        with writing(self._engine) as connection:
            job = _known(connection, job_id)
            if job.state not in TERMINAL:
                raise InputError(f"the job is {job.state}", "Cancel it first.")
            connection.execute(update(JOBS).where(JOBS.c.id == job.id).values(deleted_at=self._clock()))

    def restore(self, job_id: str) -> None:
        """Take a job out of the bin; one that is not in it stays as it is. Raises InputError when it is gone."""
        with writing(self._engine) as connection:
            taken_out = (JOBS.c.id == job_id) & (JOBS.c.deleted_at > _DOOMED)
            if not connection.execute(update(JOBS).where(taken_out).values(deleted_at=None)).rowcount:
                _known(connection, job_id)

    def deleted(self) -> set[str]:
        """Return the ids of the jobs in the bin, those that are being removed included."""
        with reading(self._engine) as connection:
            return set(connection.scalars(select(JOBS.c.id).where(JOBS.c.deleted_at.is_not(None))))

    def doom(self, older_than_s: float) -> Ids:
        """Return the jobs deleted at least so long ago; from now on they cannot be restored."""
        due = JOBS.c.deleted_at <= self._clock() - older_than_s
        with reading(self._engine) as connection:  # asked now and then: nothing is written when there is nothing
            if connection.scalar(select(JOBS.c.id).where(due).limit(1)) is None:
                return []
        with writing(self._engine) as connection:
            return [*connection.scalars(update(JOBS).where(due).values(deleted_at=_DOOMED).returning(JOBS.c.id))]

    def forget(self, job_id: str) -> None:
        """Remove a doomed job for good."""
        with writing(self._engine) as connection:
            connection.execute(delete(JOBS).where(JOBS.c.id == job_id, JOBS.c.deleted_at == _DOOMED))

    # Looking

    def get(self, job_id: str) -> Job | None:
        """Return the job, or None."""
        with reading(self._engine) as connection:
            row = connection.execute(select(*_COLUMNS).where(JOBS.c.id == job_id, _IS_THERE)).one_or_none()
        return _job(row) if row else None

    def with_picture(self, image_sha256: str, limit: int = 8) -> Jobs:
        """Return the newest jobs whose start picture has this hash."""
        same = JOBS.c.request["image_sha256"].as_string() == image_sha256
        found = select(*_COLUMNS).where(same, _IS_THERE).order_by(JOBS.c.number.desc()).limit(limit)
        with reading(self._engine) as connection:
            return [_job(row) for row in connection.execute(found)]

    def list(
        self,
        limit: int = 20,
        offset: int = 0,
        search: str = "",
        favourites: bool = False,
        states: Collection[JobState] | None = None,
    ) -> Jobs:
        """Return a page of jobs, newest first; each word of `search` is in the prompt or the image's name."""
        found = select(*_COLUMNS).where(*_filters(search, favourites, states))
        found = found.order_by(JOBS.c.number.desc()).limit(limit).offset(offset)
        with reading(self._engine) as connection:
            return [_job(row) for row in connection.execute(found)]

    def count(self, search: str = "", favourites: bool = False, states: Collection[JobState] | None = None) -> int:
        """Return how many jobs `list` would give without a limit."""
        found = select(func.count()).select_from(JOBS).where(*_filters(search, favourites, states))
        with reading(self._engine) as connection:
            return int(connection.scalar(found) or 0)

    def count_by_state(self) -> dict[JobState, int]:
        """Return how many jobs there are in each state."""
        counted = select(JOBS.c.state, func.count()).where(_IS_THERE).group_by(JOBS.c.state)
        with reading(self._engine) as connection:
            found = {JobState(state): int(number) for state, number in connection.execute(counted)}
        return dict.fromkeys(JobState, 0) | found

    def active(self, runner: str | None = None) -> Jobs:
        """Return the jobs that are not over in the order they run, of one runner or of all."""
        found = select(*_COLUMNS).where(JOBS.c.state.in_(ACTIVE)).order_by(JOBS.c.queue_number)
        if runner is not None:
            found = found.where(JOBS.c.runner == runner)
        with reading(self._engine) as connection:
            return [_job(row) for row in connection.execute(found)]

    def queue_position(self, job_id: str) -> int | None:
        """Return how many jobs its runner takes first, 0 for the next; None if the job is not queued."""
        ahead = JOBS.alias()
        is_ahead = (ahead.c.state == JobState.QUEUED) & (ahead.c.runner == JOBS.c.runner)
        is_ahead &= ahead.c.queue_number < JOBS.c.queue_number
        waiting = (JOBS.c.id == job_id) & (JOBS.c.state == JobState.QUEUED)
        counted = select(func.count()).select_from(ahead).where(is_ahead).correlate(JOBS).scalar_subquery()
        with reading(self._engine) as connection:
            return connection.scalar(select(counted).select_from(JOBS).where(waiting))


def _job(row: Row[Any]) -> Job:
    values = dict(row._mapping)
    values |= {name: read_stored(kind, values[name]) for name, kind in _NOTES.items()}
    return Job(**values | {"state": JobState(values["state"])})


def _known(connection: Connection, job_id: str) -> Job:
    row = connection.execute(select(*_COLUMNS).where(JOBS.c.id == job_id, _IS_THERE)).one_or_none()
    if row is None:
        raise UnknownJobError(f"there is no job {job_id}", "It may have been deleted.")
    return _job(row)


def _move(connection: Connection, state: JobState, which: ColumnElement[bool], **values: Any) -> Job | None:
    """Move the one job that `which` finds to a state it may move to, or return None."""
    allowed = JOBS.c.state.in_(states_before(state))
    change = update(JOBS).where(which, allowed).values(state=state, **values).returning(*_COLUMNS)
    row = connection.execute(change).one_or_none()
    return _job(row) if row else None


def _moved(connection: Connection, state: JobState, job: Job, **values: Any) -> Job:
    moved = _move(connection, state, JOBS.c.id == job.id, **values)
    if moved is None:
        raise RuntimeError(f"a job that is {job.state} cannot become {state}")
    return moved


def _is_run(job_id: str, attempt: int) -> ColumnElement[bool]:
    return (JOBS.c.id == job_id) & (JOBS.c.attempt == attempt) & JOBS.c.state.in_(HELD)


def _queued_by(runner: str) -> dict[str, Any]:
    """Return the values of a job that this process puts at the end of the queue."""
    last = select(func.coalesce(func.max(JOBS.c.queue_number), 0)).scalar_subquery()
    return {
        "queue_number": last + 1,
        "runner": runner,
        "runner_pid": os.getpid(),
        "runner_started": process_started(),
    }


def _has_process(job: Job, is_alive: Callable[[int, float], bool]) -> bool:
    if job.runner_pid is None or job.runner_started is None:
        return False
    return is_alive(job.runner_pid, job.runner_started)


def _filters(search: str, favourites: bool, states: Collection[JobState] | None) -> Any:
    words = _folded(search).split()[:_SEARCHED_WORDS]
    found = [_IS_THERE, *(func.instr(JOBS.c.search_text, word) > 0 for word in words)]
    if favourites:
        found.append(JOBS.c.favourite.is_(True))
    if states is not None:
        found.append(JOBS.c.state.in_(states))
    return found


def _storable(text: str) -> str:
    """Return text that SQLite takes: a file's name may hold bytes that are no characters."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _folded(text: str) -> str:
    """Return text as a search compares it: case, and how an accent is encoded, make no difference."""
    return unicodedata.normalize("NFKC", _storable(text)).casefold()
