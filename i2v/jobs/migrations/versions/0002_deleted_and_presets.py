"""Jobs that were deleted but can be brought back, and the table of saved presets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("deleted_at", sa.Float))
    op.create_table(
        "saved_presets",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("values", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("saved_presets")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("deleted_at")
