"""The rate of the submissions of a kind: alone, shared by the processes of a machine, and of a task."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import settings

from airflow_provider_seedance.apis.validation import prepare_request
from airflow_provider_seedance.generations import ImageRequest, VideoRequest
from airflow_provider_seedance.polling import shared_quota
from airflow_provider_seedance.polling.shared_quota import SharedRate
from airflow_provider_seedance.polling.submission_rate import (
    MAX_AHEAD_SECONDS,
    MIN_REFUSED_SECONDS,
    SubmissionRate,
)

NOW = 1_800_000_000.0
IDENTITY = ("https://vendor.example/v1", "digest-of-a-key")


def most_in_a_minute(times: list[float]) -> int:
    return max(sum(start <= at < start + 60 for at in times) for start in times)


@pytest.mark.parametrize("limit", [1, 15, 180])
@pytest.mark.parametrize("gap", [0.0, 0.3, 7.0])
def test_no_minute_has_more_than_the_limit(limit: int, gap: float) -> None:
    rate = SubmissionRate(limit)
    times = [NOW + n * gap + rate.reserve(NOW + n * gap) for n in range(3 * limit)]
    assert most_in_a_minute(times) <= limit
    assert times[:limit] == [NOW + n * gap for n in range(limit)]


def test_waiting_submissions_get_times_of_their_own() -> None:
    rate = SubmissionRate(10)
    times = sorted(rate.reserve(NOW) for _ in range(100))
    assert [times.count(at) for at in sorted(set(times))] == [10] * 10
    assert times[-1] <= 9 * 70
    # A minute after a burst there is room again.
    rate = SubmissionRate(15)
    assert sum(rate.reserve(NOW) for _ in range(15)) == 0
    assert 60 <= rate.reserve(NOW) <= 70
    assert sum(rate.reserve(NOW + 140) for _ in range(14)) == 0


def test_images_count_one_by_one_and_a_group_above_the_limit_is_sent_alone() -> None:
    rate = SubmissionRate(10)
    assert rate.reserve(NOW, 15) == 0
    assert rate.reserve(NOW, 1) >= 60


def test_after_a_refusal_the_limit_is_lower_and_grows_back() -> None:
    rate = SubmissionRate(600)
    for number in range(180):
        rate.reserve(NOW + number / 10)
    rate.refuse(NOW + 18)
    assert rate.limit(NOW + 18) == pytest.approx(126)
    rate.refuse(NOW + 19)  # of a submission that was on its way
    assert rate.limit(NOW + 19) == pytest.approx(126, rel=0.01)
    assert rate.limit(NOW + 18 + 600) == pytest.approx(126 * 1.1**10)
    assert rate.limit(NOW + 1e9) == 600
    rate = SubmissionRate(600)
    rate.refuse(NOW)  # without submissions of ours
    assert rate.limit(NOW) == 30


@pytest.mark.parametrize("actual", [60, 180])
def test_a_machine_finds_the_limit_of_its_account(actual: int) -> None:
    """A service that documents 600 and accepts fewer: few are refused, and most of the limit is used."""
    rate, sent, refused, now = SubmissionRate(600), [], 0, NOW
    for _ in range(4000):
        now += rate.reserve(now)
        if sum(at > now - 60 for at in sent[-actual:]) >= actual:
            refused += 1
            rate.refuse(now)
            now += MIN_REFUSED_SECONDS
        else:
            sent.append(now)
        now += 0.05
    minutes = (now - NOW) / 60
    assert refused <= 0.02 * 4000
    assert len(sent) / minutes >= 0.6 * actual


@pytest.mark.parametrize(
    "damage", [b"{", b"[]", b'{"learned": null, "booked": [[1e999, 1]]}', b"\xff", b'{"booked": 5}']
)
def test_a_damaged_file_delays_nothing(damage: bytes) -> None:
    shared = SharedRate(IDENTITY, "m", 1)
    shared.reserve(NOW)
    (file,) = shared_quota.directory().iterdir()
    file.write_bytes(damage)
    assert shared.reserve(NOW) == 0


def test_times_of_a_clock_that_was_set_back_are_dropped() -> None:
    rate = SubmissionRate(1)
    rate.reserve(NOW + 2 * MAX_AHEAD_SECONDS)
    rate.refuse(NOW + 2 * MAX_AHEAD_SECONDS)
    assert rate.reserve(NOW) == 0


def test_processes_share_a_rate_by_key_and_kind() -> None:
    assert SharedRate(IDENTITY, "m", 1).reserve(NOW) == 0
    assert SharedRate(IDENTITY, "m", 1).reserve(NOW) >= 60
    assert SharedRate(IDENTITY, "m/4k", 1).reserve(NOW) == 0
    assert SharedRate(("https://vendor.example/v1", "another key"), "m", 1).reserve(NOW) == 0
    assert SharedRate(IDENTITY, "m", 1).refuse(NOW) >= MIN_REFUSED_SECONDS


class Rate(SharedRate):
    """Rate that only keeps what it is made of."""

    def __init__(self, identity: Any, *given: Any) -> None:
        self.given = given


def limit_of(request: Any, api: str = "ark", **extra: Any) -> Any:
    """Return kind, limit and count of the rate for a request."""
    found = settings(api=api, **extra)
    rate: Any = Rate.of(found, prepare_request(found, request).request)
    return rate and rate.given


def test_ark_has_limits_by_model_resolution_and_tier() -> None:
    seedance = "dreamina-seedance-2-0-260128"
    assert limit_of(VideoRequest(prompt="p")) == (seedance, 600, 1)
    assert limit_of(VideoRequest(prompt="p", resolution="4k")) == (f"{seedance}/4k", 15, 1)
    pro = "seedance-1-0-pro-250528"
    assert limit_of(VideoRequest(prompt="p", model=pro, service_tier="flex")) == (f"{pro}/flex", 600, 1)
    assert limit_of(ImageRequest(prompt="p", num_images=4)) == ("seedream-4-5-251128", 500, 4)
    assert limit_of(ImageRequest(prompt="p", resolution="4k")) == ("seedream-4-5-251128", 500, 1)


def test_the_connection_sets_the_limits_of_its_plan() -> None:
    video = VideoRequest(prompt="p")
    assert limit_of(video, submissions_per_minute=180)[1] == 180
    assert limit_of(video, submissions_per_minute={"*/4k": 15, "*": 120})[1] == 120
    assert limit_of(video, submissions_per_minute='{"*seedance-2-0*": 90}')[1] == 90
    assert limit_of(video, submissions_per_minute={"other": 5})[1] == 600
    assert limit_of(video, "runbase") is None
    assert limit_of(video, "runbase", submissions_per_minute="30")[1] == 30
