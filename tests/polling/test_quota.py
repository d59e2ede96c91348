"""The quota: headers, refusals, the plan, and submissions of other processes."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.apis.rate_limits import RateLimit
from airflow_provider_seedance.polling.quota import POLICY, Quota

NOW = 1_800_000_000.0
#: The moment at which the window of :func:`headers` counts as ended.
NEXT = NOW + 600 + POLICY.reset_margin


def headers(remaining: int, *, limit: int = 10, reset: float | None = 600.0) -> RateLimit:
    """Return rate-limit headers; ``reset`` counts from NOW."""
    at = None if reset is None else datetime.fromtimestamp(NOW + reset, UTC)
    return RateLimit(limit=limit, remaining=remaining, reset_at=at)


def known(
    remaining: int, *, limit: int = 10, reset: float | None = 600.0, requests_per_hour: int | None = None
) -> Quota:
    """Return a quota with the headers of one reply."""
    quota = Quota(requests_per_hour=requests_per_hour)
    quota.learn(headers(remaining, limit=limit, reset=reset), NOW)
    return quota


@pytest.mark.parametrize(
    ("spent", "reported", "plan", "free"),
    [
        (1, RateLimit(), None, 6),
        (3, headers(6), None, 4),  # the reply to the first of three requests gives nothing back
        (1, headers(2), None, 2),  # other users of the key are seen in the headers
        (0, headers(80, limit=100), None, 80),
        (0, headers(7), 5, 5),
        (0, headers(2), 5, 2),
    ],
)
def test_the_smallest_of_headers_count_and_plan_is_used(
    spent: int, reported: RateLimit, plan: int | None, free: int
) -> None:
    quota = known(7, requests_per_hour=plan)
    for _ in range(spent):
        quota.spend(NOW)
    assert quota.as_rate_limit() == headers(7 - spent)
    quota.learn(reported, NOW)
    assert quota.free(NOW) == free


@pytest.mark.parametrize("limit", [10, 1])
def test_a_window_that_ends_is_full_again_a_moment_later(limit: int) -> None:
    quota = known(0, limit=limit)
    assert quota.opens_at(NOW) == NEXT
    assert quota.free(NOW + 600) == 0
    assert quota.free(NEXT) == limit
    # And after requests without a reply.
    for _ in range(limit):
        quota.spend(NEXT)
    assert quota.free(NEXT) == 0
    assert quota.free(NEXT + 62) == limit


def test_headers_of_a_window_that_has_ended_are_ignored() -> None:
    quota = Quota()
    quota.learn(headers(8, reset=1200), NOW + 601)
    quota.learn(headers(0, reset=600), NOW + 602)
    assert quota.free(NOW + 602) == 8
    quota = Quota()
    quota.learn(headers(0), NEXT)
    assert quota.free(NEXT) == math.inf


@pytest.mark.parametrize(
    "limit", [RateLimit(), RateLimit(limit=10), RateLimit(remaining=3), RateLimit(limit=0, remaining=0)]
)
def test_incomplete_headers_are_ignored_and_an_unknown_quota_is_no_limit(limit: RateLimit) -> None:
    quota = Quota()
    quota.learn(limit, NOW)
    assert (quota.free(NOW), quota.known, quota.rate) == (math.inf, False, 0)
    assert quota.reserved_for_submissions(NOW) == 0
    assert quota.as_rate_limit() == RateLimit()


def test_headers_of_one_window_lengthen_it_and_those_of_another_replace_it() -> None:
    quota = Quota()
    quota.learn(headers(9), NOW + 200)
    assert quota.window == 400
    quota.learn(headers(9), NOW + 100)
    assert quota.window == 500
    quota.learn(headers(9), NOW + 300)
    assert quota.window == 500
    quota.learn(headers(9, reset=1200), NOW + 700)
    assert (quota.window, quota.reset_at) == (500, NOW + 1200)
    # A plan of shorter windows, from now on.
    quota.learn(headers(9, reset=760), NOW + 700)
    assert (quota.window, quota.reset_at, quota.rate) == (60, NOW + 760, 10 / 60)


@pytest.mark.parametrize(("later", "left"), [(0.0, 3), (2.0, 3), (2.1, 9)])
def test_windows_that_end_at_about_the_same_time_are_the_same(later: float, left: int) -> None:
    quota = known(3)
    quota.learn(headers(9, reset=600 + later), NOW)
    assert quota.remaining == left


@pytest.mark.parametrize(("left", "reset"), [(0, None), (1, None), (0, 86401.0)])
def test_a_used_up_quota_without_a_reset_is_tried_again_after_a_while(left: int, reset: float | None) -> None:
    """A window that ends in the far future would stop every request until then."""
    quota = known(left, reset=reset)
    assert quota.free(NOW) == left
    assert NOW + POLICY.reset_margin < quota.opens_at(NOW) <= NOW + 62
    assert quota.free(NOW + 62) == 10
    assert known(0, reset=86400).free(NOW + 86000) == 0


def test_the_rate_of_a_quota_and_the_time_left_in_its_window() -> None:
    assert Quota(requests_per_hour=36).rate == pytest.approx(0.01)
    assert Quota().left_in_window(NOW) is None
    quota = known(10, requests_per_hour=36)
    assert quota.rate == pytest.approx(10 / 600)
    assert quota.left_in_window(NOW + 100) == 500
    assert quota.left_in_window(NOW + 600) is None


@pytest.mark.parametrize(
    ("retry_after", "pause"),
    [(None, POLICY.default_backoff), (0.0, 1.0), (0.5, 1.0), (1.5, 1.5), (7200.0, 7200.0), (1e9, 86400.0)],
)
def test_a_refusal_stops_every_request_until_it_passes(retry_after: float | None, pause: float) -> None:
    quota = Quota()
    assert quota.refuse(retry_after, NOW)
    assert quota.blocked_until == quota.opens_at(NOW) == NOW + pause
    assert quota.free(NOW + pause - 0.01) == 0
    assert quota.free(NOW + pause) == math.inf


def test_only_the_first_of_overlapping_refusals_is_new() -> None:
    quota = Quota()
    assert quota.refuse(120, NOW)
    assert not quota.refuse(100, NOW + 1)
    assert quota.opens_at(NOW + 1) == NOW + 120
    assert not quota.refuse(10, NOW + 119.9)
    assert quota.refuse(1, NOW + 129.9)


@pytest.mark.parametrize(("retry_after", "opens"), [(30, NEXT), (1000, NOW + 1000)])
def test_a_refusal_empties_the_window(retry_after: float, opens: float) -> None:
    """The window goes on, and other users of the key have used it up."""
    quota = known(5)
    quota.refuse(retry_after, NOW)
    assert quota.reset_at == opens - POLICY.reset_margin
    assert quota.free(opens - 0.01) == 0
    assert quota.free(opens) == 10


def test_a_granted_submission_counts_once() -> None:
    quota = known(5)
    quota.expect_submission(NOW)
    quota.expect_submission(NOW)
    assert quota.free(NOW) == 3
    quota.learn(headers(4), NOW)  # one of the two has arrived
    assert quota.free(NOW) == 3
    quota.learn(headers(3), NOW)
    assert quota.free(NOW) == 3


def test_granted_submissions_count_in_the_window_that_receives_them() -> None:
    quota = known(5)
    for _ in range(3):
        quota.expect_submission(NOW + 595)
    quota.on_observed_submission(NOW + 596, NOW + 596)
    assert quota.free(NEXT) == 8
    quota = known(5)
    quota.expect_submission(NOW + 599)
    quota.learn(headers(9, reset=1200), NOW + 600.5)
    assert quota.free(NOW + 600.5) == 8
    # One that has not arrived by then is not expected any more.
    quota.learn(headers(9, reset=1800), NOW + 1200.5)
    assert quota.free(NOW + 1200.5) == 9


def test_a_submission_is_expected_for_two_minutes() -> None:
    quota = known(5)
    quota.expect_submission(NOW)
    assert quota.free(NEXT) == 10
    quota = known(5, reset=60)
    quota.expect_submission(NOW)
    assert quota.free(NOW + 60 + POLICY.reset_margin) == 9
    assert len(quota._expected) == 1
    quota.free(NOW + 120)
    assert not quota._expected


def test_observed_submissions_count_without_headers() -> None:
    quota = Quota(requests_per_hour=3)
    quota.expect_submission(NOW)
    quota.on_observed_submission(NOW, NOW)  # the expected one
    assert quota.free(NOW) == 2
    quota.on_observed_submission(NOW, NOW)
    assert quota.free(NOW) == 1
    quota.on_observed_submission(NOW - 3600, NOW)  # from the hour before, observed after a restart
    assert quota.free(NOW) == 1
    quota.learn(headers(9), NOW)
    quota.on_observed_submission(NOW, NOW)
    assert quota.free(NOW) == 1


def test_the_share_of_submissions_in_a_plan() -> None:
    quota = Quota(requests_per_hour=40)
    assert quota.reserved_for_submissions(NOW) == 10
    quota.learn(RateLimit(limit=8, remaining=8), NOW)  # without a window, its end is unknown
    assert quota.reserved_for_submissions(NOW) == 0
    quota.learn(headers(8, limit=8), NOW)
    assert quota.reserved_for_submissions(NOW) == 2
    assert quota.reserved_for_submissions(NOW + 700) == 0
    assert quota.reserved_for_submissions(NOW - 700) == 2


def test_the_requests_of_a_plan_are_counted_by_the_half_minute() -> None:
    """Ten thousand requests take little memory."""
    quota = Quota(requests_per_hour=100_000)
    start = NOW - NOW % 30
    for second in range(60):
        for _ in range(10):
            quota.spend(start + second)
    assert list(quota._sent) == [(start, 300), (start + 30, 300)]
    assert quota.free(start + 60) == 100_000 - 600
    assert quota.free(start + 3630) == 100_000 - 300
    assert quota.free(start + 3660) == 100_000


def test_the_time_at_which_more_requests_may_be_free() -> None:
    quota = Quota()
    assert quota.opens_at(NOW) == NOW + POLICY.reset_margin
    quota.expect_submission(NOW - 20)
    assert quota.opens_at(NOW) == NOW + 100  # a submission that does not arrive frees its request
    assert quota.opens_at(NOW + 100) == NOW + 100 + POLICY.reset_margin
    quota = Quota(requests_per_hour=1)
    quota.spend(NOW)
    assert quota.free(NOW + 3629) == 0
    assert quota.opens_at(NOW) == NOW + 3630
    assert quota.free(NOW + 3630) == 1
    quota.refuse(9000.0, NOW)  # nothing earlier helps
    assert quota.opens_at(NOW) == NOW + 9000


@pytest.mark.parametrize(
    ("remaining", "waiting", "factor"),
    [
        (100, 20, 1.0),  # five readings for each are enough
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
def test_a_short_quota_makes_intervals_longer(remaining: int, waiting: int, factor: float) -> None:
    # Without a window nothing is reserved for submissions.
    quota = known(remaining, limit=100, reset=None)
    assert quota.interval_factor(NOW, waiting) == pytest.approx(factor)
    quota.refuse(50, NOW)
    assert quota.interval_factor(NOW, 1) == POLICY.max_interval_factor
    assert Quota().interval_factor(NOW, 1000) == 1


@given(
    st.lists(
        st.tuples(
            st.floats(0, 100),
            st.sampled_from(["spend", "expect_submission", "learn", "refuse", "observe"]),
            st.integers(0, 20),
            st.one_of(st.none(), st.floats(0, 4000)),
        ),
        max_size=60,
    ),
    st.one_of(st.none(), st.integers(1, 50)),
)
def test_every_quota_has_room_again_in_the_end(
    events: list[tuple[float, str, int, float | None]], plan: int | None
) -> None:
    quota = Quota(requests_per_hour=plan)
    now = NOW
    for passed, what, number, seconds in events:
        now += passed
        match what:
            case "learn":
                quota.learn(headers(number, limit=20, reset=now - NOW + (seconds or 0)), now)
            case "refuse":
                quota.refuse(seconds, now)
            case "observe":
                quota.on_observed_submission(now, now)
            case _:
                getattr(quota, what)(now)
        assert quota.free(now) >= 0
        assert quota.reserved_for_submissions(now) >= 0
    for _ in range(500):
        if quota.free(now) >= 1:
            break
        later = quota.opens_at(now)
        assert later > now
        now = later
    assert quota.free(now) >= 1
