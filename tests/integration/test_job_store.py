"""What the callers of the job store may rely on: order, fencing, cancelling, orphans, search."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from i2v.errors import GenerationError, InputError, NotFiniteError, UnknownJobError
from i2v.jobs.model import TERMINAL, Job, JobState
from i2v.jobs.result import ErrorNote, RunResult
from i2v.jobs.store import JobStore
from tests.integration.past_jobs import progress_at

ME = (os.getpid(), 1.0)
DEAD = (2**22 + 1, 1.0)


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jöbs 100%?.sqlite3"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[JobStore]:
    opened = JobStore(path, clock, busy_timeout_s=0.2)
    yield opened
    opened.close()


def submit(store: JobStore, prompt: str = "a fox", runner: str = "web") -> Job:
    return store.submit({"prompt": prompt, "seed": 7}, "fox.png", runner)


def run(store: JobStore, runner: str = "web", owner: tuple[int, float] = ME) -> Job:
    submit(store, runner=runner)
    job = store.claim(runner, *owner)
    assert job is not None
    return job


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls in threads that start together, and return what each returned, in the same order."""
    barrier, results = threading.Barrier(len(calls)), [None] * len(calls)

    def one(index: int) -> None:
        barrier.wait(5)
        results[index] = calls[index]()

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


def test_a_job_goes_from_queued_to_done_and_keeps_what_it_was_given(store: JobStore, clock: Clock) -> None:
    queued = submit(store)
    assert (queued.state, queued.attempt, queued.created_at) == (JobState.QUEUED, 0, 1000.0)
    assert len(queued.id) == 32
    clock.now = 1001.0
    running = store.claim("web", *ME)
    assert running is not None
    assert (running.id, running.state, running.attempt) == (queued.id, JobState.RUNNING, 1)
    assert (running.runner_pid, running.runner_started, running.started_at) == (*ME, 1001.0)
    assert store.record_progress(queued.id, 1, progress_at(step=3))
    clock.now = 1004.0
    assert store.finish(queued.id, 1, JobState.DONE, result=RunResult(files={"mp4": "a.mp4"}))
    done = store.get(queued.id)
    assert done is not None
    assert (done.state, done.result, done.error) == (JobState.DONE, RunResult(files={"mp4": "a.mp4"}), None)
    assert (done.request, done.image_name, done.progress and done.progress.step) == (queued.request, "fox.png", 3)
    assert done.took_s == 3.0


def test_jobs_are_there_after_reopening_and_private(store: JobStore, path: Path) -> None:
    job = store.submit({"prompt": "ein Fuchs \udcff"}, "b\udce9te\0.png", "web", job_id="a" * 32)
    store.close()
    again = JobStore(path)
    assert again.get("a" * 32) == job
    assert again.get("b" * 32) is None
    assert job.request["prompt"] == "ein Fuchs \udcff"
    assert os.name == "nt" or path.stat().st_mode & 0o077 == 0
    again.close()


def test_each_runner_gets_its_own_jobs_in_order_even_if_the_clock_goes_back(store: JobStore, clock: Clock) -> None:
    jobs = []
    for prompt, runner in (("1", "web"), ("2", "cli:9"), ("3", "web"), ("4", "web")):
        jobs.append(submit(store, prompt, runner))
        clock.now -= 3600.0
    assert [store.queue_position(job.id) for job in jobs] == [0, 0, 1, 2]
    assert store.active() == jobs
    assert store.active("cli:9") == [jobs[1]]
    first = store.claim("web", *ME)
    assert first is not None
    assert [store.queue_position(job.id) for job in jobs] == [None, 0, 0, 1]
    assert [job.prompt for job in (first, *iter(lambda: store.claim("web", *ME), None))] == ["1", "3", "4"]
    assert store.queue_position(jobs[0].id) is None
    assert store.queue_position("unknown") is None
    assert [job.prompt for job in store.list()] == ["4", "3", "2", "1"]


def test_late_and_repeated_events_change_nothing(store: JobStore) -> None:
    first = run(store)
    assert store.finish(first.id, 1, JobState.FAILED, error=ErrorNote.of(NotFiniteError("no")))
    assert not store.finish(first.id, 1, JobState.DONE, result=RunResult(frames_sha256="late"))
    store.retry(first.id, "web")
    assert not store.finish(first.id, 1, JobState.CANCELLED), "queued again: the old run may not end it"
    second = store.claim("web", *ME)
    assert second is not None
    assert (second.attempt, second.error, second.finished_at) == (2, None, None)
    assert not store.finish(first.id, 1, JobState.DONE, result=RunResult(frames_sha256="late"))
    assert not store.record_progress(first.id, 1, progress_at(step=99))
    assert store.get(first.id) == second
    assert store.finish(first.id, 2, JobState.DONE)
    assert not store.record_progress(first.id, 2, progress_at(step=99))
    with pytest.raises(ValueError, match="running"):
        store.finish(first.id, 2, JobState.RUNNING)


def test_cancelling_is_at_once_when_queued_and_asked_for_when_running(store: JobStore) -> None:
    assert store.request_cancel(submit(store).id).state is JobState.CANCELLED
    job = run(store)
    assert store.request_cancel(job.id).state is JobState.CANCELLING
    assert store.request_cancel(job.id).state is JobState.CANCELLING
    assert store.record_progress(job.id, 1, progress_at(step=4))
    assert store.finish(job.id, 1, JobState.DONE)
    assert store.request_cancel(job.id).state is JobState.DONE
    with pytest.raises(InputError, match="There is no job"):
        store.request_cancel("unknown")


def test_a_cancel_that_races_a_finish_never_loses_the_video(store: JobStore) -> None:
    for _ in range(10):
        job = run(store)
        finish = partial(store.finish, job.id, 1, JobState.DONE)
        finished, asked = at_once(finish, partial(store.request_cancel, job.id))
        assert finished
        assert asked.state in (JobState.CANCELLING, JobState.DONE)
        after = store.get(job.id)
        assert after is not None
        assert after.state is JobState.DONE


def test_of_two_ends_that_race_exactly_one_counts(store: JobStore) -> None:
    for _ in range(10):
        job = run(store)
        ends = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
        won = at_once(*(partial(store.finish, job.id, 1, end, RunResult(frames_sha256=end)) for end in ends))
        after = store.get(job.id)
        assert won.count(True) == 1
        assert after is not None
        assert after.state is ends[won.index(True)]
        assert after.result == RunResult(frames_sha256=after.state)


def test_a_retried_job_goes_to_the_end_and_counts_on(store: JobStore) -> None:
    failed = run(store)
    store.finish(failed.id, 1, JobState.FAILED, error=ErrorNote.of(GenerationError("no")))
    waiting = submit(store)
    again = store.retry(failed.id, "web")
    assert (again.state, again.attempt, again.error, again.finished_at) == (JobState.QUEUED, 1, None, None)
    assert store.active() == [waiting, again]
    assert [store.queue_position(job.id) for job in (waiting, again)] == [0, 1]
    for job_id in (waiting.id, failed.id):
        with pytest.raises(InputError, match="The job is queued"):
            store.retry(job_id, "web")


def test_stopping_is_for_a_job_that_runs_and_it_may_still_be_cancelled(store: JobStore) -> None:
    waiting = submit(store)
    with pytest.raises(InputError, match=r"The job has not begun\. Cancel it instead\."):
        store.request_stop(waiting.id)
    store.request_cancel(waiting.id)
    assert store.request_stop(waiting.id).state is JobState.CANCELLED, "what is over stays as it is"
    job = run(store)
    assert store.request_stop(job.id).state is JobState.STOPPING
    assert store.request_stop(job.id).state is JobState.STOPPING
    assert [found.id for found in store.active()] == [job.id]
    assert store.record_progress(job.id, 1, progress_at(step=2)), "it still runs"
    assert store.request_cancel(job.id).state is JobState.CANCELLING
    assert store.request_stop(job.id).state is JobState.CANCELLING
    assert store.finish(job.id, 1, JobState.CANCELLED)
    with pytest.raises(UnknownJobError):
        store.request_stop("unknown")


def test_a_stopping_job_ends_as_any_other(store: JobStore) -> None:
    for state in (JobState.DONE, JobState.FAILED, JobState.CANCELLED):
        job = run(store)
        store.request_stop(job.id)
        assert store.finish(job.id, 1, state)
    orphan = run(store, owner=DEAD)
    store.request_stop(orphan.id)
    assert [job.state for job in store.requeue_or_fail_orphans(lambda *_: False)] == [JobState.FAILED]


def test_jobs_of_a_dead_process_end_and_others_go_on(store: JobStore) -> None:
    mine, died, stopping = run(store), run(store, owner=DEAD), run(store, owner=DEAD)
    recycled = run(store, owner=(ME[0], 0.5))
    store.request_cancel(stopping.id)
    for_the_page, for_a_command = submit(store), submit(store, runner="cli:5")
    assert store.requeue_or_fail_orphans(lambda pid, started: (pid, started) == ME or started > 1.0) != []
    state = {job.id: job.state for job in store.list()}
    assert state[mine.id] is JobState.RUNNING
    assert state[died.id] is state[recycled.id] is JobState.FAILED
    assert state[stopping.id] is JobState.CANCELLED
    assert state[for_the_page.id] is state[for_a_command.id] is JobState.QUEUED
    ended = store.requeue_or_fail_orphans(lambda pid, started: (pid, started) == ME)
    assert [(job.id, job.state) for job in ended] == [(for_a_command.id, JobState.CANCELLED)]
    error = (store.get(died.id) or mine).error
    assert error is not None
    assert (error.kind, error.remedy) == ("WorkerDiedError", "Press Try again to run it once more.")
    assert not store.finish(died.id, 1, JobState.DONE), "it was not dead after all, but too late"


def test_search_finds_every_word_whatever_its_case_and_pages_do_not_overlap(store: JobStore) -> None:
    for number in range(25):
        store.submit({"prompt": f"Ein A\u0308pfelbaum 100%_{number}"}, "Garten.PNG", "web")
    other = submit(store, "a fox_in \\ 'the' snow")
    store.set_favourite(other.id, True)
    assert store.count() == 26
    pages = [store.list(limit=10, offset=offset, search="GARTEN äpfel") for offset in (0, 10, 20, 30)]
    assert [len(page) for page in pages] == [10, 10, 5, 0]
    assert len({job.id for page in pages for job in page}) == store.count(search="garten a\u0308pfel") == 25
    assert [job.id for job in store.list(search="\\ 'THE' fox_")] == [other.id]
    assert store.count(search="100%_2") == 6
    assert store.count(search="%") == 25
    assert store.list(search="äpfelbaum fox") == []
    assert store.count(search="x " * 5000) == 1
    assert store.count(search="\0\udcff") == 0
    assert [job.id for job in store.list(favourites=True)] == [other.id]
    assert store.count(states=[JobState.DONE]) == store.count(states=[]) == 0
    assert store.count(states=[JobState.QUEUED], favourites=True) == 1
    run(store)
    assert store.count_by_state() == dict.fromkeys(JobState, 0) | {JobState.QUEUED: 26, JobState.RUNNING: 1}


def test_only_jobs_that_are_over_can_be_deleted(store: JobStore) -> None:
    job = submit(store)
    with pytest.raises(InputError, match=r"The job is queued. Cancel it first\."):
        store.delete(job.id)
    store.request_cancel(job.id)
    store.delete(job.id)
    assert store.get(job.id) is None
    calls = (store.delete, lambda job_id: store.set_favourite(job_id, True), store.request_cancel)
    for call in (*calls, lambda job_id: store.retry(job_id, "web")):
        with pytest.raises(InputError, match="There is no job"):
            call(job.id)


def test_a_deleted_job_is_nowhere_until_it_is_restored(store: JobStore) -> None:
    kept, gone = run(store), run(store)
    for job in (kept, gone):
        store.finish(job.id, 1, JobState.FAILED, error=ErrorNote.of(GenerationError("no")))
    before = store.get(gone.id)
    store.delete(gone.id)
    assert [job.id for job in store.list()] == [job.id for job in store.list(search="fox")] == [kept.id]
    assert store.count() == store.count(states=[JobState.FAILED]) == store.count_by_state()[JobState.FAILED] == 1
    assert store.claim("web", *ME) is None
    assert store.deleted() == {gone.id}
    store.restore(gone.id)
    store.restore(gone.id)
    assert store.get(gone.id) == before
    assert store.deleted() == set()
    with pytest.raises(InputError, match="There is no job"):
        store.restore("unknown")


def test_what_is_being_removed_cannot_be_restored(store: JobStore, clock: Clock) -> None:
    jobs = [run(store) for _ in range(2)]
    for job in jobs:
        store.finish(job.id, 1, JobState.DONE)
        store.delete(job.id)
        clock.now += 100
    assert store.doom(201) == []
    assert store.doom(200) == [jobs[0].id]
    assert store.doom(200) == [jobs[0].id], "it stays doomed until it is forgotten"
    with pytest.raises(InputError, match="There is no job"):
        store.restore(jobs[0].id)
    for job in jobs:
        store.forget(job.id)
    assert store.deleted() == {jobs[1].id}, "only what is doomed is forgotten"
    store.restore(jobs[1].id)


def test_a_file_made_later_is_added_to_the_result(store: JobStore) -> None:
    job = run(store)
    with pytest.raises(InputError, match="The job is running"):
        store.add_file(job.id, "gif", "a.gif", 5)
    store.finish(job.id, 1, JobState.DONE, RunResult(files={"mp4": "a.mp4"}, file_bytes={"mp4": 9}, seconds=2))
    at_once(*(partial(store.add_file, job.id, kind, f"a.{kind}", 5) for kind in ("gif", "webp")))
    after = store.get(job.id)
    assert after is not None
    assert after.result == RunResult(
        files={"mp4": "a.mp4", "gif": "a.gif", "webp": "a.webp"},
        file_bytes={"mp4": 9, "gif": 5, "webp": 5},
        seconds=2,
    )


def test_jobs_are_found_by_their_picture(store: JobStore) -> None:
    jobs = [store.submit({"image_sha256": sha}, "a.png", "web") for sha in ("aa", "bb", "aa")]
    assert [job.id for job in store.with_picture("aa")] == [jobs[2].id, jobs[0].id]
    store.request_cancel(jobs[2].id)
    store.delete(jobs[2].id)
    assert [job.id for job in store.with_picture("aa")] == [jobs[0].id]
    assert store.with_picture("' OR 1=1") == []


def test_no_sequence_of_calls_leaves_an_impossible_job(store: JobStore) -> None:
    rng = random.Random(5)
    for _ in range(80):
        jobs = store.list(limit=6)
        job = rng.choice(jobs) if jobs else submit(store)
        calls: list[Callable[[], Any]] = [
            partial(submit, store),
            partial(store.claim, "web", *rng.choice((ME, DEAD))),
            partial(store.finish, job.id, rng.randint(0, 3), rng.choice(sorted(TERMINAL)), RunResult()),
            partial(store.request_cancel, job.id),
            partial(store.retry, job.id, "web"),
            partial(store.requeue_or_fail_orphans, lambda pid, _: pid == ME[0]),
        ]
        with contextlib.suppress(InputError):
            rng.choice(calls)()
        for seen in store.list(limit=6):
            assert (seen.finished_at is not None) == (seen.state in TERMINAL)
            assert (seen.result is None) or seen.state in TERMINAL
            assert seen.attempt > 0 or seen.started_at is None
