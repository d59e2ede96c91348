"""Number of polls by the durations of the ledger, against the optimum for a known distribution of render times."""

from __future__ import annotations

import random
from itertools import pairwise
from statistics import fmean

import pytest

from airflow_provider_seedance.ledger.account import MAX_DURATIONS
from airflow_provider_seedance.polling.duration_model import DurationModel, DurationModels
from airflow_provider_seedance.polling.schedule import next_poll
from airflow_provider_seedance.polling.wait_state import WaitState

#: Renders of each kind; more would change the second digit.
RENDERS = 250

#: The optimum by median and sigma of a lognormal time after 20 s of queueing on average, as points of (mean delay,
#: polls for each render): computed by benchmarks/optimum.py, which shares no code with the package.
OPTIMUM = {
    (60, 0.2): (
        (2.88, 6.3),
        (3.34, 5.46),
        (3.88, 4.73),
        (4.55, 4.08),
        (5.27, 3.57),
        (6.24, 3.07),
        (7.24, 2.71),
    ),
    (120, 0.2): ((3.59, 7.56), (4.07, 6.67), (4.8, 5.68), (5.61, 4.88), (6.51, 4.24), (7.65, 3.65)),
    (300, 0.2): (
        (3.76, 15.34),
        (4.48, 12.82),
        (5.2, 11.04),
        (5.98, 9.59),
        (7.06, 8.12),
        (8.25, 6.97),
        (9.64, 5.97),
    ),
    (60, 0.35): ((3.37, 7.2), (3.84, 6.35), (4.5, 5.45), (5.27, 4.69), (6.15, 4.07), (7.16, 3.54)),
    (120, 0.35): ((3.73, 10.83), (4.36, 9.29), (4.99, 8.14), (5.83, 6.98), (6.84, 5.98), (8.05, 5.12)),
    (300, 0.35): ((4.76, 19.5), (5.65, 16.41), (6.63, 13.97), (7.57, 12.24), (8.89, 10.43), (10.47, 8.87)),
    (60, 0.6): ((4.05, 8.68), (4.64, 7.62), (5.39, 6.6), (6.29, 5.7), (7.4, 4.9), (8.7, 4.23)),
    (120, 0.6): ((4.6, 13.61), (5.43, 11.54), (6.18, 10.19), (7.28, 8.67), (8.55, 7.43), (10.02, 6.39)),
    (300, 0.6): ((5.97, 24.75), (7.19, 20.54), (8.33, 17.77), (9.58, 15.47), (11.2, 13.25)),
}


def draw(median: float, sigma: float, count: int, rng: random.Random) -> list[float]:
    return [rng.expovariate(1 / 20.0) + median * rng.lognormvariate(0, sigma) for _ in range(count)]


def polled(end: float, model: DurationModel, rng: random.Random) -> tuple[int, float]:
    """Return the number of polls of a render, and the delay with which its end is noticed."""
    now, polls = 0.0, 0
    while now < end:
        state = WaitState(generation_id="g", media="video", deadline=0.0, poll_count=polls)
        now += next_poll(state, elapsed=now, model=model, jitter=rng.random())
        polls += 1
    return polls, now - end


def fewest_polls(points: tuple[tuple[float, float], ...], delay: float) -> float:
    """Return the optimum at a delay, on the line between two points."""
    for (short, many), (long, few) in pairwise(points):
        if short <= delay <= long:
            return many + (delay - short) / (long - short) * (few - many)
    raise AssertionError(f"no optimum for a delay of {delay:.1f} s")


@pytest.mark.parametrize("exact", [True, False], ids=["times of the service", "times of the polls"])
def test_thirty_durations_bring_the_polls_near_the_optimum(exact: bool) -> None:
    """Services that report no time of the end are known by the polls that noticed it."""
    rng, ratios = random.Random(1), []
    for (median, sigma), points in OPTIMUM.items():
        ends = draw(median, sigma, MAX_DURATIONS, rng)
        if not exact:
            unknown = DurationModels().of("kind")
            ends = [end + polled(end, unknown, rng)[1] for end in ends]
        known = DurationModels()
        known.teach("kind", ends)
        seen = [polled(end, known.of("kind"), rng) for end in draw(median, sigma, RENDERS, rng)]
        polls, delay = (fmean(values) for values in zip(*seen, strict=True))
        ratios.append(polls / fewest_polls(points, delay))
    assert fmean(ratios) <= 1.1
    assert max(ratios) <= 1.3
