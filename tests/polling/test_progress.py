"""What reported progress says of the end."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.polling.beliefs import unlearned
from airflow_provider_seedance.polling.progress import next_by_progress


def after(*readings: tuple[float, float]) -> float | None:
    return next_by_progress(readings, readings[-1][0] if readings else 0.0, unlearned())


@pytest.mark.parametrize(
    "readings", [(), ((50.0, 0.0),), ((50.0, -1.0),), ((50.0, math.nan),), ((50.0, 101.0),)]
)
def test_nothing_told_is_nothing(readings: tuple[tuple[float, float], ...]) -> None:
    assert after(*readings) is None


def test_readings_in_a_line_point_at_the_end() -> None:
    end = after((30.0, 24.0), (60.0, 49.0), (90.0, 75.0))
    assert end is not None
    assert 110 < end < 140


def test_a_time_in_the_queue_is_seen_in_the_line() -> None:
    """Half done after 100 s, of which the first 60 were spent in the queue."""
    end = after((70.0, 12.0), (85.0, 31.0), (100.0, 50.0))
    assert end is not None
    assert 125 < end < 165


def test_more_progress_is_an_earlier_end() -> None:
    ends = [after((60.0, percent)) for percent in (30.0, 60.0, 90.0)]
    assert ends == sorted(ends, key=lambda end: -(end or 0))


@given(
    st.lists(st.tuples(st.floats(0.1, 1e6), st.floats(allow_nan=True, allow_infinity=True)), max_size=6),
    st.floats(0, 1e6),
)
def test_whatever_is_told_the_next_poll_is_ahead(readings: list[tuple[float, float]], more: float) -> None:
    elapsed = max((at for at, _ in readings), default=0.0) + more
    found = next_by_progress(readings, elapsed, unlearned())
    assert found is None or found > elapsed


def test_a_reading_in_the_very_moment_of_the_submission_tells_nothing() -> None:
    assert next_by_progress([(5e-324, 1.0)], 0.0, unlearned()) is None
