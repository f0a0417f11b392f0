"""Runs the migrations inside the transaction that migrate.py opened: they happen whole or not at all."""

from __future__ import annotations

from alembic import context

from i2v.jobs.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,  # SQLite alters a table by building it anew
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
