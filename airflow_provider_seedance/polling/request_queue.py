"""
Queue of status requests and submissions of one base URL and key, within their quota.

Pure: times are passed in, and nothing is sent here. The hub carries out what this decides, and the benchmarks run it
in simulated time.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from airflow_provider_seedance.polling.call_rates import MAX_LIST_WAIT_SECONDS, CallRates
from airflow_provider_seedance.polling.quota import Quota

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Grant(Generic[T]):
    """
    Permission to send requests now.

    :param polls: Items whose status to read, in one request if there are several.
    :param submission: Item that may submit.
    :param until: With neither: seconds since 1970 until which there is nothing to do.
    """

    polls: tuple[T, ...] = ()
    submission: T | None = None
    until: float = math.inf


@dataclass(slots=True)
class RequestQueue(Generic[T]):
    """
    Priority queue of due polls and submissions.

    The item that is due longest comes first; submissions and status requests alternate. Popped items must be pushed
    again; call :meth:`release` after granted polls.

    :param alive: Returns whether an item is still waiting; others are skipped.
    :param cost: Maximum number of requests of one reading.
    :param rates: Rates of single reads and lists, where the service limits them apart.
    """

    quota: Quota
    alive: Callable[[T], bool] = field(default=lambda _: True)
    cost: int = 1
    rates: CallRates = field(default_factory=CallRates)
    _polls: list[tuple[float, int, T]] = field(default_factory=list)
    _submissions: list[tuple[float, int, T]] = field(default_factory=list)
    _deadlines: list[tuple[float, int, T]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)
    _rate_limited_until: float = 0.0
    _last_submission: float = -math.inf
    _submission_was_last: bool = False

    def push_poll(self, item: T, at: float) -> None:
        """Add a status request that is due at a time."""
        heapq.heappush(self._polls, (at, next(self._order), item))

    def push_submission(self, item: T, at: float) -> None:
        """Add a submission that may be sent from a time on."""
        heapq.heappush(self._submissions, (at, next(self._order), item))

    def set_deadline(self, item: T, at: float) -> None:
        """Set when the wait of an item ends, in seconds since 1970, even if no request is granted."""
        heapq.heappush(self._deadlines, (at, next(self._order), item))

    def pop_expired(self, now: float) -> list[T]:
        """Remove and return the items whose deadline has passed."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            item = heapq.heappop(self._deadlines)[2]
            if self.alive(item):
                expired.append(item)
        return expired

    @property
    def next_deadline(self) -> float:
        """Seconds since 1970 of the earliest deadline."""
        return self._deadlines[0][0] if self._deadlines else math.inf

    def prune(self) -> None:
        """Remove items that no longer wait."""
        for heap in (self._polls, self._submissions, self._deadlines):
            heap[:] = [entry for entry in heap if self.alive(entry[2])]
            heapq.heapify(heap)

    def has_blocked_submissions(self, now: float) -> bool:
        """Return whether submissions are due that the quota has no room for."""
        self._skip_dead()
        due = bool(self._submissions) and self._submissions[0][0] <= now
        return due and self.quota.known and self.quota.free(now) < 1

    def __len__(self) -> int:
        return max(len(self._polls) + len(self._submissions), len(self._deadlines))

    def next(self, now: float, *, max_ids: int = 1) -> Grant[T]:
        """Return the grant of what is due, by requests that can read ``max_ids`` generations each."""
        self._skip_dead()
        free = self.quota.free(now)
        poll_at, submit_at = self._poll_at(now, free), self._submit_at(now, free)
        if self.rates.apart and poll_at <= now:
            max_ids = self._ids_now(now, max_ids)
            poll_at = (self.rates.list if max_ids > 1 else self.rates.read).next_at
        if submit_at <= now and not (self._submission_was_last and poll_at <= now):
            self._submission_was_last, self._last_submission = True, now
            self.quota.expect_submission(now)
            return Grant(submission=heapq.heappop(self._submissions)[2])
        if poll_at <= now:
            self._submission_was_last = False
            self._rate_limited_until = max(self._rate_limited_until, now) + self._min_gap()
            self.quota.reserve(self.cost)
            polls = self._pop_polls(now, max_ids)
            (self.rates.list if len(polls) > 1 else self.rates.read).reserve(now)
            return Grant(polls=polls)
        return Grant(until=min(poll_at, submit_at))

    def release(self) -> None:
        """Release the quota reserved for granted polls."""
        self.quota.release(self.cost)

    def _skip_dead(self) -> None:
        for heap in (self._polls, self._submissions, self._deadlines):
            while heap and not self.alive(heap[0][2]):
                heapq.heappop(heap)

    def _ids_now(self, now: float, max_ids: int) -> int:
        """Return how many generations to read in the next request: one where that needs no list, or none is allowed soon."""
        second = min((entry[0] for entry in self._polls[1:3]), default=math.inf)
        several = second <= now + self.quota.policy.coalesce
        soon = self.rates.list.next_at - now <= MAX_LIST_WAIT_SECONDS
        return max_ids if several and soon else 1

    def _pop_polls(self, now: float, max_ids: int) -> tuple[T, ...]:
        popped = [heapq.heappop(self._polls)[2]]
        horizon = now + self.quota.policy.coalesce
        while len(popped) < max_ids and self._polls and self._polls[0][0] <= horizon:
            item = heapq.heappop(self._polls)[2]
            if self.alive(item):
                popped.append(item)
        return tuple(popped)

    def _poll_at(self, now: float, free: float) -> float:
        if not self._polls:
            return math.inf
        due = self._polls[0][0]
        if due > now:
            return due
        available = free - self.quota.reserved_for_submissions(now)
        if free < 1 or available < min(self.cost, self.quota.capacity or self.cost):
            return self._room_at(now, free)
        return max(now, self._rate_limited_until - self.quota.policy.max_burst * self._min_gap())

    def _submit_at(self, now: float, free: float) -> float:
        if not self._submissions:
            return math.inf
        at = self._submissions[0][0]
        if at > now:
            return at
        if free < 1:
            return self.quota.opens_at(now)
        # Where kinds of calls are limited apart, each submission waited for a time of its own.
        spaced = self.quota.known or self.rates.apart
        interval = 0.0 if spaced else self.quota.policy.submission_interval
        return max(now, self._last_submission + interval)

    def _room_at(self, now: float, free: float) -> float:
        """Return when there may be room for a status request; the share of submissions shrinks with time."""
        opens = self.quota.opens_at(now)
        left = self.quota.left_in_window(now)
        if left is None or free < self.cost or not (reserved := self.quota.reserved_for_submissions(now)):
            return opens
        missing = self.cost - (free - reserved)
        return min(opens, now + max(self.quota.policy.min_recheck, left * missing / reserved))

    def _min_gap(self) -> float:
        return 1.0 / max(self.quota.policy.max_polls_per_second, self.quota.rate)
