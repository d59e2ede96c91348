"""The book of a quota: headers, refusals, the plan, and what was promised."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.apis.rate_limits import RateLimit
from airflow_provider_seedance.polling.quota import POLICY, Quota

NOW = 1_800_000_000.0


def told(remaining: int, *, limit: int = 10, reset: float | None = 600.0) -> RateLimit:
    """Headers; ``reset`` counts from NOW."""
    at = None if reset is None else datetime.fromtimestamp(NOW + reset, UTC)
    return RateLimit(limit=limit, remaining=remaining, reset_at=at)


def test_nothing_known_is_no_limit() -> None:
    quota = Quota()
    assert quota.free(NOW) == math.inf
    assert not quota.known
    assert quota.reserved_for_submissions(NOW) == 0
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
    assert quota.opens_at(NOW) == NOW + 600 + POLICY.reset_margin
    assert quota.free(NOW + 600) == 0
    assert quota.free(NOW + 600 + POLICY.reset_margin) == 10


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
    quota = Quota()
    quota.learn(told(0), NOW + 600 + POLICY.reset_margin)
    assert quota.free(NOW + 600 + POLICY.reset_margin) == math.inf


@pytest.mark.parametrize(
    "limit",
    [RateLimit(), RateLimit(limit=10), RateLimit(remaining=3), RateLimit(limit=0, remaining=0)],
)
def test_half_of_the_headers_are_none(limit: RateLimit) -> None:
    quota = Quota()
    quota.learn(limit, NOW)
    assert quota.free(NOW) == math.inf


def test_a_quota_of_one_request_is_one() -> None:
    quota = Quota()
    quota.learn(told(1, limit=1), NOW)
    assert quota.free(NOW) == 1
    quota.spend(NOW)
    assert quota.free(NOW) == 0
    assert quota.free(NOW + 600 + POLICY.reset_margin) == 1


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
    assert quota.opens_at(NOW) == NOW + POLICY.default_backoff


def test_a_refusal_empties_the_window() -> None:
    quota = Quota()
    quota.learn(told(5), NOW)
    quota.refuse(30, NOW)
    assert quota.free(NOW + 31) == 0  # the window goes on, and others have used it up
    assert quota.free(NOW + 600 + POLICY.reset_margin) == 10


def test_a_submission_that_was_let_through_counts_once() -> None:
    quota = Quota()
    quota.learn(told(5), NOW)
    quota.expect_submission(NOW)
    quota.expect_submission(NOW)
    assert quota.free(NOW) == 3
    quota.learn(told(4), NOW)  # one of the two has arrived
    assert quota.free(NOW) == 3
    quota.learn(told(3), NOW)
    assert quota.free(NOW) == 3


def test_submissions_on_their_way_count_in_the_window_they_fall_into() -> None:
    quota = Quota()
    quota.learn(told(5), NOW)
    for _ in range(3):
        quota.expect_submission(NOW + 595)
    quota.on_observed_submission(NOW + 596, NOW + 596)
    assert quota.free(NOW + 600 + POLICY.reset_margin) == 8
    quota = Quota()
    quota.learn(told(5), NOW)
    quota.expect_submission(NOW + 599)
    quota.learn(told(9, reset=1200), NOW + 600.5)
    assert quota.free(NOW + 600.5) == 8
    # One that has not come for so long will not come any more.
    quota.learn(told(9, reset=1800), NOW + 1200.5)
    assert quota.free(NOW + 1200.5) == 9


def test_a_reading_holds_what_it_may_need() -> None:
    quota = Quota()
    quota.learn(told(5), NOW)
    quota.reserve(2)
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
    quota.expect_submission(NOW)
    quota.on_observed_submission(NOW, NOW)  # the one that was promised
    assert quota.free(NOW) == 2
    quota.on_observed_submission(NOW, NOW)
    assert quota.free(NOW) == 1
    quota.on_observed_submission(NOW - 3600, NOW)  # of an hour that is over, seen after a restart
    assert quota.free(NOW) == 1
    quota.learn(told(9), NOW)
    quota.on_observed_submission(NOW, NOW)
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
    assert quota.reserved_for_submissions(NOW) == pytest.approx(100 * POLICY.submission_share)
    assert quota.reserved_for_submissions(NOW + 300) == pytest.approx(50 * POLICY.submission_share)
    assert quota.reserved_for_submissions(NOW + 600) == pytest.approx(0)


def test_waits_are_stretched_where_the_quota_is_short() -> None:
    assert Quota().interval_factor(NOW, 1000) == 1
    quota = Quota()
    quota.learn(told(100, limit=100), NOW)  # and nothing is kept so near to the end
    assert quota.interval_factor(NOW + 599, 10) == 1
    waits = [quota.interval_factor(NOW + 599, waiting) for waiting in (20, 25, 30, 40, 100, 10**6)]
    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(1, rel=0.05)
    assert waits[-1] == POLICY.max_interval_factor
    quota.refuse(50, NOW + 599)
    assert quota.interval_factor(NOW + 599, 1) == POLICY.max_interval_factor


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
            quota.expect_submission(now)
        elif what == "learn":
            quota.learn(told(number, limit=20, reset=now - NOW + (seconds or 0)), now)
        elif what == "refuse":
            quota.refuse(seconds, now)
        else:
            quota.on_observed_submission(now, now)
        assert quota.free(now) >= 0
        assert quota.reserved_for_submissions(now) >= 0
    for _ in range(500):
        if quota.free(now) >= 1:
            break
        later = quota.opens_at(now)
        assert later > now
        now = later
    assert quota.free(now) >= 1


# ---------------------------------------------------------------------- at the edges


def test_what_is_known_is_told_as_a_reply_would() -> None:
    quota = Quota()
    assert quota.as_rate_limit() == RateLimit()
    quota.learn(told(7), NOW)
    quota.spend(NOW)
    assert quota.as_rate_limit() == told(6)


@pytest.mark.parametrize(
    ("remaining", "waiting", "factor"),
    [
        (100, 20, 1.0),  # five readings for each is enough
        (100, 25, (5 / 4) ** 2),
        (100, 40, (5 / 2.5) ** 2),
        (100, 100, POLICY.max_interval_factor),
        (0, 1, POLICY.max_interval_factor),
        (5, 1, 1.0),
        (5, 0, 1.0),
        (4, 1, (5 / 4) ** 2),
        (4, 0, (5 / 4) ** 2),
    ],
)
def test_waits_are_stretched_by_what_is_left_for_each(remaining: int, waiting: int, factor: float) -> None:
    quota = Quota()
    quota.learn(
        RateLimit(limit=100, remaining=remaining), NOW
    )  # and no window, of which something would be kept
    assert quota.interval_factor(NOW, waiting) == pytest.approx(factor)


def test_the_rate_of_a_quota() -> None:
    assert Quota(requests_per_hour=36).rate == pytest.approx(0.01)
    quota = Quota(requests_per_hour=36)
    quota.learn(told(10), NOW)
    assert quota.rate == pytest.approx(10 / 600)


def test_what_the_plan_keeps_for_submissions() -> None:
    assert Quota(requests_per_hour=40).reserved_for_submissions(NOW) == 10
    quota = Quota(requests_per_hour=40)
    quota.learn(RateLimit(limit=8, remaining=8), NOW)  # no window is known, so nothing is known of its end
    assert quota.reserved_for_submissions(NOW) == 0
    quota.learn(told(8, limit=8), NOW)
    assert quota.reserved_for_submissions(NOW) == 2
    assert quota.reserved_for_submissions(NOW + 700) == 0
    assert quota.reserved_for_submissions(NOW - 700) == 2


def test_what_is_left_of_a_window() -> None:
    quota = Quota()
    assert quota.left_in_window(NOW) is None
    quota.learn(told(5), NOW)
    assert quota.left_in_window(NOW + 100) == 500
    assert quota.left_in_window(NOW + 600) is None


@pytest.mark.parametrize(
    ("named", "pause"), [(None, POLICY.default_backoff), (0.0, 1.0), (0.5, 1.0), (1.5, 1.5), (7200.0, 7200.0)]
)
def test_how_long_a_refusal_keeps_everybody_away(named: float | None, pause: float) -> None:
    quota = Quota()
    assert quota.refuse(named, NOW)
    assert quota.blocked_until == NOW + pause
    assert quota.free(NOW + pause - 0.01) == 0
    assert quota.free(NOW + pause) == math.inf


def test_a_refusal_is_news_again_when_the_last_one_has_passed() -> None:
    quota = Quota()
    assert quota.refuse(10, NOW)
    assert not quota.refuse(10, NOW + 9.9)
    assert quota.refuse(10, NOW + 19.9)


def test_a_refusal_leaves_a_longer_window_as_it_is() -> None:
    quota = Quota()
    quota.learn(told(5), NOW)
    quota.refuse(30, NOW)
    assert quota.reset_at == NOW + 600
    quota.refuse(1000, NOW)
    assert quota.free(NOW + 999) == 0
    assert quota.free(NOW + 1000) == 10


def test_when_there_may_be_more() -> None:
    quota = Quota()
    assert quota.opens_at(NOW) == NOW + POLICY.reset_margin
    quota.expect_submission(NOW - 20)
    assert quota.opens_at(NOW) == NOW + 100  # a submission that does not come any more gives its place back
    assert quota.opens_at(NOW + 100) == NOW + 100 + POLICY.reset_margin
    quota = Quota(requests_per_hour=1)
    quota.spend(NOW)
    assert quota.free(NOW + 3629) == 0
    assert quota.opens_at(NOW) == NOW + 3630
    assert quota.free(NOW + 3630) == 1
    quota.refuse(9000.0, NOW)  # nothing that comes sooner helps
    assert quota.opens_at(NOW) == NOW + 9000


def test_headers_of_the_window_that_is_known_lengthen_it_and_those_of_another_replace_it() -> None:
    quota = Quota()
    quota.learn(told(9), NOW + 200)
    assert quota.window == 400
    quota.learn(told(9), NOW + 100)
    assert quota.window == 500
    quota.learn(told(9), NOW + 300)
    assert quota.window == 500
    quota.learn(told(9, reset=1200), NOW + 700)
    assert (quota.window, quota.reset_at) == (500, NOW + 1200)
    # A plan of shorter windows, from now on.
    quota.learn(told(9, reset=760), NOW + 700)
    assert (quota.window, quota.reset_at, quota.rate) == (60, NOW + 760, 10 / 60)


@pytest.mark.parametrize(("later", "left"), [(0.0, 3), (2.0, 3), (2.1, 9)])
def test_windows_that_end_at_about_the_same_time_are_the_same(later: float, left: int) -> None:
    quota = Quota()
    quota.learn(told(3), NOW)
    quota.learn(told(9, reset=600 + later), NOW)
    assert quota.remaining == left


def test_a_plan_that_changes_is_believed() -> None:
    quota = Quota()
    quota.learn(told(3), NOW)
    quota.learn(told(80, limit=100), NOW)
    assert quota.free(NOW) == 80


def test_the_plan_is_counted_by_the_half_minute() -> None:
    """Ten thousand requests are a few numbers."""
    quota = Quota(requests_per_hour=100_000)
    start = NOW - NOW % 30
    for second in range(60):
        for _ in range(10):
            quota.spend(start + second)
    assert list(quota._sent) == [(start, 300), (start + 30, 300)]
    assert quota.free(start + 60) == 100_000 - 600
    assert quota.free(start + 3630) == 100_000 - 300
    assert quota.free(start + 3660) == 100_000


def test_no_submission_is_awaited_for_ever() -> None:
    quota = Quota()
    quota.learn(told(5), NOW)
    quota.expect_submission(NOW)
    assert quota.free(NOW + 600 + POLICY.reset_margin) == 10
    quota = Quota()
    quota.learn(told(5, reset=60), NOW)
    quota.expect_submission(NOW)
    assert quota.free(NOW + 60 + POLICY.reset_margin) == 9
    assert len(quota._expected) == 1
    quota.free(NOW + 120)
    assert not quota._expected


def test_readings_at_the_same_time_hold_what_each_may_need() -> None:
    quota = Quota()
    quota.learn(told(9), NOW)
    quota.reserve(2)
    quota.reserve(3)
    assert quota.free(NOW) == 4
    quota.release(2)
    assert quota.free(NOW) == 6


def test_the_end_of_a_window_that_is_far_away_is_not_believed() -> None:
    """It would keep everybody from asking for ever."""
    quota = Quota()
    quota.learn(told(0, reset=86401), NOW)
    assert quota.opens_at(NOW) <= NOW + 62
    assert quota.free(NOW + 62) == 10
    quota.learn(told(0, reset=86400), NOW)
    assert quota.free(NOW + 86000) == 0


def test_a_refusal_lasts_a_day_at_most() -> None:
    quota = Quota()
    quota.refuse(1e9, NOW)
    assert quota.opens_at(NOW) == NOW + 86400


@pytest.mark.parametrize("left", [0, 1])
def test_where_nobody_says_when_there_is_more_it_is_tried_after_a_while(left: int) -> None:
    quota = Quota()
    quota.learn(told(left, reset=None), NOW)
    assert quota.free(NOW) == left
    assert NOW + POLICY.reset_margin < quota.opens_at(NOW) <= NOW + 62
    assert quota.free(NOW + 62) == 10


def test_requests_of_a_new_window_that_are_not_answered_do_not_use_it_up_for_ever() -> None:
    quota = Quota()
    quota.learn(told(0), NOW)
    for _ in range(10):
        quota.spend(NOW + 602)
    assert quota.free(NOW + 602) == 0
    assert quota.free(NOW + 664) == 10
