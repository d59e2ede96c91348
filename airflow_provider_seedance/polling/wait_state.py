"""State of the wait for one generation, and the timing of all waits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Literal

from airflow_provider_seedance.exceptions import SeedanceRateLimitError
from airflow_provider_seedance.generations import Generation, GenerationStatus, Media
from airflow_provider_seedance.polling.duration_model import kind_of

#: Number of the latest progress readings that the schedule uses.
MAX_PROGRESS_READINGS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class PollTiming:
    """
    Timing of status requests and deferrals. Durations are in seconds.

    :param min_interval: Minimum time between two status requests; a ``poll_interval`` of the user may be shorter.
    :param max_interval: Maximum of it, or ``max_interval_share`` of the elapsed time if that is more.
    :param queued_interval_share: Minimum of it while the service says queued, as a share of the time in the queue so far.
    :param max_backoff: Maximum backoff after failed status requests.
    :param jitter: Share by which intervals are spread, so that a batch is not polled in step.
    :param callback_quantile: Polls replace lost callbacks. The first comes when this share has ended, times
        ``callback_factor``, and not before ``callback_min_delay``.
    :param callback_interval_share: Interval of the following ones, as a share of the elapsed time, between
        ``callback_min_interval`` and ``callback_max_interval``.
    :param max_not_found: Consecutive "not found" replies that end a wait: a service may know a new id late.
    :param warn_after_failures: Consecutive failed status requests after which the log says so, once.
    :param max_age: Maximum age that a service may report for a generation; beyond it the report is ignored.
    :param deferral_grace: Time by which Airflow's deferral timeout is later than the deadline of the trigger.
    :param quota_backoff: Time until the next request after a rate limit that names none.
    :param max_quota_wait: Time past the deadline for which a rate limit extends a deferred wait: the longest window.
    :param max_worker_quota_wait: The same while a worker waits: quotas are by the hour.
    :param max_output_delay: Time for which a generation that succeeded without an output is polled on.
    :param min_trigger_time: Minimum run time of a trigger: the scheduler may fail a task that resumes within the
        first seconds of its deferral, because it mistakes the exit of the deferring process for that of the task.
    :param connection_lifetime: Time after which a connection is looked up again, because keys are rotated.
    :param refused_key_interval: Minimum time between look-ups of a connection whose key the service refuses.
    :param min_retry_delay: Initial backoff after a failed look-up of a connection or a broken hub.
    :param shared_quota_interval: Time between two reads of the quota state that other processes share.
    :param max_sleep: Maximum sleep of the hub: how late it notices that the wall clock was set.
    :param report_interval: Time between two log lines about the progress of a batch.
    :param max_delay: Maximum time until a status request, even with a longer `poll_interval`; for tests with an emulator.
    """

    min_interval: float = 2.0
    max_interval: float = 300.0
    max_interval_share: float = 0.25
    queued_interval_share: float = 0.01
    max_backoff: float = 60.0
    jitter: float = 0.03
    callback_quantile: float = 0.95
    callback_factor: float = 1.5
    callback_min_delay: float = 60.0
    callback_min_interval: float = 120.0
    callback_interval_share: float = 0.5
    callback_max_interval: float = 3600.0
    max_not_found: int = 4
    warn_after_failures: int = 3
    max_age: float = 7 * 86400.0
    deferral_grace: float = 900.0
    quota_backoff: float = 60.0
    max_quota_wait: float = 86400.0
    max_worker_quota_wait: float = 2 * 3600.0
    max_output_delay: float = 300.0
    min_trigger_time: float = 5.0
    connection_lifetime: float = 900.0
    refused_key_interval: float = 30.0
    min_retry_delay: float = 5.0
    max_retry_delay: float = 60.0
    shared_quota_interval: float = 2.0
    max_sleep: float = 30.0
    report_interval: float = 60.0
    max_delay: float = math.inf

    def retry_delay(self, failures: int) -> float:
        """Return the backoff after a number of earlier failures."""
        return min(self.max_retry_delay, self.min_retry_delay * 2.0 ** min(failures, 10))


#: The timing of waits that are not given another.
TIMING = PollTiming()


def default_timing() -> PollTiming:
    """Return the timing of waits that are not given another."""
    return TIMING


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitState:
    """
    State of one wait; failures and "not found" replies are counted in a row.

    :param deadline: Seconds since 1970 at which the timeout passes.
    :param submitted_at: Seconds since 1970 of the submission, or of the start of the wait.
    :param submitted_at_known: Whether ``submitted_at`` is that of the submission, so that the duration can be learned.
    :param estimated_wait: Seconds the service expected the generation to take, at submission.
    :param poll_interval: The user's interval in seconds; it takes precedence over all but ``retry_after``.
    :param expects_callback: Whether the service sends a callback when the generation has ended.
    :param result_defaults: Values of the result by the request. Generations of the same model, duration and
        resolution take about as long.
    :param durations: Seconds that the latest such generations took, from the ledger; oldest first.
    :param retry_after: Seconds to the next request that the service named, if it did.
    :param rate_limited: Whether the rate limit prevented the latest status request.
    :param progress: The latest progress readings: elapsed seconds, and percent.
    :param running_at: Seconds since 1970 of the latest reading that found the generation not ended.
    :param queued_at: Seconds since 1970 of the latest reading that found it in the queue of the service.
    :param succeeded_at: Seconds since 1970 of the first reading that found it succeeded, but without an output.
    """

    generation_id: str
    media: Media
    deadline: float
    submitted_at: float | None = None
    submitted_at_known: bool = False
    estimated_wait: float | None = None
    poll_interval: float | None = None
    expects_callback: bool = False
    result_defaults: dict[str, object] = field(default_factory=dict)
    durations: tuple[float, ...] = ()
    max_quota_wait: float | None = None
    timing: PollTiming = field(default_factory=default_timing)
    poll_count: int = 0
    failures: int = 0
    not_found: int = 0
    retry_after: float | None = None
    rate_limited: bool = False
    progress: tuple[tuple[float, float], ...] = ()
    running_at: float | None = None
    queued_at: float | None = None
    succeeded_at: float | None = None
    last: Generation | None = None

    @property
    def final_deadline(self) -> float:
        """Seconds since 1970 at which the wait ends even if a rate limit prevents every status request."""
        extra = self.timing.max_quota_wait if self.max_quota_wait is None else self.max_quota_wait
        return self.deadline + extra

    @property
    def kind(self) -> str:
        """Key of generations that take about as long, at one service."""
        return kind_of(self.media, self.result_defaults)

    def elapsed(self, now: float) -> float:
        """Return the seconds since the submission, or since it was last seen in the queue: the render has taken no longer."""
        since = self.queued_at or self.submitted_at
        return max(0.0, now - since) if since is not None else 0.0

    @property
    def queue_seconds(self) -> float:
        """Seconds from the submission to the latest reading that found the generation queued."""
        return max(0.0, self.queued_at - (self.submitted_at or self.queued_at)) if self.queued_at else 0.0

    def with_poll(self, reading: Generation, now: float) -> WaitState:
        """Return the state after a status request that was answered."""
        # Without a word of the service, "queued" is a default.
        queued = reading.status is GenerationStatus.QUEUED and bool(reading.word) and not reading.progress
        progress = () if queued else self.progress
        if reading.progress is not None and not reading.status.terminal and self.submitted_at is not None:
            latest = (self.elapsed(now), float(reading.progress))
            progress = (*progress, latest)[-MAX_PROGRESS_READINGS:]
        return replace(
            self,
            last=reading,
            poll_count=self.poll_count + 1,
            failures=0,
            not_found=0,
            retry_after=None,
            rate_limited=False,
            progress=progress,
            queued_at=now if queued else self.queued_at,
        )


@dataclass(frozen=True, slots=True)
class WaitStep:
    """
    Next step of a wait.

    :param kind: ``ended`` (terminal generation in ``state.last``), ``unknown`` (the service does not know the
        generation), ``deadline`` (the timeout has passed), or ``wait`` until ``at``.
    :param at: Seconds since 1970 of the next status request, or of the deadline.
    """

    kind: Literal["ended", "unknown", "deadline", "wait"]
    state: WaitState
    at: float = 0.0


def lacks_output(generation: Generation) -> bool:
    """Return whether a generation succeeded without an output, which may follow a little later."""
    return generation.status is GenerationStatus.SUCCEEDED and not generation.urls


def deferral_timeout(deadline: float, now: float, *, rate_limited: bool = False) -> timedelta:
    """Return the timeout of a deferral: later than the deadline, which the trigger keeps itself."""
    extra = TIMING.deferral_grace + (TIMING.max_quota_wait if rate_limited else 0.0)
    return timedelta(seconds=max(0.0, deadline - now) + extra)


def quota_backoff(error: SeedanceRateLimitError) -> float:
    """Return the seconds until the next status request after a rate limit."""
    return error.retry_after or TIMING.quota_backoff
