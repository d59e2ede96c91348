"""Reading the quota, from headers as they are documented and as they come."""

from __future__ import annotations

from helpers import NOW

from airflow_provider_seedance.apis.rate_limits import (
    MAX_WAIT_SECONDS,
    RateLimit,
    is_plausible_reset,
    read_rate_limit,
    read_retry_after,
)


def test_retry_after() -> None:
    for headers, seconds in [
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Sat, 07 Feb 2026 10:42:00 GMT"}, 120),
        ({"retry-after": "Sat, 07 Feb 2026 10:42:00 -0000"}, 120),
        ({"retry-after": "Sat, 07 Feb 2026 12:42:00 +0200"}, 120),
        ({"retry-after": "Sat, 07 Feb 2026 10:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ]:
        assert read_retry_after(headers, NOW) == seconds
        assert read_rate_limit(headers, NOW).retry_after == seconds


def test_nonsense_in_one_header_leaves_the_rest_known() -> None:
    headers = {"x-ratelimit-limit": "many", "x-ratelimit-remaining": "3", "x-ratelimit-reset": "1e300"}
    assert read_rate_limit(headers, NOW) == RateLimit(remaining=3)


def test_a_reset_in_the_past_needs_no_wait() -> None:
    limit = read_rate_limit({"x-ratelimit-reset": "1705315200"}, NOW)
    assert limit.retry_after == 0
    assert limit.known


def test_a_wait_alone_tells_nothing_of_the_quota() -> None:
    assert not read_rate_limit({"retry-after": "5"}, NOW).known


def test_no_wait_is_longer_than_a_day() -> None:
    for headers in [
        {"retry-after": "99999999999999999"},
        {"retry-after": "1e300"},
        {"retry-after-ms": "1e300"},
        {"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"},
        {"x-ratelimit-retryafter": "86401"},
        {"x-ratelimit-reset": "99999999999"},
    ]:
        assert read_rate_limit(headers, NOW).retry_after == MAX_WAIT_SECONDS == 86400
        assert read_retry_after(headers, NOW) in (None, MAX_WAIT_SECONDS)


def test_the_end_of_a_window_is_plausible_up_to_a_day() -> None:
    assert is_plausible_reset(NOW.timestamp() + MAX_WAIT_SECONDS, NOW.timestamp())
    assert is_plausible_reset(0.0, NOW.timestamp())
    assert not is_plausible_reset(NOW.timestamp() + MAX_WAIT_SECONDS + 1, NOW.timestamp())
    assert not is_plausible_reset(float("nan"), NOW.timestamp())
