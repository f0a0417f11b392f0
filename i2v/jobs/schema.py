"""The tables as the code expects them: jobs, and presets that a person saved.

Every change here needs a new file in migrations/versions (tested). Knows SQLAlchemy, not where the database is.
"""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, Index, Integer, MetaData, String, Table

__all__ = ["JOBS", "METADATA", "SAVED_PRESETS"]

METADATA = MetaData()

JOBS = Table(
    "jobs",
    METADATA,
    Column("number", Integer, primary_key=True),  # order of submission; a clock may be set back
    Column("id", String(32), nullable=False),
    Column("queue_number", Integer, nullable=False),  # place in the queue; a retry goes to its end
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("request", JSON, nullable=False),
    Column("image_name", String, nullable=False),
    Column("search_text", String, nullable=False),  # prompt and image name, case-folded
    Column("runner", String, nullable=False),
    Column("runner_pid", Integer),
    Column("runner_started", Float),
    Column("progress", JSON, nullable=False),
    Column("error", JSON(none_as_null=True)),
    Column("result", JSON(none_as_null=True)),
    Column("favourite", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("deleted_at", Float),  # None for a job that is there; 0 for one whose files are being removed
    Index("ix_jobs_id", "id", unique=True),
    Index("ix_jobs_state_queue_number", "state", "queue_number"),
)

SAVED_PRESETS = Table(
    "saved_presets",
    METADATA,
    Column("name", String(40), primary_key=True),
    Column("model", String, nullable=False),
    Column("values", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
)
