"""
Minimum number of polls for a delay: dynamic programming over a distribution of end times.

A poll costs one; a second between the end of a generation and the poll that notices it costs ``delay_cost``.
The cheapest sequence of polls is computed backwards: after a poll that finds the generation running, the best
next poll minimizes the sum of its price, the delay before it and the cost of the best continuation.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate


class PollPlan:
    """Time of the next poll for every elapsed time; ``following`` holds the index of the next time."""

    def __init__(self, times: Sequence[float], following: Sequence[int]) -> None:
        self._times = times
        self._following = following

    def next_poll_at(self, elapsed: float) -> float:
        """Return the time of the next poll, in seconds since the submission; infinite beyond the plan."""
        times, following = self._times, self._following
        here = bisect_right(times, elapsed) - 1
        if here + 1 >= len(times):
            return math.inf
        if here < 0:
            return times[following[0]]
        # Between two times of the grid, interpolate between their next polls.
        share = (elapsed - times[here]) / (times[here + 1] - times[here])
        low, high = times[following[here]], times[following[here + 1]]
        return low + share * (max(low, high) - low)


def plan(
    times: Sequence[float], masses: Sequence[float], costs: Sequence[float], *, delay_cost: float
) -> PollPlan:
    """
    Return the cheapest plan.

    :param times: Times at which polls are considered, ascending.
    :param masses: Probability that the generation ends between the preceding time and this one.
    :param costs: The same, weighted with the cost of a poll of such a generation.
    :param delay_cost: Cost of one second of delay.
    """
    last = len(times) - 1
    ended = list(accumulate(masses))
    running = [0.0] * (last + 1)
    for index in range(last - 1, -1, -1):
        running[index] = running[index + 1] + costs[index + 1]
    best = [0.0] * (last + 1)
    following = [last] * (last + 1)
    latest = last
    for here in range(last - 1, -1, -1):
        cheapest, choice = math.inf, last
        # The best next poll moves monotonically with the time, so the one found last is the upper bound.
        for there in range(here + 1, latest + 1):
            # Counted from the submission instead of the end: the difference is the same for every plan.
            noticed = times[there] * (ended[there] - ended[here])
            price = delay_cost * noticed + best[there]
            if price < cheapest:
                cheapest, choice = price, there
        best[here] = running[here] + cheapest
        following[here] = latest = choice
    return PollPlan(times, following)
