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

#: Renders of each kind; more would hardly change the means.
RENDERS = 150

#: The optimum by median and sigma of a lognormal time after 20 s of queueing on average, as points of (mean delay,
#: polls for each render): computed by benchmarks/optimum.py, which shares no code with the package.
OPTIMUM = {
    (60, 0.2): ((2.88, 6.3), (3.34, 5.46), (3.88, 4.73), (4.55, 4.08), (5.27, 3.57), (6.24, 3.07)),
    (120, 0.35): ((3.73, 10.83), (4.36, 9.29), (4.99, 8.14), (5.83, 6.98), (6.84, 5.98), (8.05, 5.12)),
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
