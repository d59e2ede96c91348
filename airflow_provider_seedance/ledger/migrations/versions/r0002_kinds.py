"""The kind of generations, which their durations are found by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column and its index; rows from before have no kind."""
    op.add_column("seedance_submissions", sa.Column("kind", sa.String(64)))
    op.create_index("seedance_submissions_kind", "seedance_submissions", ["kind", "status", "created_at"])
