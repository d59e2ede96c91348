"""Sums of the ledger: generations and their cost by day, Dag, task, model, connection or namespace."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from sqlalchemy import Interval, String, case, func, literal, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.ledger.account import Filter
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.reservations import RESERVED
from airflow_provider_seedance.ledger.tables import submissions
from airflow_provider_seedance.submission.records import RecordState

_COLUMNS = submissions.c

#: Task instances in one query: MariaDB reads the whole table for a list of 1,000.
MAX_INSTANCES = 900

_IS_RESERVED = _COLUMNS.state.in_([state.value for state in RESERVED])
_AMOUNTS = ("credits", "cost_usd", "reserved_credits", "reserved_cost_usd")


def spend(
    database: Database, chosen: Filter, fields: Sequence[str], timezone: tzinfo
) -> list[dict[str, Any]]:
    """
    Return generations and their cost by group, in the order of the groups.

    :param fields: ``day`` and columns.
    :param timezone: Of the days.
    """
    conditions = (*chosen.conditions(), _COLUMNS.state != RecordState.NOT_SUBMITTED.value)
    with database.reading() as connection:
        keys = [
            (_day(connection, conditions, timezone) if name == "day" else _COLUMNS[name]).label(name)
            for name in fields
        ]
        query = select(*keys, func.count().label("generations"), *_sums())
        rows = connection.execute(query.where(*conditions).group_by(*keys)).mappings()
        groups = [
            {name: round(float(value or 0), 6) if name in _AMOUNTS else value for name, value in row.items()}
            for row in rows
        ]
    return sorted(groups, key=lambda group: [str(group[name]) for name in fields])


def spend_of_instances(database: Database, instances: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return credits and cost of task instances, ``None`` where unknown, and the number of reserved submissions."""
    instance, found = _COLUMNS.instance, dict[str, dict[str, Any]]()
    query = select(instance, *_sums()[:2], func.count(case((_IS_RESERVED, 1))).label("reserved"))
    for start in range(0, len(instances), MAX_INSTANCES):
        chosen = query.where(instance.in_(instances[start : start + MAX_INSTANCES])).group_by(instance)
        with database.reading() as connection:
            found |= {row["instance"]: dict(row) for row in connection.execute(chosen).mappings()}
    return found


def _sums() -> list[ColumnElement[Any]]:
    """Return the sums of all amounts; those of unknown ones only are ``NULL``."""
    amounts = {name: case((_IS_RESERVED, 0.0), else_=_COLUMNS[name]) for name in _AMOUNTS[:2]}
    for name in _AMOUNTS[:2]:
        amounts[f"reserved_{name}"] = case((_IS_RESERVED, _COLUMNS[f"estimated_{name}"]), else_=0.0)
    return [func.sum(amount).label(name) for name, amount in amounts.items()]


def _day(
    connection: Connection, conditions: Sequence[ColumnElement[bool]], timezone: tzinfo
) -> ColumnElement[Any]:
    """Return the day of a row in a timezone, which the database does not know: by the offsets from UTC in use."""
    query = select(func.min(_COLUMNS.created_at), func.max(_COLUMNS.created_at)).where(*conditions)
    first, last = connection.execute(query).one()
    now = utc_now()  # for no rows
    days = [
        (_COLUMNS.created_at < until, _date(connection.dialect.name, offset))
        for until, offset in offsets(timezone, first or now, last or now)
    ]
    return case(*days[:-1], else_=days[-1][1]) if len(days) > 1 else days[0][1]


def _date(dialect: str, offset: timedelta) -> ColumnElement[str]:
    seconds, column = int(offset.total_seconds()), _COLUMNS.created_at
    if dialect == "postgresql":
        local = func.timezone("UTC", column) + literal(offset, Interval)
        return func.to_char(local, "YYYY-MM-DD", type_=String)
    if dialect == "mysql":
        return func.date_format(func.timestampadd(text("SECOND"), seconds, column), "%Y-%m-%d", type_=String)
    # Without the fraction, which SQLite rounds up.
    return func.date(func.substr(column, 1, 19), f"{seconds:+} seconds", type_=String)


def offsets(timezone: tzinfo, first: datetime, last: datetime) -> list[tuple[datetime, timedelta]]:
    """Return the offsets from UTC of a timezone between two times, each with the time until which it holds."""
    found: list[tuple[datetime, timedelta]] = []
    moment, offset = first, first.astimezone(timezone).utcoffset()
    day, step = timedelta(days=1), timedelta(minutes=15)
    while moment <= last:
        if (moment + day).astimezone(timezone).utcoffset() == offset:
            moment += day
            continue
        # Clocks are set at a quarter of an hour.
        moment = datetime.fromtimestamp(moment.timestamp() // 900 * 900, UTC)
        while moment.astimezone(timezone).utcoffset() == offset:
            moment += step
        found.append((moment, offset or timedelta()))
        offset = moment.astimezone(timezone).utcoffset()
    return [*found, (last + day, offset or timedelta())]
