"""Brings the database to the tables this code expects, whichever of several processes comes first.

A change of schema.py is written by hand as the next file in migrations/versions. There is no alembic.ini: the
environment gets its connection from here.
"""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect

from i2v.errors import StorageError
from i2v.jobs.database import reading, writing

__all__ = ["upgrade"]

_MIGRATIONS = "i2v.jobs:migrations"


def upgrade(engine: Engine) -> None:
    """Migrate to the newest revision; does not write when the database is there already.

    Raises StorageError for a database of a newer i2v or of another program, which is left as it is.
    """
    config = Config()
    config.set_main_option("script_location", _MIGRATIONS)
    script = ScriptDirectory.from_config(config)
    with reading(engine) as connection:
        if _is_current(connection, script):
            return
    with writing(engine) as connection:  # a second process waits here, then finds nothing left to do
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _is_current(connection: Connection, script: ScriptDirectory) -> bool:
    found = set(MigrationContext.configure(connection).get_current_heads())
    path = connection.engine.url.database
    if found - {revision.revision for revision in script.walk_revisions()}:
        raise StorageError(
            f"the job database {path} was made by a newer i2v",
            "Update i2v, or set I2V_HOME to another folder.",
        )
    if not found and inspect(connection).get_table_names():
        raise StorageError(
            f"the job database {path} belongs to another program",
            "Move the file away, and i2v starts a new one.",
        )
    return found == set(script.get_heads())
