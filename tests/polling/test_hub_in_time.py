"""The hub in simulated time: when it asks, whom, with which connection, and what fails."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import time
from typing import Any

import pytest
from helpers import reply, settings

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.messages import TransportFailure
from airflow_provider_seedance.client.api_client import MAX_CONNECTIONS
from airflow_provider_seedance.polling import hub as module
from airflow_provider_seedance.polling.quota import POLICY
from airflow_provider_seedance.polling.wait_state import TIMING, WaitState, WaitStep
from airflow_provider_seedance.settings import Settings
from polling.simulated import (
    CONN,
    EPOCH,
    HOUR,
    Connections,
    Request,
    Service,
    connection,
    leave,
    passed,
    wait,
    wait_for_all,
)

# ---------------------------------------------------------------------- when


def test_a_render_is_read_at_the_users_interval_until_it_ends(service: Service, run: Any) -> None:
    service.ends["g"] = 25.0
    look_up = Connections(connection())
    step = run(lambda: wait(look_up))
    assert (step.kind, step.state.poll_count) == ("ended", 3)
    assert (step.state.last.status, step.state.last.media) == ("succeeded", "video")
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
    assert step.state.last is None  # what an unfinished render looked like is not kept
    assert service.times() == [10.0, 20.0, 30.0]


def test_a_deadline_that_has_passed_asks_nothing(service: Service, run: Any) -> None:
    assert run(lambda: wait(Connections(connection()), patience=0.0)).kind == "deadline"
    assert service.requests == []


def test_an_unknown_generation_ends_the_wait(service: Service, run: Any) -> None:
    assert run(lambda: wait(Connections(connection()))).kind == "unknown"
    assert len(service.requests) == TIMING.max_not_found


def test_many_are_read_at_a_time_but_not_more_than_there_are_connections(service: Service, run: Any) -> None:
    service.latency = 5.0
    names = [f"g{number}" for number in range(2 * MAX_CONNECTIONS + 3)]
    service.ends = dict.fromkeys(names, 0.0)
    look_up = Connections(connection())

    async def main() -> list[Any]:
        return await wait_for_all(*(wait(look_up, name) for name in names))

    steps = run(main)
    assert [step.state.last.generation_id for step in steps] == names
    assert service.most_running == MAX_CONNECTIONS
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
    assert times.count(10.0) == pytest.approx(POLICY.max_burst, abs=2)
    assert times[-1] - 10.0 == pytest.approx(
        (len(names) - POLICY.max_burst) / POLICY.max_polls_per_second, rel=0.05
    )


@pytest.mark.parametrize(
    ("shift", "kind", "ended"), [(6 * HOUR, "deadline", 3 * HOUR), (-6 * HOUR, "ended", 5 * HOUR)]
)
def test_wall_clock_moves_deadlines_but_not_polls(
    service: Service, run: Any, monkeypatch: pytest.MonkeyPatch, shift: float, kind: str, ended: float
) -> None:
    service.ends["g"] = -HOUR * 24

    async def main() -> float:
        task = asyncio.create_task(wait(Connections(connection()), interval=5 * HOUR, patience=9 * HOUR))
        await asyncio.sleep(100.0)
        loop = asyncio.get_running_loop()
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda: EPOCH + shift + loop.time())
            assert (await task).kind == kind
        return loop.time()

    assert run(main) == pytest.approx(ended, abs=TIMING.max_sleep)


def test_waiting_costs_next_to_nothing(service: Service, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service.ends["g"] = 0.0
    woke_up: list[float] = []
    hear = module.Hub._sync_shared_quota
    monkeypatch.setattr(
        module.Hub, "_sync_shared_quota", lambda hub, now: (woke_up.append(now), hear(hub, now))
    )
    assert run(lambda: wait(Connections(connection()), interval=HOUR, patience=2 * HOUR)).kind == "ended"
    assert len(woke_up) <= HOUR / TIMING.max_sleep + 5


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
        return await wait_for_all(*(wait(look_up, name, interval=60.0, patience=3 * HOUR) for name in "ab"))

    assert {step.kind for step in run(main)} == {"ended"}
    moments = [at for at, _ in look_up.looked_up]
    assert moments == [TIMING.connection_lifetime * number for number in range(9)]


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
    assert (step.kind, step.state.failures, step.state.poll_count) == ("ended", 0, 10)
    assert caplog.messages == [
        f"Connection {CONN!r} could not be looked up, which is repeated until it can: ConnectionError"
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


def test_failed_look_up_is_repeated_once_for_all_waits(
    service: Service, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"g{number}" for number in range(20)]
    service.ends = dict.fromkeys(names, 0.0)
    known = Connections(connection())
    look_ups: list[float] = []

    async def look_up(conn_id: str) -> Settings:
        look_ups.append(passed())
        if passed() < 200.0:
            raise ConnectionError("the secrets backend is down")
        return await known(conn_id)

    async def main() -> list[Any]:
        return await wait_for_all(*(wait(look_up, name) for name in names))

    assert {step.kind for step in run(main)} == {"ended"}
    gaps = [later - before for before, later in itertools.pairwise(look_ups)]
    assert len(look_ups) <= 8
    assert all(TIMING.min_retry_delay <= gap <= 2 * TIMING.max_retry_delay for gap in gaps)
    assert len(caplog.messages) == 1


def test_look_up_that_keeps_failing_ends_with_the_deadline(service: Service, run: Any) -> None:
    async def look_up(conn_id: str) -> Settings:
        raise errors.SeedanceConfigurationError("no API key")

    async def main() -> Any:
        return (await wait(look_up, patience=500.0)).kind, passed()

    assert run(main) == ("deadline", 500.0)
    assert service.requests == []


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
    assert {step.state.failures for step in steps} == {0}
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
        for number in range(5 * module.MAX_DEAD_WAITERS):
            gone = asyncio.create_task(wait(look_up, f"g{number}", interval=HOUR + 1))
            await asyncio.sleep(0.01)
            await leave(gone)
            (hub,) = module._hubs.values()
            assert len(hub._queue) <= module.MAX_DEAD_WAITERS + 5
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
    assert (step.kind, step.state.poll_count, step.state.failures) == ("ended", 1, 0)
    assert service.times() == [10.0, 20.0, 30.0]


@pytest.mark.parametrize("api", ["runbase", "ark"])
def test_a_bug_in_one_reading_reaches_its_waiter_only(
    service: Service, run: Any, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.ends = {"good": 15.0, "bad": 15.0}
    look_up = Connections(connection(api))
    plain = module.on_poll

    def on_poll(step: WaitState, *told: Any) -> WaitStep:
        if step.generation_id == "bad":
            raise ZeroDivisionError("a bug")
        return plain(step, *told)

    monkeypatch.setattr(module, "on_poll", on_poll)

    async def main() -> list[Any]:
        return await wait_for_all(wait(look_up, "bad"), wait(look_up, "good"))

    bad, good = run(main)
    assert (bad.kind, good.kind) == ("deadline", "ended")


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
    assert (broken.kind, good.kind) == ("deadline", "ended")


def test_broken_scheduler_is_replaced_and_logged_once(
    service: Service, run: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service.ends = {"a": 15.0, "b": 15.0}
    look_up = Connections(connection())

    async def main() -> None:
        tasks = [asyncio.create_task(wait(look_up, name)) for name in "ab"]
        await asyncio.sleep(1.0)
        (hub,) = module._hubs.values()
        monkeypatch.setattr(hub, "_sync_shared_quota", lambda now: 1 / 0)
        assert {step.kind for step in await asyncio.gather(*tasks)} == {"ended"}

    run(main)
    assert len(service.clients) == 2
    (line,) = caplog.messages
    assert "2 waits broke and starts again" in line


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
    assert [step.state.last.generation_id for step in steps] == list(intervals)
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
    assert {step.state.failures for step in steps} == {0}
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
    assert {(step.kind, step.state.failures) for step in steps} == {("ended", 0)}
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
    assert {(step.kind, step.state.poll_count) for step in steps} == {("ended", 2)}
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
