"""Sums of the ledger by day and other fields, on each database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy.dialects.mysql import pymysql
from sqlalchemy.dialects.postgresql import psycopg2
from sqlalchemy.dialects.sqlite import pysqlite

from airflow_provider_seedance.ledger import spending
from airflow_provider_seedance.ledger.account import Filter
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.spending import offsets, spend, spend_of_instances

from .rows import NOON, add, configured, row, uncertain

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def database(any_ledger: Any) -> Database:
    return configured()


def test_the_sums_of_a_group(database: Database) -> None:
    add(database, [row(0), row(1, cost_usd=None), uncertain(2), row(3, state="not_submitted")])
    (ads,) = spend(database, Filter(namespace="default"), ("dag_id",), UTC)
    paid = {"credits": 24.0, "cost_usd": 0.07}
    reserved = {"reserved_credits": 14.0, "reserved_cost_usd": 0.1}
    assert ads == {"dag_id": "ads", "generations": 3, **paid, **reserved}


def test_the_sums_of_task_instances(database: Database) -> None:
    unknown = dict.fromkeys(("credits", "cost_usd"))
    of_one = [row(0), {**row(0, credits=None), "number": 2}, {**uncertain(0), "number": 3}]
    takes = [*of_one, row(1, state="not_submitted", **unknown)]
    add(database, [*takes, row(2, **unknown), row(3)])
    chosen = [take["instance"] for take in (takes[0], takes[-1], row(2), row(4))]
    found = spend_of_instances(database, chosen)
    assert {name: (one["credits"], one["cost_usd"], one["reserved"]) for name, one in found.items()} == {
        chosen[0]: (12, pytest.approx(0.14), 1),
        chosen[1]: (None, None, 0),
        chosen[2]: (None, None, 0),
    }
    assert spend_of_instances(database, []) == {}


def test_groups_and_filters(database: Database) -> None:
    films = [row(1, dag_id="films"), row(2, dag_id="films", model=None)]
    add(database, [row(0), *films, row(3, namespace="other")])
    found = spend(database, Filter(namespace="default"), ("dag_id", "model"), UTC)
    assert [(one["dag_id"], one["model"], one["generations"]) for one in found] == [
        ("ads", "seedance-1-5-pro", 1),
        ("films", None, 1),
        ("films", "seedance-1-5-pro", 1),
    ]
    (sums,) = spend(database, Filter(namespace="default", dag_ids={"films"}), ("dag_id",), UTC)
    assert sums["generations"] == 2
    assert spend(database, Filter(dag_ids=()), ("day",), UTC) == []


def test_days_begin_at_midnight_of_the_timezone(database: Database) -> None:
    # Clocks in Berlin were set forward on March 29.
    times = ["03-28T22:59", "03-28T23:00", "03-29T21:59", "03-29T22:00", "06-01T12:00"]
    moments = [datetime.fromisoformat(f"2026-{time}:59.999999+00:00") for time in times]
    add(database, [row(number, created_at=moment) for number, moment in enumerate(moments)])
    found = spend(database, Filter(), ("day",), BERLIN)
    assert {one["day"]: one["generations"] for one in found} == {
        "2026-03-28": 1,
        "2026-03-29": 2,
        "2026-03-30": 1,
        "2026-06-01": 1,
    }


@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]
)
def test_offsets(zone: str) -> None:
    timezone, last = ZoneInfo(zone), NOON + timedelta(days=800)
    now = NOON.astimezone(timezone).utcoffset()
    for end in (NOON, NOON + timedelta(hours=1)):
        assert offsets(timezone, NOON, end) == [(end + timedelta(days=1), now)]
    found = offsets(timezone, NOON, last)
    for hours in range(0, 800 * 24, 11):
        moment = NOON + timedelta(hours=hours)
        expected = moment.astimezone(timezone).utcoffset()
        assert next(offset for until, offset in found if moment < until) == expected


COLUMN = "seedance_submissions.created_at"


@pytest.mark.parametrize(
    ("dialect", "sql", "values"),
    [
        (pysqlite, f"date(substr({COLUMN}, ?, ?), ?)", [1, 19, "-5400 seconds"]),
        (pymysql, f"date_format(timestampadd(SECOND, %s, {COLUMN}), %s)", [-5400, "%Y-%m-%d"]),
        (
            psycopg2,
            f"to_char(timezone(%(timezone_1)s, {COLUMN}) + %(param_1)s, %(to_char_1)s)",
            ["UTC", timedelta(hours=-1.5), "YYYY-MM-DD"],
        ),
    ],
)
def test_the_day_on_each_database(dialect: Any, sql: str, values: list[Any]) -> None:
    expression = spending._date(dialect.dialect.name, timedelta(hours=-1.5))
    compiled = expression.compile(dialect=dialect.dialect())
    assert (str(compiled), list(compiled.params.values())) == (sql, values)
