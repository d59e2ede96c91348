"""
The yardstick: the fewest polls for a mean delay, with the distribution of render times known.

Written for itself, with numpy on a fine grid and the true distribution; it shares no code with the
package's own planner, which sees renders only through its polls.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

#: Mean seconds in the queue.
QUEUE = 20.0

_erf = np.vectorize(math.erf)


@dataclass(frozen=True)
class Times:
    """Render times: lognormal with this median and sigma, after an exponential time in the queue."""

    median: float
    sigma: float

    def draw(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return times in the queue and whole times, in seconds."""
        rng = np.random.default_rng(seed)
        queued = rng.exponential(QUEUE, count)
        return queued, queued + self.median * np.exp(self.sigma * rng.standard_normal(count))


@functools.cache
def _distribution(times: Times) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a grid of moments, the chance to have ended at each, and the mean moment up to it."""
    step = max(0.5, times.median / 240)
    grid = np.arange(0, times.median * math.exp(4.2 * times.sigma) + 8 * QUEUE, step)
    ended = np.zeros_like(grid)
    quantiles = (np.arange(400) + 0.5) / 400
    for queued in -QUEUE * np.log(1 - quantiles):
        rendering = np.maximum(grid - queued, 1e-9)
        ended += 0.5 * (1 + _erf(np.log(rendering / times.median) / times.sigma / math.sqrt(2)))
    ended /= ended[-1]
    masses = np.diff(ended, prepend=0)
    middles = np.concatenate([[0], (grid[1:] + grid[:-1]) / 2])
    return grid, np.cumsum(masses), np.cumsum(masses * middles)


def _solve(times: Times, worth: float) -> tuple[float, float]:
    """Return polls and mean delay where a second of delay is worth a number of polls."""
    grid, ended, moment = _distribution(times)
    last = len(grid) - 1
    best, following = np.zeros(last + 1), np.full(last + 1, last)
    latest = last
    for here in range(last - 1, -1, -1):
        there = np.arange(here + 1, latest + 1)
        delay = grid[there] * (ended[there] - ended[here]) - (moment[there] - moment[here])
        prices = worth * delay + best[there]
        choice = int(np.argmin(prices))
        best[here] = 1 - ended[here] + prices[choice]
        following[here] = latest = int(there[choice])
    polls = delay_sum = 0.0
    here = 0
    while here < last:
        there_next = int(following[here])
        polls += 1 - ended[here]
        delay_sum += grid[there_next] * (ended[there_next] - ended[here]) - (
            moment[there_next] - moment[here]
        )
        here = there_next
    return polls, delay_sum


@functools.cache
def fewest_polls(times: Times, delay: float) -> float:
    """Return the fewest polls for a mean delay, in seconds; between two solutions on a line."""
    low, high = 1e-4, 1e3
    for _ in range(40):
        worth = math.sqrt(low * high)
        if _solve(times, worth)[1] > delay:
            low = worth
        else:
            high = worth
    (many, short), (few, long) = _solve(times, high), _solve(times, low)
    share = (delay - short) / (long - short) if long > short else 0.0
    return many + share * (few - many)
