"""How long renders take, as far as it was seen."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.polling import beliefs as module
from airflow_provider_seedance.polling.beliefs import TIMES, Belief, Beliefs, unlearned


def median(belief: Belief) -> float:
    """Return the time before which half of the renders end, as is believed."""
    masses, _ = belief.masses
    total = 0.0
    for moment, mass in zip(TIMES, masses, strict=True):
        total += mass
        if total >= 0.5:
            return moment
    raise AssertionError("half of all renders never end")


def teach(known: Beliefs, seconds: float, renders: int, *, spread: float = 0.2, seed: int = 1) -> Belief:
    rng = random.Random(seed)
    for _ in range(renders):
        end = seconds * rng.lognormvariate(0, spread)
        known.learn("kind", end * 0.97, end * 1.03)
    return known.of("kind")


def test_nothing_is_known_of_a_new_kind() -> None:
    assert Beliefs().of("kind") is unlearned()
    assert 60 < median(unlearned()) < 300


@pytest.mark.parametrize("seconds", [8.0, 45.0, 120.0, 900.0, 3600.0])
def test_a_few_renders_tell_how_long_they_take(seconds: float) -> None:
    known = Beliefs()
    assert median(teach(known, seconds, 5)) == pytest.approx(seconds, rel=0.35)
    assert median(teach(known, seconds, 60, seed=2)) == pytest.approx(seconds, rel=0.12)
    assert known.of("another kind") is unlearned()


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_change_is_learned_soon(factor: float) -> None:
    known = Beliefs()
    teach(known, 120.0, 300)
    assert median(teach(known, 120.0 * factor, 50, seed=3)) == pytest.approx(120.0 * factor, rel=0.15)


def test_one_strange_render_changes_little() -> None:
    known = Beliefs()
    before = median(teach(known, 120.0, 200))
    known.learn("kind", 2000.0, 2100.0)
    assert median(known.of("kind")) == pytest.approx(before, rel=0.2)
    assert median(teach(known, 120.0, 10, seed=4)) == pytest.approx(before, rel=0.2)


def test_wide_intervals_tell_less_than_narrow_ones() -> None:
    wide, narrow = Beliefs(), Beliefs()
    for _ in range(5):
        wide.learn("kind", 10.0, 900.0)
        narrow.learn("kind", 95.0, 105.0)
    prior = median(unlearned())
    assert abs(math.log(median(wide.of("kind")) / prior)) < 0.6
    assert median(narrow.of("kind")) == pytest.approx(100, rel=0.2)


@pytest.mark.parametrize(
    ("low", "high"), [(5.0, 5.0), (9.0, 3.0), (-1.0, 5.0), (math.nan, 5.0), (1.0, math.nan), (1.0, math.inf)]
)
def test_what_cannot_be_is_not_learned(low: float, high: float) -> None:
    known = Beliefs()
    known.learn("kind", low, high)
    assert known.of("kind") is unlearned()


def test_so_many_kinds_are_remembered_those_seen_last() -> None:
    known = Beliefs()
    for number in range(module.MOST_KINDS + 5):
        known.learn(number, 1.0, 60.0)
        known.of(5)
    assert known.of(0) is unlearned()
    assert known.of(5) is not unlearned()
    assert known.of(module.MOST_KINDS + 4) is not unlearned()


def test_an_estimate_leans_the_belief_of_one_render() -> None:
    assert median(unlearned().expecting(600.0)) == pytest.approx(600, rel=0.4)
    assert unlearned().expecting(600.0) is unlearned().expecting(601.0)
    assert unlearned().expecting(None) is unlearned()
    sharp = teach(Beliefs(), 100.0, 100)
    assert median(sharp.expecting(300.0)) == pytest.approx(100, rel=0.2)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=25), st.floats(0, 1e6))
def test_whatever_is_seen_a_belief_stays_one(seen: list[tuple[float, float]], elapsed: float) -> None:
    known = Beliefs()
    for low, high in seen:
        known.learn("kind", min(low, high), max(low, high))
    belief = known.of("kind")
    assert math.fsum(map(math.fsum, belief.weights)) == pytest.approx(1)
    assert belief.after(elapsed) > elapsed
