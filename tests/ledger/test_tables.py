"""Times as each database keeps them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pendulum
import pytest

from airflow_provider_seedance.ledger.tables import UtcDateTime

from .rows import NOON

#: Noon in UTC.
EAST = datetime(2026, 3, 10, 14, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize("moment", [EAST, pendulum.instance(EAST)])
@pytest.mark.parametrize("name", ["sqlite", "mysql", "postgresql"])
def test_a_time_is_written_in_utc(moment: datetime, name: str) -> None:
    dialect: Any = SimpleNamespace(name=name)
    written = UtcDateTime().process_bind_param(moment, dialect)
    assert type(written) is datetime
    assert (written.replace(tzinfo=UTC), written.tzinfo) == (NOON, UTC if name == "postgresql" else None)
    assert UtcDateTime().process_bind_param(None, dialect) is None


@pytest.mark.parametrize("stored", [NOON.replace(tzinfo=None), EAST])
def test_a_time_is_read_in_utc(stored: datetime) -> None:
    dialect: Any = SimpleNamespace(name="any")
    read = UtcDateTime().process_result_value(stored, dialect)
    assert read is not None
    assert (read, read.tzinfo) == (NOON, UTC)
    assert UtcDateTime().process_result_value(None, dialect) is None


@pytest.mark.parametrize(("name", "precision"), [("mysql", 6), ("postgresql", None)])
def test_mysql_keeps_microseconds(name: str, precision: int | None) -> None:
    dialect: Any = SimpleNamespace(name=name, type_descriptor=lambda kind: kind)
    kind = UtcDateTime().load_dialect_impl(dialect)
    assert getattr(kind, "fsp", None) == precision
    assert name == "mysql" or kind.timezone
