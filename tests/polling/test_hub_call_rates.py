"""The hub in simulated time: a service that limits lists and single reads apart, per account."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from helpers import reply

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


def lists(service: Service) -> list[Request]:
    return [request for request in service.requests if len(request.ids) > 1]


async def wait_and_note(look_up: Connections, generation_id: str) -> float:
    """Wait for a generation, and return when its end was seen."""
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
    assert len(lists(service)) <= 2
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
    assert max(len(request.ids) for request in lists(service)[1:]) == 100


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
