"""
Estimate of the end of a generation from the progress that a service reports.

A generation waits in a queue for an unknown time, at zero percent, and then progresses about evenly; reports are
off by some points. Each pair of a queue time and a speed that fits the readings is one possible end; the planner
finds the poll that is best for all of them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from airflow_provider_seedance.polling import duration_model
from airflow_provider_seedance.polling.duration_model import TIMES, DurationModel
from airflow_provider_seedance.polling.poll_plan import plan

#: Standard deviation of reports, in points.
NOISE = 3.0

# Cost of a second of delay, as a share of the cost without progress reports: the plan cannot take into account that
# the next reading will make the estimate better.
_DELAY_COST_SHARE = 0.4

# Queue times that are considered, as shares of the time until the latest reading; and the average, in seconds or as
# a share of that time if that is more.
_QUEUE_SHARES = tuple(step / 16 for step in range(13))
_AVERAGE_QUEUE_SECONDS, _AVERAGE_QUEUE_SHARE = 20.0, 0.2
# Errors of the latest reading that are considered, in points.
_ERRORS = tuple(float(points) for points in range(-5, 6))
# Earlier a reading shows no speed.
_MIN_READING_SECONDS = 1.0
# Probability that the reports mean nothing: then the end is expected at these multiples of the elapsed time.
_UNRELIABLE = 0.04
_UNRELIABLE_ENDS = (1.1, 1.25, 1.5, 2.0, 3.0)


def next_by_progress(
    readings: Sequence[tuple[float, float]], elapsed: float, model: DurationModel
) -> float | None:
    """Return the time of the next poll by readings of (elapsed seconds, percent), if any helps."""
    usable = [
        (at, percent) for at, percent in readings if at >= _MIN_READING_SECONDS and 0.0 < percent <= 100.0
    ]
    # A service may stay at 99 percent.
    stalled = len(usable) >= 3 and usable[-1][1] <= usable[-3][1]
    if not usable or stalled:
        return None
    ends = sorted(end for end in _ends(usable, model) if end[0] > elapsed)
    total = math.fsum(weight for _, weight in ends)
    if total <= 0.0:
        return None
    masses = [(end, (1 - _UNRELIABLE) * weight / total) for end, weight in ends]
    masses += [(elapsed * share, _UNRELIABLE / len(_UNRELIABLE_ENDS)) for share in _UNRELIABLE_ENDS]
    masses.sort()
    times = [elapsed, *(end for end, _ in masses)]
    probabilities = [0.0, *(mass for _, mass in masses)]
    cost = duration_model.poll_cost(ends[len(ends) // 2][0])
    costs = [cost * probability for probability in probabilities]
    delay_cost = _DELAY_COST_SHARE * duration_model.DELAY_COST
    return plan(times, probabilities, costs, delay_cost=delay_cost).next_poll_at(elapsed)


def _ends(readings: Sequence[tuple[float, float]], model: DurationModel) -> list[tuple[float, float]]:
    """Return possible ends, each with its weight."""
    masses, _ = model.masses
    latest, percent = readings[-1]
    average_queue = max(_AVERAGE_QUEUE_SECONDS, _AVERAGE_QUEUE_SHARE * latest)
    ends = []
    for queue_share in _QUEUE_SHARES:
        started = queue_share * latest
        for error in _ERRORS:
            share = min(100.0, percent + error) / 100.0
            if share <= 0.005:
                continue
            rendering = (latest - started) / share
            misfit = sum(
                (max(0.0, 100.0 * (at - started) / rendering) - reported) ** 2 for at, reported in readings
            )
            end = started + rendering
            cell = min(bisect_left(TIMES, end), len(TIMES) - 1)
            weight = (masses[cell] + 1e-6) * math.exp(-0.5 * misfit / NOISE**2 - started / average_queue)
            ends.append((end, weight))
    return ends
