"""Slots in which the renders of a kind run; the others of the kind stay queued."""

from __future__ import annotations

import heapq
import math

from airflow_provider_seedance.emulator.models import EmulatedRender


class RenderSlots:
    """
    Slots of one kind, in emulated seconds. The backend calls it under its lock.

    :param limit: Number of renders that run at a time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        #: Renders that have not begun, each with the earliest time of its beginning.
        self._queued: list[tuple[float, int, EmulatedRender]] = []
        #: Ends of the renders that have begun, at most one for each slot: a slot is free from then on.
        self._taken: list[tuple[float, int, EmulatedRender]] = []
        self._added, self._now = 0, 0.0

    def add(self, render: EmulatedRender) -> None:
        """Queue a render until a slot is free."""
        self._added += 1
        heapq.heappush(self._queued, (render.started + render.queue, self._added, render))
        render.queue = math.inf

    def free(self, render: EmulatedRender) -> None:
        """Free the slot of a render that ended before its time."""
        self._taken = [taken for taken in self._taken if taken[2] is not render]
        heapq.heapify(self._taken)

    def advance(self, now: float) -> None:
        """Begin the renders whose turn has come."""
        while self._queued:
            earliest, number, render = self._queued[0]
            full = len(self._taken) >= self._limit
            begin = max(earliest, self._taken[0][0] if full else self._now)
            if render.ending is None and begin > now:
                break
            heapq.heappop(self._queued)
            latest = render.started + (render.draft.expires_after or math.inf)
            if render.ending is None and begin < latest:
                render.queue = begin - render.started
                take = heapq.heapreplace if full else heapq.heappush
                take(self._taken, (min(begin + render.rendering, latest), number, render))
        self._now = now
