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
    leave,
    only_hub,
    passed,
    wait,
    wait_for_all,
    wait_for_each,
)


def kinds(steps: list[Any]) -> set[str]:
    return {step.kind for step in steps}


def test_a_generation_is_polled_at_the_interval_of_the_user_until_it_ends(service: Service, run: Any) -> None:
    service.ends["g"] = 25.0
    look_up = Connections()
    step = run(wait(look_up))
    assert (step.kind, step.state.poll_count) == ("ended", 3)
    assert (step.state.last.status, step.state.last.media) == ("succeeded", "video")
    assert service.times() == [10.0, 20.0, 30.0]
    assert look_up.looked_up == [(0.0, CONN)]


def test_no_poll_before_the_earliest_time_of_the_trigger(service: Service, run: Any) -> None:
    service.ends["g"] = 0.0
    assert run(wait(not_before=17.0)).kind == "ended"
    assert service.times() == [17.0]


@pytest.mark.parametrize(("timeout", "polls"), [(35.0, [10.0, 20.0, 30.0]), (0.0, [])])
def test_a_wait_ends_at_its_deadline_without_another_poll(
    service: Service, run: Any, timeout: float, polls: list[float]
) -> None:
    service.ends["g"] = HOUR

    async def main() -> Any:
        return await wait(timeout=timeout), passed()

    step, at = run(main())
    assert (step.kind, at) == ("deadline", timeout)
    assert step.state.last is None  # the state of an unfinished generation is not kept
    assert service.times() == polls


def test_no_more_polls_are_in_flight_than_there_are_connections(service: Service, run: Any) -> None:
    service.latency = 5.0
    ids = service.add(2 * MAX_CONNECTIONS + 3)
    look_up = Connections()
    steps = run(wait_for_each(look_up, ids))
    assert [step.state.last.generation_id for step in steps] == ids
    assert service.max_running == MAX_CONNECTIONS
    # The next poll uses a connection as soon as it is free.
    assert sorted(set(service.times())) == [15.0, 20.0, 25.0]
    assert len(service.clients) == len(look_up.looked_up) == 1


def test_hundreds_are_polled_at_a_steady_rate(service: Service, run: Any) -> None:
    ids = service.add(200)
    assert {step.kind for step in run(wait_for_each(Connections(), ids))} == {"ended"}
    times = service.times()
    assert times.count(10.0) == pytest.approx(POLICY.max_burst, abs=2)
    assert times[-1] - 10.0 == pytest.approx(
        (len(ids) - POLICY.max_burst) / POLICY.max_polls_per_second, rel=0.05
    )


@pytest.mark.parametrize(
    ("shift", "kind", "ended"), [(6 * HOUR, "deadline", 3 * HOUR), (-6 * HOUR, "ended", 5 * HOUR)]
)
def test_the_wall_clock_moves_deadlines_but_not_polls(
    service: Service, run: Any, monkeypatch: pytest.MonkeyPatch, shift: float, kind: str, ended: float
) -> None:
    service.ends["g"] = -HOUR * 24

    async def main() -> float:
        task = asyncio.create_task(wait(interval=5 * HOUR, timeout=9 * HOUR))
        await asyncio.sleep(100.0)
        loop = asyncio.get_running_loop()
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda: EPOCH + shift + loop.time())
            assert (await task).kind == kind
        return loop.time()

    assert run(main()) == pytest.approx(ended, abs=TIMING.max_sleep)


def test_a_waiting_hub_rarely_wakes_up(service: Service, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service.ends["g"] = 0.0
    woke_up: list[float] = []
    sync = module.Hub._sync_shared_quota
    monkeypatch.setattr(
        module.Hub, "_sync_shared_quota", lambda hub, now: (woke_up.append(now), sync(hub, now))
    )
    assert run(wait(interval=HOUR, timeout=2 * HOUR)).kind == "ended"
    assert len(woke_up) <= HOUR / TIMING.max_sleep + 5


def test_a_hub_runs_in_a_context_of_its_own(service: Service, run: Any) -> None:
    """Airflow assigns log lines to tasks by context, and the hub belongs to no task."""
    marker: contextvars.ContextVar[str] = contextvars.ContextVar("marker", default="no task")
    seen: set[str] = set()
    service.ends["g"] = 15.0
    service.answer = lambda request: seen.add(marker.get())  # type: ignore[func-returns-value]

    async def main() -> Any:
        marker.set("the first trigger")
        return await wait()

    assert run(main()).kind == "ended"
    assert seen == {"no task"}


# ---------------------------------------------------------------------- cancelled waits


def test_cancelled_waits_are_pruned(service: Service, run: Any) -> None:
    service.ends["stays"] = 2 * HOUR
    look_up = Connections()

    async def main() -> None:
        stays = asyncio.create_task(wait(look_up, "stays", interval=HOUR, timeout=9 * HOUR))
        for number in range(5 * module.MAX_DEAD_WAITERS):
            gone = asyncio.create_task(wait(look_up, f"g{number}", interval=HOUR + 1))
            await asyncio.sleep(0.01)
            await leave(gone)
            assert len(only_hub()._queue) <= module.MAX_DEAD_WAITERS + 5
        assert (await stays).kind == "ended"

    run(main())
    assert service.times() == [HOUR, 2 * HOUR]


def test_a_wait_may_be_cancelled_during_its_poll(service: Service, run: Any) -> None:
    service.latency = 5.0
    service.ends["stays"] = 20.0
    look_up = Connections()

    async def main() -> None:
        stays = asyncio.create_task(wait(look_up, "stays"))
        gone = asyncio.create_task(wait(look_up, "gone"))
        await asyncio.sleep(12.0)
        assert service.running == 2
        await leave(gone)
        assert gone.cancelled()
        assert (await stays).kind == "ended"

    run(main())


def test_a_hub_closes_when_its_last_wait_is_cancelled_while_the_scheduler_wakes_up(
    service: Service, run: Any
) -> None:
    async def main() -> None:
        for iterations in range(20):
            task = asyncio.create_task(wait(interval=30.0))
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

    run(main())


# ---------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("api", "place"), [("runbase", "reading"), ("ark", "reading"), ("runbase", "request")]
)
def test_a_bug_reaches_its_waiter_only(
    service: Service, run: Any, api: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.ends = {"good": 15.0, "bad": 15.0}
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
    bad, good = run(wait_for_each(Connections(connection(api)), ["bad", "good"]))
    assert (bad.kind, good.kind) == ("deadline", "ended")


def test_a_broken_scheduler_is_replaced_and_logged_once(
    service: Service, run: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service.ends = {"a": 15.0, "b": 15.0}

    async def main() -> None:
        waits = asyncio.create_task(wait_for_each(Connections(), "ab"))
        await asyncio.sleep(1.0)
        monkeypatch.setattr(only_hub(), "_sync_shared_quota", lambda now: 1 / 0)
        assert {step.kind for step in await waits} == {"ended"}

    run(main())
    assert len(service.clients) == 2
    (line,) = caplog.messages
    assert "2 waits broke and starts again" in line


@pytest.mark.parametrize("shift", [-6 * HOUR, -24 * HOUR])
def test_a_wall_clock_that_is_set_back_delays_no_event(
    service: Service, run: Any, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    """Neither a granted submission, nor the end of a render, nor the lingering of a batch."""
    service.ends["g"] = -48 * HOUR  # ended by every clock, and polled once
    ended: dict[str, float] = {}

    async def events_of(trigger: Any) -> list[Any]:
        return [event async for event in trigger.run()]

    async def timed(name: str, waiting: Any) -> None:
        await waiting
        ended[name] = asyncio.get_running_loop().time()

    def state(generation_id: str) -> WaitState:
        return WaitState(
            generation_id=generation_id, media="video", deadline=time.time() + 30 * HOUR, poll_interval=300.0
        )

    async def main() -> None:
        loop, look_up = asyncio.get_running_loop(), Connections()
        monkeypatch.setattr(triggers, "look_up_settings", look_up)
        trigger = triggers.SeedanceGenerationTrigger(
            seedance_conn_id=CONN, generation_id="g", deadline=time.time() + 30 * HOUR, poll_interval=300.0
        )
        pending = [(CONN, state("g")), (CONN, state("h"))]
        service.answer = lambda request: (
            reply(200, {"id": "h", "status": "running"}) if request.ids == ("h",) else None
        )
        waits = {
            "submission": module.wait_for_submission(time.time() + 400.0, CONN, look_up),
            "trigger": events_of(trigger),
            "batch": wait_for_many(pending, look_up, min_ended=2, max_linger=60.0),
        }
        tasks = [asyncio.create_task(timed(name, waiting)) for name, waiting in waits.items()]
        await asyncio.sleep(100.0)
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda: EPOCH + shift + loop.time())
            await asyncio.wait(tasks, timeout=HOUR)
        await leave(*tasks)

    run(main())
    assert ended == {
        "submission": pytest.approx(400.0, abs=1),
        "trigger": pytest.approx(300.0, abs=1),
        "batch": pytest.approx(360.0, abs=2),
    }


# ---------------------------------------------------------------------- connections


def test_a_hub_closes_with_its_last_wait(service: Service, run: Any) -> None:
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
        # The connections of the loop stay known while another hub is open.
        assert (await wait(look_up, "a")).kind == "ended"
        await other

    run(main())
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
    service: Service, run: Any, change: dict[str, Any], hubs: int, clients: int
) -> None:
    service.ends = {"a": 0.0, "b": 0.0}
    look_up = Connections(connection(conn_id="one"), connection(conn_id="other", **change))

    async def main() -> int:
        waits = asyncio.create_task(wait_for_all(wait(look_up, "a", "one"), wait(look_up, "b", "other")))
        await asyncio.sleep(5.0)
        count = len(module._hubs)
        assert kinds(await waits) == {"ended"}
        return count

    assert run(main()) == hubs
    assert len(service.clients) == clients
    # Each generation is polled with its own connection.
    assert [request.settings.conn_id for request in service.requests if request.ids == ("a",)] == ["one"]


def test_a_connection_is_looked_up_again_after_its_lifetime_once_for_all_waits(
    service: Service, run: Any
) -> None:
    look_up = Connections()
    service.ends = dict.fromkeys("ab", 2 * HOUR)
    assert kinds(run(wait_for_each(look_up, "ab", interval=60.0, timeout=3 * HOUR))) == {"ended"}
    moments = [at for at, _ in look_up.looked_up]
    assert moments == [TIMING.connection_lifetime * number for number in range(9)]


def test_a_connection_that_cannot_be_looked_up_again_stays_in_use(
    service: Service, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    service.ends["g"] = 1000.0
    step = run(wait(Connections(fails=lambda at: at > 0), interval=100.0))
    assert (step.kind, step.state.failures, step.state.poll_count) == ("ended", 0, 10)
    assert caplog.messages == [
        f"Connection {CONN!r} could not be looked up, which is repeated until it can: ConnectionError"
    ]


def test_a_slow_look_up_delays_no_other_connection(service: Service, run: Any) -> None:
    service.ends = {"a": 0.0, "b": 0.0}
    known = Connections(connection(conn_id="slow"), connection(conn_id="quick"))

    async def look_up(conn_id: str) -> Settings:
        await asyncio.sleep(100.0 if conn_id == "slow" else 1.0)
        return await known(conn_id)

    steps = run(wait_for_all(wait(look_up, "a", "slow"), wait(look_up, "b", "quick")))
    assert kinds(steps) == {"ended"}
    assert known.looked_up == [(1.0, "quick"), (100.0, "slow")]
    assert service.times("b") == [10.0 + 1.0]


def test_a_failed_look_up_is_repeated_once_for_all_waits(
    service: Service, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ids = service.add(20)
    look_up = Connections(fails=lambda at: at < 200.0)
    assert kinds(run(wait_for_each(look_up, ids))) == {"ended"}
    gaps = [later - before for (before, _), (later, _) in itertools.pairwise(look_up.looked_up)]
    assert len(gaps) <= 7
    assert all(TIMING.min_retry_delay <= gap <= 2 * TIMING.max_retry_delay for gap in gaps)
    assert len(caplog.messages) == 1


def test_look_ups_that_keep_failing_end_with_the_deadline(service: Service, run: Any) -> None:
    async def main() -> Any:
        return (await wait(Connections(fails=lambda at: True), timeout=500.0)).kind, passed()

    assert run(main()) == ("deadline", 500.0)
    assert service.requests == []


def test_a_new_key_is_used_after_the_first_refusal(service: Service, run: Any) -> None:
    ids = service.add(5)
    service.refused_keys = {"old"}
    service.latency = 1.0
    look_up = Connections(connection(key="old"))

    async def main() -> list[Any]:
        waits = asyncio.create_task(wait_for_each(look_up, ids, interval=40.0))
        await asyncio.sleep(20.0)
        look_up.known[CONN] = connection(key="new")
        return await waits

    steps = run(main())
    assert {(step.kind, step.state.failures) for step in steps} == {("ended", 0)}
    # Simulated time may pass while the thread of a look-up starts.
    first, second = (at for at, _ in look_up.looked_up)
    assert first == 0.0
    assert second >= 41.0
    assert [client.settings.key for client in service.clients] == ["old", "new"]
    assert len(service.times()) == 10


def test_an_invalid_key_is_looked_up_twice_a_minute_at_most(service: Service, run: Any) -> None:
    service.refused_keys = {"wrong"}
    look_up = Connections(connection(key="wrong"))
    assert kinds(run(wait_for_each(look_up, "abc", interval=1.0, timeout=600.0))) == {"deadline"}
    moments = [at for at, _ in look_up.looked_up]
    assert all(later - before >= 30.0 for before, later in itertools.pairwise(moments))
    assert len(moments) >= 5
    assert len(service.clients) == 1


def test_each_wait_gets_an_error_of_its_own(run: Any) -> None:
    failure = errors.SeedanceConfigurationError("no API key")

    async def fail(_: str) -> Settings:
        raise failure

    async def main() -> list[Any]:
        connections = module.Connections(fail, TIMING)
        return await asyncio.gather(*(connections.get(CONN) for _ in range(3)), return_exceptions=True)

    found = run(main())
    assert len(set(map(id, found))) == 3
    assert all(error.__cause__ is failure and str(error) == "no API key" for error in found)
