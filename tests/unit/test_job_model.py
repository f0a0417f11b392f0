"""Which way a job may move, and that the migrations build the tables the code expects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from i2v.jobs.database import open_engine, reading, writing
from i2v.jobs.migrate import upgrade
from i2v.jobs.model import ACTIVE, HELD, TERMINAL, Job, JobState, may_follow, states_before
from i2v.jobs.result import RunResult
from i2v.jobs.schema import METADATA
from i2v.jobs.store import JobStore

QUEUED, RUNNING, STOPPING, CANCELLING = JobState.QUEUED, JobState.RUNNING, JobState.STOPPING, JobState.CANCELLING
CANCELLED, DONE, FAILED = JobState.CANCELLED, JobState.DONE, JobState.FAILED
JOB = Job(
    "0" * 32,
    QUEUED,
    0,
    {"prompt": "a fox"},
    "fox.png",
    "web",
    1,
    1.0,
    None,
    None,
    None,
    False,
    10.0,
    None,
    None,
)

ALLOWED = {
    (QUEUED, RUNNING),
    (QUEUED, CANCELLED),
    (RUNNING, STOPPING),
    (RUNNING, CANCELLING),
    (RUNNING, CANCELLED),
    (RUNNING, DONE),
    (RUNNING, FAILED),
    (STOPPING, CANCELLING),
    (STOPPING, CANCELLED),
    (STOPPING, DONE),
    (STOPPING, FAILED),
    (CANCELLING, CANCELLED),
    (CANCELLING, DONE),
    (CANCELLING, FAILED),
    (CANCELLED, QUEUED),
    (FAILED, QUEUED),
}


@pytest.mark.parametrize("old", JobState)
@pytest.mark.parametrize("new", JobState)
def test_a_job_moves_only_along_the_drawn_arrows(old: JobState, new: JobState) -> None:
    assert may_follow(old, new) == ((old, new) in ALLOWED)
    assert (old in states_before(new)) == may_follow(old, new)


def test_every_state_is_either_active_or_over() -> None:
    assert set(JobState) == ACTIVE | TERMINAL
    assert not ACTIVE & TERMINAL
    assert {RUNNING, STOPPING, CANCELLING} == HELD


def test_every_active_job_can_be_ended_in_one_step() -> None:
    assert all(may_follow(state, CANCELLED) for state in ACTIVE)


def test_state_is_its_name_in_json() -> None:
    assert [f"{state}" for state in JobState] == [
        "queued",
        "running",
        "stopping",
        "cancelling",
        "cancelled",
        "done",
        "failed",
    ]


def test_duration_is_never_negative_whatever_the_clock_did() -> None:
    assert JOB.took_s is None
    assert replace(JOB, started_at=20.0).took_s is None
    assert replace(JOB, started_at=20.0, finished_at=25.5).took_s == 5.5
    assert replace(JOB, started_at=20.0, finished_at=12.0).took_s == 0.0


def test_prompt_is_read_from_the_request() -> None:
    assert JOB.prompt == "a fox"
    assert replace(JOB, request={}).prompt == ""


def _migrated(path: Path) -> sa.Engine:
    engine = open_engine(path, busy_timeout_s=1.0)
    upgrade(engine)
    return engine


def _columns(connection: sa.Connection) -> dict[str, set[tuple[object, ...]]]:
    """Return what SQLite knows of each column but its place: name, type, not null, default, part of the key."""
    names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
    return {
        name: {tuple(row)[1:] for row in connection.exec_driver_sql(f"PRAGMA table_info('{name}')")}
        | {tuple(row)[1:] for row in connection.exec_driver_sql(f"PRAGMA index_list('{name}')")}
        for name in names
        if name != "alembic_version"
    }


def test_migrations_build_exactly_the_tables_the_code_expects(tmp_path: Path) -> None:
    with reading(_migrated(tmp_path / "jobs.sqlite3")) as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, METADATA) == []
        built = _columns(connection)
    plain = sa.create_engine("sqlite://")
    METADATA.create_all(plain)
    with plain.connect() as connection:
        assert built == _columns(connection)
    plain.dispose()


def test_a_database_of_the_first_version_keeps_its_jobs(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    engine = open_engine(path, busy_timeout_s=1.0)
    config = Config()
    config.set_main_option("script_location", "i2v.jobs:migrations")
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        row = {
            "number": 7,
            "id": "a" * 32,
            "queue_number": 7,
            "state": "done",
            "attempt": 1,
            "request": '{"prompt": "x"}',
        }
        row |= {"image_name": "a.png", "search_text": "x a.png", "runner": "web", "progress": "{}", "favourite": 1}
        row |= {"created_at": 5.0, "result": '{"files": {"mp4": "a.mp4"}}'}
        connection.execute(sa.insert(sa.table("jobs", *map(sa.column, row))).values(row))
    store = JobStore(path)
    (job,) = store.list(favourites=True)
    assert (job.id, job.prompt, job.result) == ("a" * 32, "x", RunResult(files={"mp4": "a.mp4"}))
    store.delete(job.id)
    assert (store.list(), store.deleted()) == ([], {job.id})
    store.close()


def test_a_schema_change_without_a_migration_is_noticed(tmp_path: Path) -> None:
    changed = sa.MetaData()
    for table in METADATA.tables.values():
        table.to_metadata(changed)
    changed.tables["jobs"].append_column(sa.Column("owner", sa.String))
    with reading(_migrated(tmp_path / "jobs.sqlite3")) as connection:
        differences = compare_metadata(MigrationContext.configure(connection), changed)
    assert [difference[0] for difference in differences] == ["add_column"]


def test_migrating_a_current_database_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    _migrated(path)
    path.chmod(0o400)
    before = path.read_bytes(), path.stat().st_mtime_ns
    _migrated(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
