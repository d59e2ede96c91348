"""What one reading means, with the time as an argument."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.polling import waiting as module
from airflow_provider_seedance.polling.schedule import Knowledge
from airflow_provider_seedance.polling.waiting import NOT_FOUND_LIMIT, Next, Waiting, begin, on_reading

NOW = 1_000_000.0


@pytest.fixture(autouse=True)
def _nothing_told_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_told", set())


def waiting(deadline: float = NOW + 3600, **changes: Any) -> Waiting:
    return Waiting(
        **{
            "generation_id": "g-1",
            "media": "video",
            "deadline": deadline,
            "known": Knowledge(poll_interval=10),
            **changes,
        }
    )


def generation(status: str, **known: Any) -> Generation:
    return Generation(generation_id="g-1", api="ark", media="video", status=GenerationStatus(status), **known)


# ---------------------------------------------------------------------- beginning


def test_the_first_reading() -> None:
    assert begin(waiting(), NOW) == Next("wait", replace(waiting(), submitted_at=NOW), NOW + 10)
    assert begin(waiting(), NOW, not_before=60).at == NOW + 60
    assert begin(waiting(), NOW, not_before=5).at == NOW + 10


@pytest.mark.parametrize("deadline", [NOW, NOW - 1, 0.0])
def test_a_wait_that_is_over_before_it_begins(deadline: float) -> None:
    assert begin(waiting(deadline), NOW).kind == "deadline"


def test_a_reading_is_never_planned_beyond_the_deadline() -> None:
    assert begin(waiting(NOW + 3), NOW).at == NOW + 3
    assert begin(waiting(NOW + 3), NOW, not_before=60).at == NOW + 3


# ---------------------------------------------------------------------- readings


@pytest.mark.parametrize("status", [status for status in GenerationStatus if status.terminal])
def test_the_end(status: GenerationStatus) -> None:
    ended = generation(status)
    for deadline in (NOW + 3600, NOW - 3600):  # an end counts, however late it is read
        step = on_reading(waiting(deadline), ended, NOW)
        assert step.kind == "ended"
        assert step.waiting.last is ended


@pytest.mark.parametrize("status", ["queued", "running"])
def test_not_yet(status: str) -> None:
    step = on_reading(waiting(), generation(status), NOW)
    assert (step.kind, step.at) == ("wait", NOW + 10)
    assert step.waiting.known.asked == 1
    assert step.waiting.last is not None
    assert on_reading(waiting(NOW), generation(status), NOW).kind == "deadline"


FAILURES = [
    errors.SeedanceServerError("500"),
    errors.SeedanceConnectionError("reset"),
    errors.SeedanceAuthenticationError("401"),
    errors.SeedanceForbiddenError("403"),
    errors.SeedanceRateLimitError("429", retry_after=1800),
    errors.SeedanceRequestError("400"),
    errors.SeedanceInsufficientCreditsError("402"),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_a_failed_reading_is_never_a_failed_render(error: errors.SeedanceError) -> None:
    step = begin(waiting(NOW + 1e6), NOW)
    for number in range(1, 50):
        step = on_reading(step.waiting, error, NOW)
        assert step.kind == "wait"
        assert step.waiting.known.failures == number
        assert step.at >= NOW + (error.retry_after or 0)
    assert step.waiting.last is None
    step = on_reading(step.waiting, generation("running"), NOW)
    assert (step.waiting.known.failures, step.waiting.known.retry_after) == (0, None)
    assert step.at == NOW + 10


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_a_deadline_ends_the_wait_for_an_unreadable_state(error: errors.SeedanceError) -> None:
    if error.retry_after is None:
        assert on_reading(waiting(NOW), error, NOW).kind == "deadline"


def test_a_deadline_does_not_end_a_wait_that_the_quota_kept_from_reading() -> None:
    step = on_reading(waiting(NOW), errors.SeedanceRateLimitError("429", retry_after=1800), NOW)
    assert step.kind == "wait"
    assert step.at >= NOW + 1800
    assert on_reading(step.waiting, generation("succeeded"), step.at).kind == "ended"
    assert on_reading(step.waiting, generation("running"), step.at).kind == "deadline"


def test_a_service_may_know_a_new_id_a_little_late() -> None:
    missing = errors.SeedanceNotFoundError("404")
    step = begin(waiting(), NOW)
    kinds = []
    for _ in range(NOT_FOUND_LIMIT):
        step = on_reading(step.waiting, missing, NOW)
        kinds.append(step.kind)
    assert kinds == ["wait"] * (NOT_FOUND_LIMIT - 1) + ["unknown"]


@pytest.mark.parametrize("between", [generation("running"), errors.SeedanceServerError("500")])
def test_not_found_counts_in_a_row_only(between: Any) -> None:
    missing = errors.SeedanceNotFoundError("404")
    step = begin(waiting(), NOW)
    for _ in range(5):
        for _ in range(NOT_FOUND_LIMIT - 1):
            step = on_reading(step.waiting, missing, NOW)
            assert step.kind == "wait"
        step = on_reading(step.waiting, between, NOW)
        assert step.kind == "wait"


readings = st.sampled_from(
    [*FAILURES, errors.SeedanceNotFoundError("404"), *(generation(status) for status in GenerationStatus)]
)


@given(st.lists(readings, max_size=30), st.floats(1, 1e5))
def test_any_course_of_readings_ends_in_time(course: list[Any], patience: float) -> None:
    step = begin(waiting(NOW + patience), NOW)
    now = NOW
    for reading in course:
        assert step.kind == "wait"
        assert now < step.at
        assert step.at <= NOW + patience or step.waiting.known.retry_after is not None
        now = step.at
        step = on_reading(step.waiting, reading, now)
        if step.kind != "wait":
            break
    if step.kind == "ended":
        assert step.waiting.last is not None
        assert step.waiting.last.status.terminal
    if step.kind == "deadline":
        assert now >= NOW + patience


# ---------------------------------------------------------------------- the log


def test_nothing_is_said_per_reading(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger=module.__name__):
        step = begin(waiting(), NOW)
        for _ in range(100):
            step = on_reading(step.waiting, generation("running"), NOW)
    assert caplog.records == []


def test_a_state_that_stays_unreadable_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=module.__name__):
        step = begin(waiting(), NOW)
        for _ in range(50):
            step = on_reading(step.waiting, errors.SeedanceServerError("sorry"), NOW)
        on_reading(step.waiting, generation("running"), NOW)
    assert [line.levelname for line in caplog.records] == ["WARNING", "INFO"]
    assert "g-1" in caplog.text
    assert "the render goes on" in caplog.text
    assert "can be read again" in caplog.text


def test_a_quota_is_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    step = begin(waiting(), NOW)
    for _ in range(10):
        step = on_reading(step.waiting, errors.SeedanceRateLimitError("429"), NOW)
    assert caplog.records == []


def test_a_word_nobody_documented_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    strange = generation("running", word="moderating", documented=False)
    for _ in range(3):
        assert on_reading(waiting(), strange, NOW).kind == "wait"
    on_reading(waiting(), replace(strange, word="polishing"), NOW)
    assert len(caplog.records) == 2
    assert "'moderating'" in caplog.text
    assert "counts as running" in caplog.text
