"""The tables of the ledger, as the newest migration leaves them: one row per submission, and one per shared state."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect

from airflow_provider_seedance.ledger.search_text import INCOMPLETE, MAX_SEARCH_BYTES, TOKEN_LENGTH

#: Revision of the newest migration.
REVISION = "0002"

#: Table in which Alembic keeps the revision.
VERSION_TABLE = "seedance_ledger_version"


class UtcDateTime(TypeDecorator):  # type: ignore[type-arg]  # not generic in SQLAlchemy 1.4
    """A time in UTC with microseconds, on databases that keep no time zone, too."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """Return the type of the database; MySQL keeps whole seconds unless it is given a precision."""
        return dialect.type_descriptor(mysql.DATETIME(fsp=6) if dialect.name == "mysql" else self.impl)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the time as the database takes it."""
        if value is None:
            return None
        # Drivers know the standard class, and not pendulum's.
        utc = datetime.fromisoformat(value.isoformat()).astimezone(UTC)
        return utc if dialect.name == "postgresql" else utc.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the time in UTC."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


#: An amount of money or credits: exact where the database has decimal numbers.
AMOUNT = Numeric(18, 6, asdecimal=False)

#: A text without a practical limit.
LONG_TEXT = Text().with_variant(mysql.MEDIUMTEXT(), "mysql")

#: A text whose bytes are compared, and which an index of MySQL has room for.
_BYTES = Text().with_variant(mysql.VARCHAR(MAX_SEARCH_BYTES, charset="binary"), "mysql")

metadata = MetaData()

submissions = Table(
    "seedance_submissions",
    metadata,
    # Identity. `instance` is a digest of the columns from `namespace` to `loop_index`, which are too long for a key.
    Column("instance", String(32), primary_key=True),
    Column("record_key", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("namespace", String(250), nullable=False),
    Column("dag_id", String(250), nullable=False),
    Column("run_id", String(250), nullable=False),
    Column("task_id", String(250), nullable=False),
    Column("map_index", Integer, nullable=False),
    Column("loop_index", Integer, nullable=False),
    Column("item_key", String(250)),
    # Progress.
    Column("state", String(20), nullable=False),
    Column("status", String(20)),
    Column("generation_id", String(1000)),
    Column("ti_id", String(36)),
    Column("max_tries", Integer),
    Column("try_number", Integer),
    Column("created_at", UtcDateTime, nullable=False),
    Column("intended_at", UtcDateTime),
    Column("submitted_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    # Request.
    Column("fingerprint", String(32)),
    Column("reuse_key", String(64)),
    Column("api", String(50)),
    Column("base_url", String(500)),
    Column("conn_id", String(250)),
    Column("media", String(10)),
    Column("model", String(250)),
    Column("duration", Float),
    Column("resolution", String(50)),
    # Generations of a kind take about as long at one service: that of the request, not of the result.
    Column("kind", String(64)),
    Column("prompt", LONG_TEXT),
    # What a search compares.
    Column("search_model", String(TOKEN_LENGTH), nullable=False, server_default=""),
    Column("search_text", _BYTES, nullable=False, server_default=INCOMPLETE),
    # Cost.
    Column("estimated_credits", AMOUNT),
    Column("estimated_cost_usd", AMOUNT),
    Column("credits", AMOUNT),
    Column("cost_usd", AMOUNT),
    Column("output_tokens", BigInteger),
    # Result: without the signatures of its links; `record` has what else a later try needs.
    Column("result", JSON(none_as_null=True)),
    Column("stored_files", JSON(none_as_null=True)),
    Column("record", JSON(none_as_null=True)),
    Index("seedance_submissions_spend", "namespace", "conn_id", "intended_at"),
    Index("seedance_submissions_latest", "namespace", "created_at", "dag_id", "state"),
    # A search reads this index alone, so it has the key; what changes with each state would leave gaps in its pages.
    Index(
        "seedance_submissions_search",
        *("namespace", "created_at", "search_model", "search_text"),
        postgresql_include=["instance", "record_key", "number"],
    ),
    Index("seedance_submissions_generation", "generation_id", mysql_length=200),
    Index("seedance_submissions_reuse", "reuse_key"),
    Index("seedance_submissions_kind", "kind", "status", "created_at"),
    mysql_collate="utf8mb4_bin",
)

shared_states = Table(
    "seedance_shared_states",
    metadata,
    Column("namespace", String(250), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("state", JSON, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    mysql_collate="utf8mb4_bin",
)
