"""Processes at work on one job database, for tests that race and kill real ones: a script, never imported.

    python job_process.py ROLE COUNT DATABASE

forks COUNT processes (so that one import serves all), writes their pids, and lets all go at once when it reads a
line. Each then writes "number word" for whatever it has surely done. The exit status is how many of them failed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from i2v.jobs.model import JobState
from i2v.jobs.store import JobStore
from i2v.machine.devices import process_started

Say = Callable[[str], None]


def submits_once(path: Path, say: Say) -> None:
    say(JobStore(path).submit({}, "a.png", "web").id)


def submits_for_ever(path: Path, say: Say) -> None:
    store = JobStore(path)
    while True:
        say(store.submit({"prompt": "x" * 3000}, "a.png", "web").id)


def claims_all(path: Path, say: Say) -> None:
    store = JobStore(path, clock=time.monotonic)
    while job := store.claim("web", os.getpid(), process_started()):
        say(job.id)
        time.sleep(0.002)
        assert store.finish(job.id, job.attempt, JobState.DONE)


def submits_two_and_claims_one(path: Path, say: Say) -> None:
    store, runner = JobStore(path), f"cli:{os.getpid()}"
    two = [store.submit({}, name, runner).id for name in ("a.png", "b.png")]
    store.claim(runner, os.getpid(), process_started())
    for job_id in two:
        say(job_id)
    time.sleep(60)


ROLES = {role.__name__: role for role in (submits_once, submits_for_ever, claims_all, submits_two_and_claims_one)}


def main(name: str, count: str, path: str) -> int:
    gate, opener = os.pipe()
    pids = [_fork(ROLES[name], number, Path(path), gate, opener) for number in range(int(count))]
    os.write(1, (" ".join(map(str, pids)) + "\n").encode())
    sys.stdin.readline()
    os.close(opener)
    return sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)


def _fork(role: Callable[[Path, Say], None], number: int, path: Path, gate: int, opener: int) -> int:
    if pid := os.fork():
        return pid
    os.close(opener)
    os.read(gate, 1)  # returns when the last holder of `opener` closes it

    def say(word: str) -> None:
        os.write(1, f"{number} {word}\n".encode())  # at once and whole, although all share one pipe

    try:
        role(path, say)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
