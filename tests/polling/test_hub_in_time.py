"""The hub in simulated time: times of polls, ends of waits, failures, and connections."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import time
from typing import Any

import pytest
from helpers import reply, settings

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.client.api_client import MAX_CONNECTIONS
from airflow_provider_seedance.polling import hub as module
from airflow_provider_seedance.polling.quota import POLICY
from airflow_provider_seedance.polling.wait_many import wait_for_many
from airflow_provider_seedance.polling.wait_state import TIMING, WaitState, WaitStep
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.triggers import seedance as triggers
from polling.simulated import (
    CONN,
    EPOCH,
    HOUR,
    Connections,
    Service,
    connection,
    ends,
    leave,
    only_hub,
)


def gaps(look_up: Connections) -> list[float]:
    return [later - before for (before, _), (later, _) in itertools.pairwise(look_up.looked_up)]


@pytest.mark.parametrize(("not_before", "polls"), [(0.0, [10.0, 20.0, 30.0]), (17.0, [17.0, 27.0])])
def test_a_generation_is_polled_at_the_interval_of_the_user_until_it_ends(
    service: Service, not_before: float, polls: list[float]
) -> None:
    service.ends["g"] = 25.0
    service.look_up = look_up = Connections()
    step = service.run(service.wait(not_before=not_before))
    assert (step.kind, step.state.poll_count) == ("ended", len(polls))
    assert (step.state.last.status, step.state.last.media) == ("succeeded", "video")
    assert service.times() == polls
    assert look_up.looked_up == [(0.0, CONN)]


@pytest.mark.parametrize(("timeout", "polls"), [(35.0, [10.0, 20.0, 30.0]), (0.0, [])])
def test_a_wait_ends_at_its_deadline_without_another_poll(
    service: Service, timeout: float, polls: list[float]
) -> None:
    service.ends["g"] = HOUR
    step = service.run(service.wait(timeout=timeout))
    assert (step.kind, service.seconds) == ("deadline", timeout)
    assert step.state.last is None  # the state of an unfinished generation is not kept
    assert service.times() == polls


def test_no_more_polls_are_in_flight_than_there_are_connections(service: Service) -> None:
    service.latency = 5.0
    ids = service.add(2 * MAX_CONNECTIONS + 3)
    service.look_up = look_up = Connections()
    assert [step.state.last.generation_id for step in service.run_each(ids)] == ids
    assert service.max_running == MAX_CONNECTIONS
    # The next poll uses a connection as soon as it is free.
    assert sorted(set(service.times())) == [15.0, 20.0, 25.0]
    assert len(service.clients) == len(look_up.looked_up) == 1


def test_hundreds_are_polled_at_a_steady_rate(service: Service) -> None:
    ids = service.add(200)
    assert ends(service.run_each(ids)) == {("ended", 0)}
    times = service.times()
    assert times.count(10.0) == pytest.approx(POLICY.max_burst, abs=2)
    seconds = (len(ids) - POLICY.max_burst) / POLICY.max_polls_per_second
    assert times[-1] - 10.0 == pytest.approx(seconds, rel=0.05)


@pytest.mark.parametrize(
    ("shift", "kind", "ended"), [(6 * HOUR, "deadline", 3 * HOUR), (-6 * HOUR, "ended", 5 * HOUR)]
)
def test_the_wall_clock_moves_deadlines_but_not_polls(
    service: Service, monkeypatch: pytest.MonkeyPatch, shift: float, kind: str, ended: float
) -> None:
    service.ends["g"] = -HOUR * 24

    async def main() -> float:
        task = asyncio.create_task(service.wait(interval=5 * HOUR, timeout=9 * HOUR))
        await asyncio.sleep(100.0)
        loop = asyncio.get_running_loop()
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda: EPOCH + shift + loop.time())
            assert (await task).kind == kind
        return loop.time()

    assert service.run(main()) == pytest.approx(ended, abs=TIMING.max_sleep)


def test_a_waiting_hub_rarely_wakes_up(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.ends["g"] = 0.0
    woke_up: list[float] = []
    sync = module.Hub._sync_shared_quota
    monkeypatch.setattr(
        module.Hub, "_sync_shared_quota", lambda hub, now: (woke_up.append(now), sync(hub, now))
    )
    assert service.run(service.wait(interval=HOUR, timeout=2 * HOUR)).kind == "ended"
    assert len(woke_up) <= HOUR / TIMING.max_sleep + 5


def test_a_hub_runs_in_a_context_of_its_own(service: Service) -> None:
    """Airflow assigns log lines to tasks by context, and the hub belongs to no task."""
    marker: contextvars.ContextVar[str] = contextvars.ContextVar("marker", default="no task")
    seen: set[str] = set()
    service.ends["g"] = 15.0
    service.answer = lambda request: seen.add(marker.get())  # type: ignore[func-returns-value]

    async def main() -> Any:
        marker.set("the first trigger")
        return await service.wait()

    assert service.run(main()).kind == "ended"
    assert seen == {"no task"}


# ---------------------------------------------------------------------- cancelled waits


def test_cancelled_waits_are_pruned(service: Service) -> None:
    service.ends["stays"] = 2 * HOUR

    async def main() -> None:
        stays = asyncio.create_task(service.wait("stays", interval=HOUR, timeout=9 * HOUR))
        for number in range(5 * module.MAX_DEAD_WAITERS):
            gone = asyncio.create_task(service.wait(f"g{number}", interval=HOUR + 1))
            await asyncio.sleep(0.01)
            await leave(gone)
            assert len(only_hub()._queue) <= module.MAX_DEAD_WAITERS + 5
        assert (await stays).kind == "ended"

    service.run(main())
    assert service.times() == [HOUR, 2 * HOUR]


def test_a_wait_may_be_cancelled_during_its_poll(service: Service) -> None:
    service.latency = 5.0
    service.ends["stays"] = 20.0

    async def main() -> None:
        stays = asyncio.create_task(service.wait("stays"))
        gone = asyncio.create_task(service.wait("gone"))
        await asyncio.sleep(12.0)
        assert service.running == 2
        await leave(gone)
        assert gone.cancelled()
        assert (await stays).kind == "ended"

    service.run(main())


def test_a_hub_closes_when_its_last_wait_is_cancelled_while_the_scheduler_wakes_up(service: Service) -> None:
    async def main() -> None:
        for iterations in range(20):
            task = asyncio.create_task(service.wait(interval=30.0))
            await asyncio.sleep(0.001)
            hub = only_hub()
            await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.sleep(0)
            hub._wake.set()
            for _ in range(iterations % 5):
                await asyncio.sleep(0)
            hub._scheduler.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert hub._scheduler.done()

    service.run(main())


# ---------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("api", "place"), [("runbase", "reading"), ("ark", "reading"), ("runbase", "request")]
)
def test_a_bug_reaches_its_waiter_only(
    service: Service, api: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.ends = {"good": 15.0, "bad": 15.0}
    service.look_up = Connections(connection(api))
    plain = module.on_poll

    def fail(generation_id: str) -> None:
        if generation_id == "bad":
            raise ZeroDivisionError("a bug")

    def on_poll(state: WaitState, *arguments: Any) -> WaitStep:
        fail(state.generation_id)
        return plain(state, *arguments)

    if place == "reading":
        monkeypatch.setattr(module, "on_poll", on_poll)
    else:
        service.answer = lambda request: fail(request.ids[0])  # type: ignore[func-returns-value]
    assert [step.kind for step in service.run_each(["bad", "good"])] == ["deadline", "ended"]


def test_a_broken_scheduler_is_replaced_and_logged_once(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service.ends = {"a": 15.0, "b": 15.0}
    break_it = lambda: monkeypatch.setattr(only_hub(), "_sync_shared_quota", lambda now: 1 / 0)  # noqa: E731
    assert ends(service.run_each("ab", at={1.0: break_it})) == {("ended", 0)}
    assert len(service.clients) == 2
    (line,) = caplog.messages
    assert "2 waits broke and starts again" in line


@pytest.mark.parametrize("shift", [-6 * HOUR, -24 * HOUR])
def test_a_wall_clock_that_is_set_back_delays_no_event(
    service: Service, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    """Neither a granted submission, nor the end of a render, nor the lingering of a batch."""
    service.ends["g"] = -48 * HOUR  # ended by every clock, and polled once
    service.answer = lambda request: (
        reply(200, {"id": "h", "status": "running"}) if request.ids == ("h",) else None
    )
    monkeypatch.setattr(triggers, "look_up_settings", service.look_up)
    ended: dict[str, float] = {}

    async def events_of(trigger: Any) -> list[Any]:
        return [event async for event in trigger.run()]

    async def timed(name: str, waiting: Any) -> None:
        await waiting
        ended[name] = asyncio.get_running_loop().time()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        known = {"deadline": time.time() + 30 * HOUR, "poll_interval": 300.0}
        trigger = triggers.SeedanceGenerationTrigger(seedance_conn_id=CONN, generation_id="g", **known)
        pending = [(CONN, WaitState(generation_id=name, media="video", **known)) for name in "gh"]
        waits = {
            "submission": module.wait_for_submission(time.time() + 400.0, CONN, service.look_up),
            "trigger": events_of(trigger),
            "batch": wait_for_many(pending, service.look_up, min_ended=2, max_linger=60.0),
        }
        tasks = [asyncio.create_task(timed(name, waiting)) for name, waiting in waits.items()]
        await asyncio.sleep(100.0)
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda: EPOCH + shift + loop.time())
            await asyncio.wait(tasks, timeout=HOUR)
        await leave(*tasks)

    service.run(main())
    assert ended == {
        "submission": pytest.approx(400.0, abs=1),
        "trigger": pytest.approx(300.0, abs=1),
        "batch": pytest.approx(360.0, abs=2),
    }


# ---------------------------------------------------------------------- connections


def test_a_hub_closes_with_its_last_wait(service: Service) -> None:
    service.ends = {"a": 15.0, "b": 35.0, "c": 65.0}
    service.look_up = look_up = Connections(connection(), connection(conn_id="other", key="another"))

    async def main() -> None:
        waits = (service.wait("a"), service.wait("b"), service.wait("c", "other"))
        first, second, other = map(asyncio.create_task, waits)
        await first
        await asyncio.sleep(0)
        assert [client.closed for client in service.clients] == [False, False]
        await second
        await asyncio.sleep(0)
        assert [client.closed for client in service.clients] == [True, False]
        # The connections of the loop stay known while another hub is open.
        assert (await service.wait("a")).kind == "ended"
        await other

    service.run(main())
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
def test_connections_share_a_quota_by_account_and_a_client_by_settings(
    service: Service, change: dict[str, Any], hubs: int, clients: int
) -> None:
    service.ends = {"a": 0.0, "b": 0.0}
    service.look_up = Connections(connection(conn_id="one"), connection(conn_id="other", **change))
    counts: list[int] = []
    waits = (service.wait("a", "one"), service.wait("b", "other"))
    steps = service.run_all(*waits, at={5.0: lambda: counts.append(len(module._hubs))})
    assert ends(steps) == {("ended", 0)}
    assert (counts, len(service.clients)) == ([hubs], clients)
    # Each generation is polled with its own connection.
    assert [request.settings.conn_id for request in service.requests if request.ids == ("a",)] == ["one"]


def test_a_connection_is_looked_up_again_after_its_lifetime_once_for_all_waits(service: Service) -> None:
    service.look_up = look_up = Connections()
    service.ends = dict.fromkeys("ab", 2 * HOUR)
    assert ends(service.run_each("ab", interval=60.0, timeout=3 * HOUR)) == {("ended", 0)}
    moments = [at for at, _ in look_up.looked_up]
    assert moments == [TIMING.connection_lifetime * number for number in range(9)]


def test_a_connection_that_cannot_be_looked_up_again_stays_in_use(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.ends["g"] = 1000.0
    service.look_up = Connections(fails=lambda at: at > 0)
    step = service.run(service.wait(interval=100.0))
    assert (step.kind, step.state.failures, step.state.poll_count) == ("ended", 0, 10)
    assert caplog.messages == [
        f"Connection {CONN!r} could not be looked up, which is repeated until it can: ConnectionError"
    ]


def test_a_slow_look_up_delays_no_other_connection(service: Service) -> None:
    service.ends = {"a": 0.0, "b": 0.0}
    known = Connections(connection(conn_id="slow"), connection(conn_id="quick"))

    async def look_up(conn_id: str) -> Settings:
        await asyncio.sleep(100.0 if conn_id == "slow" else 1.0)
        return await known(conn_id)

    service.look_up = look_up
    assert ends(service.run_all(service.wait("a", "slow"), service.wait("b", "quick"))) == {("ended", 0)}
    assert known.looked_up == [(1.0, "quick"), (100.0, "slow")]
    assert service.times("b") == [10.0 + 1.0]


def test_a_failed_look_up_is_repeated_once_for_all_waits(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.look_up = look_up = Connections(fails=lambda at: at < 200.0)
    assert {step.kind for step in service.run_each(service.add(20))} == {"ended"}
    assert len(gaps(look_up)) <= 7
    assert all(TIMING.min_retry_delay <= gap <= 2 * TIMING.max_retry_delay for gap in gaps(look_up))
    assert len(caplog.messages) == 1


def test_look_ups_that_keep_failing_end_with_the_deadline(service: Service) -> None:
    service.look_up = Connections(fails=lambda at: True)
    assert service.run(service.wait(timeout=500.0)).kind == "deadline"
    assert (service.seconds, service.requests) == (500.0, [])


def test_a_new_key_is_used_after_the_first_refusal(service: Service) -> None:
    ids = service.add(5)
    service.refused_keys = {"old"}
    service.latency = 1.0
    service.look_up = look_up = Connections(connection(key="old"))
    change = {20.0: lambda: look_up.known.update({CONN: connection(key="new")})}
    assert ends(service.run_each(ids, at=change, interval=40.0)) == {("ended", 0)}
    # Simulated time may pass while the thread of a look-up starts.
    first, second = (at for at, _ in look_up.looked_up)
    assert first == 0.0
    assert second >= 41.0
    assert [client.settings.key for client in service.clients] == ["old", "new"]
    assert len(service.times()) == 10


def test_an_invalid_key_is_looked_up_twice_a_minute_at_most(service: Service) -> None:
    service.refused_keys = {"wrong"}
    service.look_up = look_up = Connections(connection(key="wrong"))
    assert {step.kind for step in service.run_each("abc", interval=1.0, timeout=600.0)} == {"deadline"}
    assert all(gap >= 30.0 for gap in gaps(look_up))
    assert len(look_up.looked_up) >= 5
    assert len(service.clients) == 1


def test_each_wait_gets_an_error_of_its_own(service: Service) -> None:
    failure = errors.SeedanceConfigurationError("no API key")

    async def fail(_: str) -> Settings:
        raise failure

    async def main() -> list[Any]:
        connections = module.Connections(fail, TIMING)
        return await asyncio.gather(*(connections.get(CONN) for _ in range(3)), return_exceptions=True)

    found = service.run(main())
    assert len(set(map(id, found))) == 3
    assert all(error.__cause__ is failure and str(error) == "no API key" for error in found)
