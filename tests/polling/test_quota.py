"""The book of a quota: headers, refusals, the plan, and what was promised."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.apis.rate_limits import RateLimit
from airflow_provider_seedance.polling.quota import (
    KEPT_FOR_SUBMISSIONS,
    MARGIN,
    MOST_STRETCH,
    UNKNOWN_PAUSE,
    Quota,
)

NOW = 1_800_000_000.0


def told(remaining: int, *, limit: int = 10, reset: float | None = 600.0) -> RateLimit:
    """Headers; ``reset`` counts from NOW."""
    at = None if reset is None else datetime.fromtimestamp(NOW + reset, UTC)
    return RateLimit(limit=limit, remaining=remaining, reset_at=at)


def test_nothing_known_is_no_limit() -> None:
    quota = Quota()
    assert quota.free(NOW) == math.inf
    assert not quota.known
    assert quota.kept(NOW) == 0
    assert quota.rate == 0


def test_the_headers_tell_what_is_left() -> None:
    quota = Quota()
    quota.learn(told(7), NOW)
    assert quota.free(NOW) == 7
    quota.spend(NOW)
    assert quota.free(NOW) == 6


def test_replies_that_overtake_each_other_give_nothing_back() -> None:
    quota = Quota()
    quota.learn(told(7), NOW)
    for _ in range(3):
        quota.spend(NOW)
    quota.learn(told(6), NOW)  # of the first of the three
    assert quota.free(NOW) == 4


def test_others_on_the_same_key_are_seen_in_the_headers() -> None:
    quota = Quota()
    quota.learn(told(7), NOW)
    quota.spend(NOW)
    quota.learn(told(2), NOW)
    assert quota.free(NOW) == 2


def test_a_window_that_ends_is_full_again_a_moment_later() -> None:
    quota = Quota()
    quota.learn(told(0), NOW)
    assert quota.opens_at(NOW) == NOW + 600 + MARGIN
    assert quota.free(NOW + 600) == 0
    assert quota.free(NOW + 600 + MARGIN) == 10


def test_a_new_window_replaces_the_old_one() -> None:
    quota = Quota()
    quota.learn(told(0), NOW)
    quota.learn(told(9, reset=1200), NOW + 601)
    assert quota.free(NOW + 601) == 9


def test_a_reply_of_a_window_that_is_over_tells_nothing() -> None:
    quota = Quota()
    quota.learn(told(8, reset=1200), NOW + 601)
    quota.learn(told(0, reset=600), NOW + 602)
    assert quota.free(NOW + 602) == 8


@pytest.mark.parametrize(
    "limit",
    [RateLimit(), RateLimit(limit=10), RateLimit(remaining=3), RateLimit(limit=0, remaining=0)],
)
def test_half_of_the_headers_are_none(limit: RateLimit) -> None:
    quota = Quota()
    quota.learn(limit, NOW)
    assert quota.free(NOW) == math.inf


def test_a_refusal_stops_everybody_until_it_passes_and_is_news_once() -> None:
    quota = Quota()
    assert quota.refuse(120, NOW)
    assert not quota.refuse(100, NOW + 1)
    assert quota.free(NOW + 119) == 0
    assert quota.opens_at(NOW + 1) == NOW + 120
    assert quota.free(NOW + 120) == math.inf
    assert quota.refuse(1, NOW + 121)


def test_a_refusal_that_names_no_time() -> None:
    quota = Quota()
    quota.refuse(None, NOW)
    assert quota.opens_at(NOW) == NOW + UNKNOWN_PAUSE


def test_a_refusal_empties_the_window() -> None:
    quota = Quota()
    quota.learn(told(5), NOW)
    quota.refuse(30, NOW)
    assert quota.free(NOW + 31) == 0  # the window goes on, and others have used it up
    assert quota.free(NOW + 600 + MARGIN) == 10


def test_a_submission_that_was_let_through_counts_once() -> None:
    quota = Quota()
    quota.learn(told(5), NOW)
    quota.promise(NOW)
    quota.promise(NOW)
    assert quota.free(NOW) == 3
    quota.learn(told(4), NOW)  # one of the two has arrived
    assert quota.free(NOW) == 3
    quota.learn(told(3), NOW)
    assert quota.free(NOW) == 3


def test_submissions_on_their_way_count_in_the_window_they_fall_into() -> None:
    quota = Quota()
    quota.learn(told(5), NOW)
    for _ in range(3):
        quota.promise(NOW + 595)
    quota.saw_submission(NOW + 596, NOW + 596)
    assert quota.free(NOW + 600 + MARGIN) == 8
    quota = Quota()
    quota.learn(told(5), NOW)
    quota.promise(NOW + 599)
    quota.learn(told(9, reset=1200), NOW + 600.5)
    assert quota.free(NOW + 600.5) == 8
    # One that has not come for so long will not come any more.
    quota.learn(told(9, reset=1800), NOW + 1200.5)
    assert quota.free(NOW + 1200.5) == 9


def test_a_reading_holds_what_it_may_need() -> None:
    quota = Quota()
    quota.learn(told(5), NOW)
    quota.hold(2)
    assert quota.free(NOW) == 3
    quota.spend(NOW)
    quota.release(2)
    assert quota.free(NOW) == 4


def test_the_plan_alone_bounds_what_is_sent_in_any_hour() -> None:
    quota = Quota(requests_per_hour=3)
    for second in range(3):
        assert quota.free(NOW + second) > 0
        quota.spend(NOW + second)
    assert quota.free(NOW + 3) == 0
    opens = quota.opens_at(NOW + 3)
    assert NOW + 3600 <= opens < NOW + 3700
    assert quota.free(opens) == 3


def test_submissions_of_others_count_where_no_header_tells_of_them() -> None:
    quota = Quota(requests_per_hour=3)
    quota.promise(NOW)
    quota.saw_submission(NOW, NOW)  # the one that was promised
    assert quota.free(NOW) == 2
    quota.saw_submission(NOW, NOW)
    assert quota.free(NOW) == 1
    quota.saw_submission(NOW - 4000, NOW)  # of an hour that is over, seen after a restart
    assert quota.free(NOW) == 1
    quota.learn(told(9), NOW)
    quota.saw_submission(NOW, NOW)
    assert quota.free(NOW) == 1


def test_the_smaller_of_plan_and_headers_counts() -> None:
    quota = Quota(requests_per_hour=5)
    quota.learn(told(9), NOW)
    assert quota.free(NOW) == 5
    quota.learn(told(2), NOW)
    assert quota.free(NOW) == 2


def test_what_is_kept_for_submissions_shrinks_with_the_window() -> None:
    quota = Quota()
    quota.learn(told(100, limit=100), NOW)
    assert quota.kept(NOW) == pytest.approx(100 * KEPT_FOR_SUBMISSIONS)
    assert quota.kept(NOW + 300) == pytest.approx(50 * KEPT_FOR_SUBMISSIONS)
    assert quota.kept(NOW + 600) == pytest.approx(0)


def test_waits_are_stretched_where_the_quota_is_short() -> None:
    assert Quota().stretch(NOW, 1000) == 1
    quota = Quota()
    quota.learn(told(100, limit=100), NOW)  # and nothing is kept so near to the end
    assert quota.stretch(NOW + 599, 10) == 1
    waits = [quota.stretch(NOW + 599, waiting) for waiting in (20, 25, 30, 40, 100, 10**6)]
    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(1, rel=0.05)
    assert waits[-1] == MOST_STRETCH
    quota.refuse(50, NOW + 599)
    assert quota.stretch(NOW + 599, 1) == MOST_STRETCH


@given(
    st.lists(
        st.tuples(
            st.floats(0, 100),
            st.sampled_from(["spend", "promise", "learn", "refuse", "saw"]),
            st.integers(0, 20),
            st.one_of(st.none(), st.floats(0, 4000)),
        ),
        max_size=60,
    ),
    st.one_of(st.none(), st.integers(1, 50)),
)
def test_whatever_happens_there_is_room_again_in_the_end(
    events: list[tuple[float, str, int, float | None]], plan: int | None
) -> None:
    quota = Quota(requests_per_hour=plan)
    now = NOW
    for passed, what, number, seconds in events:
        now += passed
        if what == "spend":
            quota.spend(now)
        elif what == "promise":
            quota.promise(now)
        elif what == "learn":
            quota.learn(told(number, limit=20, reset=now - NOW + (seconds or 0)), now)
        elif what == "refuse":
            quota.refuse(seconds, now)
        else:
            quota.saw_submission(now, now)
        assert quota.free(now) >= 0
        assert quota.kept(now) >= 0
    for _ in range(500):
        if quota.free(now) >= 1:
            break
        later = quota.opens_at(now)
        assert later > now
        now = later
    assert quota.free(now) >= 1
