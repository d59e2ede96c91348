"""What one reading means, with the time as an argument."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.polling import schedule as module
from airflow_provider_seedance.polling.duration_model import DurationModel
from airflow_provider_seedance.polling.schedule import on_poll, start_wait
from airflow_provider_seedance.polling.wait_state import (
    MAX_PROGRESS_READINGS,
    TIMING,
    WaitState,
    WaitStep,
    deferral_timeout,
    quota_backoff,
)

NOW = 1_000_000.0


@pytest.fixture(autouse=True)
def _nothing_told_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_logged_statuses", set())


def waiting(deadline: float = NOW + 3600, **changes: Any) -> WaitState:
    return WaitState(
        **{
            "generation_id": "g-1",
            "media": "video",
            "deadline": deadline,
            "poll_interval": 10,
            **changes,
        }
    )


def generation(status: str, **known: Any) -> Generation:
    return Generation(generation_id="g-1", api="ark", media="video", status=GenerationStatus(status), **known)


# ---------------------------------------------------------------------- beginning


def test_the_first_reading() -> None:
    assert start_wait(waiting(), NOW) == WaitStep("wait", replace(waiting(), submitted_at=NOW), NOW + 10)
    assert start_wait(waiting(), NOW, not_before=60).at == NOW + 60
    assert start_wait(waiting(), NOW, not_before=5).at == NOW + 10


@pytest.mark.parametrize("deadline", [NOW, NOW - 1, 0.0])
def test_a_wait_that_is_over_before_it_begins(deadline: float) -> None:
    assert start_wait(waiting(deadline), NOW).kind == "deadline"


def test_a_reading_is_never_planned_beyond_the_deadline() -> None:
    assert start_wait(waiting(NOW + 3), NOW).at == NOW + 3
    assert start_wait(waiting(NOW + 3), NOW, not_before=60).at == NOW + 3


# ---------------------------------------------------------------------- readings


@pytest.mark.parametrize("status", [status for status in GenerationStatus if status.terminal])
def test_the_end(status: GenerationStatus) -> None:
    ended = generation(status, urls=("https://media.example/v.mp4",))
    for deadline in (NOW + 3600, NOW - 3600):  # an end counts, however late it is read
        step = on_poll(waiting(deadline), ended, NOW)
        assert step.kind == "ended"
        assert step.state.last is ended


@pytest.mark.parametrize("status", ["queued", "running"])
def test_not_yet(status: str) -> None:
    step = on_poll(waiting(), generation(status), NOW)
    assert (step.kind, step.at) == ("wait", NOW + 10)
    assert step.state.poll_count == 1
    assert step.state.last is not None
    assert on_poll(waiting(NOW), generation(status), NOW).kind == "deadline"


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
    step = start_wait(waiting(NOW + 1e6), NOW)
    for number in range(1, 50):
        step = on_poll(step.state, error, NOW)
        assert step.kind == "wait"
        assert step.state.failures == number
        assert step.at >= NOW + (error.retry_after or 0)
    assert step.state.last is None
    step = on_poll(step.state, generation("running"), NOW)
    assert (step.state.failures, step.state.retry_after) == (0, None)
    assert step.at == NOW + 10


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_a_deadline_ends_the_wait_for_an_unreadable_state(error: errors.SeedanceError) -> None:
    if error.retry_after is None:
        assert on_poll(waiting(NOW), error, NOW).kind == "deadline"


def test_a_deadline_does_not_end_a_wait_that_the_quota_kept_from_reading() -> None:
    step = on_poll(waiting(NOW), errors.SeedanceRateLimitError("429", retry_after=1800), NOW)
    assert step.kind == "wait"
    assert step.at >= NOW + 1800
    assert on_poll(step.state, generation("succeeded"), step.at).kind == "ended"
    assert on_poll(step.state, generation("running"), step.at).kind == "deadline"


@pytest.mark.parametrize("retry_after", [None, 1.0, 1800.0, 86400.0])
def test_a_quota_that_never_comes_back_ends_the_wait(retry_after: float | None) -> None:
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


def test_a_quota_that_comes_back_late_still_brings_the_end() -> None:
    step = on_poll(waiting(NOW), errors.SeedanceRateLimitError("429", retry_after=80_000), NOW)
    assert on_poll(step.state, generation("succeeded"), NOW + 10 * 86400).kind == "ended"


def test_a_service_may_know_a_new_id_a_little_late() -> None:
    missing = errors.SeedanceNotFoundError("404")
    step = start_wait(waiting(), NOW)
    kinds = []
    for _ in range(TIMING.max_not_found):
        step = on_poll(step.state, missing, NOW)
        kinds.append(step.kind)
    assert kinds == ["wait"] * (TIMING.max_not_found - 1) + ["unknown"]


@pytest.mark.parametrize("between", [generation("running"), errors.SeedanceServerError("500")])
def test_not_found_counts_in_a_row_only(between: Any) -> None:
    missing = errors.SeedanceNotFoundError("404")
    step = start_wait(waiting(), NOW)
    for _ in range(5):
        for _ in range(TIMING.max_not_found - 1):
            step = on_poll(step.state, missing, NOW)
            assert step.kind == "wait"
        step = on_poll(step.state, between, NOW)
        assert step.kind == "wait"


readings = st.sampled_from(
    [*FAILURES, errors.SeedanceNotFoundError("404"), *(generation(status) for status in GenerationStatus)]
)


@given(st.lists(readings, max_size=30), st.floats(1, 1e5))
def test_any_course_of_readings_ends_in_time(course: list[Any], patience: float) -> None:
    step = start_wait(waiting(NOW + patience), NOW)
    now = NOW
    for reading in course:
        assert step.kind == "wait"
        assert now < step.at
        assert step.at <= NOW + patience or step.state.retry_after is not None
        now = step.at
        step = on_poll(step.state, reading, now)
        if step.kind != "wait":
            break
    if step.kind == "ended":
        assert step.state.last is not None
        assert step.state.last.status.terminal
    if step.kind == "deadline":
        assert now >= NOW + patience


# ---------------------------------------------------------------------- the log


def test_nothing_is_said_per_reading(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger=module.__name__):
        step = start_wait(waiting(), NOW)
        for _ in range(100):
            step = on_poll(step.state, generation("running"), NOW)
    assert caplog.records == []


def test_a_state_that_stays_unreadable_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=module.__name__):
        step = start_wait(waiting(), NOW)
        for _ in range(50):
            step = on_poll(step.state, errors.SeedanceServerError("sorry"), NOW)
        on_poll(step.state, generation("running"), NOW)
    assert [line.levelname for line in caplog.records] == ["WARNING", "INFO"]
    assert "g-1" in caplog.text
    assert "the render goes on" in caplog.text
    assert "can be read again" in caplog.text


def test_a_quota_is_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    step = start_wait(waiting(), NOW)
    for _ in range(10):
        step = on_poll(step.state, errors.SeedanceRateLimitError("429"), NOW)
    assert caplog.records == []


def test_a_word_nobody_documented_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    strange = generation("running", word="moderating", documented=False)
    for _ in range(3):
        assert on_poll(waiting(), strange, NOW).kind == "wait"
    on_poll(waiting(), replace(strange, word="polishing"), NOW)
    assert len(caplog.records) == 2
    assert "'moderating'" in caplog.text
    assert "counts as running" in caplog.text


def test_the_line_about_an_unreadable_state_names_everything(caplog: pytest.LogCaptureFixture) -> None:
    step = start_wait(waiting(), NOW)
    for number in range(TIMING.warn_after_failures):
        assert len(caplog.records) == 0, number
        step = on_poll(step.state, errors.SeedanceServerError("sorry"), NOW)
    assert [line.getMessage() for line in caplog.records] == [
        "The status of generation g-1 could not be read 3 times in a row (sorry); the render goes on, and so does the wait."
    ]


def test_the_line_about_a_word_names_everything_and_no_more_than_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    on_poll(waiting(), generation("running", word="x" * 500, documented=False), NOW)
    assert [line.getMessage() for line in caplog.records] == [
        f"ark reports the status {'x' * 80!r} for generation g-1, which no document names; it counts as running."
    ]


def test_a_service_that_makes_up_words_is_not_given_a_line_for_each(caplog: pytest.LogCaptureFixture) -> None:
    for number in range(module.MAX_LOGGED_STATUSES + 20):
        on_poll(waiting(), generation("running", word=f"word {number}", documented=False), NOW)
    assert len(caplog.records) == module.MAX_LOGGED_STATUSES


# ---------------------------------------------------------------------- what is handed on


def test_an_unknown_generation_is_told_with_all_that_was_known() -> None:
    step = start_wait(waiting(), NOW)
    for _ in range(TIMING.max_not_found):
        step = on_poll(step.state, errors.SeedanceNotFoundError("404"), NOW)
    assert step.kind == "unknown"
    assert step.state.generation_id == "g-1"
    assert step.state.not_found == TIMING.max_not_found


def test_airflows_own_timeout_is_later_than_ours() -> None:
    assert deferral_timeout(NOW + 60, NOW).total_seconds() == 60 + TIMING.deferral_grace
    assert deferral_timeout(NOW - 60, NOW).total_seconds() == TIMING.deferral_grace


def test_how_long_to_stay_away_after_a_refusal() -> None:
    assert quota_backoff(errors.SeedanceRateLimitError("429", retry_after=7.0)) == 7.0
    assert quota_backoff(errors.SeedanceRateLimitError("429")) == TIMING.quota_backoff


class Expecting(DurationModel):
    """Believes in one moment."""

    def __init__(self, moment: float) -> None:
        super().__init__()
        self.moment = moment
        self.asked: list[float] = []

    def next_poll_at(self, elapsed: float) -> float:
        self.asked.append(elapsed)
        return self.moment

    def with_estimate(self, seconds: float | None) -> DurationModel:
        return self


def test_what_is_believed_of_the_kind_counts_after_every_reading() -> None:
    model = Expecting(200.0)
    step = start_wait(waiting(poll_interval=None), NOW, model=model)
    assert step.at == pytest.approx(
        NOW + 200, abs=21
    )  # spread a little, so that a batch is not asked for in step
    model.moment = 30.0
    for reading in (generation("running"), errors.SeedanceServerError("500")):
        later = on_poll(step.state, reading, NOW + 10, model)
        assert NOW + 10 < later.at < NOW + 45
        assert model.asked[-1] == 10.0


def test_time_counts_from_the_submission() -> None:
    model = Expecting(1e9)
    start_wait(waiting(poll_interval=None, submitted_at=NOW - 50), NOW, model=model)
    start_wait(waiting(poll_interval=None, submitted_at=NOW + 50), NOW, model=model)  # clocks differ
    assert model.asked == [50.0, 0.0]


def at(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, UTC)


@pytest.mark.parametrize(
    ("created", "submitted_at"),
    [
        (NOW - 30, NOW - 30),
        (NOW, NOW),
        (NOW - TIMING.max_age, NOW - TIMING.max_age),
        # A service that is wrong about the time is not believed.
        (NOW + 1, NOW - 10),
        (NOW - TIMING.max_age - 1, NOW - 10),
    ],
)
def test_the_service_is_asked_for_the_time_of_a_submission_nobody_here_saw(
    created: float, submitted_at: float
) -> None:
    step = on_poll(waiting(submitted_at=NOW - 10), generation("running", created_at=at(created)), NOW)
    assert step.state.submitted_at == submitted_at
    assert step.state.running_at == NOW


def test_what_is_known_here_counts_more_than_what_the_service_says() -> None:
    reading = generation("running", created_at=at(NOW - 30))
    told = waiting(submitted_at=NOW - 10, submitted_at_known=True)
    assert on_poll(told, reading, NOW).state.submitted_at == NOW - 10
    seen = waiting(submitted_at=NOW - 10, running_at=NOW - 5)
    assert on_poll(seen, reading, NOW).state.submitted_at == NOW - 10


def test_progress_is_kept_with_its_time() -> None:
    step = on_poll(waiting(submitted_at=NOW - 10), generation("running", progress=30), NOW)
    assert step.state.progress == ((10.0, 30.0),)
    for number in range(20):
        step = on_poll(step.state, generation("running", progress=40 + number), NOW + number)
    assert len(step.state.progress) == MAX_PROGRESS_READINGS
    assert step.state.progress[-1] == (29.0, 59.0)


def test_a_kind_that_is_known_to_be_short_is_read_again_soon_after_a_failure() -> None:
    model = Expecting(0.0)
    step = start_wait(waiting(poll_interval=None), NOW, model=model)
    asked = len(model.asked)
    on_poll(step.state, errors.SeedanceServerError("500"), NOW + 10, model)
    assert len(model.asked) == asked + 1


def test_the_line_about_a_state_that_can_be_read_again_comes_after_the_one_that_said_it_could_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for failures in (TIMING.warn_after_failures - 1, TIMING.warn_after_failures):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger=module.__name__):
            on_poll(waiting(failures=failures), generation("running"), NOW)
        lines = [line.getMessage() for line in caplog.records]
        assert lines == (
            ["The status of generation g-1 can be read again."]
            if failures == TIMING.warn_after_failures
            else []
        )


def test_an_end_is_told_with_all_that_was_known() -> None:
    step = on_poll(waiting(rate_limited=True, poll_count=4, failures=1), generation("succeeded"), NOW)
    state = step.state
    assert (state.poll_count, state.failures, state.rate_limited) == (5, 0, False)


def test_a_deadline_is_told_with_all_that_was_known() -> None:
    assert on_poll(waiting(NOW), generation("running"), NOW).state.last == generation("running")


# ---------------------------------------------------------------------- success without an output


def test_success_without_output_is_polled_for_some_minutes() -> None:
    step = on_poll(waiting(submitted_at=NOW - 60), generation("succeeded"), NOW)
    assert (step.kind, step.at) == ("wait", NOW + 10)
    later = NOW + TIMING.max_output_delay
    step = on_poll(step.state, generation("succeeded"), later - 1)
    assert step.kind == "wait"
    assert on_poll(step.state, generation("succeeded", urls=("https://x/y",)), later - 1).kind == "ended"
    step = on_poll(step.state, generation("succeeded"), later)
    assert (step.kind, step.state.last) == ("ended", generation("succeeded"))


def test_success_without_output_ends_with_the_deadline() -> None:
    step = on_poll(waiting(NOW + 20), generation("succeeded"), NOW)
    assert step.kind == "wait"
    assert on_poll(step.state, generation("succeeded"), NOW + 20).kind == "ended"
