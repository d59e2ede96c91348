"""
Whose turn it is: status requests and submissions of one base URL and key, within their quota.

Pure: moments are handed in, and nothing is sent here. The hub carries out what this decides, and the
benchmarks run it in simulated time.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from airflow_provider_seedance.polling.quota import Quota

T = TypeVar("T")

#: Status requests a second, at most, unless the quota is known to allow more. Far above every plan that is
#: documented; it keeps thousands of renders from occupying the triggerer.
MOST_PER_SECOND = 6.0

#: So many of them may follow each other at once after a quiet time.
BURST = 50

#: Seconds between submissions that are let through to a service whose quota nobody knows.
SUBMISSION_GAP = 0.5

#: Shortest time until the room for status requests is looked at again, in seconds.
SHORTEST_LOOK = 0.05

#: One request that reads many takes along what is due within this many seconds.
TAKEN_ALONG = 10.0


def _always(_: object) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Grant(Generic[T]):
    """
    What to do now.

    :param polls: Whose status to read, in one request if there are several.
    :param submission: Who may submit.
    :param until: With neither: seconds since 1970 until which there is nothing to do.
    """

    polls: tuple[T, ...] = ()
    submission: T | None = None
    until: float = math.inf


@dataclass(slots=True)
class RequestQueue(Generic[T]):
    """
    Those who wait, each with the moment from which it does.

    The one that has waited longest comes first, so nobody starves; submissions and status requests
    take turns where there are both. Who is taken out has to be put in again to have another turn, and
    whoever was handed polls calls :meth:`done` after them.

    :param alive: Whether somebody still waits; whoever does not is passed over.
    :param cost: Requests that one reading may take.
    """

    quota: Quota
    alive: Callable[[T], bool] = _always
    cost: int = 1
    _polls: list[tuple[float, int, T]] = field(default_factory=list)
    _submissions: list[tuple[float, int, T]] = field(default_factory=list)
    _ends: list[tuple[float, int, T]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)
    _paced: float = 0.0
    _last_submission: float = 0.0
    _submission_was_last: bool = False

    def poll(self, item: T, at: float) -> None:
        """Put in a status request that is due at a moment."""
        heapq.heappush(self._polls, (at, next(self._order), item))

    def submit(self, item: T, at: float) -> None:
        """Put in a submission that may be sent from a moment on."""
        heapq.heappush(self._submissions, (at, next(self._order), item))

    def end(self, item: T, at: float) -> None:
        """Note when the wait of one who is put in ends, whether there is a turn or not."""
        heapq.heappush(self._ends, (at, next(self._order), item))

    def over(self, now: float) -> list[T]:
        """Take out those whose wait has ended without a turn."""
        ended = []
        while self._ends and self._ends[0][0] <= now:
            item = heapq.heappop(self._ends)[2]
            if self.alive(item):
                ended.append(item)
        return ended

    def tidy(self) -> None:
        """Forget those who wait no longer and whose turn has not come."""
        for heap in (self._polls, self._submissions, self._ends):
            heap[:] = [entry for entry in heap if self.alive(entry[2])]
            heapq.heapify(heap)

    def queue(self, now: float) -> bool:
        """Whether submissions are due for which the quota has no room."""
        self._pass_over()
        due = bool(self._submissions) and self._submissions[0][0] <= now
        return due and self.quota.known and self.quota.free(now) < 1

    def __len__(self) -> int:
        return max(len(self._polls) + len(self._submissions), len(self._ends))

    def next(self, now: float, *, most: int = 1) -> Grant[T]:
        """
        Return what to do now.

        :param most: So many generations can be read in one request.
        """
        self._pass_over()
        free = self.quota.free(now)
        poll_at, submit_at = self._poll_at(now, free), self._submit_at(now, free)
        if submit_at <= now and not (self._submission_was_last and poll_at <= now):
            self._submission_was_last, self._last_submission = True, now
            self.quota.promise(now)
            return Grant(submission=heapq.heappop(self._submissions)[2])
        if poll_at <= now:
            self._submission_was_last = False
            self._paced = max(self._paced, now) + self._shortest_gap()
            self.quota.hold(self.cost)
            return Grant(polls=self._take(now, most))
        end_at = self._ends[0][0] if self._ends else math.inf
        return Grant(until=min(poll_at, submit_at, end_at))

    def done(self) -> None:
        """Take notice that polls that were handed out are over."""
        self.quota.release(self.cost)

    def _pass_over(self) -> None:
        for heap in (self._polls, self._submissions, self._ends):
            while heap and not self.alive(heap[0][2]):
                heapq.heappop(heap)

    def _take(self, now: float, most: int) -> tuple[T, ...]:
        taken = [heapq.heappop(self._polls)[2]]
        while len(taken) < most and self._polls and self._polls[0][0] <= now + TAKEN_ALONG:
            item = heapq.heappop(self._polls)[2]
            if self.alive(item):
                taken.append(item)
        return tuple(taken)

    def _poll_at(self, now: float, free: float) -> float:
        if not self._polls:
            return math.inf
        due = self._polls[0][0]
        if due > now:
            return due
        budget = free - self.quota.kept(now)
        if free < 1 or budget < min(self.cost, self.quota.limit or self.cost):
            return self._room_at(now, free)
        return max(now, self._paced - BURST * self._shortest_gap())

    def _submit_at(self, now: float, free: float) -> float:
        if not self._submissions:
            return math.inf
        at = self._submissions[0][0]
        if at > now:
            return at
        if free < 1:
            return self.quota.opens_at(now)
        return max(now, self._last_submission + (0.0 if self.quota.known else SUBMISSION_GAP))

    def _room_at(self, now: float, free: float) -> float:
        """Return when there may be room for a status request; what is kept for submissions shrinks."""
        opens = self.quota.opens_at(now)
        left = self.quota.left_in_window(now)
        if left is None or free < self.cost or not (kept := self.quota.kept(now)):
            return opens
        missing = self.cost - (free - kept)
        return min(opens, now + max(SHORTEST_LOOK, left * missing / kept))

    def _shortest_gap(self) -> float:
        return 1.0 / max(MOST_PER_SECOND, self.quota.rate)
