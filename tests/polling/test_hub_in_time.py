"""The hub in simulated time: when it asks, whom, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from helpers import reply, settings

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.rate_limits import RateLimit
from airflow_provider_seedance.apis.wire import TransportFailure
from airflow_provider_seedance.client import POOL_SIZE
from airflow_provider_seedance.polling import hub as module
from airflow_provider_seedance.polling.beliefs import Beliefs
from airflow_provider_seedance.polling.hub import wait_for_generation, wait_for_turn, wait_to_submit
from airflow_provider_seedance.polling.notes import QUEUE_LIFETIME, QuotaNote
from airflow_provider_seedance.polling.quota import MARGIN
from airflow_provider_seedance.polling.schedule import Knowledge
from airflow_provider_seedance.polling.turns import BURST, MOST_PER_SECOND
from airflow_provider_seedance.polling.waiting import NOT_FOUND_LIMIT, Next, Waiting
from airflow_provider_seedance.settings import Settings
from polling.simulated import EPOCH, Request, Service, passed, refusal, simulate

CONN = "seedance_default"
HOUR = 3600.0


@pytest.fixture(autouse=True)
def beliefs(monkeypatch: pytest.MonkeyPatch) -> Beliefs:
    """What is learned in one test is not known in another."""
    known = Beliefs()
    monkeypatch.setattr(module, "_beliefs", known)
    return known


@pytest.fixture(autouse=True)
def _nothing_stays() -> Any:
    yield
    assert module._hubs == {}
    assert module._connections == {}


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    return Service().serve(monkeypatch)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, service: Service) -> Any:
    """Run in simulated time; every client is closed after it."""

    def in_time(main: Callable[[], Awaitable[Any]], **more: Any) -> Any:
        result = simulate(monkeypatch, main, **more)
        assert all(client.closed for client in service.clients)
        return result

    return in_time


class Connections:
    """Looks connections up, and notes when."""

    def __init__(self, *known: Settings) -> None:
        self.known = {one.conn_id: one for one in known}
        self.looked_up: list[tuple[float, str]] = []

    async def __call__(self, conn_id: str) -> Settings:
        self.looked_up.append((passed(), conn_id))
        await asyncio.sleep(0)
        return self.known[conn_id]


def connection(api: str = "runbase", conn_id: str = CONN, **changes: Any) -> Settings:
    return replace(settings(api=api), conn_id=conn_id, **changes)


def waiting(
    generation_id: str = "g", *, interval: float | None = 10.0, patience: float = HOUR, **changes: Any
) -> Waiting:
    known = Knowledge(poll_interval=interval)
    return Waiting(
        **{
            "generation_id": generation_id,
            "media": "video",
            "deadline": time.time() + patience,
            "known": known,
            **changes,
        }
    )


def wait(
    look_up: Any, generation_id: str = "g", conn_id: str = CONN, *, more: Any = None, **changes: Any
) -> Any:
    more = {"not_before": 0.0, **(more or {})}
    return wait_for_generation(waiting(generation_id, **changes), conn_id, look_up, **more)


async def wait_for_all(*waits: Any) -> list[Any]:
    return await asyncio.gather(*waits, return_exceptions=True)


async def leave(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# ---------------------------------------------------------------------- when


def test_a_render_is_read_at_the_users_interval_until_it_ends(service: Service, run: Any) -> None:
    service.ends["g"] = 25.0
    look_up = Connections(connection())
    step = run(lambda: wait(look_up))
    assert (step.kind, step.waiting.known.asked) == ("ended", 3)
    assert (step.waiting.last.status, step.waiting.last.media) == ("succeeded", "video")
    assert service.times() == [10.0, 20.0, 30.0]
    assert look_up.looked_up == [(0.0, CONN)]


def test_nothing_is_asked_before_the_moment_that_a_trigger_needs(service: Service, run: Any) -> None:
    service.ends["g"] = 0.0
    assert run(lambda: wait(Connections(connection()), more={"not_before": 17.0})).kind == "ended"
    assert service.times() == [17.0]


def test_patience_ends_at_the_deadline_without_another_request(service: Service, run: Any) -> None:
    service.ends["g"] = HOUR

    async def main() -> Any:
        return await wait(Connections(connection()), patience=35.0), passed()

    step, at = run(main)
    assert (step.kind, at) == ("deadline", 35.0)
    assert step.waiting.last is None  # what an unfinished render looked like is not kept
    assert service.times() == [10.0, 20.0, 30.0]


def test_a_deadline_that_has_passed_asks_nothing(service: Service, run: Any) -> None:
    assert run(lambda: wait(Connections(connection()), patience=0.0)).kind == "deadline"
    assert service.requests == []


def test_an_unknown_generation_ends_the_wait(service: Service, run: Any) -> None:
    assert run(lambda: wait(Connections(connection()))).kind == "unknown"
    assert len(service.requests) == NOT_FOUND_LIMIT


def test_many_are_read_at_a_time_but_not_more_than_there_are_connections(service: Service, run: Any) -> None:
    service.latency = 5.0
    names = [f"g{number}" for number in range(2 * POOL_SIZE + 3)]
    service.ends = dict.fromkeys(names, 0.0)
    look_up = Connections(connection())

    async def main() -> list[Any]:
        return await wait_for_all(*(wait(look_up, name) for name in names))

    steps = run(main)
    assert [step.waiting.last.generation_id for step in steps] == names
    assert service.most_running == POOL_SIZE
    # As soon as a connection is free the next one has it.
    assert sorted(set(service.times())) == [15.0, 20.0, 25.0]
    assert len(service.clients) == len(look_up.looked_up) == 1


def test_thousands_are_read_in_a_steady_stream(service: Service, run: Any) -> None:
    names = [f"g{number}" for number in range(400)]
    service.ends = dict.fromkeys(names, 0.0)
    look_up = Connections(connection())

    async def main() -> list[Any]:
        return await wait_for_all(*(wait(look_up, name) for name in names))

    assert {step.kind for step in run(main)} == {"ended"}
    times = service.times()
    assert times.count(10.0) == pytest.approx(BURST, abs=2)
    assert times[-1] - 10.0 == pytest.approx((len(names) - BURST) / MOST_PER_SECOND, rel=0.05)


def test_a_wall_clock_that_was_set_is_noticed_soon(
    service: Service, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.ends["g"] = 0.0

    async def main() -> float:
        task = asyncio.create_task(wait(Connections(connection()), interval=5 * HOUR, patience=9 * HOUR))
        await asyncio.sleep(100.0)
        loop = asyncio.get_running_loop()
        began = loop.time()
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda: EPOCH + 6 * HOUR + loop.time())
            assert (await task).kind == "ended"
        return loop.time() - began

    assert run(main) <= module._LONGEST_SLEEP


def test_waiting_costs_next_to_nothing(service: Service, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service.ends["g"] = 0.0
    woke_up: list[float] = []
    hear = module.Hub._hear
    monkeypatch.setattr(module.Hub, "_hear", lambda hub, now: (woke_up.append(now), hear(hub, now)))
    assert run(lambda: wait(Connections(connection()), interval=HOUR, patience=2 * HOUR)).kind == "ended"
    assert len(woke_up) <= HOUR / module._LONGEST_SLEEP + 5


def test_the_hub_has_a_context_of_its_own(service: Service, run: Any) -> None:
    """Airflow files log lines by context; those of the hub belong to nobody's task."""
    marker: contextvars.ContextVar[str] = contextvars.ContextVar("marker", default="nobody")
    seen: set[str] = set()
    service.ends["g"] = 15.0

    def answer(request: Request) -> None:
        seen.add(marker.get())

    service.answer = answer

    async def main() -> Any:
        marker.set("the first trigger")
        return await wait(Connections(connection()))

    assert run(main).kind == "ended"
    assert seen == {"nobody"}


# ---------------------------------------------------------------------- who shares


def test_a_hub_lives_as_long_as_somebody_waits_in_it(service: Service, run: Any) -> None:
    service.ends = {"a": 15.0, "b": 35.0, "c": 65.0}
    look_up = Connections(connection(), connection(conn_id="other", key="another"))

    async def main() -> None:
        first = asyncio.create_task(wait(look_up, "a"))
        second = asyncio.create_task(wait(look_up, "b"))
        other = asyncio.create_task(wait(look_up, "c", "other"))
        await first
        await asyncio.sleep(0)
        assert [client.closed for client in service.clients] == [False, False]
        await second
        await asyncio.sleep(0)
        assert [client.closed for client in service.clients] == [True, False]
        # Its connections are still those of the loop.
        assert (await wait(look_up, "a")).kind == "ended"
        await other

    run(main)
    assert [at for at, _ in look_up.looked_up] == [0.0, 0.0]
    assert len(service.clients) == 3


@pytest.mark.parametrize(
    ("change", "hubs", "clients"),
    [
        ({}, 1, 1),
        ({"model": "another"}, 1, 1),
        ({"timeout": 7.0}, 1, 2),
        ({"proxy": "http://proxy.example:3128"}, 1, 2),
        ({"verify": False}, 1, 2),
        ({"auth_header": "x-api-key"}, 1, 2),
        ({"requests_per_hour": 1000}, 1, 2),
        ({"api": "ark", "base_url": settings(api="runbase").base_url}, 1, 2),
        ({"key": "another"}, 2, 2),
        ({"base_url": "https://elsewhere.example"}, 2, 2),
    ],
)
def test_who_shares_a_quota_and_who_a_client(
    service: Service, run: Any, change: dict[str, Any], hubs: int, clients: int
) -> None:
    service.ends = {"a": 0.0, "b": 0.0}
    look_up = Connections(connection(conn_id="one"), connection(conn_id="other", **change))

    async def main() -> int:
        tasks = [
            asyncio.create_task(wait(look_up, name, conn)) for name, conn in (("a", "one"), ("b", "other"))
        ]
        await asyncio.sleep(5.0)
        met = len(module._hubs)
        assert {step.kind for step in await asyncio.gather(*tasks)} == {"ended"}
        return met

    assert run(main) == hubs
    assert len(service.clients) == clients
    # Each is read with the connection it came with.
    assert [request.settings.conn_id for request in service.requests if request.ids == ("a",)] == ["one"]


def test_a_connection_is_looked_up_again_after_a_while_once_for_all(service: Service, run: Any) -> None:
    service.ends = {"a": 2 * HOUR, "b": 2 * HOUR}
    look_up = Connections(connection())

    async def main() -> list[Any]:
        return await wait_for_all(*(wait(look_up, name, patience=3 * HOUR) for name in "ab"))

    assert {step.kind for step in run(main)} == {"ended"}
    moments = [at for at, _ in look_up.looked_up]
    assert moments == [module.CONNECTION_LIFETIME * number for number in range(9)]


def test_a_connection_that_cannot_be_looked_up_again_stays_as_it_was(
    service: Service, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    service.ends["g"] = 1000.0
    known = Connections(connection())

    async def look_up(conn_id: str) -> Settings:
        if passed() > 0:
            raise ConnectionError("the secret is away")
        return await known(conn_id)

    step = run(lambda: wait(look_up, interval=100.0))
    assert (step.kind, step.waiting.known.failures, step.waiting.known.asked) == ("ended", 0, 10)
    assert caplog.messages == [
        f"Connection {CONN!r} could not be looked up again: ConnectionError",
        f"Connection {CONN!r} could not be looked up again: ConnectionError",
    ]


def test_a_connection_that_is_slow_to_look_up_holds_up_no_other(service: Service, run: Any) -> None:
    service.ends = {"a": 0.0, "b": 0.0}
    known = Connections(connection(conn_id="slow"), connection(conn_id="quick"))

    async def look_up(conn_id: str) -> Settings:
        await asyncio.sleep(100.0 if conn_id == "slow" else 1.0)
        return await known(conn_id)

    async def main() -> list[Any]:
        return await wait_for_all(wait(look_up, "a", "slow"), wait(look_up, "b", "quick"))

    assert {step.kind for step in run(main)} == {"ended"}
    assert known.looked_up == [(1.0, "quick"), (100.0, "slow")]
    assert service.times("b") == [10.0 + 1.0]


def test_a_connection_that_cannot_be_looked_up_at_first_is_the_waiters_affair(
    service: Service, run: Any
) -> None:
    async def look_up(conn_id: str) -> Settings:
        raise errors.SeedanceConfigurationError("no API key")

    async def main() -> None:
        with pytest.raises(errors.SeedanceConfigurationError, match="no API key"):
            await wait(look_up)
        module._connections.clear()

    run(main)


def test_a_key_that_was_changed_is_used_from_the_first_refusal_on(service: Service, run: Any) -> None:
    names = [f"g{number}" for number in range(5)]
    service.ends = dict.fromkeys(names, 0.0)
    service.refused_keys = {"old"}
    service.latency = 1.0
    look_up = Connections(connection(key="old"))

    async def main() -> list[Any]:
        tasks = [asyncio.create_task(wait(look_up, name, interval=40.0)) for name in names]
        await asyncio.sleep(20.0)
        look_up.known[CONN] = connection(key="new")
        return await wait_for_all(*tasks)

    steps = run(main)
    assert {step.kind for step in steps} == {"ended"}
    assert {step.waiting.known.failures for step in steps} == {0}
    assert [at for at, _ in look_up.looked_up] == [0.0, 41.0]
    assert [client.settings.key for client in service.clients] == ["old", "new"]
    assert service.times() == [41.0] * 5 + [82.0] * 5


def test_a_key_that_stays_wrong_is_looked_up_twice_a_minute_at_most(service: Service, run: Any) -> None:
    service.refused_keys = {"wrong"}
    look_up = Connections(connection(key="wrong"))

    async def main() -> list[Any]:
        return await wait_for_all(*(wait(look_up, name, interval=1.0, patience=600.0) for name in "abc"))

    assert {step.kind for step in run(main)} == {"deadline"}
    moments = [at for at, _ in look_up.looked_up]
    assert all(later - before >= 30.0 for before, later in itertools.pairwise(moments))
    assert len(moments) >= 5
    assert len(service.clients) == 1


# ---------------------------------------------------------------------- leaving


def test_those_who_left_are_forgotten(service: Service, run: Any) -> None:
    service.ends["stays"] = 2 * HOUR
    look_up = Connections(connection())

    async def main() -> None:
        stays = asyncio.create_task(wait(look_up, "stays", interval=HOUR, patience=9 * HOUR))
        for number in range(5 * module._MOST_GONE):
            gone = asyncio.create_task(wait(look_up, f"g{number}", interval=HOUR + 1))
            await asyncio.sleep(0.01)
            await leave(gone)
            (hub,) = module._hubs.values()
            assert len(hub._turns) <= module._MOST_GONE + 5
        assert (await stays).kind == "ended"

    run(main)
    assert service.times() == [HOUR, 2 * HOUR]


# ---------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    "failure",
    [
        TransportFailure("the network is away", sent=True),
        reply(500, {"error": {"code": "Internal", "message": "no"}}),
        reply(403, {"error": {"code": "Forbidden", "message": "no"}}),
        reply(200, b"<html>"),
    ],
    ids=["network", "500", "403", "rubbish"],
)
def test_a_failed_reading_is_a_failure_of_the_reading_only(service: Service, run: Any, failure: Any) -> None:
    service.ends["g"] = 0.0
    service.answer = lambda request: failure if request.at < 25.0 else None
    step = run(lambda: wait(Connections(connection())))
    assert (step.kind, step.waiting.known.asked, step.waiting.known.failures) == ("ended", 1, 0)
    assert service.times() == [10.0, 20.0, 30.0]


@pytest.mark.parametrize("api", ["runbase", "ark"])
def test_a_bug_in_one_reading_reaches_its_waiter_only(
    service: Service, run: Any, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.ends = {"good": 15.0, "bad": 15.0}
    look_up = Connections(connection(api))
    plain = module.on_reading

    def on_reading(step: Waiting, *told: Any) -> Next:
        if step.generation_id == "bad":
            raise ZeroDivisionError("a bug")
        return plain(step, *told)

    monkeypatch.setattr(module, "on_reading", on_reading)

    async def main() -> list[Any]:
        return await wait_for_all(wait(look_up, "bad"), wait(look_up, "good"))

    bad, good = run(main)
    assert type(bad) is ZeroDivisionError
    assert good.kind == "ended"


def test_a_bug_in_the_request_reaches_those_who_were_read_by_it(
    service: Service, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.ends = {"a": 15.0, "b": 15.0}
    look_up = Connections(connection())

    def answer(request: Request) -> None:
        if request.ids == ("a",):
            raise ZeroDivisionError("a bug")

    service.answer = answer

    async def main() -> list[Any]:
        return await wait_for_all(wait(look_up, "a"), wait(look_up, "b"))

    broken, good = run(main)
    assert type(broken) is ZeroDivisionError
    assert good.kind == "ended"


def test_a_scheduler_that_broke_says_so_to_all_and_is_replaced(
    service: Service, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.ends = {"a": 15.0, "b": 15.0}
    look_up = Connections(connection())

    async def main() -> None:
        async def wait_again(name: str) -> Any:
            with pytest.raises(ZeroDivisionError):
                await wait(look_up, name)
            # Before all others have left the broken one.
            return await wait(look_up, name)

        tasks = [asyncio.create_task(wait_again(name)) for name in "ab"]
        await asyncio.sleep(1.0)
        (hub,) = module._hubs.values()
        monkeypatch.setattr(hub, "_hear", lambda now: 1 / 0)
        assert {step.kind for step in await asyncio.gather(*tasks)} == {"ended"}

    run(main)
    assert len(service.clients) == 2


# ---------------------------------------------------------------------- many in one request


def test_what_is_due_soon_is_read_in_one_request(service: Service, run: Any) -> None:
    service.ends = {"a": 0.0, "b": 0.0, "c": 0.0, "later": 0.0}
    look_up = Connections(connection("ark"))
    intervals = {"a": 30.0, "b": 33.0, "c": 39.0, "later": 50.0}

    async def main() -> list[Any]:
        return await wait_for_all(
            *(wait(look_up, name, interval=interval) for name, interval in intervals.items())
        )

    steps = run(main)
    assert [step.waiting.last.generation_id for step in steps] == list(intervals)
    assert [(request.at, request.ids) for request in service.requests] == [
        (30.0, ("a", "b", "c")),
        (50.0, ("later",)),
    ]


def test_one_that_a_list_does_not_tell_about_is_read_alone_from_then_on(service: Service, run: Any) -> None:
    service.ends = dict.fromkeys("abc", 50.0)
    look_up = Connections(connection("ark"))

    def answer(request: Request) -> Any:
        told = [service._body(name, request.at) for name in request.ids if name != "b"]
        return reply(200, {"total": len(told), "items": told}) if len(request.ids) > 1 else None

    service.answer = answer

    async def main() -> list[Any]:
        return await wait_for_all(*(wait(look_up, name, interval=20.0) for name in "abc"))

    steps = run(main)
    assert {step.kind for step in steps} == {"ended"}
    assert {step.waiting.known.failures for step in steps} == {0}
    assert {(request.at, request.ids) for request in service.requests} == {
        (20.0, ("a", "b", "c")),
        (20.0, ("b",)),
        (40.0, ("a", "c")),
        (40.0, ("b",)),
        (60.0, ("a", "c")),
        (60.0, ("b",)),
    }


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_list_that_is_refused_is_not_asked_for_again(
    service: Service, run: Any, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    service.ends = dict.fromkeys("abcde", 25.0)
    look_up = Connections(connection("ark"))
    refused = reply(status, {"error": {"code": "No", "message": "there is no such list"}})
    service.answer = lambda request: refused if len(request.ids) > 1 else None

    async def main() -> list[Any]:
        return await wait_for_all(
            *(wait(look_up, name) for name in "abc"),
            # Were not in that list, and are in no other.
            *(wait(look_up, name, interval=40.0) for name in "de"),
        )

    steps = run(main)
    assert {(step.kind, step.waiting.known.failures) for step in steps} == {("ended", 0)}
    assert [len(request.ids) for request in service.requests] == [3] + [1] * 11
    (line,) = caplog.messages
    assert "there is no such list" in line
    assert "one by one" in line


def test_a_list_that_fails_is_a_failed_reading_of_each(service: Service, run: Any) -> None:
    service.ends = dict.fromkeys("abc", 25.0)
    look_up = Connections(connection("ark"))
    broken = reply(500, {"error": {"code": "Internal", "message": "no"}})
    service.answer = lambda request: broken if request.at < 15.0 else None

    async def main() -> list[Any]:
        return await wait_for_all(*(wait(look_up, name) for name in "abc"))

    steps = run(main)
    assert {(step.kind, step.waiting.known.asked) for step in steps} == {("ended", 2)}
    assert [(request.at, len(request.ids)) for request in service.requests] == [
        (10.0, 3),
        (20.0, 3),
        (30.0, 3),
    ]


def test_one_request_speaks_for_one_connection(service: Service, run: Any) -> None:
    """Two names of one account: one of them may come to mean another key."""
    service.ends = dict.fromkeys("abcd", 0.0)
    look_up = Connections(connection("ark", "one"), connection("ark", "other"))

    async def main() -> list[Any]:
        names = zip("abcd", ("one", "other", "one", "other"), strict=True)
        return await wait_for_all(*(wait(look_up, name, conn_id) for name, conn_id in names))

    assert {step.kind for step in run(main)} == {"ended"}
    assert [request.ids for request in service.requests] == [("a", "c"), ("b", "d")]


def test_those_whose_patience_is_over_are_not_read_with_the_others(service: Service, run: Any) -> None:
    service.ends = dict.fromkeys("abc", 0.0)
    look_up = Connections(connection("ark"))

    async def main() -> list[Any]:
        return await wait_for_all(
            wait(look_up, "a"), wait(look_up, "b", patience=9.0, interval=20.0), wait(look_up, "c")
        )

    assert [step.kind for step in run(main)] == ["ended", "deadline", "ended"]
    # What is due a little later is taken along, its deadline being ahead.
    assert [request.ids for request in service.requests] in ([("a", "c")], [("b", "a", "c")])


# ---------------------------------------------------------------------- quota


def test_a_refusal_stops_everybody_and_is_said_once(
    service: Service, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"g{number}" for number in range(30)]
    service.ends = dict.fromkeys(names, 0.0)
    service.latency = 1.0
    service.answer = lambda request: refusal(600.0) if request.at < 300.0 else None
    look_up = Connections(connection())

    async def main() -> list[Any]:
        return await wait_for_all(*(wait(look_up, name) for name in names))

    steps = run(main)
    assert {(step.kind, step.waiting.known.failures) for step in steps} == {("ended", 0)}
    refused = [at for at in service.times() if at < 300.0]
    assert len(refused) <= POOL_SIZE  # what was on its way
    assert min(at for at in service.times() if at > 300.0) == pytest.approx(11.0 + 600.0, abs=2.0)
    (line,) = caplog.messages
    assert "30 polls and submissions" in line
    assert "600 s" in line


def test_whoever_was_refused_keeps_the_place(service: Service, run: Any) -> None:
    service.ends = {"first": 0.0, "second": 0.0}
    service.slow = {"first": 8.0, "second": 1.0}  # the refusal of the second comes before that of the first
    asked: list[str] = []

    def answer(request: Request) -> Any:
        asked.append(request.ids[0])
        service.slow.clear()
        return refusal(100.0) if request.at < 50.0 else None

    service.answer = answer
    look_up = Connections(connection())

    async def main() -> list[Any]:
        return await wait_for_all(wait(look_up, "first"), wait(look_up, "second", interval=12.0))

    assert {step.kind for step in run(main)} == {"ended"}
    assert asked == ["second", "first", "first", "second"]


@pytest.mark.parametrize(("api", "at"), [("runbase", 10.0), ("seedance2api", 300.0)])
def test_a_reading_has_room_for_all_of_its_requests(service: Service, run: Any, api: str, at: float) -> None:
    """The one that finds a render finished asks for its result, too, where that stands elsewhere."""
    service.ends["g"] = 0.0
    look_up = Connections(connection(api))

    async def main() -> Any:
        task = asyncio.create_task(wait(look_up))
        await asyncio.sleep(5.0)
        (hub,) = module._hubs.values()
        reset = datetime.fromtimestamp(EPOCH + 300.0, UTC)
        # One of them is kept for a submission.
        hub.answered(RateLimit(limit=4, remaining=2, reset_at=reset), refused=False)
        return await task

    assert run(main).kind == "ended"
    assert service.times()[0] == pytest.approx(at, abs=2.0)


def test_one_whose_patience_ends_while_the_quota_is_used_up(service: Service, run: Any) -> None:
    """A deadline does not fail a task that our own quota kept from reading: the waiter is told."""
    service.ends["g"] = 0.0
    service.answer = lambda request: refusal(600.0) if request.at < 300.0 else None
    step = run(lambda: wait(Connections(connection()), patience=60.0))
    assert (step.kind, step.waiting.refused, step.waiting.known.failures) == ("deadline", True, 0)


@pytest.mark.parametrize(("rates", "most"), [((20,), 20), ((20, None), 20), ((None, 40, 20), 20)])
def test_the_smallest_plan_that_is_known_bounds_the_requests(
    service: Service, run: Any, rates: tuple[int | None, ...], most: int
) -> None:
    names = [f"c{number}" for number in range(len(rates))]
    look_up = Connections(
        *(connection(conn_id=name, requests_per_hour=rate) for name, rate in zip(names, rates, strict=True))
    )
    service.ends = dict.fromkeys(names, 9 * HOUR)

    async def main() -> None:
        tasks = [asyncio.create_task(wait(look_up, name, name, patience=9 * HOUR)) for name in names]
        await asyncio.sleep(HOUR - 60.0)
        await leave(*tasks)

    run(main)
    # But for what is kept for submissions; those that came before the plan was known count, too.
    assert most * 0.75 - 1 <= len(service.requests) <= most


def test_renders_that_were_submitted_elsewhere_count_in_the_plan(service: Service, run: Any) -> None:
    look_up = Connections(connection(requests_per_hour=40))
    names = [f"g{number}" for number in range(10)]
    service.ends = dict.fromkeys(names, 9 * HOUR)

    async def main() -> None:
        tasks = [
            asyncio.create_task(
                wait(look_up, name, patience=9 * HOUR, submitted_at=time.time() - 5.0, told=name != "g0")
            )
            for name in names
        ]
        await asyncio.sleep(HOUR - 60.0)
        await leave(*tasks)

    run(main)
    assert len(service.requests) == 40 * 0.75 - 9


def headers(limit: int, window: float) -> Callable[[float], dict[str, str]]:
    """Say what is left of a quota with fixed windows, one request being counted with each reply."""
    used: dict[int, int] = {}

    def told(at: float) -> dict[str, str]:
        number = int(at // window)
        used[number] = used.get(number, 0) + 1
        return {
            "x-ratelimit-limit": str(limit),
            "x-ratelimit-remaining": str(max(0, limit - used[number])),
            "x-ratelimit-reset": str(int(EPOCH + (number + 1) * window)),
        }

    return told


def test_what_headers_say_is_left_is_never_exceeded(service: Service, run: Any) -> None:
    service.headers = headers(30, HOUR)
    look_up = Connections(connection("seedance2api"))
    names = [f"g{number}" for number in range(5)]
    service.ends = dict.fromkeys(names, 9 * HOUR)

    async def main() -> None:
        tasks = [asyncio.create_task(wait(look_up, name, patience=9 * HOUR)) for name in names]
        await asyncio.sleep(3 * HOUR - 1.0)
        await leave(*tasks)

    run(main)
    by_hour = [sum(HOUR * hour <= at < HOUR * (hour + 1) for at in service.times()) for hour in range(3)]
    assert all(20 <= count <= 30 for count in by_hour)


def test_waits_are_longer_where_the_quota_is_short_but_for_the_users_own(service: Service, run: Any) -> None:
    def count(interval: float | None, limit: int) -> int:
        service.requests.clear()
        service.headers = headers(limit, HOUR)
        names = [f"g{number}" for number in range(8)]
        service.ends = dict.fromkeys(names, 9 * HOUR)
        look_up = Connections(connection("seedance2api"))

        async def main() -> None:
            tasks = [
                asyncio.create_task(
                    wait(look_up, name, interval=interval, patience=9 * HOUR, submitted_at=time.time())
                )
                for name in names
            ]
            await asyncio.sleep(120.0)
            await leave(*tasks)

        run(main)
        return len(service.requests)

    plenty, short = count(None, 1000), count(None, 40)
    assert short < plenty / 2
    assert count(60.0, 40) == count(60.0, 1000)


def test_a_stretched_wait_ends_at_the_deadline(service: Service, run: Any) -> None:
    service.headers = headers(20, HOUR)
    service.ends = dict.fromkeys("abc", 9 * HOUR)
    look_up = Connections(connection("seedance2api"))

    async def main() -> list[float]:
        async def ended(name: str) -> float:
            assert (await wait(look_up, name, interval=None, patience=200.0)).kind == "deadline"
            return passed()

        return await wait_for_all(*(ended(name) for name in "abc"))

    assert run(main) == [200.0] * 3
    assert len(service.requests) < 15


# ---------------------------------------------------------------------- submissions


def test_a_submission_waits_for_its_moment(service: Service, run: Any) -> None:
    async def main() -> float:
        await wait_to_submit(CONN, Connections(connection()), moment=EPOCH + 50.0)
        return passed()

    assert run(main) == 50.0
    assert service.requests == []


def test_submissions_have_what_is_left_and_the_rest_waits_for_the_window(service: Service, run: Any) -> None:
    look_up = Connections(connection("seedance2api"))
    done: list[tuple[float, int]] = []

    async def submit(number: int) -> None:
        await wait_to_submit(CONN, look_up, moment=EPOCH + 10.0 + number / 100)
        done.append((passed(), number))

    async def main() -> None:
        tasks = [asyncio.create_task(submit(number)) for number in range(5)]
        await asyncio.sleep(5.0)
        (hub,) = module._hubs.values()
        told = RateLimit(limit=4, remaining=3, reset_at=datetime.fromtimestamp(EPOCH + 600.0, UTC))
        hub.answered(told, refused=False)
        await asyncio.gather(*tasks)

    run(main)
    assert [number for _, number in done] == [0, 1, 2, 3, 4]
    assert [at < 12.0 for at, _ in done] == [True, True, True, False, False]
    assert done[3][0] == pytest.approx(600.0 + MARGIN, abs=0.1)


def test_a_turn_is_waited_for_whatever_is_wrong_with_the_connection(service: Service, run: Any) -> None:
    said: list[str] = []

    def complain(message: str, *told: Any) -> None:
        said.append(message % told)

    async def look_up(conn_id: str) -> Settings:
        raise errors.SeedanceConfigurationError("no API key")

    async def turn(conn_id: str | None, look_up: Any, moment: float) -> float:
        await wait_for_turn(EPOCH + moment, conn_id, look_up, complain=complain)
        module._connections.clear()
        return passed()

    assert run(lambda: turn(None, look_up, 30.0)) == 30.0
    assert said == []
    assert run(lambda: turn(CONN, look_up, 30.0)) == 30.0
    assert said == ["No turn in the quota could be waited for: no API key"]
    assert run(lambda: turn(CONN, Connections(connection()), 30.0)) == 30.0
    assert run(lambda: turn(None, look_up, -30.0)) == 0.0
    assert len(said) == 1


# ---------------------------------------------------------------------- the note of other processes


def note(look_up: Connections) -> QuotaNote:
    (known,) = look_up.known.values()
    return QuotaNote(known.identity)


def test_what_another_process_was_told_is_heard(service: Service, run: Any) -> None:
    """A worker on this machine was told that nothing is left."""
    look_up = Connections(connection("seedance2api"))
    service.ends["g"] = 0.0

    async def main() -> Any:
        task = asyncio.create_task(wait(look_up))
        await asyncio.sleep(5.0)
        reset = datetime.fromtimestamp(EPOCH + 300.0, UTC)
        note(look_up).learn(RateLimit(limit=10, remaining=0, reset_at=reset), time.time())
        return await task

    assert run(main).kind == "ended"
    assert min(service.times()) == pytest.approx(300.0 + MARGIN, abs=0.1)


def test_what_this_process_is_told_others_hear(service: Service, run: Any) -> None:
    look_up = Connections(connection("seedance2api"))
    service.ends["g"] = 0.0
    service.headers = headers(10, HOUR)

    async def main() -> Any:
        await wait(look_up)
        return note(look_up).read(time.time())

    heard = run(main)
    assert (heard.limit, heard.remaining, heard.reset_at) == (10, 9, EPOCH + HOUR)


def test_a_refusal_is_not_noted(service: Service, run: Any) -> None:
    look_up = Connections(connection("seedance2api"))

    async def main() -> Any:
        task = asyncio.create_task(wait(look_up))
        await asyncio.sleep(1.0)
        (hub,) = module._hubs.values()
        reset = datetime.fromtimestamp(EPOCH + 300.0, UTC)
        hub.answered(RateLimit(limit=10, remaining=0, reset_at=reset, retry_after=5.0), refused=True)
        await leave(task)
        return note(look_up).read(time.time())

    assert run(main).limit is None


def test_others_stand_behind_submissions_that_wait_here(service: Service, run: Any) -> None:
    look_up = Connections(connection("seedance2api"))

    async def main() -> None:
        tasks = [asyncio.create_task(wait_to_submit(CONN, look_up, moment=EPOCH + 10.0)) for _ in range(2)]
        await asyncio.sleep(1.0)
        (hub,) = module._hubs.values()
        reset = datetime.fromtimestamp(EPOCH + 300.0, UTC)
        hub.answered(RateLimit(limit=10, remaining=1, reset_at=reset), refused=False)
        assert note(look_up).reserve(time.time()) == 0
        for moment in (100.0, 200.0, 290.0):
            await asyncio.sleep(moment - passed())
            # Said again as long as they wait.
            assert note(look_up).reserve(time.time()) == QUEUE_LIFETIME
        await asyncio.gather(*tasks)
        await asyncio.sleep(320.0 - passed())
        assert note(look_up).reserve(time.time()) == 0

    run(main)


# ---------------------------------------------------------------------- what is learned and told


def test_progress_is_reported(service: Service, run: Any) -> None:
    told: list[float] = []
    service.ends["g"] = 35.0
    service.bodies = lambda generation_id, at: {"progress": int(at)} if at > 15.0 else {}
    look_up = Connections(connection("seedance2api"))
    assert run(lambda: wait(look_up, more={"report": told.append})).kind == "ended"
    assert told == [20.0, 30.0]
    assert [type(one) for one in told] == [float, float]
    assert run(lambda: wait(look_up)).kind == "ended"  # nobody has to listen


def iso(at: float) -> str:
    return datetime.fromtimestamp(EPOCH + at, UTC).isoformat()


@pytest.mark.parametrize(("completed", "delay"), [(22.0, 8.0), (None, None), (31.0, 0.0)])
def test_the_end_of_a_render_is_counted(
    service: Service,
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    completed: float | None,
    delay: float | None,
) -> None:
    counted: list[dict[str, Any]] = []
    monkeypatch.setattr(module.metrics, "render_ended", lambda **told: counted.append(told))
    service.ends["g"] = 22.0
    if completed is not None:
        service.bodies = lambda generation_id, at: {"completed_at": iso(completed)} if at > 22.0 else {}
    run(lambda: wait(Connections(connection())))
    assert counted == [{"api": "runbase", "outcome": "succeeded", "polls": 3, "delay": delay}]


def test_a_render_that_goes_on_beyond_the_deadline_has_not_ended(
    service: Service, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[dict[str, Any]] = []
    monkeypatch.setattr(module.metrics, "render_ended", lambda **told: counted.append(told))
    service.ends["g"] = 9 * HOUR
    service.latency = 5.0
    assert run(lambda: wait(Connections(connection()), patience=12.0)).kind == "deadline"
    assert service.times() == [15.0]
    assert counted == []


def test_what_took_how_long_is_learned(service: Service, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[tuple[Any, ...]] = []
    monkeypatch.setattr(module._beliefs, "learn", lambda *told: learned.append(told))
    service.ends = {"a": 25.0, "quick": 5.0, "nobody-knows": 5.0, "failed": 5.0, "bare": 5.0}
    service.bodies = lambda generation_id, at: {"status": "failed"} if generation_id == "failed" else {}
    facts = {"model": "m", "duration": 5, "resolution": "720p", "credits": 9}
    known = connection()
    look_up = Connections(known)

    async def main() -> None:
        told: dict[str, Any] = {"submitted_at": EPOCH - 100.0, "told": True}
        await wait_for_all(
            wait(look_up, "a", more={"facts": facts}, **told),
            wait(look_up, "quick", more={"facts": facts}, **told),
            wait(look_up, "failed", more={"facts": facts}, **told),
            wait(look_up, "nobody-knows", more={"facts": facts}, submitted_at=EPOCH - 100.0),
            wait(look_up, "bare", interval=15.0, **told),
        )

    run(main)
    kind = (known.base_url, "video", "m", 5, "720p")
    bare = (known.base_url, "video", None, None, None)
    # Not ended when it was read last, or when it was submitted; ended now.
    assert learned == [(kind, 0.0, 110.0), (bare, 0.0, 115.0), (kind, 120.0, 130.0)]


def test_what_was_learned_of_a_kind_is_gone_by(service: Service, run: Any, beliefs: Beliefs) -> None:
    known = connection()
    facts = {"model": "m", "duration": 5, "resolution": "720p"}
    for _ in range(60):
        beliefs.learn((known.base_url, "video", "m", 5, "720p"), 395.0, 405.0)

    def first(facts: dict[str, Any]) -> list[float]:
        service.requests.clear()
        service.ends["g"] = 400.0
        submitted = {"submitted_at": EPOCH, "told": True}
        run(lambda: wait(Connections(known), interval=None, more={"facts": facts}, **submitted))
        return service.times()

    like, other = first(facts), first({**facts, "model": "another"})
    assert like[0] > 250.0
    assert len(like) < len(other)
    assert other[0] < 20.0


def test_what_others_took_is_known_from_the_next_reading_on(
    service: Service, run: Any, beliefs: Beliefs
) -> None:
    known = connection()
    service.ends["g"] = 400.0

    async def main() -> Any:
        submitted = {"submitted_at": EPOCH, "told": True}
        task = asyncio.create_task(wait(Connections(known), interval=None, **submitted))
        await asyncio.sleep(5.0)
        for _ in range(60):
            beliefs.learn((known.base_url, "video", None, None, None), 395.0, 405.0)
        return await task

    assert run(main).kind == "ended"
    first, second, *_ = service.times()
    assert first < 15.0
    assert second > 250.0
