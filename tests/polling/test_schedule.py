"""Times of polls, and the meaning of their replies, with the time as an argument."""

from __future__ import annotations

import itertools
import logging
import math
import random
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.polling import schedule as module
from airflow_provider_seedance.polling.duration_model import DurationModel, DurationModels
from airflow_provider_seedance.polling.schedule import next_poll, on_poll, start_wait
from airflow_provider_seedance.polling.wait_state import (
    MAX_PROGRESS_READINGS,
    TIMING,
    WaitState,
    WaitStep,
    deferral_timeout,
)

NOW = 1_000_000.0


def state(deadline: float = NOW + 3600, **known: Any) -> WaitState:
    return WaitState(generation_id="g-1", media="video", deadline=deadline, **known)


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


def test_polls_of_a_known_kind_are_densest_where_the_end_is_likely() -> None:
    model = learned(200.0)
    assert 120 < wait(model=model) < 200
    assert len(polls(200.0, model)) <= 5
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


# ---------------------------------------------------------------------- the meaning of a reply


def waiting(deadline: float = NOW + 3600, **changes: Any) -> WaitState:
    """Return the state of a wait with an interval of the user's."""
    return state(deadline, **{"poll_interval": 10, **changes})


def generation(status: str, **known: Any) -> Generation:
    return Generation(generation_id="g-1", api="ark", media="video", status=GenerationStatus(status), **known)


RUNNING = generation("running")
SERVER_ERROR = errors.SeedanceServerError("sorry")
NOT_FOUND = errors.SeedanceNotFoundError("404")


def poll_times(count: int, reading: Any) -> WaitStep:
    """Poll with the same result each time, and return the last step."""
    step = start_wait(waiting(), NOW)
    for _ in range(count):
        step = on_poll(step.state, reading, NOW)
    return step


def test_the_time_of_the_first_poll() -> None:
    assert start_wait(waiting(), NOW) == WaitStep("wait", replace(waiting(), submitted_at=NOW), NOW + 10)
    assert start_wait(waiting(), NOW, not_before=60).at == NOW + 60
    assert start_wait(waiting(), NOW, not_before=5).at == NOW + 10


def test_no_poll_is_planned_after_the_deadline() -> None:
    assert {start_wait(waiting(deadline), NOW).kind for deadline in (NOW, NOW - 1, 0.0)} == {"deadline"}
    assert start_wait(waiting(NOW + 3), NOW).at == NOW + 3
    assert start_wait(waiting(NOW + 3), NOW, not_before=60).at == NOW + 3


@pytest.mark.parametrize("status", [status for status in GenerationStatus if status.terminal])
def test_a_terminal_status_ends_the_wait_even_after_the_deadline(status: GenerationStatus) -> None:
    ended = generation(status, urls=("https://media.example/v.mp4",))
    for deadline in (NOW + 3600, NOW - 3600):
        step = on_poll(waiting(deadline), ended, NOW)
        assert step.kind == "ended"
        assert step.state.last == ended


@pytest.mark.parametrize("status", ["queued", "running"])
def test_a_status_before_the_end_plans_the_next_poll(status: str) -> None:
    step = on_poll(waiting(), generation(status), NOW)
    assert (step.kind, step.at) == ("wait", NOW + 10)
    assert step.state.poll_count == 1
    assert step.state.last is not None
    step = on_poll(waiting(NOW), generation(status), NOW)
    assert (step.kind, step.state.last) == ("deadline", generation(status))


FAILURES = [
    SERVER_ERROR,
    errors.SeedanceConnectionError("reset"),
    errors.SeedanceAuthenticationError("401"),
    errors.SeedanceForbiddenError("403"),
    errors.SeedanceRateLimitError("429", retry_after=1800),
    errors.SeedanceRequestError("400"),
    errors.SeedanceInsufficientCreditsError("402"),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_a_failed_poll_ends_the_wait_at_the_deadline_only(error: errors.SeedanceError) -> None:
    step = start_wait(waiting(NOW + 1e6), NOW)
    for number in range(1, 50):
        step = on_poll(step.state, error, NOW)
        assert step.kind == "wait"
        assert step.state.failures == number
        assert step.at >= NOW + (error.retry_after or 0)
    assert step.state.last is None
    step = on_poll(step.state, RUNNING, NOW)
    assert (step.state.failures, step.state.retry_after, step.state.rate_limited) == (0, None, False)
    assert step.at == NOW + 10
    assert on_poll(waiting(NOW), error, NOW).kind == ("wait" if error.retry_after else "deadline")


def test_a_rate_limit_extends_the_wait_beyond_its_deadline() -> None:
    step = on_poll(waiting(NOW), errors.SeedanceRateLimitError("429", retry_after=1800), NOW)
    assert step.kind == "wait"
    assert step.at >= NOW + 1800
    assert on_poll(step.state, generation("succeeded"), step.at).kind == "ended"
    assert on_poll(step.state, generation("succeeded"), NOW + 10 * 86400).kind == "ended"
    assert on_poll(step.state, RUNNING, step.at).kind == "deadline"


@pytest.mark.parametrize("retry_after", [None, 1.0, 1800.0, 86400.0])
def test_a_rate_limit_that_never_passes_ends_the_wait(retry_after: float | None) -> None:
    refusal = errors.SeedanceRateLimitError("429", retry_after=retry_after)
    now, state = NOW, waiting(NOW)
    for _ in range(100_000):
        step = on_poll(state, refusal, now)
        if step.kind != "wait":
            break
        assert now < step.at <= state.final_deadline
        now, state = step.at, step.state
    assert step.kind == "deadline"
    assert now == state.final_deadline == NOW + TIMING.max_quota_wait


def test_a_service_may_know_a_new_id_late() -> None:
    assert poll_times(TIMING.max_not_found - 1, NOT_FOUND).kind == "wait"
    step = poll_times(TIMING.max_not_found, NOT_FOUND)
    assert (step.kind, step.state.generation_id) == ("unknown", "g-1")
    assert step.state.not_found == TIMING.max_not_found


@pytest.mark.parametrize("between", [RUNNING, SERVER_ERROR])
def test_only_consecutive_polls_without_the_generation_make_it_unknown(between: Any) -> None:
    step = start_wait(waiting(), NOW)
    for _ in range(5):
        for reading in [NOT_FOUND] * (TIMING.max_not_found - 1) + [between]:
            step = on_poll(step.state, reading, NOW)
            assert step.kind == "wait"


readings = st.sampled_from([*FAILURES, NOT_FOUND, *map(generation, GenerationStatus)])


@given(st.lists(readings, max_size=30), st.floats(1, 1e5))
def test_any_sequence_of_readings_ends_in_time(sequence: list[Any], timeout: float) -> None:
    step = start_wait(waiting(NOW + timeout), NOW)
    now = NOW
    for reading in sequence:
        assert step.kind == "wait"
        assert now < step.at
        assert step.at <= NOW + timeout or step.state.retry_after is not None
        now = step.at
        step = on_poll(step.state, reading, now)
        if step.kind != "wait":
            break
    if step.kind == "ended":
        assert step.state.last is not None
        assert step.state.last.status.terminal
    if step.kind == "deadline":
        assert now >= NOW + timeout


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(module, "_logged_statuses", set())
    caplog.set_level(logging.DEBUG, logger=module.__name__)
    return caplog


@pytest.mark.parametrize("reading", [RUNNING, errors.SeedanceRateLimitError("429")])
def test_nothing_is_logged_per_poll(log: pytest.LogCaptureFixture, reading: Any) -> None:
    poll_times(100, reading)
    assert log.records == []


def test_an_unreadable_status_is_logged_once_and_when_it_is_readable(log: pytest.LogCaptureFixture) -> None:
    step = poll_times(TIMING.warn_after_failures - 1, SERVER_ERROR)
    on_poll(step.state, RUNNING, NOW)
    assert log.records == []
    on_poll(poll_times(50, SERVER_ERROR).state, RUNNING, NOW)
    assert [(line.levelname, line.getMessage()) for line in log.records] == [
        (
            "WARNING",
            "The status of generation g-1 could not be read 3 times in a row (sorry); the wait goes on.",
        ),
        ("INFO", "The status of generation g-1 can be read again."),
    ]


def test_undocumented_statuses_are_logged_once_and_up_to_a_number(log: pytest.LogCaptureFixture) -> None:
    strange = generation("running", word="moderating", documented=False)
    for _ in range(3):
        assert on_poll(waiting(), strange, NOW).kind == "wait"
    on_poll(waiting(), replace(strange, word="x" * 500), NOW)
    assert log.messages == [
        f"ark reports the status {word!r} for generation g-1, which no document names; it counts as running."
        for word in ("moderating", "x" * 80)
    ]
    for number in range(module.MAX_LOGGED_STATUSES + 20):
        on_poll(waiting(), replace(strange, word=f"word {number}"), NOW)
    assert len(log.records) == module.MAX_LOGGED_STATUSES


def test_the_timeout_of_airflow_is_later_than_the_deadline() -> None:
    assert deferral_timeout(NOW + 60, NOW).total_seconds() == 60 + TIMING.deferral_grace
    assert deferral_timeout(NOW - 60, NOW).total_seconds() == TIMING.deferral_grace


def expecting(moment: float) -> Mock:
    """Return a model that plans every poll for one moment."""
    model = Mock(DurationModel, **{"next_poll_at.return_value": moment})
    model.with_estimate.return_value = model
    return model


def test_every_poll_is_planned_by_the_model_of_the_kind() -> None:
    step = start_wait(state(), NOW, model=expecting(200.0))
    assert step.at == pytest.approx(NOW + 200, abs=21)  # with jitter, so that batches spread their polls
    for reading in (RUNNING, SERVER_ERROR):
        later = on_poll(step.state, reading, NOW + 10, model := expecting(30.0))
        assert NOW + 10 < later.at < NOW + 45
        model.next_poll_at.assert_called_once_with(10.0)


@pytest.mark.parametrize(("submitted_at", "elapsed"), [(NOW - 50, 50.0), (NOW + 50, 0.0)])
def test_elapsed_time_counts_from_the_submission(submitted_at: float, elapsed: float) -> None:
    """The clocks of two machines differ."""
    start_wait(state(submitted_at=submitted_at), NOW, model=(model := expecting(1e9)))
    model.next_poll_at.assert_called_once_with(elapsed)


@pytest.mark.parametrize(
    ("known", "created", "submitted_at"),
    [
        ({}, NOW - 30, NOW - 30),
        ({}, NOW, NOW),
        ({}, NOW - TIMING.max_age, NOW - TIMING.max_age),
        # An implausible time is ignored.
        ({}, NOW + 1, NOW - 10),
        ({}, NOW - TIMING.max_age - 1, NOW - 10),
        ({"submitted_at_known": True}, NOW - 30, NOW - 10),
        ({"running_at": NOW}, NOW - 30, NOW - 10),
    ],
)
def test_an_unknown_time_of_submission_is_read_from_the_service(
    known: dict[str, Any], created: float, submitted_at: float
) -> None:
    state = waiting(submitted_at=NOW - 10, **known)
    step = on_poll(state, generation("running", created_at=datetime.fromtimestamp(created, UTC)), NOW)
    assert step.state.submitted_at == submitted_at
    assert step.state.running_at == NOW


def test_the_latest_progress_is_kept_with_its_time() -> None:
    step = on_poll(waiting(submitted_at=NOW - 10), generation("running", progress=30), NOW)
    assert step.state.progress == ((10.0, 30.0),)
    for number in range(20):
        step = on_poll(step.state, generation("running", progress=40 + number), NOW + number)
    assert len(step.state.progress) == MAX_PROGRESS_READINGS
    assert step.state.progress[-1] == (29.0, 59.0)


def test_a_render_is_as_old_as_the_latest_reading_that_found_it_queued() -> None:
    state = waiting(submitted_at=NOW - 100, submitted_at_known=True)
    queued = on_poll(state, generation("queued", word="queued"), NOW).state
    running = on_poll(queued, generation("running", progress=30), NOW + 20).state
    assert (state.elapsed(NOW), queued.elapsed(NOW), running.elapsed(NOW + 20)) == (100, 0, 20)
    assert running.progress == ((20.0, 30.0),)
    for ambiguous in (generation("queued"), generation("queued", word="queued", progress=5)):
        assert on_poll(state, ambiguous, NOW).state.elapsed(NOW) == 100


def test_success_without_output_is_polled_for_some_minutes() -> None:
    step = on_poll(waiting(submitted_at=NOW - 60), generation("succeeded"), NOW)
    assert (step.kind, step.at) == ("wait", NOW + 10)
    later = NOW + TIMING.max_output_delay
    step = on_poll(step.state, generation("succeeded"), later - 1)
    assert step.kind == "wait"
    assert on_poll(step.state, generation("succeeded", urls=("https://x/y",)), later - 1).kind == "ended"
    step = on_poll(step.state, generation("succeeded"), later)
    assert (step.kind, step.state.last) == ("ended", generation("succeeded"))
    # Until the deadline at most.
    step = on_poll(waiting(NOW + 20), generation("succeeded"), NOW)
    assert step.kind == "wait"
    assert on_poll(step.state, generation("succeeded"), NOW + 20).kind == "ended"
