"""The quota and the rate before a submission, and their waits."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_seedance.submission import available_quota as module

QUOTA = "The quota at Vendor is used up, by its latest rate-limit headers."
RATE = "Vendor accepts no more submissions of this model in this minute."


class Scripted:
    """A quota or a rate with scripted waits."""

    def __init__(self, *waits: float) -> None:
        self.waits, self.calls = list(waits), list[tuple[Any, ...]]()

    def reserve(self, *arguments: Any) -> float:
        self.calls.append(arguments)
        return self.waits.pop(0)

    refuse = reserve


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits, on a clock that shows 1000 s and what was slept."""
    waits: list[float] = []
    clock = SimpleNamespace(time=lambda: 1000.0 + sum(waits), sleep=waits.append)
    monkeypatch.setattr(module, "time", clock)
    return waits


@pytest.mark.parametrize(
    ("quota", "rate", "inline", "waits", "expected"),
    [
        ((0,), None, True, [], None),
        ((0,), (0,), False, [], None),
        ((10, 0), (0,), True, [10], None),
        ((10,), None, False, [], (QUOTA, 10)),
        ((10, 5), (0,), True, [10], (QUOTA, 5)),
        ((10.1,), (0,), True, [], (QUOTA, 10.1)),
        ((0,), (10,), True, [10], None),
        ((0,), (10.1,), True, [], (RATE, 10.1)),
        ((0,), (10,), False, [], (RATE, 10)),
    ],
)
def test_the_wait_before_a_submission(
    slept: list[float], quota: Any, rate: Any, inline: bool, waits: list[float], expected: Any
) -> None:
    shared, booked = Scripted(*quota), Scripted(*rate) if rate else None
    error = module.reserve_quota(shared, booked, "Vendor", inline=inline, has_fallback=False)
    assert [wait for wait in slept if wait] == waits
    assert ((error.message, error.retry_after) if error else None) == expected
    assert all(now == 1000 + sum(waits[:number]) for number, (now,) in enumerate(shared.calls))


@pytest.mark.parametrize(("has_fallback", "max_wait"), [(True, 60.0), (False, math.inf)])
def test_a_time_far_ahead_is_booked(slept: list[float], has_fallback: bool, max_wait: float) -> None:
    quota, rate = Scripted(0), Scripted(0)
    module.reserve_quota(quota, rate, "Vendor", inline=False, has_fallback=has_fallback)
    assert rate.calls == [(1000.0, max_wait)]
    # After a wait for the quota nothing is reserved.
    nothing: Any = Scripted()
    assert module.reserve_quota(None, nothing, "Vendor", inline=True, has_fallback=has_fallback) is None


@pytest.mark.parametrize(
    ("retry_after", "refused_since", "given_up"),
    [
        (None, None, True),
        (None, 970.0, True),
        (None, 970.1, False),
        (60.0, 999.0, False),
        (60.1, 999.0, True),
    ],
)
def test_a_service_that_is_given_up(
    slept: list[float], retry_after: float | None, refused_since: float | None, given_up: bool
) -> None:
    assert module.is_given_up(retry_after, refused_since) is given_up


@pytest.mark.parametrize(
    ("has_fallback", "refused_since", "max_wait"),
    [(False, None, math.inf), (True, None, -math.inf), (True, 999.0, 60.0), (True, 900.0, -math.inf)],
)
def test_the_wait_after_a_refusal(
    slept: list[float], has_fallback: bool, refused_since: float | None, max_wait: float
) -> None:
    rate: Any = Scripted(7.0)
    assert module.retry_after_refusal(rate, refused_since, has_fallback=has_fallback) == 7
    assert rate.calls == [(1000.0, max_wait)]
