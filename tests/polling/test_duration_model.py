"""The durations of generations, learned from observed ones."""

from __future__ import annotations

import itertools
import math
import random
from bisect import bisect_left
from statistics import NormalDist, fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_seedance.ledger.account import MAX_DURATIONS
from airflow_provider_seedance.polling import duration_model as module
from airflow_provider_seedance.polling.duration_model import (
    PRIOR,
    TIMES,
    DurationModel,
    DurationModels,
    kind_of,
    prior_model,
)
from airflow_provider_seedance.polling.schedule import next_poll
from airflow_provider_seedance.polling.wait_state import WaitState


def median(model: DurationModel) -> float:
    return model.median_end(0.0) or math.inf


def teach(
    known: DurationModels, seconds: float, renders: int, *, spread: float = 0.2, seed: int = 1
) -> DurationModel:
    rng = random.Random(seed)
    for _ in range(renders):
        end = seconds * rng.lognormvariate(0, spread)
        known.observe("kind", end * 0.97, end * 1.03)
    return known.of("kind")


def test_a_new_kind_has_the_prior() -> None:
    assert DurationModels().of("kind") is prior_model()
    assert 60 < median(prior_model()) < 300


@pytest.mark.parametrize("seconds", [8.0, 120.0, 3600.0])
def test_a_few_generations_are_enough_to_learn_a_duration(seconds: float) -> None:
    known = DurationModels()
    assert median(teach(known, seconds, 5)) == pytest.approx(seconds, rel=0.35)
    assert median(teach(known, seconds, 60, seed=2)) == pytest.approx(seconds, rel=0.12)
    assert known.of("another kind") is prior_model()


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_change_is_learned_soon(factor: float) -> None:
    known = DurationModels()
    teach(known, 120.0, 100)
    assert median(teach(known, 120.0 * factor, 50, seed=3)) == pytest.approx(120.0 * factor, rel=0.15)


def test_an_outlier_changes_little() -> None:
    known = DurationModels()
    before = median(teach(known, 120.0, 60))
    known.observe("kind", 2000.0, 2100.0)
    assert median(known.of("kind")) == pytest.approx(before, rel=0.2)
    assert median(teach(known, 120.0, 10, seed=4)) == pytest.approx(before, rel=0.2)


@pytest.mark.parametrize(
    ("low", "high"), [(5.0, 5.0), (9.0, 3.0), (-1.0, 5.0), (math.nan, 5.0), (1.0, math.nan), (1.0, math.inf)]
)
def test_impossible_durations_are_not_learned(low: float, high: float) -> None:
    known = DurationModels()
    known.observe("kind", low, high)
    assert known.of("kind") is prior_model()


@pytest.mark.parametrize("low", [0.0, 0.5])
def test_a_generation_that_had_ended_by_the_first_poll_is_learned(low: float) -> None:
    known = DurationModels()
    known.observe("kind", low, 12.0)
    assert median(known.of("kind")) < 20 < median(prior_model())


def test_the_kinds_that_were_learned_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KINDS", 10)
    known = DurationModels()
    for number in range(15):
        known.observe(number, 1.0, 60.0)
        known.observe(4, 1.0, 60.0)
    kept = {4, *range(6, 15)}
    assert {number for number in range(15) if known.of(number) is not prior_model()} == kept


def test_an_estimate_changes_the_model_of_one_generation() -> None:
    assert median(prior_model().with_estimate(600.0)) == pytest.approx(600, rel=0.4)
    assert prior_model().with_estimate(600.0) is prior_model().with_estimate(601.0)
    assert prior_model().with_estimate(None) is prior_model()
    sharp = teach(DurationModels(), 100.0, 100)
    assert median(sharp.with_estimate(300.0)) == pytest.approx(100, rel=0.2)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=8), st.floats(0, 1e6))
def test_a_model_stays_a_distribution(seen: list[tuple[float, float]], elapsed: float) -> None:
    known = DurationModels()
    for low, high in seen:
        known.observe("kind", min(low, high), max(low, high))
    model = known.of("kind")
    assert math.fsum(map(math.fsum, model.weights)) == pytest.approx(1)
    assert min(map(min, model.weights)) >= 0
    assert model.next_poll_at(elapsed) > elapsed


def test_the_prior_prefers_common_durations() -> None:
    by_median = [math.fsum(column) for column in zip(*PRIOR, strict=True)]
    common = by_median[len(by_median) // 2]
    assert all(0 < rare < common / 100 for rare in (by_median[0], by_median[-1]))


@pytest.mark.parametrize(("seconds", "polls"), [(30.0, 2.0), (120.0, 1.0), (480.0, 0.5)])
def test_polls_of_short_generations_cost_more(seconds: float, polls: float) -> None:
    assert module.poll_cost(seconds) == pytest.approx(polls)


def test_the_model_is_updated_by_the_theorem_of_bayes() -> None:
    """Each hypothesis is weighted by the chance of the interval, after a small return to the prior."""
    first = DurationModel().updated(50.0, 60.0)
    second = first.updated(80.0, 90.0)
    for before, after, (low, high) in (
        (DurationModel(), first, (50.0, 60.0)),
        (first, second, (80.0, 90.0)),
        # Finished at the first poll, and a little later.
        (DurationModel(), DurationModel().updated(0.0, 12.0), (0.0, 12.0)),
        (DurationModel(), DurationModel().updated(0.5, 12.0), (0.5, 12.0)),
    ):
        # The interval as whole cells of the grid.
        edges = [TIMES[bisect_left(TIMES, edge)] if edge else 1e-9 for edge in (low, high)]
        expected = []
        for row, prior, sigma in zip(before.weights, PRIOR, module._SPREADS, strict=True):
            for weight, general, cell in zip(row, prior, module._MEDIANS, strict=True):
                normal = NormalDist(cell * module._STEP, sigma)
                chance = normal.cdf(math.log(edges[1])) - normal.cdf(math.log(edges[0])) + 1e-9
                expected.append((0.99 * weight + 0.01 * general) * chance)
        total = math.fsum(expected)
        found = [weight for row in after.weights for weight in row]
        assert found == pytest.approx([one / total for one in expected], rel=1e-2, abs=3e-6)


@pytest.mark.parametrize(
    ("seconds", "used"),
    [(TIMES[0], True), (TIMES[-1], True)]
    + [(each, False) for each in (None, 0.5, -1.0, 23_000.0, math.nan, math.inf)],
)
def test_an_impossible_estimate_is_ignored(seconds: float | None, used: bool) -> None:
    assert (prior_model().with_estimate(seconds) is not prior_model()) is used


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_quantiles(share: float) -> None:
    model = DurationModel().updated(95.0, 105.0)
    masses, _ = model.masses
    last = TIMES.index(model.quantile(share))
    total = math.fsum(masses)
    assert math.fsum(masses[:last]) < share * total <= math.fsum(masses[: last + 1])
    assert model.quantile(2.0) == TIMES[-1]


def test_plans_are_updated_with_every_generation_at_first_and_then_with_every_tenth() -> None:
    known = DurationModels()
    made, last = [], None
    for number in range(1, 201):
        known.observe("kind", 100.0, 110.0)
        if known.of("kind") is not last:
            last = known.of("kind")
            made.append(number)
    assert made[:20] == list(range(1, 21))
    gaps = [later - before for before, later in itertools.pairwise(made)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == 10


# ---------------------------------------------------------------------- durations of the ledger


def test_durations_of_the_ledger_count_as_observed_ones() -> None:
    read, observed = DurationModels(), DurationModels()
    seconds = [100.0 + number for number in range(12)]
    for one in seconds:
        observed.observe("kind", one * (1 - module.DURATION_PRECISION), one)
    read.teach("kind", seconds)
    assert read.of("kind").weights == observed.of("kind").weights
    assert DurationModel.of(seconds).weights == observed.of("kind").weights


def test_durations_of_the_ledger_do_not_replace_more_of_its_own() -> None:
    known = DurationModels()
    learned = teach(known, 100.0, 3)
    known.teach("kind", [900.0] * 3)
    known.teach("kind", [])
    assert known.of("kind") is learned
    known.teach("kind", [900.0] * 4)
    assert median(known.of("kind")) > 400
    known.observe("kind", 895.0, 905.0)
    assert known.of("kind") is not DurationModel.of([900.0] * 4)
    known.teach("unknown", [])
    assert known.of("unknown") is prior_model()


def test_a_kind_is_what_was_requested() -> None:
    request = {"model": "m", "duration": 5, "resolution": "720p", "credits": 7}
    assert kind_of("video", request) == kind_of("video", {**request, "duration": 5.0, "credits": 8})
    assert kind_of("video", {}) == kind_of("video", dict.fromkeys(request))
    changed = [
        {**request, name: value} for name, value in (("model", "n"), ("duration", 6), ("resolution", "4k"))
    ]
    kinds = {kind_of("video", other) for other in (request, *changed)} | {kind_of("image", request)}
    assert len(kinds) == 5
    assert kind_of("video", {"model": "\ud800\0"})


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
    for (short, many), (long, few) in itertools.pairwise(points):
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
        seen = [polled(end, known.of("kind"), rng) for end in draw(median, sigma, 150, rng)]
        polls, delay = (fmean(values) for values in zip(*seen, strict=True))
        ratios.append(polls / fewest_polls(points, delay))
    assert fmean(ratios) <= 1.1
    assert max(ratios) <= 1.3
