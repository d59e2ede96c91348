"""When to ask, as a pure function of what is known."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.polling import schedule
from airflow_provider_seedance.polling.schedule import Knowledge, next_poll


def wait(jitter: float = 0.5, **known: Any) -> float:
    return next_poll(Knowledge(**known), jitter=jitter)


def test_the_first_look_waits_for_what_renders_take_at_least() -> None:
    assert wait() == pytest.approx(schedule.FIRST)


@pytest.mark.parametrize(("estimate", "expected"), [(None, 10), (3, 10), (10, 10), (90, 90), (1000, 1000)])
def test_the_first_look_waits_for_the_services_estimate(estimate: float | None, expected: float) -> None:
    assert wait(estimated_wait=estimate) == pytest.approx(expected)
    # An estimate says when it might be done, not how often to look after that.
    assert wait(asked=1, estimated_wait=estimate) == pytest.approx(schedule.FIRST * schedule.GROWTH)


def test_waits_grow_to_a_limit() -> None:
    waits = [wait(asked=asked) for asked in range(1, 50)]
    assert waits == sorted(waits)
    assert waits[0] > schedule.FIRST
    assert waits[-1] == pytest.approx(schedule.LONGEST)


def test_the_users_interval_wins() -> None:
    for asked in (0, 1, 100):
        assert wait(asked=asked, poll_interval=3, estimated_wait=500) == 3


def test_failures_back_off_to_a_limit() -> None:
    waits = [wait(poll_interval=1, failures=failures) for failures in range(20)]
    assert waits == sorted(waits)
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == schedule.LONGEST_AFTER_FAILURE


@pytest.mark.parametrize("known", [{}, {"poll_interval": 1.0}, {"asked": 9}, {"failures": 3}])
def test_what_the_service_asks_for_is_kept(known: dict[str, Any]) -> None:
    for jitter in (0.0, 0.5, 1.0):
        assert 1800 <= wait(jitter, retry_after=1800, **known) < 1981
    assert wait(0.5, retry_after=0, **known) == wait(0.5, **known)


def test_a_batch_is_spread() -> None:
    for known in ({}, {"asked": 3}, {"retry_after": 60.0}):
        assert wait(0.0, **known) < wait(1.0, **known)
    assert len({next_poll(Knowledge()) for _ in range(50)}) > 40


@given(
    st.floats(0, 1),
    st.builds(
        Knowledge,
        asked=st.integers(0, 10_000),
        failures=st.integers(0, 1000),
        retry_after=st.none() | st.floats(0, 1e6),
        estimated_wait=st.none() | st.floats(0, 1e6),
        poll_interval=st.none() | st.floats(0.01, 1e6),
    ),
)
def test_any_knowledge_gives_a_wait(jitter: float, known: Knowledge) -> None:
    seconds = next_poll(known, jitter=jitter)
    assert 0 < seconds < 2e6
    assert seconds >= (known.retry_after or 0)
    assert seconds >= (known.poll_interval or 0)
