"""
What the progress that a service reports says of the end of a render.

A render waits in a queue for an unknown time, at zero percent, and then progresses about evenly; what is
reported is off by some points. Each pair of a time in the queue and a speed that fits the readings is one
possible end; the planner finds the poll that suits all of them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from airflow_provider_seedance.polling import duration_model
from airflow_provider_seedance.polling.duration_model import TIMES, DurationModel
from airflow_provider_seedance.polling.poll_plan import plan

#: Standard deviation of what is reported, in points.
NOISE = 3.0

# What a second of delay is worth here, as a share of what it is worth where no progress is reported: planning
# ahead, one cannot count on it, but the next reading will tell more.
_WORTH = 0.4

# Times in the queue that are considered, as shares of the time until the latest reading; and how long it
# takes on average, in seconds or as a share of that time, if that is more.
_QUEUES = tuple(step / 16 for step in range(13))
_QUEUE_SECONDS, _QUEUE_SHARE = 20.0, 0.2
# Errors of the latest reading that are considered, in points.
_ERRORS = tuple(float(points) for points in range(-5, 6))
# Sooner after the submission, in seconds, a reading shows no speed.
_SOONEST = 1.0
# The chance that progress says nothing: then the end is expected at these multiples of the time passed.
_UNRELIABLE = 0.04
_ANYWHERE = (1.1, 1.25, 1.5, 2.0, 3.0)


def next_by_progress(
    readings: Sequence[tuple[float, float]], elapsed: float, belief: DurationModel
) -> float | None:
    """
    Return the moment of the next poll, or ``None`` where progress tells nothing.

    :param readings: Seconds since the submission and percent, oldest first.
    :param elapsed: Seconds since the submission, now.
    """
    told = [(at, percent) for at, percent in readings if at >= _SOONEST and 0.0 < percent <= 100.0]
    if not told or _stands_still(told):
        return None
    ends = sorted(end for end in _ends(told, belief) if end[0] > elapsed)
    total = math.fsum(weight for _, weight in ends)
    if total <= 0.0:
        return None
    masses = [(moment, (1 - _UNRELIABLE) * weight / total) for moment, weight in ends]
    masses += [(elapsed * share, _UNRELIABLE / len(_ANYWHERE)) for share in _ANYWHERE]
    masses.sort()
    times = [elapsed, *(moment for moment, _ in masses)]
    chances = [0.0, *(chance for _, chance in masses)]
    price = duration_model.price(ends[len(ends) // 2][0])
    costs = [price * chance for chance in chances]
    return plan(times, chances, costs, patience=_WORTH * duration_model.PATIENCE).after(elapsed)


def _stands_still(told: Sequence[tuple[float, float]]) -> bool:
    """Whether the last readings show no progress: such as of a service that stays at 99 percent."""
    return len(told) >= 3 and told[-1][1] <= told[-3][1]


def _ends(told: Sequence[tuple[float, float]], belief: DurationModel) -> list[tuple[float, float]]:
    """Return possible ends, each with its weight."""
    masses, _ = belief.masses
    latest, percent = told[-1]
    queued = max(_QUEUE_SECONDS, _QUEUE_SHARE * latest)
    ends = []
    for queue in _QUEUES:
        began = queue * latest
        for error in _ERRORS:
            share = min(100.0, percent + error) / 100.0
            if share <= 0.005:
                continue
            rendering = (latest - began) / share
            misfit = sum((max(0.0, 100.0 * (at - began) / rendering) - seen) ** 2 for at, seen in told)
            end = began + rendering
            cell = min(bisect_left(TIMES, end), len(TIMES) - 1)
            weight = (masses[cell] + 1e-6) * math.exp(-0.5 * misfit / NOISE**2 - began / queued)
            ends.append((end, weight))
    return ends
