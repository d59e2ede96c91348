"""Plans with the fewest polls for a delay."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.polling.poll_plan import PollPlan, plan


def poll_cost(times: list[float], masses: list[float], polls: list[int], delay_cost: float) -> float:
    """Return what polls at these moments cost on average, counted one by one."""
    total = 0.0
    for index in range(1, len(times)):
        end = 0.5 * (times[index - 1] + times[index])
        noticed = next(poll for poll in polls if poll >= index)
        total += masses[index] * (polls.index(noticed) + 1 + delay_cost * (times[noticed] - end))
    return total


@given(
    st.lists(st.tuples(st.floats(0.5, 10), st.floats(0.01, 1)), min_size=2, max_size=7), st.floats(0.01, 5)
)
def test_no_other_plan_is_cheaper(steps: list[tuple[float, float]], delay_cost: float) -> None:
    times = [0.0, *itertools.accumulate(step for step, _ in steps)]
    total = sum(mass for _, mass in steps)
    masses = [0.0, *(mass / total for _, mass in steps)]
    last = len(times) - 1
    found = plan(times, masses, masses, delay_cost=delay_cost)
    polls, now = [], 0.0
    while now < times[-1]:
        now = found.next_poll_at(now)
        polls.append(min(range(len(times)), key=lambda index: abs(times[index] - now)))
    cheapest = min(
        poll_cost(times, masses, [*chosen, last], delay_cost)
        for count in range(last)
        for chosen in itertools.combinations(range(1, last), count)
    )
    assert poll_cost(times, masses, polls, delay_cost) == pytest.approx(cheapest)


def test_the_next_poll_is_always_ahead() -> None:
    times = [1.0, 2.0, 4.0, 8.0]
    found = plan(times, [0.25] * 4, [0.25] * 4, delay_cost=1.0)
    for elapsed in (0.0, 0.5, 1.0, 1.7, 2.0, 3.9, 4.0, 7.9):
        assert elapsed < found.next_poll_at(elapsed) <= 8.0
    assert found.next_poll_at(8.0) == found.next_poll_at(99.0) == math.inf


def test_between_two_times_of_the_grid_the_plan_interpolates() -> None:
    found = PollPlan([0.0, 10.0, 20.0, 40.0, 80.0], [2, 3, 4, 4, 4])
    moments = (-1.0, 0.0, 5.0, 10.0, 12.5, 39.0, 79.9, 80.0)
    polls = [20.0, 20.0, 30.0, 40.0, 50.0, 80.0, 80.0, math.inf]
    assert [found.next_poll_at(moment) for moment in moments] == polls
    # Never in the past.
    assert PollPlan([0.0, 10.0, 20.0, 40.0], [3, 2, 3, 3]).next_poll_at(5.0) == 40.0


def test_a_poll_is_planned_where_its_cost_is_below_that_of_the_delay() -> None:
    """Half of the renders end within the first second and half within the tenth: one poll or two?"""
    times, masses = [0.0, 1.0, 9.0, 10.0], [0.0, 0.5, 0.0, 0.5]
    # A poll after a second costs half a poll more and saves half of the renders nine seconds.
    assert plan(times, masses, masses, delay_cost=0.12).next_poll_at(0.0) == 1.0
    assert plan(times, masses, masses, delay_cost=0.11).next_poll_at(0.0) == 10.0
    costly = [2 * mass for mass in masses]
    assert plan(times, masses, costly, delay_cost=0.23).next_poll_at(0.0) == 1.0
    assert plan(times, masses, costly, delay_cost=0.22).next_poll_at(0.0) == 10.0
