"""
The fewest polls for a delay: dynamic programming over a distribution of ends.

A poll costs one; a second between the end of a render and the poll that notices it costs
``patience``. Given how likely the end is at which moment, the cheapest sequence of polls follows
backwards: after a poll that finds the render running, the best next poll is the one whose price, the
delay it leaves behind, and the best continuation together are least.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate


class Plan:
    """
    When to poll next, wherever one is.

    :param times: Moments at which polls are considered, in seconds since the submission, rising.
    :param following: For each of them the index of the next poll after one there.
    """

    __slots__ = ("_following", "_times")

    def __init__(self, times: Sequence[float], following: Sequence[int]) -> None:
        self._times = times
        self._following = following

    def after(self, elapsed: float) -> float:
        """Return the moment of the next poll after a moment; infinite beyond the plan."""
        times, following = self._times, self._following
        here = bisect_right(times, elapsed) - 1
        if here + 1 >= len(times):
            return math.inf
        if here < 0:
            return times[following[0]]
        # Between two moments of the grid, between what follows on each.
        share = (elapsed - times[here]) / (times[here + 1] - times[here])
        one, other = times[following[here]], times[following[here + 1]]
        return one + share * (max(one, other) - one)


def plan(times: Sequence[float], masses: Sequence[float], costs: Sequence[float], *, patience: float) -> Plan:
    """
    Return the cheapest plan.

    :param times: Moments at which polls are considered, rising.
    :param masses: How likely the end lies between the moment before and this one.
    :param costs: The same, weighted with what a poll of such a render costs.
    :param patience: What one second of delay costs.
    """
    last = len(times) - 1
    ended = list(accumulate(masses))
    waiting = [0.0] * (last + 1)
    for index in range(last - 1, -1, -1):
        waiting[index] = waiting[index + 1] + costs[index + 1]
    best = [0.0] * (last + 1)
    following = [last] * (last + 1)
    latest = last
    for here in range(last - 1, -1, -1):
        cheapest, choice = math.inf, last
        # The best next poll never moves back as one moves on, so it is not sought beyond the one found last.
        for there in range(here + 1, latest + 1):
            # Seconds from the submission to the poll, not from the end: what lies between is the same for every plan.
            noticed = times[there] * (ended[there] - ended[here])
            price = patience * noticed + best[there]
            if price < cheapest:
                cheapest, choice = price, there
        best[here] = waiting[here] + cheapest
        following[here] = latest = choice
    return Plan(times, following)
