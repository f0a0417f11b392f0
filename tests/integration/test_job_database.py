"""A database that refuses (locked, full, read-only, damaged, newer) gives one sentence and keeps its jobs."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from i2v.errors import StorageError
from i2v.jobs.model import Job, JobState
from i2v.jobs.store import JobStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jöbs 100%?.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[JobStore]:
    opened = JobStore(path, busy_timeout_s=0.2)
    yield opened
    opened.close()


def submit(store: JobStore, prompt: str = "a fox") -> Job:
    return store.submit({"prompt": prompt}, "fox.png", "web")


@contextlib.contextmanager
def every_connection(pragma: str) -> Iterator[None]:
    """Have each new connection run a pragma, as the means to make SQLite refuse for real."""

    def listener(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA {pragma}")

    sa.event.listen(sa.Engine, "connect", listener)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "connect", listener)


def test_a_locked_database_is_one_sentence_and_works_afterwards(store: JobStore, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for call in (lambda: submit(store), store.list, lambda: JobStore(path, busy_timeout_s=0.05)):
            with pytest.raises(StorageError, match=r"is in use by another program\. Close"):
                call()
        other.execute("ROLLBACK")
    assert submit(store).state is JobState.QUEUED


def test_a_write_waits_for_another_process_to_end_its_own(path: Path) -> None:
    store = JobStore(path, busy_timeout_s=10.0)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, other.rollback)
    release.start()
    assert submit(store).state is JobState.QUEUED
    release.join()
    other.close()
    store.close()


def test_a_read_only_database_can_be_looked_at_but_not_written(store: JobStore, path: Path) -> None:
    job = submit(store)
    with every_connection("query_only = ON"):
        looking = JobStore(path)
        assert looking.list() == [job]
        with pytest.raises(StorageError, match="cannot be written"):
            submit(looking)
        with pytest.raises(StorageError, match="cannot be written"):
            looking.claim("web", os.getpid(), 1.0)
        looking.close()
    assert store.get(job.id) == job


def test_a_full_disk_is_one_sentence_and_loses_nothing(store: JobStore, path: Path) -> None:
    kept: list[Job] = []

    def fill() -> None:
        while len(kept) < 200:
            kept.append(submit(store, "x" * 2000))

    with every_connection("max_page_count = 40"), pytest.raises(StorageError, match=r"the disk is full\. Free disk"):
        fill()
    assert len(kept) > 10
    assert store.active() == kept
    assert submit(store) == store.active()[-1]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_full_disk_while_migrating_leaves_a_database_that_migrates_later(path: Path) -> None:
    with every_connection("max_page_count = 2"), pytest.raises(StorageError, match="the disk is full"):
        JobStore(path)
    store = JobStore(path)
    assert submit(store).attempt == 0
    store.close()


@pytest.mark.parametrize("content", [b"hello", b"\0" * 5000, random.Random(1).randbytes(9000)])
def test_a_file_that_is_no_database_is_refused_and_kept(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"is not a database. Move the file away"):
        JobStore(path)
    assert path.read_bytes() == content


def test_a_database_cut_short_is_refused_and_kept(store: JobStore, path: Path) -> None:
    submit(store, "x" * 20000)
    cut = path.read_bytes()[:5000]
    path.write_bytes(cut)
    with pytest.raises(StorageError, match=r"is damaged. Move the file away"):
        JobStore(path).list()
    assert path.read_bytes() == cut


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("UPDATE alembic_version SET version_num = '9999'", "was made by a newer i2v. Update i2v"),
        ("DROP TABLE alembic_version", "belongs to another program"),
    ],
)
def test_a_database_of_another_version_or_program_is_refused_and_kept(
    store: JobStore, path: Path, change: str, sentence: str
) -> None:
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(change)
    before = path.read_bytes()
    with pytest.raises(StorageError, match=sentence):
        JobStore(path)
    assert path.read_bytes() == before


def test_a_deleted_database_is_an_error_and_not_an_empty_list(store: JobStore, path: Path) -> None:
    path.unlink()
    with pytest.raises(StorageError, match=r"cannot be opened. Restart i2v"):
        store.list()
    assert not path.exists()


def test_a_place_that_cannot_hold_a_database_is_one_sentence(tmp_path: Path) -> None:
    for place in (tmp_path / "missing" / "jobs.sqlite3", tmp_path):
        with pytest.raises(StorageError, match="cannot be"):
            JobStore(place)


def test_the_journal_is_not_wal_even_if_the_file_was(store: JobStore, path: Path) -> None:
    job = submit(store)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    assert store.get(job.id) == job
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
