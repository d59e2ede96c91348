"""The hub in simulated time: many generations in one request, at a service that limits lists and single reads apart."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from helpers import reply

from airflow_provider_seedance.apis.messages import HttpReply, TransportFailure
from airflow_provider_seedance.polling import hub
from airflow_provider_seedance.polling.call_rates import MAX_CANCEL_WAIT_SECONDS
from polling.simulated import CONN, Connections, Request, Service, connection, ends, passed, refusal

ENDED = {("ended", 0)}
FAILED = reply(500, {"error": {"code": "Internal", "message": "no"}})


@pytest.fixture(autouse=True)
def _at_ark(service: Service) -> None:
    service.look_up = Connections(connection("ark"))


def to_lists(answer: HttpReply) -> Callable[[Request], Any]:
    """Answer lists so, and single reads as ever."""
    return lambda request: answer if len(request.ids) > 1 else None


def requests(service: Service) -> list[tuple[float, tuple[str, ...]]]:
    return [(request.at, request.ids) for request in service.requests]


def sizes(service: Service) -> list[int]:
    return [len(request.ids) for request in service.requests]


def test_generations_that_are_due_soon_are_included_in_a_request(service: Service) -> None:
    intervals = {"a": 30.0, "b": 33.0, "c": 39.0, "later": 50.0}
    service.ends = dict.fromkeys(intervals, 0.0)
    steps = service.run_all(*(service.wait(name, interval=interval) for name, interval in intervals.items()))
    assert [step.state.last.generation_id for step in steps] == list(intervals)
    assert requests(service) == [(30.0, ("a", "b", "c")), (50.0, ("later",))]


def test_a_generation_that_a_list_does_not_contain_is_read_alone_from_then_on(service: Service) -> None:
    service.ends = dict.fromkeys("abc", 50.0)

    def answer(request: Request) -> Any:
        items = [service._body(name, request.at) for name in request.ids if name != "b"]
        return reply(200, {"total": len(items), "items": items}) if len(request.ids) > 1 else None

    service.answer = answer
    assert ends(service.run_each("abc", interval=20.0)) == ENDED
    lists = {(20.0, ("a", "b", "c")), (40.0, ("a", "c")), (60.0, ("a", "c"))}
    assert set(requests(service)) == lists | {(at, ("b",)) for at in (20.0, 40.0, 60.0)}


@pytest.mark.parametrize(
    "answer",
    [
        *(reply(status, {"error": {"code": "No", "message": "no such list"}}) for status in (400, 403, 404)),
        *(reply(200, body) for body in (b"<html>a relay</html>", [])),
    ],
)
def test_a_refused_list_and_a_reply_that_is_none_are_not_requested_again(
    service: Service, answer: HttpReply, caplog: pytest.LogCaptureFixture
) -> None:
    service.ends = dict.fromkeys("abcde", 25.0)
    service.answer = to_lists(answer)
    # Those that are due later were not in that list, and are in no other.
    intervals = {**dict.fromkeys("abc", 10.0), **dict.fromkeys("de", 40.0)}
    steps = service.run_all(*(service.wait(name, interval=interval) for name, interval in intervals.items()))
    assert ends(steps) == ENDED
    assert sizes(service) == [3] + [1] * 11
    (line,) = caplog.messages
    assert ("no such list" in line) is (answer.status != 200)
    assert "one by one" in line


def test_generations_are_read_one_by_one_where_a_list_contains_none(service: Service) -> None:
    service.ends = dict.fromkeys("abc", 25.0)
    service.answer = to_lists(reply(200, {"items": None}))
    assert ends(service.run_each("abc")) == ENDED
    assert sizes(service) == [3] + [1] * 9


@pytest.mark.parametrize("failure", [FAILED, TransportFailure("reset", sent=True)], ids=["500", "network"])
def test_a_failed_list_is_a_failed_reading_of_each(service: Service, failure: Any) -> None:
    service.ends = dict.fromkeys("abc", 25.0)
    service.answer = lambda request: failure if request.at < 15.0 else None
    steps = service.run_each("abc")
    assert {(step.kind, step.state.poll_count) for step in steps} == {("ended", 2)}
    assert requests(service) == [(at, ("a", "b", "c")) for at in (10.0, 20.0, 30.0)]


def test_a_list_that_fails_again_stops_lists_only(service: Service) -> None:
    service.answer = to_lists(FAILED)
    assert ends(service.run_each(service.add(20, ends=60.0), timeout=600.0)) == ENDED
    assert [request.at for request in service.requests if len(request.ids) > 1][:2] == [10.0, 20.0]
    assert max(service.times()) < 120.0


def test_lists_are_sent_again_after_an_outage(service: Service) -> None:
    failed = reply(502, b"<html>bad gateway</html>")
    service.answer = lambda request: failed if request.at < 100.0 else None
    assert ends(service.run_each(service.add(20, ends=200.0))) == ENDED
    assert {len(request.ids) for request in service.requests if request.at > 180.0} == {20}


def test_a_delay_that_the_service_named_is_kept_in_common_lists(service: Service) -> None:
    busy = reply(503, {"error": {"code": "Busy", "message": "later"}}, {"retry-after": "120"})
    service.answer = lambda request: busy if len(service.requests) == 1 else None
    assert ends(service.run_each(service.add(20), interval=None)) == ENDED
    first, second, *_ = service.times()
    assert second - first >= 120.0


def test_a_request_uses_one_connection(service: Service) -> None:
    """Two connections with one key now: one of them may get another key."""
    service.ends = dict.fromkeys("abcd", 0.0)
    service.look_up = Connections(connection("ark", "one"), connection("ark", "other"))
    pairs = zip("abcd", ("one", "other", "one", "other"), strict=True)
    assert ends(service.run_all(*(service.wait(name, conn_id) for name, conn_id in pairs))) == ENDED
    assert [request.ids for request in service.requests] == [("a", "c"), ("b", "d")]


def test_a_generation_after_its_deadline_is_not_included(service: Service) -> None:
    service.ends = dict.fromkeys("abc", 0.0)
    late = service.wait("b", timeout=9.0, interval=20.0)
    steps = service.run_all(service.wait("a"), late, service.wait("c"))
    assert [step.kind for step in steps] == ["ended", "deadline", "ended"]
    # One that is due a little later is included before its deadline.
    assert [request.ids for request in service.requests] in ([("a", "c")], [("b", "a", "c")])


def test_other_tasks_go_on_between_the_readings_of_a_list(service: Service) -> None:
    """Each end teaches the durations half a millisecond long, and a list may hold 500."""
    service.ends = dict.fromkeys("abc", 0.0)
    order: list[str] = []

    async def wait_and_note(name: str) -> None:
        await service.wait(name, report=lambda reading: order.append(f"read {reading.generation_id}"))
        order.append(f"went on {name}")

    service.run_all(*map(wait_and_note, "abc"))
    assert order == [f"{what} {name}" for name in "abc" for what in ("read", "went on")]


# ---------------------------------------------------------------------- limits per account


@dataclass
class Limits:
    """Limits of an account: calls in any second."""

    lists: float = 1
    reads: float = 20
    used: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    refused: list[tuple[float, bool]] = field(default_factory=list)

    def answer(self, request: Request) -> Any:
        several = len(request.ids) > 1
        used = [at for at in self.used[several] if at > request.at - 1.0]
        if len(used) >= (self.lists if several else self.reads):
            self.refused.append((request.at, several))
            return refusal()
        self.used[several] = [*used, request.at]
        return None


def test_lists_are_a_second_apart_and_hold_what_a_page_holds(service: Service) -> None:
    service.answer = (limits := Limits()).answer
    assert {step.kind for step in service.run_each(service.add(502))} == {"ended"}
    assert sizes(service) == [500, 2]
    assert min(later - earlier for earlier, later in itertools.pairwise(service.times())) > 1.0
    assert limits.refused == []


def test_a_refused_list_stops_lists_only(service: Service) -> None:
    service.answer = Limits(lists=0).answer
    assert ends(service.run_each(service.add(20))) == ENDED
    assert sum(size > 1 for size in sizes(service)) <= 2
    assert max(service.times()) < 20.0


def test_a_refused_read_stops_reads_only(service: Service) -> None:
    service.answer = (limits := Limits(reads=0)).answer
    steps = service.run_each(service.add(20, ends=15.0), interval=20.0)
    assert {step.kind for step in steps} == {"ended"}
    assert sizes(service) == [20]
    assert limits.refused == []


def test_a_list_that_is_too_long_for_the_service_becomes_shorter(service: Service) -> None:
    too_long = reply(414, {"error": {"code": "No", "message": "URI too long"}})
    service.answer = lambda request: too_long if len(request.ids) > 100 else None
    assert {step.kind for step in service.run_each(service.add(400, ends=25.0))} == {"ended"}
    assert max([size for size in sizes(service) if size > 1][1:]) == 100


async def cancel(service: Service, count: int, *, refusals: int = 0) -> tuple[list[float], float]:
    """Wait for cancellations; return their times, and the delay of later reads."""
    async with hub.open_hub(CONN, service.look_up) as (one, _):
        for _ in range(refusals):
            one._rates.read.refuse(3600.0, one._clock.now())
        before, times = one._rates.read.next_at, []
        for _ in range(count):
            await one.wait_to_cancel()
            times.append(passed())
        return times, one._rates.read.next_at - before


def test_cancellations_keep_to_the_rate_of_reads(service: Service) -> None:
    times, _ = service.run(cancel(service, 60))
    # Each of them reads twice.
    assert all(later - earlier >= 1.0 for earlier, later in zip(times, times[10:], strict=False))
    assert times[-1] < 10.0


def test_refused_reads_hold_a_cancellation_for_seconds_only(service: Service) -> None:
    """A queued render may start in the meantime, and is billed then."""
    times, delay = service.run(cancel(service, 10, refusals=20))
    assert times[-1] <= 10 * MAX_CANCEL_WAIT_SECONDS
    assert delay == 0.0


def test_the_ends_of_400_short_renders_are_seen_within_15_seconds(service: Service) -> None:
    service.answer = (limits := Limits()).answer
    service.latency = 0.1
    service.ends = {f"g{number}": 20.0 + number / 100 for number in range(400)}

    async def delay(name: str) -> float:
        assert (await service.wait(name, interval=None)).kind == "ended"
        return passed() - service.ends[name]

    late = service.run_all(*map(delay, service.ends))
    assert min(late) >= 0.0
    assert max(late) <= 15.0
    assert len(limits.refused) <= 0.02 * len(service.requests)
