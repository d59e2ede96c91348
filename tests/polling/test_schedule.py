"""Times of polls."""

from __future__ import annotations

import itertools
import math
import random
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.polling.duration_model import DurationModel, DurationModels
from airflow_provider_seedance.polling.schedule import next_poll
from airflow_provider_seedance.polling.wait_state import MAX_PROGRESS_READINGS, TIMING, WaitState


def state(**known: Any) -> WaitState:
    return WaitState(generation_id="g", media="video", deadline=0.0, **known)


def wait(
    elapsed: float = 0.0, model: DurationModel | None = None, jitter: float = 0.5, **known: Any
) -> float:
    return next_poll(state(**known), elapsed=elapsed, model=model, jitter=jitter)


@cache
def learned(seconds: float, spread: float = 0.1, renders: int = 60) -> DurationModel:
    known, rng = DurationModels(), random.Random(1)
    for _ in range(renders):
        end = seconds * rng.lognormvariate(0, spread)
        known.observe("kind", end - 2, end + 2)
    return known.of("kind")


def polls(end: float, model: DurationModel | None = None, **known: Any) -> list[float]:
    """Return the moments of all polls of a render."""
    moments = [wait(0.0, model, **known)]
    while moments[-1] < end:
        moments.append(moments[-1] + wait(moments[-1], model, poll_count=len(moments), **known))
    return moments


def test_an_unknown_kind_is_polled_early_and_about_ten_times_in_two_minutes() -> None:
    assert 10 <= wait() <= 15
    assert 6 <= len(polls(120.0)) <= 14


def test_a_very_long_generation_is_polled_less_and_less_often() -> None:
    moments = polls(12 * 3600.0)
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert max(gaps[:5]) < 30
    assert gaps[-1] > 60
    late = [gap for moment, gap in zip(moments, gaps, strict=False) if moment > 1000]
    assert late == sorted(late)


def test_a_known_kind_is_first_polled_when_it_may_have_ended() -> None:
    model = learned(200.0)
    assert 120 < wait(model=model) < 200
    assert len(polls(200.0, model)) <= 5


def test_polls_are_densest_where_the_end_is_likely() -> None:
    model = learned(100.0, spread=0.3)
    assert wait(100.0, model) < wait(0.0, model)
    assert wait(100.0, model) < wait(400.0, model)


def test_the_interval_of_the_user_is_kept() -> None:
    for known in ({}, {"estimated_wait": 900}, {"progress": ((50.0, 20.0),)}, {"expects_callback": True}):
        assert wait(poll_interval=7, model=learned(500.0), **known) == 7


def test_the_estimate_of_the_service_is_used_for_unknown_kinds() -> None:
    assert wait(estimated_wait=300) > 3 * wait()
    model = learned(100.0)
    assert wait(model=model, estimated_wait=300) == pytest.approx(wait(model=model), rel=0.2)


def test_progress_moves_the_next_poll() -> None:
    assert wait(60.0, poll_count=1, progress=((60.0, 10.0),)) > wait(60.0, poll_count=1)
    soon = wait(60.0, learned(300.0, spread=0.5), poll_count=1, progress=((30.0, 45.0), (60.0, 92.0)))
    assert soon < 30
    # Of a queued generation, it is ignored.
    assert wait(60.0, poll_count=1, progress=((60.0, 0.0),)) == wait(60.0, poll_count=1)


@pytest.mark.parametrize("percent", [100.0, 99.0, 50.0, 1.0, 101.0, -3.0, 1e9])
def test_progress_that_stops_does_not_stop_polls(percent: float) -> None:
    moments = [12.0]
    while moments[-1] < 3600:
        progress = tuple((moment, percent) for moment in moments[-MAX_PROGRESS_READINGS:])
        moments.append(moments[-1] + wait(moments[-1], poll_count=len(moments), progress=progress))
    assert 5 < len(moments) < 400


def test_failures_are_followed_by_longer_waits() -> None:
    waits = [wait(100.0, poll_interval=1, failures=failures) for failures in range(1, 200)]
    assert waits == sorted(waits)
    assert waits[:3] == [2, 4, 8]
    assert waits[-1] == TIMING.max_backoff


def test_the_retry_after_of_the_service_is_kept() -> None:
    assert 900 <= wait(poll_interval=1, retry_after=900) <= 1000
    assert 900 <= wait(retry_after=900) <= 1000
    assert wait(retry_after=5000.0, expects_callback=True) >= 5000.0


def test_a_batch_spreads_its_polls() -> None:
    assert len({next_poll(state(), elapsed=0.0) for _ in range(50)}) > 40


knowledge = st.builds(
    state,
    poll_count=st.integers(0, 10**6),
    failures=st.integers(0, 10**6),
    retry_after=st.one_of(st.none(), st.floats(0, 86400)),
    estimated_wait=st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)),
    poll_interval=st.one_of(st.none(), st.floats(0.1, 3600)),
    expects_callback=st.booleans(),
    progress=st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(allow_nan=True, allow_infinity=True)),
        max_size=MAX_PROGRESS_READINGS,
    ).map(tuple),
)
KNOWN = [None, learned(5.0), learned(120.0, 0.35), learned(3000.0)]


@given(known=knowledge, elapsed=st.floats(0, 30 * 86400), jitter=st.floats(0, 1), index=st.integers(0, 3))
def test_any_knowledge_gives_a_wait(known: WaitState, elapsed: float, jitter: float, index: int) -> None:
    seconds = next_poll(known, elapsed=elapsed, model=KNOWN[index], jitter=jitter)
    assert 0 < seconds < math.inf
    longest = max(TIMING.max_interval, TIMING.max_interval_share * elapsed, known.poll_interval or 0)
    assert known.expects_callback or seconds <= max(1.04 * longest, 1.1 * (known.retry_after or 0))
    if known.poll_interval is None:
        assert seconds >= 0.9 * TIMING.min_interval


# ---------------------------------------------------------------------- with callbacks


def test_with_callbacks_the_first_poll_comes_after_nearly_all_such_renders_have_ended() -> None:
    assert wait(expects_callback=True) >= TIMING.callback_min_delay
    model = learned(200.0)
    first = wait(model=model, expects_callback=True)
    assert first == pytest.approx(TIMING.callback_factor * model.quantile(TIMING.callback_quantile))
    assert first > 200.0
    assert wait(elapsed=90.0, model=model, expects_callback=True) == pytest.approx(first - 90.0)
    assert wait(model=learned(15.0), expects_callback=True) == TIMING.callback_min_delay


@pytest.mark.parametrize("seconds", [None, 15.0, 600.0])
def test_with_callbacks_far_fewer_polls_are_made(seconds: float | None) -> None:
    model = learned(seconds) if seconds else None
    end = 4 * (seconds or 120.0)
    called = polls(end, model, expects_callback=True)
    assert len(called) <= max(2, len(polls(end, model)) / 2)


def test_a_generation_without_its_callback_is_still_polled() -> None:
    moments = polls(86400.0, expects_callback=True)
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert gaps[0] >= TIMING.callback_min_interval * (1 - TIMING.jitter)
    assert max(gaps) <= TIMING.callback_max_interval * (1 + TIMING.jitter)
    assert len(moments) < 60
