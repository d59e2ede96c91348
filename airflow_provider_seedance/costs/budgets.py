"""Budgets of a connection: limits of its cost in an hour, a day, a week, a month, or in total."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

import pendulum

from airflow_provider_seedance.generations import Unit, amount, read_number

Period = Literal["hour", "day", "week", "month", "total"]

#: Name of the limit in the connection for each unit.
_LIMITS: Mapping[str, Unit] = {"usd": "cost_usd", "credits": "credits"}

_TAKES = (
    'a list such as [{"usd": 50, "per": "day", "dag_id": "ads_*"}]: usd or credits, a positive number; per, one of '
    f"{', '.join(get_args(Period))}; and dag_id, a pattern, if the budget is for some Dags"
)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """
    Limit of the cost of renders.

    :param per: Period of the limit, in Airflow's default timezone; a week starts on Monday.
    :param dag_id: Pattern of the Dags whose renders count, and which it limits.
    """

    unit: Unit
    limit: float
    per: Period
    dag_id: str = "*"

    def applies_to(self, dag_id: str) -> bool:
        """Return whether the renders of a Dag count."""
        return fnmatchcase(dag_id, self.dag_id)

    def starts_at(self, now: datetime) -> datetime | None:
        """
        Return the start of the present period, or ``None`` if it has none.

        :param now: In Airflow's default timezone.
        """
        return self._start(now, 0)

    def renews_at(self, now: datetime) -> datetime | None:
        """Return the start of the next period, or ``None`` if there is none."""
        return self._start(now, 1)

    def _start(self, now: datetime, later: int) -> datetime | None:
        if self.per == "total":
            return None
        if self.per == "hour":
            # Not by the clock, which some zones change by half an hour.
            past = timedelta(minutes=now.minute, seconds=now.second, microseconds=now.microsecond)
            return datetime.fromtimestamp(now.timestamp(), UTC) - past + timedelta(hours=later)
        day = pendulum.instance(now).naive().start_of(self.per).add(**{f"{self.per}s": later})
        # Where summer time begins at midnight, that time does not exist; where it ends then, a day begins with the first.
        return datetime(day.year, day.month, day.day, tzinfo=now.tzinfo).astimezone(UTC)

    def amount(self, value: float) -> str:
        """Return an amount in the unit of the budget, for messages."""
        return amount(self.unit, value)

    def __str__(self) -> str:
        """Return the budget for messages."""
        when = "in total" if self.per == "total" else f"per {self.per}"
        return f"{self.amount(self.limit)} {when}" + (f" for {self.dag_id}" if self.dag_id != "*" else "")


def read_budgets(value: Any) -> tuple[Budget, ...]:
    """
    Read the budgets of a connection.

    :raises ValueError: with what it takes.
    """
    if not isinstance(value, list):
        raise ValueError(_TAKES)
    return tuple(_read(item) for item in value)


def _read(value: Any) -> Budget:
    given = dict(value) if isinstance(value, Mapping) else {}
    units = [name for name in _LIMITS if name in given]
    limit = read_number(given.pop(units[0])) if len(units) == 1 else None
    per, pattern = given.pop("per", None), given.pop("dag_id", "*")
    if limit is None or limit <= 0 or per not in get_args(Period) or not isinstance(pattern, str) or given:
        raise ValueError(_TAKES)
    return Budget(unit=_LIMITS[units[0]], limit=float(limit), per=per, dag_id=pattern)
