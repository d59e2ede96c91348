"""
Known state of the request quota of one base URL and key.

Pure bookkeeping: times are passed in, nothing is read or sent here. It is filled from the plan's
``requests_per_hour``, from rate-limit headers, and from refusals. Requests of other processes with the same key are
seen in the headers only, which report what is left for all of them.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

from airflow_provider_seedance.apis.rate_limits import RateLimit, is_plausible_reset, limit_wait

_HOUR = 3600.0
#: Requests of the last hour are counted in steps of this many seconds.
_STEP_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class QuotaPolicy:
    """
    Rules for sharing a quota. Durations are in seconds.

    :param submission_share: Share of the rest of a window that status requests leave to submissions.
    :param reset_margin: Time after a window until the next one is used: clocks differ, and headers have whole seconds.
    :param submission_timeout: Time for which a granted submission may still be on its way.
    :param default_backoff: Backoff when no reply names a time.
    :param min_remaining: Requests below which a reading may not be possible.
    :param polls_left: Readings that each generation should have left; with fewer, intervals are longer, by
        ``max_interval_factor`` at most.
    :param max_polls_per_second: Maximum rate of status requests, unless the quota is known to allow more: far above
        every documented plan.
    :param max_burst: Maximum number of them in immediate succession after an idle time.
    :param submission_interval: Minimum time between submissions while no quota is known.
    :param min_recheck: Minimum time until the room for status requests is checked again.
    :param coalesce: A request that reads many generations includes those due within this time.
    :param queue_lifetime: Time for which other processes respect a triggerer's note that submissions are queued.
    """

    submission_share: float = 0.25
    reset_margin: float = 1.0
    submission_timeout: float = 120.0
    default_backoff: float = 60.0
    min_backoff: float = 1.0
    min_remaining: int = 2
    polls_left: float = 5.0
    max_interval_factor: float = 10.0
    max_polls_per_second: float = 6.0
    max_burst: int = 50
    submission_interval: float = 0.5
    min_recheck: float = 0.05
    coalesce: float = 10.0
    queue_lifetime: float = 20.0


#: The rules of quotas that are not given others.
POLICY = QuotaPolicy()


def default_policy() -> QuotaPolicy:
    """Return the rules of quotas that are not given others."""
    return POLICY


@dataclass(slots=True)
class Quota:
    """
    Known state of a quota.

    :param requests_per_hour: Of the plan, as configured in the connection.
    :param limit: Requests per window, from the headers.
    :param remaining: Requests left in the window, less those sent since the headers.
    :param reset_at: Seconds since 1970 at which the window ends.
    :param window: Length of a window in seconds, as far as observed.
    :param blocked_until: Seconds since 1970 until which the service refuses every request.
    """

    requests_per_hour: int | None = None
    limit: int | None = None
    remaining: int | None = None
    reset_at: float | None = None
    window: float | None = None
    blocked_until: float = 0.0
    policy: QuotaPolicy = field(default_factory=default_policy)
    _reserved: int = 0
    _expected: deque[float] = field(default_factory=deque)
    _sent: deque[tuple[float, int]] = field(default_factory=deque)
    _sent_total: int = 0
    _hour_ends: float = -math.inf

    def spend(self, now: float) -> None:
        """Count a request that is being sent."""
        self._advance(now)
        if self.remaining is not None:
            self.remaining -= 1
        self._count(now)

    def reserve(self, requests: int) -> None:
        """Reserve requests for a reading that has started."""
        self._reserved += requests

    def release(self, requests: int) -> None:
        """Release the reservation of a reading that is complete; its requests are counted."""
        self._reserved -= requests

    def expect_submission(self, now: float) -> None:
        """Count a granted submission, which another process will send."""
        self.spend(now)
        self._expected.append(now)

    def on_observed_submission(self, at: float, now: float) -> None:
        """Count a submission of another process that no header reports."""
        if self._expected:
            self._expected.popleft()
        elif self.requests_per_hour is not None and self.limit is None and now - at < _HOUR:
            self._count(at)

    def learn(self, reported: RateLimit, now: float) -> None:
        """Apply the headers of a reply; the end of a window that is too far away is ignored."""
        if reported.remaining is None or reported.limit is None or reported.limit < 1:
            return
        self._advance(now)
        margin = self.policy.reset_margin
        reset_at = reported.reset_at.timestamp() if reported.reset_at else None
        if reset_at is not None and not is_plausible_reset(reset_at, now):
            reset_at = None
        if reset_at is not None and reset_at + margin <= now:
            return  # of a window that has ended
        same_window = self.reset_at is None or reset_at is None or abs(reset_at - self.reset_at) <= 2 * margin
        if same_window and self.remaining is not None and reported.limit == self.limit:
            # Replies arrive out of order, and submissions are on their way: what was counted stays counted.
            self.remaining = min(self.remaining, reported.remaining)
        else:
            self.remaining = max(0, reported.remaining - len(self._expected))
        self.limit = reported.limit
        if reset_at is not None:
            self.window = max(self.window or 0.0, reset_at - now) if same_window else reset_at - now
            self.reset_at = reset_at

    def refuse(self, retry_after: float | None, now: float) -> bool:
        """Send no request with this key until a refusal passes; return whether requests were allowed before."""
        was_open = now >= self.blocked_until
        policy = self.policy
        backoff = policy.default_backoff if retry_after is None else limit_wait(retry_after)
        self.blocked_until = max(self.blocked_until, now + max(policy.min_backoff, backoff))
        if self.remaining is not None:
            self.remaining = 0
            self.reset_at = max(self.reset_at or 0.0, self.blocked_until - policy.reset_margin)
        return was_open

    def as_rate_limit(self) -> RateLimit:
        """Return the state of the window in the form of a reply's headers."""
        reset_at = datetime.fromtimestamp(self.reset_at, UTC) if self.reset_at is not None else None
        return RateLimit(limit=self.limit, remaining=self.remaining, reset_at=reset_at)

    @property
    def known(self) -> bool:
        """True if the size of the quota is known."""
        return self.capacity is not None

    @property
    def capacity(self) -> int | None:
        """Requests per window, as reported or as configured."""
        return self.limit if self.limit is not None else self.requests_per_hour

    @property
    def rate(self) -> float:
        """Requests per second that the quota allows; zero if unknown."""
        if self.limit is not None and self.window:
            return self.limit / self.window
        return (self.requests_per_hour or 0) / _HOUR

    def free(self, now: float) -> float:
        """Return the number of requests that may be sent now; infinite if no quota is known."""
        self._advance(now)
        if now < self.blocked_until:
            return 0.0
        left = math.inf if self.remaining is None else self.remaining
        if self.requests_per_hour is not None:
            left = min(left, self.requests_per_hour - self._sent_total)
        return max(0.0, left - self._reserved)

    def reserved_for_submissions(self, now: float) -> float:
        """Return the number of free requests that status requests leave to submissions."""
        share = self.policy.submission_share
        # A reservation that is left at the end of a window is lost, so it shrinks with the time left.
        if self.limit is not None:
            left = self.left_in_window(now)
            window = self.window or 0.0
            return share * self.limit * min(1.0, left / window) if left and window > 0 else 0.0
        if self.requests_per_hour is not None:
            left = _HOUR if self.left_in_window(now) is None else self._hour_ends - now
            # In whole requests: a plan of a few could not be polled at all otherwise.
            return float(round(share * self.requests_per_hour * left / _HOUR))
        return 0.0

    def interval_factor(self, now: float, waiters: int) -> float:
        """Return the factor by which polls of this many generations are delayed, so that the quota lasts."""
        if not self.known:
            return 1.0
        polls_left = max(0.0, self.free(now) - self.reserved_for_submissions(now)) / max(1, waiters)
        if polls_left >= self.policy.polls_left:
            return 1.0
        longest = self.policy.max_interval_factor
        return min(longest, (self.policy.polls_left / polls_left) ** 2) if polls_left else longest

    def left_in_window(self, now: float) -> float | None:
        """Return the seconds until the window ends, if known."""
        ends = self.reset_at if self.limit is not None else self._hour_ends
        return ends - now if ends is not None and ends > now else None

    def opens_at(self, now: float) -> float:
        """Return when more requests may be free than now, in seconds since 1970; a short time ahead if unknown."""
        self._advance(now)
        if self.blocked_until > now:
            return self.blocked_until
        times = (
            self.reset_at + self.policy.reset_margin if self.reset_at is not None else 0.0,
            self._sent[0][0] + _HOUR + _STEP_SECONDS if self._sent and self.requests_per_hour else 0.0,
            self._expected[0] + self.policy.submission_timeout if self._expected else 0.0,
        )
        return min((at for at in times if at > now), default=now + self.policy.reset_margin)

    def _advance(self, now: float) -> None:
        while self._sent and self._sent[0][0] + _HOUR + _STEP_SECONDS <= now:
            self._sent_total -= self._sent.popleft()[1]
        while self._expected and self._expected[0] + self.policy.submission_timeout <= now:
            self._expected.popleft()
        margin = self.policy.reset_margin
        if self.limit is not None and self.reset_at is not None and now >= self.reset_at + margin:
            # Until a reply reports it, the new window is assumed to be as large as the last. Granted submissions
            # that have not been observed yet will fall into it.
            self.remaining, self.reset_at = max(0, self.limit - len(self._expected)), None
        few = min(self.policy.min_remaining, self.limit or self.policy.min_remaining)
        if self.remaining is not None and self.remaining < few and self.reset_at is None:
            # No header says when there is more, and without a request none ever will.
            self.reset_at = now + self.policy.default_backoff

    def _count(self, at: float) -> None:
        if at >= self._hour_ends:
            self._hour_ends = at + _HOUR
        step = at - at % _STEP_SECONDS
        self._sent_total += 1
        if self._sent and self._sent[-1][0] >= step:
            last, count = self._sent.pop()
            self._sent.append((last, count + 1))
        else:
            self._sent.append((step, 1))
