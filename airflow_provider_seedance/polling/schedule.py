"""
Schedule of status requests, and the meaning of their replies: pure functions of the state of a wait.

The synchronous wait, the triggerer and a worker that waits for a batch use the same functions. The time that
generations take is a :class:`~airflow_provider_seedance.polling.duration_model.DurationModel`; progress that the
service reports narrows it down. A failed status request never fails a generation. The exception is a service
that says repeatedly that it does not know the generation.
"""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from datetime import UTC, datetime

from airflow_provider_seedance.exceptions import SeedanceError, SeedanceNotFoundError, SeedanceRateLimitError
from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.polling.duration_model import DurationModel, prior_model
from airflow_provider_seedance.polling.progress import next_by_progress
from airflow_provider_seedance.polling.wait_state import WaitState, WaitStep, lacks_output

log = logging.getLogger(__name__)

#: Maximum exponent of the backoff, beyond which it is at its maximum anyway and floats would overflow.
_MAX_EXPONENT = 50

#: Maximum number of undocumented status words that are logged, so that a service cannot flood the log.
MAX_LOGGED_STATUSES = 100

_logged_statuses: set[tuple[str, str | None]] = set()


def start_wait(
    state: WaitState, now: float, *, not_before: float = 0.0, model: DurationModel | None = None
) -> WaitStep:
    """Return the step of the first status request, which is sent after ``not_before`` seconds or later."""
    if state.submitted_at is None:
        state = replace(state, submitted_at=now)
    return _wait(state, now, model, not_before=not_before)


def on_poll(
    state: WaitState, reading: Generation | SeedanceError, now: float, model: DurationModel | None = None
) -> WaitStep:
    """Return the step that follows a status request."""
    if isinstance(reading, SeedanceError):
        return _on_error(state, reading, now, model)
    _log_undocumented_status(reading)
    if state.failures >= state.timing.warn_after_failures:
        log.info("The status of generation %s can be read again.", state.generation_id)
    reading = replace(reading, read_at=datetime.fromtimestamp(now, UTC))
    state = _with_submission_time(state, reading, now).with_poll(reading, now)
    if lacks_output(reading):
        since = now if state.succeeded_at is None else state.succeeded_at
        if now < min(since + state.timing.max_output_delay, state.deadline):
            return _wait(replace(state, succeeded_at=since), now, model)
    if reading.status.terminal:
        return WaitStep("ended", state)
    return _wait(replace(state, running_at=now), now, model)


def next_poll(
    state: WaitState, *, elapsed: float, model: DurationModel | None = None, jitter: float | None = None
) -> float:
    """Return the seconds until the next status request; ``jitter``, from 0 to 1, is random by default."""
    timing = state.timing
    jitter = random.random() if jitter is None else jitter  # noqa: S311 (spreads load, guards nothing)
    if state.poll_interval is not None:
        interval = state.poll_interval
    else:
        interval = _adaptive_interval(state, max(0.0, elapsed), model or prior_model())
        interval *= 1.0 + timing.jitter * (2.0 * jitter - 1.0)
    if state.failures:
        interval = max(interval, min(timing.max_backoff, 2.0 ** min(state.failures, _MAX_EXPONENT)))
    if state.retry_after is not None:
        interval = max(interval, state.retry_after * (1 + 0.1 * jitter))
    return min(interval, timing.max_delay)


def _adaptive_interval(state: WaitState, elapsed: float, model: DurationModel) -> float:
    timing = state.timing
    model = model.with_estimate(state.estimated_wait)
    if state.expects_callback:
        return _interval_with_callback(state, elapsed + state.queue_seconds, model)
    at = next_by_progress(state.progress, elapsed, model)
    if at is None:
        at = model.next_poll_at(elapsed)
    longest = max(timing.max_interval, timing.max_interval_share * elapsed)
    queued = state.queue_seconds if state.queued_at == state.running_at else 0.0
    return max(timing.min_interval, timing.queued_interval_share * queued, min(longest, at - elapsed))


def _interval_with_callback(state: WaitState, elapsed: float, model: DurationModel) -> float:
    timing = state.timing
    likely_end = timing.callback_factor * model.quantile(timing.callback_quantile)
    first = max(timing.callback_min_delay, likely_end)
    if elapsed < first:
        return first - elapsed
    interval = max(timing.callback_min_interval, timing.callback_interval_share * elapsed)
    return min(timing.callback_max_interval, interval)


def _with_submission_time(state: WaitState, reading: Generation, now: float) -> WaitState:
    """Take the time of the submission from the service where it is not known here."""
    if state.submitted_at_known or state.running_at is not None or reading.created_at is None:
        return state
    created = reading.created_at.timestamp()
    return replace(state, submitted_at=created) if 0 <= now - created <= state.timing.max_age else state


def _on_error(state: WaitState, error: SeedanceError, now: float, model: DurationModel | None) -> WaitStep:
    rate_limited = isinstance(error, SeedanceRateLimitError)
    state = replace(
        state,
        failures=state.failures + 1,
        not_found=state.not_found + 1 if isinstance(error, SeedanceNotFoundError) else 0,
        rate_limited=rate_limited,
        retry_after=error.retry_after,
    )
    if state.failures == state.timing.warn_after_failures and not rate_limited:
        log.warning(
            "The status of generation %s could not be read %s times in a row (%s); the wait goes on.",
            state.generation_id,
            state.failures,
            error.message,
        )
    if state.not_found >= state.timing.max_not_found:
        return WaitStep("unknown", state)
    return _wait(state, now, model)


def _wait(state: WaitState, now: float, model: DurationModel | None, *, not_before: float = 0.0) -> WaitStep:
    at = now + max(next_poll(state, elapsed=state.elapsed(now), model=model), not_before)
    if now < state.deadline:
        return WaitStep("wait", state, min(at, state.deadline))
    if state.rate_limited and now < state.final_deadline:
        # The rate limit prevented the last status request, which may find that the generation has ended.
        return WaitStep("wait", state, min(at, state.final_deadline))
    return WaitStep("deadline", state)


def _log_undocumented_status(generation: Generation) -> None:
    """Log an undocumented status word, once per word and process."""
    status = (generation.api, generation.word)
    if generation.documented or status in _logged_statuses or len(_logged_statuses) >= MAX_LOGGED_STATUSES:
        return
    _logged_statuses.add(status)
    log.warning(
        "%s reports the status %r for generation %s, which no document names; it counts as running.",
        generation.api,
        str(generation.word)[:80],
        generation.generation_id,
    )
