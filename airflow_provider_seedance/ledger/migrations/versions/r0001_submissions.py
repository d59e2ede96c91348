"""The table of submissions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

_TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql")
_AMOUNT = sa.Numeric(18, 6)
_LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql")
_BYTES = sa.Text().with_variant(mysql.VARCHAR(1800, charset="binary"), "mysql")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "seedance_submissions",
        sa.Column("instance", sa.String(32), primary_key=True),
        sa.Column("record_key", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("namespace", sa.String(250), nullable=False),
        sa.Column("dag_id", sa.String(250), nullable=False),
        sa.Column("run_id", sa.String(250), nullable=False),
        sa.Column("task_id", sa.String(250), nullable=False),
        sa.Column("map_index", sa.Integer, nullable=False),
        sa.Column("loop_index", sa.Integer, nullable=False),
        sa.Column("item_key", sa.String(250)),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("status", sa.String(20)),
        sa.Column("generation_id", sa.String(1000)),
        sa.Column("ti_id", sa.String(36)),
        sa.Column("max_tries", sa.Integer),
        sa.Column("try_number", sa.Integer),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("intended_at", _TIME),
        sa.Column("submitted_at", _TIME),
        sa.Column("ended_at", _TIME),
        sa.Column("fingerprint", sa.String(32)),
        sa.Column("reuse_key", sa.String(64)),
        sa.Column("api", sa.String(50)),
        sa.Column("base_url", sa.String(500)),
        sa.Column("conn_id", sa.String(250)),
        sa.Column("media", sa.String(10)),
        sa.Column("model", sa.String(250)),
        sa.Column("duration", sa.Float),
        sa.Column("resolution", sa.String(50)),
        sa.Column("kind", sa.String(64)),
        sa.Column("prompt", _LONG_TEXT),
        sa.Column("search_model", sa.String(6), nullable=False, server_default=""),
        sa.Column("search_text", _BYTES, nullable=False, server_default="Z"),
        sa.Column("estimated_credits", _AMOUNT),
        sa.Column("estimated_cost_usd", _AMOUNT),
        sa.Column("credits", _AMOUNT),
        sa.Column("cost_usd", _AMOUNT),
        sa.Column("output_tokens", sa.BigInteger),
        sa.Column("result", sa.JSON()),
        sa.Column("stored_files", sa.JSON()),
        sa.Column("record", sa.JSON()),
        mysql_collate="utf8mb4_bin",
    )
    _create_indexes()


def _create_indexes() -> None:
    name = "seedance_submissions"
    op.create_index(f"{name}_spend", name, ["namespace", "conn_id", "intended_at"])
    op.create_index(f"{name}_latest", name, ["namespace", "created_at", "dag_id", "state"])
    searched = ["namespace", "created_at", "search_model", "search_text"]
    op.create_index(f"{name}_search", name, searched, postgresql_include=["instance", "record_key", "number"])
    # MySQL limits the length of a key.
    op.create_index(f"{name}_generation", name, ["generation_id"], mysql_length={"generation_id": 200})
    op.create_index(f"{name}_reuse", name, ["reuse_key"])
    op.create_index(f"{name}_kind", name, ["kind", "status", "created_at"])
