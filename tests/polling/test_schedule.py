"""When to poll."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.polling import schedule
from airflow_provider_seedance.polling.duration_model import DurationModel, DurationModels
from airflow_provider_seedance.polling.schedule import KEPT_PROGRESS, Knowledge, next_poll


def wait(
    elapsed: float = 0.0, belief: DurationModel | None = None, jitter: float = 0.5, **known: Any
) -> float:
    return next_poll(Knowledge(**known), elapsed=elapsed, belief=belief, jitter=jitter)


def learned(seconds: float, spread: float = 0.1, renders: int = 60) -> DurationModel:
    known, rng = DurationModels(), random.Random(1)
    for _ in range(renders):
        end = seconds * rng.lognormvariate(0, spread)
        known.learn("kind", end - 2, end + 2)
    return known.of("kind")


def polls(end: float, belief: DurationModel | None = None, **known: Any) -> list[float]:
    """Return the moments of all polls of a render."""
    moments = [wait(0.0, belief, **known)]
    while moments[-1] < end:
        moments.append(moments[-1] + wait(moments[-1], belief, asked=len(moments), **known))
    return moments


def test_the_first_look_at_an_unknown_kind_is_soon_but_never_at_once() -> None:
    assert 10 <= wait() <= 15


def test_an_unknown_kind_is_asked_for_some_ten_times_in_two_minutes() -> None:
    assert 6 <= len(polls(120.0)) <= 14


def test_a_render_that_takes_for_ever_is_asked_for_ever_less_often() -> None:
    moments = polls(12 * 3600.0)
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert max(gaps[:5]) < 30
    assert gaps[-1] > 60
    late = [gap for moment, gap in zip(moments, gaps, strict=False) if moment > 1000]
    assert late == sorted(late)


def test_a_kind_that_is_known_is_first_asked_for_when_it_may_have_ended() -> None:
    belief = learned(200.0)
    assert 120 < wait(belief=belief) < 200
    assert len(polls(200.0, belief)) <= 5


def test_polls_are_densest_where_the_end_is_likely() -> None:
    belief = learned(100.0, spread=0.3)
    assert wait(100.0, belief) < wait(0.0, belief)
    assert wait(100.0, belief) < wait(400.0, belief)


def test_the_users_interval_wins() -> None:
    for known in ({}, {"estimated_wait": 900}, {"progress": ((50.0, 20.0),)}):
        assert wait(poll_interval=7, belief=learned(500.0), **known) == 7


def test_the_vendors_estimate_counts_where_nothing_is_known_and_little_later() -> None:
    assert wait(estimated_wait=300) > 3 * wait()
    belief = learned(100.0)
    assert wait(belief=belief, estimated_wait=300) == pytest.approx(wait(belief=belief), rel=0.2)


@pytest.mark.parametrize("estimate", [0.0, -5.0, math.inf, math.nan, 1e300])
def test_an_estimate_that_is_nonsense_is_none(estimate: float) -> None:
    assert wait(estimated_wait=estimate) == wait()


def test_progress_brings_the_end_nearer_or_further() -> None:
    assert wait(60.0, asked=1, progress=((60.0, 10.0),)) > wait(60.0, asked=1)
    soon = wait(60.0, learned(300.0, spread=0.5), asked=1, progress=((30.0, 45.0), (60.0, 92.0)))
    assert soon < 30


def test_progress_of_a_render_in_the_queue_tells_nothing() -> None:
    assert wait(60.0, asked=1, progress=((60.0, 0.0),)) == wait(60.0, asked=1)


@pytest.mark.parametrize("percent", [100.0, 99.0, 50.0, 1.0, 101.0, -3.0, 1e9])
def test_progress_that_stands_still_does_not_hold_anything_up(percent: float) -> None:
    moments = [12.0]
    while moments[-1] < 3600:
        told = tuple((moment, percent) for moment in moments[-KEPT_PROGRESS:])
        moments.append(moments[-1] + wait(moments[-1], asked=len(moments), progress=told))
    assert 5 < len(moments) < 400


def test_failures_are_followed_by_longer_waits() -> None:
    waits = [wait(100.0, poll_interval=1, failures=failures) for failures in range(1, 200)]
    assert waits == sorted(waits)
    assert waits[:3] == [2, 4, 8]
    assert waits[-1] == schedule.LONGEST_AFTER_FAILURE


def test_what_the_service_demands_is_kept() -> None:
    assert 900 <= wait(poll_interval=1, retry_after=900) <= 1000
    assert 900 <= wait(retry_after=900) <= 1000


def test_a_batch_does_not_poll_in_step() -> None:
    assert len({next_poll(Knowledge(), elapsed=0.0) for _ in range(50)}) > 40


percents = st.floats(allow_nan=True, allow_infinity=True)
knowledge = st.builds(
    Knowledge,
    asked=st.integers(0, 10**6),
    failures=st.integers(0, 10**6),
    retry_after=st.one_of(st.none(), st.floats(0, 86400)),
    estimated_wait=st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)),
    poll_interval=st.one_of(st.none(), st.floats(0.1, 3600)),
    progress=st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(allow_nan=True, allow_infinity=True)), max_size=KEPT_PROGRESS
    ).map(tuple),
)
KNOWN = [None, learned(5.0), learned(120.0, 0.35), learned(3000.0)]


@given(known=knowledge, elapsed=st.floats(0, 30 * 86400), jitter=st.floats(0, 1), index=st.integers(0, 3))
def test_any_knowledge_gives_a_wait(known: Knowledge, elapsed: float, jitter: float, index: int) -> None:
    seconds = next_poll(known, elapsed=elapsed, belief=KNOWN[index], jitter=jitter)
    assert math.isfinite(seconds)
    longest = max(schedule.LONGEST, schedule.LONGEST_SHARE * elapsed, known.poll_interval or 0)
    assert 0 < seconds <= max(1.04 * longest, 1.1 * (known.retry_after or 0))
    if known.poll_interval is None:
        assert seconds >= 0.9 * schedule.SHORTEST


# ---------------------------------------------------------------------- with callbacks


def test_with_callbacks_the_first_poll_comes_after_nearly_all_such_renders_have_ended() -> None:
    assert wait(called_back=True) >= schedule.SAFETY_FIRST
    belief = learned(200.0)
    first = wait(belief=belief, called_back=True)
    assert first == pytest.approx(schedule.SAFETY_FACTOR * belief.by(schedule.SAFETY_SHARE))
    assert first > 200.0
    assert wait(elapsed=90.0, belief=belief, called_back=True) == pytest.approx(first - 90.0)
    assert wait(belief=learned(15.0), called_back=True) == schedule.SAFETY_FIRST


@pytest.mark.parametrize("seconds", [None, 15.0, 60.0, 200.0, 600.0])
def test_with_callbacks_far_fewer_polls_are_made(seconds: float | None) -> None:
    belief = learned(seconds) if seconds else None
    end = 4 * (seconds or 120.0)
    called = polls(end, belief, called_back=True)
    assert len(called) <= max(2, len(polls(end, belief)) / 2)


def test_a_render_that_is_never_called_back_for_is_still_asked_for() -> None:
    moments = polls(86400.0, called_back=True)
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert gaps[0] >= schedule.SAFETY_GAP * (1 - schedule.JITTER)
    assert max(gaps) <= schedule.SAFETY_LONGEST * (1 + schedule.JITTER)
    assert len(moments) < 60


def test_an_interval_of_the_users_own_holds_with_callbacks_too() -> None:
    assert wait(poll_interval=7.0, called_back=True) == 7.0


def test_what_a_service_tells_of_a_refusal_holds_with_callbacks_too() -> None:
    assert wait(retry_after=5000.0, called_back=True) >= 5000.0


@given(
    st.floats(0, 1e7),
    st.one_of(st.none(), st.floats(0, 1e5)),
    st.integers(0, 100),
    st.floats(0, 1),
)
def test_with_callbacks_every_wait_is_finite_and_positive(
    elapsed: float, estimate: float | None, failures: int, jitter: float
) -> None:
    known = Knowledge(called_back=True, estimated_wait=estimate, failures=failures)
    seconds = next_poll(known, elapsed=elapsed, jitter=jitter)
    assert 0 < seconds < math.inf
