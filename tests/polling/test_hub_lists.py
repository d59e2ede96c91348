"""The hub in simulated time: many generations in one request, at a service that limits lists and single reads apart."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from helpers import reply

from airflow_provider_seedance.apis.messages import TransportFailure
from airflow_provider_seedance.polling import hub
from airflow_provider_seedance.polling.call_rates import MAX_CANCEL_WAIT_SECONDS
from polling.simulated import (
    CONN,
    Connections,
    Request,
    Service,
    connection,
    passed,
    refusal,
    wait,
    wait_for_all,
    wait_for_each,
)

ARK = connection("ark")


def requests(service: Service) -> list[tuple[float, tuple[str, ...]]]:
    return [(request.at, request.ids) for request in service.requests]


def ends(steps: list[Any]) -> set[tuple[str, int]]:
    return {(step.kind, step.state.failures) for step in steps}


def test_generations_that_are_due_soon_are_included_in_a_request(service: Service, run: Any) -> None:
    intervals = {"a": 30.0, "b": 33.0, "c": 39.0, "later": 50.0}
    service.ends = dict.fromkeys(intervals, 0.0)
    look_up = Connections(ARK)
    steps = run(
        wait_for_all(*(wait(look_up, name, interval=interval) for name, interval in intervals.items()))
    )
    assert [step.state.last.generation_id for step in steps] == list(intervals)
    assert requests(service) == [(30.0, ("a", "b", "c")), (50.0, ("later",))]


def test_a_generation_that_a_list_does_not_contain_is_read_alone_from_then_on(
    service: Service, run: Any
) -> None:
    service.ends = dict.fromkeys("abc", 50.0)

    def answer(request: Request) -> Any:
        items = [service._body(name, request.at) for name in request.ids if name != "b"]
        return reply(200, {"total": len(items), "items": items}) if len(request.ids) > 1 else None

    service.answer = answer
    assert ends(run(wait_for_each(Connections(ARK), "abc", interval=20.0))) == {("ended", 0)}
    assert set(requests(service)) == {
        (20.0, ("a", "b", "c")),
        (20.0, ("b",)),
        (40.0, ("a", "c")),
        (40.0, ("b",)),
        (60.0, ("a", "c")),
        (60.0, ("b",)),
    }


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_refused_list_is_not_requested_again(
    service: Service, run: Any, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    service.ends = dict.fromkeys("abcde", 25.0)
    look_up = Connections(ARK)
    refused = reply(status, {"error": {"code": "No", "message": "there is no such list"}})
    service.answer = lambda request: refused if len(request.ids) > 1 else None
    steps = run(
        wait_for_all(
            wait_for_each(look_up, "abc"),
            # These were not in that list, and are in no other.
            wait_for_each(look_up, "de", interval=40.0),
        )
    )
    assert ends([*steps[0], *steps[1]]) == {("ended", 0)}
    assert [len(request.ids) for request in service.requests] == [3] + [1] * 11
    (line,) = caplog.messages
    assert "there is no such list" in line
    assert "one by one" in line


@pytest.mark.parametrize("body", [b"<html>a relay</html>", [], {"items": None}])
def test_generations_are_read_one_by_one_where_the_list_is_no_list(
    service: Service, run: Any, body: Any
) -> None:
    service.ends = dict.fromkeys("abc", 25.0)
    service.answer = lambda request: reply(200, body) if len(request.ids) > 1 else None
    assert ends(run(wait_for_each(Connections(ARK), "abc"))) == {("ended", 0)}
    assert [len(request.ids) for request in service.requests] == [3] + [1] * 9


@pytest.mark.parametrize(
    "failure",
    [reply(500, {"error": {"code": "Internal", "message": "no"}}), TransportFailure("reset", sent=True)],
    ids=["500", "network"],
)
def test_a_failed_list_is_a_failed_reading_of_each(service: Service, run: Any, failure: Any) -> None:
    service.ends = dict.fromkeys("abc", 25.0)
    service.answer = lambda request: failure if request.at < 15.0 else None
    steps = run(wait_for_each(Connections(ARK), "abc"))
    assert {(step.kind, step.state.poll_count) for step in steps} == {("ended", 2)}
    assert requests(service) == [(at, ("a", "b", "c")) for at in (10.0, 20.0, 30.0)]


def test_a_list_that_fails_again_stops_lists_only(service: Service, run: Any) -> None:
    ids = service.add(20, ends=60.0)
    failed = reply(500, {"error": {"code": "Internal", "message": "no"}})
    service.answer = lambda request: failed if len(request.ids) > 1 else None
    steps = run(wait_for_each(Connections(ARK), ids, timeout=600.0))
    assert ends(steps) == {("ended", 0)}
    lists = [request.at for request in service.requests if len(request.ids) > 1]
    assert lists[:2] == [10.0, 20.0]
    assert max(service.times()) < 120.0


def test_lists_are_sent_again_after_an_outage(service: Service, run: Any) -> None:
    ids = service.add(20, ends=200.0)
    failed = reply(502, b"<html>bad gateway</html>")
    service.answer = lambda request: failed if request.at < 100.0 else None
    assert ends(run(wait_for_each(Connections(ARK), ids))) == {("ended", 0)}
    assert {len(request.ids) for request in service.requests if request.at > 180.0} == {20}


def test_a_delay_that_the_service_named_is_kept_in_common_lists(service: Service, run: Any) -> None:
    ids = service.add(20, ends=0.0)
    busy = reply(503, {"error": {"code": "Busy", "message": "later"}}, {"retry-after": "120"})
    service.answer = lambda request: busy if len(service.requests) == 1 else None
    assert ends(run(wait_for_each(Connections(ARK), ids, interval=None))) == {("ended", 0)}
    first, second, *_ = service.times()
    assert second - first >= 120.0


def test_a_request_uses_one_connection(service: Service, run: Any) -> None:
    """Two connections with one key now: one of them may get another key."""
    service.ends = dict.fromkeys("abcd", 0.0)
    look_up = Connections(connection("ark", "one"), connection("ark", "other"))
    pairs = list(zip("abcd", ("one", "other", "one", "other"), strict=True))
    steps = run(wait_for_all(*(wait(look_up, name, conn_id) for name, conn_id in pairs)))
    assert ends(steps) == {("ended", 0)}
    assert [request.ids for request in service.requests] == [("a", "c"), ("b", "d")]


def test_a_generation_after_its_deadline_is_not_included(service: Service, run: Any) -> None:
    service.ends = dict.fromkeys("abc", 0.0)
    look_up = Connections(ARK)
    steps = run(
        wait_for_all(wait(look_up, "a"), wait(look_up, "b", timeout=9.0, interval=20.0), wait(look_up, "c"))
    )
    assert [step.kind for step in steps] == ["ended", "deadline", "ended"]
    # One that is due a little later is included before its deadline.
    assert [request.ids for request in service.requests] in ([("a", "c")], [("b", "a", "c")])


def test_other_tasks_go_on_between_the_readings_of_a_list(service: Service, run: Any) -> None:
    """Each end teaches the durations half a millisecond long, and a list may hold 500."""
    service.ends = dict.fromkeys("abc", 0.0)
    order: list[str] = []

    async def wait_and_note(look_up: Connections, name: str) -> None:
        await wait(look_up, name, report=lambda reading: order.append(f"read {reading.generation_id}"))
        order.append(f"went on {name}")

    look_up = Connections(ARK)
    run(wait_for_all(*(wait_and_note(look_up, name) for name in "abc")))
    assert order == [f"{what} {name}" for name in "abc" for what in ("read", "went on")]


# ---------------------------------------------------------------------- limits per account


@dataclass
class Limits:
    """
    Limits of an account: calls in any second.

    :param taken: Times of the lists of another process of the account.
    """

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


def lists_of(service: Service) -> list[Request]:
    return [request for request in service.requests if len(request.ids) > 1]


async def wait_and_note(look_up: Connections, generation_id: str) -> float:
    step = await wait(look_up, generation_id, interval=None)
    assert step.kind == "ended"
    return passed()


def test_lists_are_a_second_apart_and_hold_what_a_page_holds(service: Service, run: Any) -> None:
    limits = Limits()
    service.answer = limits.answer
    ids = service.add(502, ends=0.0)
    steps = run(wait_for_each(Connections(ARK), ids))
    assert {step.kind for step in steps} == {"ended"}
    assert [len(request.ids) for request in service.requests] == [500, 2]
    times = service.times()
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) > 1.0
    assert limits.refused == []


def test_a_refused_list_stops_lists_only(service: Service, run: Any) -> None:
    limits = Limits(lists=0)
    service.answer = limits.answer
    ids = service.add(20, ends=0.0)
    steps = run(wait_for_each(Connections(ARK), ids))
    assert {(step.kind, step.state.failures) for step in steps} == {("ended", 0)}
    assert len(lists_of(service)) <= 2
    assert max(service.times()) < 20.0


def test_a_refused_read_stops_reads_only(service: Service, run: Any) -> None:
    limits = Limits(reads=0)
    service.answer = limits.answer
    ids = service.add(20, ends=15.0)
    service.ends["alone"] = 0.0
    look_up = Connections(ARK)
    steps = run(wait_for_each(look_up, ids, interval=20.0))
    assert {step.kind for step in steps} == {"ended"}
    assert [len(request.ids) for request in service.requests] == [20]
    assert limits.refused == []


def test_a_list_that_is_too_long_for_the_service_becomes_shorter(service: Service, run: Any) -> None:
    too_long = reply(414, {"error": {"code": "No", "message": "URI too long"}})
    service.answer = lambda request: too_long if len(request.ids) > 100 else None
    ids = service.add(400, ends=25.0)
    steps = run(wait_for_each(Connections(ARK), ids, interval=10.0))
    assert {step.kind for step in steps} == {"ended"}
    assert max(len(request.ids) for request in lists_of(service)[1:]) == 100


def test_cancellations_keep_to_the_rate_of_reads(service: Service, run: Any) -> None:
    async def cancel_all() -> list[float]:
        async with hub.open_hub(CONN, Connections(ARK)) as (one, _):
            times = []
            for _ in range(60):
                await one.wait_to_cancel()
                times.append(passed())
            return times

    times = run(cancel_all())
    # Each of them reads twice.
    assert all(later - earlier >= 1.0 for earlier, later in zip(times, times[10:], strict=False))
    assert times[-1] < 10.0


def test_refused_reads_hold_a_cancellation_for_seconds_only(service: Service, run: Any) -> None:
    """A queued render may start in the meantime, and is billed then."""

    async def cancel_all() -> tuple[float, float]:
        async with hub.open_hub(CONN, Connections(ARK)) as (one, _):
            for _ in range(20):
                one._rates.read.refuse(3600.0, one._clock.now())
            before = one._rates.read.next_at
            for _ in range(10):
                await one.wait_to_cancel()
            return passed(), one._rates.read.next_at - before

    waited, delayed = run(cancel_all())
    assert waited <= 10 * MAX_CANCEL_WAIT_SECONDS
    assert delayed == 0.0


def test_the_ends_of_400_short_renders_are_seen_within_15_seconds(service: Service, run: Any) -> None:
    limits = Limits()
    service.answer = limits.answer
    service.latency = 0.1
    service.ends = {f"g{number}": 20.0 + number / 100 for number in range(400)}
    look_up = Connections(ARK)
    seen = run(wait_for_all(*(wait_and_note(look_up, name) for name in service.ends)))
    late = [at - end for at, end in zip(seen, service.ends.values(), strict=True)]
    assert min(late) >= 0.0
    assert max(late) <= 15.0
    assert len(limits.refused) <= 0.02 * len(service.requests)
