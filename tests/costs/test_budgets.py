"""Budgets of a connection: what they take, and when their periods begin."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pendulum
import pytest

from airflow_provider_seedance.costs.budgets import Budget, read_budgets

BERLIN = pendulum.timezone("Europe/Berlin")

#: A Thursday, the day before the clocks go back at the weekend.
NOW = datetime(2026, 10, 22, 14, 30, tzinfo=BERLIN)


def local(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=BERLIN)  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("per", "starts_at", "renews_at"),
    [
        ("hour", local(2026, 10, 22, 14), local(2026, 10, 22, 15)),
        ("day", local(2026, 10, 22), local(2026, 10, 23)),
        ("week", local(2026, 10, 19), local(2026, 10, 26)),
        ("month", local(2026, 10, 1), local(2026, 11, 1)),
        ("total", None, None),
    ],
)
def test_periods_begin_in_the_timezone(
    per: Any, starts_at: datetime | None, renews_at: datetime | None
) -> None:
    budget = Budget(unit="credits", limit=1, per=per)
    assert (budget.starts_at(NOW), budget.renews_at(NOW)) == (starts_at, renews_at)


@pytest.mark.parametrize("per", ["day", "month"])
def test_a_day_with_two_midnights_begins_with_the_first(per: Any) -> None:
    """The hour between them counts."""
    budget, zone = Budget(unit="credits", limit=1, per=per), pendulum.timezone("America/Havana")
    first = pendulum.datetime(2026, 11, 1, 4)
    renews_at = budget.renews_at(first.subtract(minutes=30).in_timezone(zone))
    starts = [budget.starts_at(first.add(minutes=after).in_timezone(zone)) for after in (0, 30, 90, 600)]
    # Not compared as times: one that a zone has twice equals none.
    assert {time and time.timestamp() for time in (renews_at, *starts)} == {first.timestamp()}


@pytest.mark.parametrize(
    ("zone", "date"),
    [
        # Summer time begins at midnight, so that a day begins at one o'clock.
        ("Africa/Cairo", (2026, 4, 24)),
        ("America/Havana", (2026, 3, 8)),
        # Summer time ends at midnight.
        ("Asia/Beirut", (2026, 10, 25)),
        ("Europe/Berlin", (2026, 3, 29)),
        ("Europe/Berlin", (2026, 10, 25)),
        # Half an hour, and at a quarter to three.
        ("Australia/Lord_Howe", (2026, 4, 5)),
        ("Pacific/Chatham", (2026, 4, 5)),
    ],
)
@pytest.mark.parametrize("per", ["hour", "day", "week", "month"])
def test_periods_follow_each_other_when_the_clocks_change(
    zone: str, date: tuple[int, int, int], per: Any
) -> None:
    """A task that waits until a budget renews must find it renewed."""
    budget, start = Budget(unit="credits", limit=1, per=per), pendulum.datetime(*date).subtract(days=2)
    for minutes in range(0, 4 * 24 * 60, 25):
        now = start.add(minutes=minutes).in_timezone(zone)
        starts_at, renews_at = budget.starts_at(now), budget.renews_at(now)
        assert starts_at is not None
        assert renews_at is not None
        assert (starts_at.tzinfo, renews_at.tzinfo) == (UTC, UTC)
        assert starts_at.timestamp() <= now.timestamp() < renews_at.timestamp()
        if per != "hour":
            then = pendulum.instance(renews_at).in_timezone(zone)
            assert budget.starts_at(then) == renews_at
            assert budget.starts_at(then.subtract(seconds=1)) == starts_at
            assert then.subtract(seconds=1).date() < then.date()


def test_the_budgets_of_a_connection_are_read() -> None:
    daily, monthly = read_budgets(
        [{"usd": 50, "per": "day"}, {"credits": "20000", "per": "month", "dag_id": "ads_*"}]
    )
    assert str(daily) == "$50 per day"
    assert str(replace(daily, limit=0.5)) == "$0.50 per day"
    assert str(monthly) == "20,000 credits per month for ads_*"
    assert daily.applies_to("anything")
    assert monthly.applies_to("ads_de")
    assert not monthly.applies_to("news")


@pytest.mark.parametrize(
    "value",
    [
        {"usd": 50, "per": "day"},
        ["usd"],
        [{"usd": 50}],
        [{"per": "day"}],
        [{"usd": 50, "credits": 3, "per": "day"}],
        [{"usd": 0, "per": "day"}],
        [{"usd": "fifty", "per": "day"}],
        [{"usd": 50, "per": "fortnight"}],
        [{"usd": 50, "per": ["day"]}],
        [{"usd": 50, "per": "day", "dag_id": 7}],
        [{"usd": 50, "per": "day", "currency": "EUR"}],
    ],
    ids=str,
)
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="a list such as"):
        read_budgets(value)
