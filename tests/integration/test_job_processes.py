"""Several processes and one database: they start together, claim together, and die at any moment."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import i2v
from i2v.jobs.model import JobState
from i2v.jobs.store import JobStore
from i2v.machine.devices import process_exists

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its processes to start many quickly")


class Crowd:
    """Processes in one role, all ready; `go` lets them start at the same moment."""

    def __init__(self, role: str, count: int, path: Path):
        script = Path(__file__).with_name("job_process.py")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", script, role, str(count), path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(i2v.__file__).parents[1])},
        )
        assert self._process.stdout is not None
        self._lines = self._process.stdout
        self.pids = [int(pid) for pid in self._lines.readline().split()]

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        """End what still runs, were the test to have failed."""
        if self._process.poll() is None:
            for pid in self.pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.failures()

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def words(self) -> Iterator[tuple[int, str]]:
        """Yield what each process says, as (its number, word), until all are gone."""
        for line in self._lines:
            number, word = line.split()
            yield int(number), word

    def failures(self) -> int:
        """Wait for the end and return how many processes were killed or failed."""
        with self._process:
            return self._process.wait(20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite3"


def test_four_processes_that_start_at_once_migrate_once(path: Path) -> None:
    with Crowd("submits_once", 4, path) as crowd:
        assert not path.exists()
        crowd.go()
        submitted = [job_id for _, job_id in crowd.words()]
        assert crowd.failures() == 0
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("0002",)]
        stored = [job_id for (job_id,) in connection.execute("SELECT id FROM jobs")]
    assert sorted(stored) == sorted(submitted)
    assert len(stored) == 4


def test_no_job_is_claimed_twice_and_their_order_is_kept(path: Path) -> None:
    store = JobStore(path)
    submitted = [store.submit({}, "a.png", "web").id for _ in range(60)]
    with Crowd("claims_all", 4, path) as crowd:
        crowd.go()
        claims = list(crowd.words())
        assert crowd.failures() == 0
    assert sorted(job_id for _, job_id in claims) == sorted(submitted)
    assert len({number for number, _ in claims}) >= 2, "no race happened"
    jobs = store.list(limit=100)[::-1]
    assert [job.id for job in jobs] == submitted
    assert {(job.state, job.attempt) for job in jobs} == {(JobState.DONE, 1)}
    starts = [job.started_at or 0.0 for job in jobs]
    assert starts == sorted(starts)
    store.close()


def test_kill_9_of_a_writer_loses_no_acknowledged_job(path: Path) -> None:
    rng, acknowledged, fewest = random.Random(11), list[str](), 0
    with Crowd("submits_for_ever", 12, path) as crowd:
        alive, words = list(crowd.pids), crowd.words()
        crowd.go()
        for _, job_id in words:
            acknowledged.append(job_id)
            if alive and len(acknowledged) > fewest:
                os.kill(alive.pop(), signal.SIGKILL)
                fewest += rng.randint(1, 12)
        assert crowd.failures() == 12
    store = JobStore(path)
    stored = {job.id for job in store.active()}
    assert len(set(acknowledged)) == len(acknowledged) > 12
    assert set(acknowledged) <= stored
    assert len(stored) <= len(acknowledged) + 12, "at most the one job that each had in hand"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert store.submit({}, "a.png", "web").state is JobState.QUEUED
    store.close()


def test_the_jobs_of_a_killed_command_end_with_a_reason(path: Path) -> None:
    store = JobStore(path)
    with Crowd("submits_two_and_claims_one", 1, path) as command:
        command.go()
        words = command.words()
        (_, running), (_, queued) = next(words), next(words)
        assert store.requeue_or_fail_orphans(process_exists) == []
        os.kill(command.pids[0], signal.SIGKILL)
        assert command.failures() == 1
    ended = store.requeue_or_fail_orphans(process_exists)
    assert [(job.id, job.state, job.error and job.error.kind) for job in ended] == [
        (running, JobState.FAILED, "WorkerDiedError"),
        (queued, JobState.CANCELLED, "Cancelled"),
    ]
    assert store.retry(queued, "web").runner_pid == os.getpid()
    store.close()
