"""The hub in simulated time: quotas, submissions, and the shared quota of the machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.client.api_client import MAX_CONNECTIONS
from airflow_provider_seedance.polling.hub import wait_for_submission
from airflow_provider_seedance.polling.quota import POLICY
from airflow_provider_seedance.polling.shared_quota import SharedQuota
from airflow_provider_seedance.settings import Settings
from polling.simulated import (
    CONN,
    EPOCH,
    HOUR,
    Connections,
    Request,
    Service,
    connection,
    ends,
    passed,
    rate_limit,
    refusal,
    report_limit,
    wait_for_a_while,
)

#: A service that reports its quota in headers.
REPORTING = connection("seedance2api")


@pytest.fixture
def reporting(service: Service) -> Service:
    service.look_up = Connections(REPORTING)
    return service


def headers(limit: int, remaining: int, reset: float) -> dict[str, str]:
    return {
        "x-ratelimit-limit": str(limit),
        "x-ratelimit-remaining": str(max(0, remaining)),
        "x-ratelimit-reset": str(int(EPOCH + reset)),
    }


def fixed_windows(limit: int, window: float = HOUR) -> Callable[[float], dict[str, str]]:
    """Return headers of a quota with fixed windows, which counts one request for each reply."""
    used: dict[int, int] = {}

    def report(at: float) -> dict[str, str]:
        number = int(at // window)
        used[number] = used.get(number, 0) + 1
        return headers(limit, limit - used[number], (number + 1) * window)

    return report


def test_a_refusal_stops_every_wait_and_is_logged_once(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.latency = 1.0
    service.answer = lambda request: refusal(600.0) if request.at < 300.0 else None
    assert ends(service.run_each(service.add(30))) == {("ended", 0)}
    refused = [at for at in service.times() if at < 300.0]
    assert len(refused) <= MAX_CONNECTIONS  # those that were in flight
    assert min(at for at in service.times() if at > 300.0) == pytest.approx(11.0 + 600.0, abs=2.0)
    (line,) = caplog.messages
    assert "30 requests delayed by 600 s; no render is lost" in line


def test_a_refused_poll_keeps_its_place(service: Service) -> None:
    service.ends = {"first": 0.0, "second": 0.0}
    service.slow = {"first": 8.0, "second": 1.0}  # the refusal of the second comes before that of the first

    def answer(request: Request) -> Any:
        service.slow.clear()
        return refusal(100.0) if request.at < 50.0 else None

    service.answer = answer
    steps = service.run_all(service.wait("first"), service.wait("second", interval=12.0))
    assert {step.kind for step in steps} == {"ended"}
    assert [request.ids[0] for request in service.requests] == ["second", "first", "first", "second"]


def test_a_deadline_during_a_refusal_is_marked_as_rate_limited(service: Service) -> None:
    """The task must not fail because its own quota kept it from reading."""
    service.ends["g"] = 0.0
    service.answer = lambda request: refusal(600.0) if request.at < 300.0 else None
    step = service.run(service.wait(timeout=60.0))
    assert (step.kind, step.state.rate_limited, step.state.failures) == ("deadline", True, 0)


# ---------------------------------------------------------------------- windows and plans


@pytest.mark.parametrize(("api", "at"), [("runbase", 10.0), ("seedance2api", 300.0)])
def test_a_reading_needs_room_for_all_of_its_requests(service: Service, api: str, at: float) -> None:
    """At seedance2api the reading of a finished generation requests its result, too."""
    service.ends["g"] = 0.0
    service.look_up = Connections(connection(api))
    # One of the two is reserved for a submission.
    report = {5.0: lambda: report_limit(limit=4, remaining=2, reset=300.0)}
    assert service.run(service.wait(), at=report).kind == "ended"
    assert service.times()[0] == pytest.approx(at, abs=2.0)


@pytest.mark.parametrize(("rates", "most"), [((20,), 20), ((20, None), 20), ((None, 40, 20), 20)])
def test_the_smallest_plan_limits_the_requests(
    service: Service, rates: tuple[int | None, ...], most: int
) -> None:
    names = service.add(len(rates), ends=9 * HOUR)
    plans = zip(names, rates, strict=True)
    service.look_up = Connections(*(connection(conn_id=name, requests_per_hour=rate) for name, rate in plans))
    waits = [service.wait(name, name, timeout=9 * HOUR) for name in names]
    service.run(wait_for_a_while(HOUR - 60.0, *waits))
    # Some are reserved for submissions; those from before the plan was known count, too.
    assert most * 0.75 - 1 <= len(service.requests) <= most


def test_submissions_of_other_processes_count_in_the_plan(service: Service) -> None:
    ids = service.add(10, ends=9 * HOUR)
    service.look_up = Connections(connection(requests_per_hour=40))
    known = {"timeout": 9 * HOUR, "submitted_at": EPOCH - 5.0}
    waits = (service.wait(name, **known, submitted_at_known=name != ids[0]) for name in ids)
    service.run(wait_for_a_while(HOUR - 60.0, *waits))
    # What is reserved for submissions is released towards the end of the hour.
    assert 40 * 0.75 - 9 <= len(service.requests) <= 40 - 9


def test_the_quota_in_headers_is_never_exceeded(reporting: Service) -> None:
    reporting.headers = fixed_windows(30)
    waits = [reporting.wait(name, timeout=9 * HOUR) for name in reporting.add(5, ends=9 * HOUR)]
    reporting.run(wait_for_a_while(3 * HOUR - 1.0, *waits))
    by_hour = [sum(HOUR * hour <= at < HOUR * (hour + 1) for at in reporting.times()) for hour in range(3)]
    assert all(20 <= count <= 30 for count in by_hour)


def test_a_short_quota_makes_intervals_longer_except_those_of_the_user(reporting: Service) -> None:
    ids = reporting.add(8, ends=9 * HOUR)

    def count(interval: float | None, limit: int) -> int:
        reporting.requests.clear()
        reporting.headers = fixed_windows(limit)
        known = {"interval": interval, "timeout": 9 * HOUR, "submitted_at": EPOCH}
        reporting.run(wait_for_a_while(120.0, *(reporting.wait(name, **known) for name in ids)))
        return len(reporting.requests)

    plenty, short = count(None, 1000), count(None, 40)
    assert short < plenty / 2
    assert count(60.0, 40) == count(60.0, 1000)


def test_a_wait_ends_while_no_poll_is_allowed(reporting: Service) -> None:
    reporting.headers = lambda at: headers(10, 0, at + 10 * HOUR)
    reporting.ends["g"] = 9 * HOUR
    assert reporting.run(reporting.wait(timeout=100.0, max_quota_wait=50.0)).kind == "deadline"
    assert (reporting.seconds, len(reporting.requests)) == (150.0, 1)


async def submit(not_before: float, look_up: Any, conn_id: str | None = CONN) -> float:
    """Wait for a submission, and return when it was granted."""
    await wait_for_submission(EPOCH + not_before, conn_id, look_up)
    return passed()


def test_submissions_use_what_is_left_and_then_wait_for_the_next_window(service: Service) -> None:
    look_up = Connections(REPORTING)
    report = {5.0: lambda: report_limit(limit=4, remaining=3, reset=600.0)}
    granted = service.run_all(*(submit(10.0 + number / 100, look_up) for number in range(5)), at=report)
    assert granted == sorted(granted)
    assert [at < 12.0 for at in granted] == [True, True, True, False, False]
    assert granted[3] == pytest.approx(600.0 + POLICY.reset_margin, abs=0.1)
    assert service.requests == []


def test_an_unusable_connection_does_not_delay_a_submission(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    async def look_up(conn_id: str) -> Settings:
        raise errors.SeedanceConfigurationError("no API key")

    assert service.run(submit(30.0, look_up, None)) == 30.0
    assert caplog.messages == []
    assert service.run(submit(30.0, look_up)) == 30.0
    assert caplog.messages[-1] == f"The quota of connection {CONN!r} could not be waited for: no API key"
    caplog.clear()
    assert service.run(submit(50.0, Connections())) == 50.0
    assert service.run(submit(-30.0, look_up, None)) == 0.0
    assert caplog.messages == []


# ---------------------------------------------------------------------- the shared quota of the machine


def shared() -> SharedQuota:
    return SharedQuota(REPORTING.identity)


def test_the_quota_that_another_process_reports_is_used(reporting: Service) -> None:
    reporting.ends["g"] = 0.0
    used_up = rate_limit(limit=10, remaining=0, reset=300.0)
    learn = {5.0: lambda: shared().learn(used_up, time.time())}
    assert reporting.run(reporting.wait(), at=learn).kind == "ended"
    assert min(reporting.times()) == pytest.approx(300.0 + POLICY.reset_margin, abs=0.1)


def test_the_quota_of_this_process_is_shared(reporting: Service) -> None:
    reporting.ends["g"] = 0.0
    reporting.headers = fixed_windows(10)
    reporting.run(reporting.wait())
    known = shared().read(EPOCH + 10.0)
    assert (known.limit, known.remaining, known.reset_at) == (10, 9, EPOCH + HOUR)


def test_other_processes_wait_behind_the_submissions_of_this_one(service: Service) -> None:
    look_up = Connections(REPORTING)

    async def main() -> None:
        tasks = [asyncio.create_task(submit(10.0, look_up)) for _ in range(2)]
        await asyncio.sleep(1.0)
        report_limit(limit=10, remaining=1, reset=300.0)
        assert shared().reserve(time.time()) == 0
        for moment in (100.0, 200.0, 290.0):
            await asyncio.sleep(moment - passed())
            # Recorded again while they wait.
            assert shared().reserve(time.time()) == POLICY.queue_lifetime
        await asyncio.gather(*tasks)
        await asyncio.sleep(320.0 - passed())
        assert shared().reserve(time.time()) == 0

    service.run(main())
