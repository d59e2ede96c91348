"""Estimates of the end from reported progress."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.polling import progress as module
from airflow_provider_seedance.polling.duration_model import TIMES, DurationModel, prior_model
from airflow_provider_seedance.polling.progress import next_by_progress


def after(*readings: tuple[float, float]) -> float | None:
    return next_by_progress(readings, readings[-1][0] if readings else 0.0, prior_model())


@pytest.mark.parametrize(
    ("readings", "usable"),
    [((), False)]
    + [(((50.0, percent),), False) for percent in (0.0, -1.0, math.nan, 101.0)]
    + [((reading,), True) for reading in ((1.0, 20.0), (60.0, 100.0), (60.0, 0.6), (60.0, 3.0))],
)
def test_usable_progress(readings: tuple[tuple[float, float], ...], usable: bool) -> None:
    assert (after(*readings) is not None) is usable


@pytest.mark.parametrize(
    ("readings", "low", "high"),
    [
        (((30.0, 24.0), (60.0, 49.0), (90.0, 75.0)), 110, 140),
        # Half done after 100 s, of which the first 60 were spent in the queue of the service.
        (((70.0, 12.0), (85.0, 31.0), (100.0, 50.0)), 125, 165),
    ],
)
def test_progress_is_extrapolated(readings: Any, low: float, high: float) -> None:
    assert low < (after(*readings) or 0) < high


def test_more_progress_is_an_earlier_end() -> None:
    ends = [after((60.0, percent)) for percent in (30.0, 60.0, 90.0)]
    assert ends == sorted(ends, key=lambda end: -(end or 0))


@given(
    st.lists(st.tuples(st.floats(0.1, 1e6), st.floats(allow_nan=True, allow_infinity=True)), max_size=6),
    st.floats(0, 1e6),
)
def test_the_next_poll_is_always_in_the_future(readings: list[tuple[float, float]], more: float) -> None:
    elapsed = max((at for at, _ in readings), default=0.0) + more
    found = next_by_progress(readings, elapsed, prior_model())
    assert found is None or found > elapsed


@pytest.mark.parametrize(
    ("percents", "estimated"),
    [
        ((99.0, 99.0), True),
        ((99.0, 99.0, 99.0), False),
        ((40.0, 60.0, 60.0), True),
        ((60.0, 50.0, 61.0), True),
        ((60.0, 62.0, 59.0), False),
        # Only the latest count.
        ((10.0, 10.0, 10.0, 40.0, 70.0), True),
        ((10.0, 30.0, 50.0, 50.0, 50.0), False),
    ],
)
def test_progress_that_stops_gives_no_estimate(percents: Sequence[float], estimated: bool) -> None:
    readings = [(60.0 + 20.0 * number, percent) for number, percent in enumerate(percents)]
    assert (after(*readings) is not None) is estimated


@pytest.mark.parametrize("reading", [(0.9, 20.0), (60.0, 100.1)])
def test_an_impossible_reading_is_ignored(reading: tuple[float, float]) -> None:
    series = ((50.0, 40.0), (70.0, 60.0))
    assert next_by_progress([*series, reading], 70.0, prior_model()) == after(*series)


@pytest.mark.parametrize(
    "series",
    [
        ((60.0, 30.0), (90.0, 52.0)),
        ((60.0, 2.0),),
        ((300.0, 20.0), (400.0, 40.0), (500.0, 64.0)),
        ((100.0, 95.0), (110.0, 99.0)),
        ((5.0, 97.0), (300.0, 100.0)),
        ((20_000.0, 50.0),),
    ],
)
@pytest.mark.parametrize(
    "model", [prior_model(), DurationModel().updated(95.0, 105.0)], ids=["unknown", "known"]
)
def test_an_end_is_weighted_by_the_model_and_the_readings(
    series: tuple[tuple[float, float], ...], model: DurationModel
) -> None:
    """By the chances of this duration, of this time in a queue, and of these reports."""
    latest, percent = series[-1]
    reported, expected = NormalDist(0, 3), []
    for queue in range(13):
        began = latest * queue / 16
        for error in range(-5, 6):
            done = min(percent + error, 100.0)
            if done <= 0.5:
                continue
            end = began + (latest - began) * 100 / done
            seconds = next((moment for moment in TIMES if moment >= end), TIMES[-1])
            likely = model.masses[0][TIMES.index(seconds)] + 1e-6
            likely *= math.exp(-began / max(20.0, latest / 5))
            for at, seen in series:
                line = 100 * (at - began) / (end - began)
                likely *= reported.pdf(min(100.0, max(0.0, line)) - seen) / reported.pdf(0)
            expected.append((end, likely))
    found = module._ends(series, model)
    assert [end for end, _ in found] == pytest.approx([end for end, _ in expected])
    weights = [weight for _, weight in expected]
    assert [weight for _, weight in found] == pytest.approx(weights, rel=1e-9, abs=1e-300)


def test_an_end_at_the_time_of_the_reading_is_excluded() -> None:
    """A generation that has ended would have been read as ended."""
    assert next_by_progress([(5e-324, 1.0)], 0.0, prior_model()) is None
    assert next_by_progress([(60.0, 100.0)], 60.0, prior_model()) > 60.0  # type: ignore[operator]
    assert next_by_progress([(60.0, 100.0)], 600.0, prior_model()) is None
