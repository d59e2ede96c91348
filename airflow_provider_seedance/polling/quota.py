"""
How often at all: what is known of the quota of one base URL and key.

A pure book: every moment is handed in, nothing is read or sent here. It is filled from the plan's
``requests_per_hour``, from the headers of replies, and from refusals; other processes that use the same
key are seen in the headers only, and that is enough: what the service says is left is left for all.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

from airflow_provider_seedance.apis.rate_limits import RateLimit, is_plausible_reset, limit_wait

#: Share of a window that status requests leave to submissions; it shrinks with the window.
KEPT_FOR_SUBMISSIONS = 0.25

#: Seconds after the end of a window until it is believed: clocks differ, and headers tell whole seconds.
MARGIN = 1.0

#: Seconds for which a submission that was let through may still be on its way.
PROMISE = 120.0

#: Seconds to stay away after a refusal that names no time, or where (almost) nothing is left and nobody says for
#: how long.
UNKNOWN_PAUSE = 60.0

#: With fewer requests left than this there may be too few for one reading.
_FEW = 2

#: Shortest time to stay away after a refusal, whatever it names.
SHORTEST_PAUSE = 1.0

#: Readings that a render should have left in the quota; with fewer of them they are made further apart, ...
COMFORT = 5.0
#: ... by this factor at most.
MOST_STRETCH = 10.0

_HOUR = 3600.0
#: The requests of the last hour are counted in steps of this many seconds.
_STEP = 30.0


@dataclass(slots=True)
class Quota:
    """
    What is known of a quota.

    :param requests_per_hour: Of the plan, as the connection says; ``None`` if it does not.
    :param limit: Requests per window, by the headers.
    :param remaining: What is left of them, less what was sent since.
    :param reset_at: Seconds since 1970 at which the window ends.
    :param window: Length of a window in seconds, as far as seen.
    :param blocked_until: Seconds since 1970 until which the service refuses everybody.
    """

    requests_per_hour: int | None = None
    limit: int | None = None
    remaining: int | None = None
    reset_at: float | None = None
    window: float | None = None
    blocked_until: float = 0.0
    _held: int = 0
    _promised: deque[float] = field(default_factory=deque)
    _sent: deque[tuple[float, int]] = field(default_factory=deque)
    _sent_total: int = 0

    # ------------------------------------------------------------------ what happens

    def spend(self, now: float) -> None:
        """Count a request that is being sent."""
        self._turn_over(now)
        if self.remaining is not None:
            self.remaining -= 1
        if self.requests_per_hour is not None:
            self._log(now)

    def hold(self, requests: int) -> None:
        """Keep requests for a reading that has begun."""
        self._held += requests

    def release(self, requests: int) -> None:
        """Give back what was kept: the reading is over, and what it sent is counted."""
        self._held -= requests

    def promise(self, now: float) -> None:
        """Count a submission that is let through and will be sent by another process."""
        self.spend(now)
        self._promised.append(now)

    def on_observed_submission(self, at: float, now: float) -> None:
        """Count a submission of another process, where no header tells of it."""
        if self._promised:
            self._promised.popleft()
        elif self.requests_per_hour is not None and self.limit is None and now - at < _HOUR:
            self._log(at)

    def learn(self, told: RateLimit, now: float) -> None:
        """Take in the headers of a reply; the end of a window that is far away is not believed."""
        if told.remaining is None or told.limit is None or told.limit < 1:
            return
        self._turn_over(now)
        reset_at = told.reset_at.timestamp() if told.reset_at else None
        if reset_at is not None and not is_plausible_reset(reset_at, now):
            reset_at = None
        if reset_at is not None and reset_at + MARGIN <= now:
            return  # of a window that is over
        same_window = self.reset_at is None or reset_at is None or abs(reset_at - self.reset_at) <= 2 * MARGIN
        if same_window and self.remaining is not None and told.limit == self.limit:
            # Replies overtake each other, and submissions are on their way: what is counted stays counted.
            self.remaining = min(self.remaining, told.remaining)
        else:
            self.remaining = max(0, told.remaining - len(self._promised))
        self.limit = told.limit
        if reset_at is not None:
            self.window = max(self.window or 0.0, reset_at - now) if same_window else reset_at - now
            self.reset_at = reset_at

    def refuse(self, retry_after: float | None, now: float) -> bool:
        """
        Take in a refusal: everybody on this key stays away until it passes.

        :return: Whether that is news.
        """
        news = now >= self.blocked_until
        pause = UNKNOWN_PAUSE if retry_after is None else max(SHORTEST_PAUSE, limit_wait(retry_after))
        self.blocked_until = max(self.blocked_until, now + pause)
        if self.remaining is not None:
            self.remaining = 0
            self.reset_at = max(self.reset_at or 0.0, self.blocked_until - MARGIN)
        return news

    def told(self) -> RateLimit:
        """Return what is known of the window as a reply would tell it."""
        reset_at = datetime.fromtimestamp(self.reset_at, UTC) if self.reset_at is not None else None
        return RateLimit(limit=self.limit, remaining=self.remaining, reset_at=reset_at)

    # ------------------------------------------------------------------ what may be done

    @property
    def known(self) -> bool:
        """Whether there is a number to go by."""
        return self.limit is not None or self.requests_per_hour is not None

    @property
    def rate(self) -> float:
        """Requests a second that the quota allows; zero if that is not known."""
        if self.limit is not None and self.window:
            return self.limit / self.window
        return (self.requests_per_hour or 0) / _HOUR

    def free(self, now: float) -> float:
        """Return how many requests may be sent now; infinite where no quota is known."""
        self._turn_over(now)
        if now < self.blocked_until:
            return 0.0
        left = math.inf
        if self.remaining is not None:
            left = self.remaining
        if self.requests_per_hour is not None:
            left = min(left, self.requests_per_hour - self._sent_total)
        return max(0.0, left - self._held)

    def kept(self, now: float) -> float:
        """Return how many of the free requests status requests leave to submissions."""
        if self.limit is not None and self.reset_at is not None and self.window:
            # What is kept to the end of a window is lost, so the share shrinks with the time that is left.
            left = min(1.0, max(0.0, (self.reset_at - now) / self.window))
            return KEPT_FOR_SUBMISSIONS * self.limit * left
        if self.limit is None and self.requests_per_hour is not None:
            return KEPT_FOR_SUBMISSIONS * self.requests_per_hour
        return 0.0

    def interval_factor(self, now: float, waiting: int) -> float:
        """
        Return how many times longer the waits should be than the schedule's, for the quota to last.

        :param waiting: How many renders share it.
        """
        if not self.known:
            return 1.0
        each = max(0.0, self.free(now) - self.kept(now)) / max(1, waiting)
        if each >= COMFORT:
            return 1.0
        return min(MOST_STRETCH, (COMFORT / each) ** 2) if each else MOST_STRETCH

    def left_in_window(self, now: float) -> float | None:
        """Return the seconds until the window ends, if that is known."""
        if self.reset_at is not None and self.reset_at > now:
            return self.reset_at - now
        return None

    def opens_at(self, now: float) -> float:
        """Return when more requests may be free than now, in seconds since 1970; at most some time ahead."""
        self._turn_over(now)
        moments = [
            moment
            for moment in (
                self.blocked_until,
                self.reset_at + MARGIN if self.reset_at is not None else 0.0,
                self._sent[0][0] + _HOUR + _STEP if self._sent else 0.0,
                self._promised[0] + PROMISE if self._promised else 0.0,
            )
            if moment > now
        ]
        return self.blocked_until if self.blocked_until > now else min(moments, default=now + MARGIN)

    # ------------------------------------------------------------------ inside

    def _turn_over(self, now: float) -> None:
        while self._sent and self._sent[0][0] + _HOUR + _STEP <= now:
            self._sent_total -= self._sent.popleft()[1]
        while self._promised and self._promised[0] + PROMISE <= now:
            self._promised.popleft()
        if self.limit is not None and self.reset_at is not None and now >= self.reset_at + MARGIN:
            # Until a reply tells more, the new window is as large as the last. Submissions that were let
            # through and have not been seen yet will fall into it.
            self.remaining, self.reset_at = max(0, self.limit - len(self._promised)), None
        few = min(_FEW, self.limit or _FEW)
        if self.remaining is not None and self.remaining < few and self.reset_at is None:
            # Nobody says when there is more, and without a request nobody ever will.
            self.reset_at = now + UNKNOWN_PAUSE

    def _log(self, at: float) -> None:
        step = at - at % _STEP
        self._sent_total += 1
        if self._sent and self._sent[-1][0] >= step:
            last, count = self._sent.pop()
            self._sent.append((last, count + 1))
        else:
            self._sent.append((step, 1))
