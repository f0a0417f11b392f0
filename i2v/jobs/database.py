"""How the database file is opened, how transactions begin, and what its refusals are called. Knows no tables.

The journal is a rollback journal (DELETE), not WAL: SQLite before 3.51.3 can, rarely, damage a WAL database
that several processes write to, and Python still ships older ones. A commit costs about a millisecond, beside
a job of minutes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError

from i2v.errors import StorageError

__all__ = ["open_engine", "reading", "storage_errors", "writing"]

_PRAGMAS = ("journal_mode=DELETE", "synchronous=FULL", "foreign_keys=ON")
_START_ANEW = "Move the file away, and i2v starts a new one."
_MOVE_HOME = "Free disk space, or set I2V_HOME to another disk."
_REFUSALS = {
    sqlite3.SQLITE_BUSY: ("is in use by another program", "Close that program and try again."),
    sqlite3.SQLITE_LOCKED: ("is in use by another program", "Close that program and try again."),
    sqlite3.SQLITE_READONLY: ("cannot be written", "Make the file and its folder writable, or set I2V_HOME."),
    sqlite3.SQLITE_PERM: ("cannot be written", "Make the file and its folder writable, or set I2V_HOME."),
    sqlite3.SQLITE_FULL: ("has no room to grow: the disk is full", _MOVE_HOME),
    sqlite3.SQLITE_IOERR: ("cannot be read or written: the disk reports an error", _MOVE_HOME),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "Restart i2v, or set I2V_HOME to a writable folder."),
    sqlite3.SQLITE_NOTADB: ("is not a database", _START_ANEW),
    sqlite3.SQLITE_CORRUPT: ("is damaged", _START_ANEW),
}


def open_engine(path: Path, busy_timeout_s: float) -> Engine:
    """Return an engine on the file, which is created empty if missing. Raises StorageError.

    Every transaction gets a connection of its own: nothing is shared between threads or held over a fork. A
    file deleted later is not created anew behind the running program's back.
    """
    try:
        if not path.exists():
            path.touch(mode=0o600)  # prompts are nobody else's business; the journal inherits this
    except OSError as error:
        raise StorageError(
            f"the job database {path} cannot be created: {error.strerror}",
            "Set I2V_HOME to a writable folder.",
        ) from error
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        creator=lambda: _connect(path, busy_timeout_s),
        poolclass=NullPool,
    )
    event.listen(engine, "begin", _begin)
    return engine


def _connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    location = path.absolute().as_posix()
    uri = f"file://{'' if location.startswith('/') else '/'}{quote(location)}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=busy_timeout_s, isolation_level=None)
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _begin(connection: Connection) -> None:
    # A transaction that reads and then writes may not wait for another's lock, only fail: writers lock first.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One transaction that sees one state of the database. Raises StorageError."""
    with storage_errors(engine), engine.begin() as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One transaction that no other can come between; committed when the block ends. Raises StorageError."""
    with storage_errors(engine), engine.execution_options(writes=True).begin() as connection:
        yield connection


@contextmanager
def storage_errors(engine: Engine) -> Iterator[None]:
    """Turn the database's refusals into StorageError, told apart by SQLite's code; our own mistakes pass."""
    try:
        yield
    except DBAPIError as error:
        code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code not in _REFUSALS and not isinstance(error, OperationalError):
            raise
        name = getattr(error.orig, "sqlite_errorname", "no code")
        unknown = f"cannot be used ({name})", "Restart i2v; if that does not help, move the file away."
        what, remedy = _REFUSALS.get(code, unknown)
        raise StorageError(f"the job database {engine.url.database} {what}", remedy) from error
