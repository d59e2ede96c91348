"""The hub in simulated time: times of polls, ends of waits, and failures."""

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import Any

import pytest
from helpers import reply

from airflow_provider_seedance.client.api_client import MAX_CONNECTIONS
from airflow_provider_seedance.polling import hub as module
from airflow_provider_seedance.polling.quota import POLICY
from airflow_provider_seedance.polling.wait_many import wait_for_many
from airflow_provider_seedance.polling.wait_state import TIMING, WaitState, WaitStep
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
    wait_for_each,
)


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
