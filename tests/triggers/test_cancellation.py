"""Cancellation by a trigger that Airflow stops: only if a user ended the task."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import traceback
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from airflow.sdk import TaskInstanceState
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from helpers import ALL_APIS
from support import Log, TaskInstance, emulator_settings, killed, on_loop, submitted, tasks_of_kills

from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.polling import hub
from airflow_provider_seedance.triggers import cancellation
from airflow_provider_seedance.triggers.cancellation import ABANDONED_STATES, is_abandoned, read_task_state
from airflow_provider_seedance.triggers.seedance import (
    SeedanceCallbackTrigger,
    SeedanceGenerationTrigger,
    SeedanceQuotaTrigger,
)
from triggers.generation_trigger import make


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()
    monkeypatch.setattr(cancellation, "log", log)
    return log


@pytest.fixture
def queued(services: SeedanceEmulator, connect: Callable[..., None]) -> SeedanceGenerationTrigger:
    """The trigger of a queued generation, at the service that can cancel."""
    connect("ark")
    services.hold()
    return make(submitted(services, "ark"), map_index=2, callback_nonce="n1")


@pytest.fixture
def set_task(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set what Airflow returns of the task: the states of its task instances, and its result."""

    def answer(owner: Any, name: str, value: Any, **expected: Any) -> None:
        def reply(**which: Any) -> Any:
            assert which == {"dag_id": "dag", "map_index": 2, **expected}
            if isinstance(value, Exception):
                raise value
            return value

        monkeypatch.setattr(owner, name, reply)

    def set_task(states: Any, result: Any = None) -> None:
        states = {"run": {"task_2": states}} if isinstance(states, str) else states
        answer(RuntimeTaskInstance, "get_task_states", states, task_ids=["task"], run_ids=["run"])
        answer(BaseXCom, "get_one", result, run_id="run", task_id="task", key="return_value")

    return set_task


def kill(trigger: SeedanceGenerationTrigger) -> None:
    on_loop(killed(trigger))


async def first_request(services: SeedanceEmulator) -> None:
    while not services.ledger.count("status"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


GOES_ON = "goes on and is billed"


@pytest.mark.parametrize(
    ("states", "result", "why_not"),
    [
        *((state, None, "") for state in ("failed", "success", "skipped", "removed")),
        # Without a successful result, a user has ended the task.
        *(("success", result, "") for result in ("text", {"status": "running"}, ConnectionError("away"))),
        # A callback has ended it.
        ("success", {"status": "succeeded", "generation_id": "g"}, "there is nothing to cancel"),
        *(
            (state, None, GOES_ON)
            for state in ("running", "deferred", "queued", "restarting", "up_for_retry")
        ),
        *((states, None, GOES_ON) for states in ({"run": {"task_2": None}}, {}, None, ConnectionError("no"))),
    ],
)
def test_only_a_generation_of_an_ended_task_is_cancelled(
    services: SeedanceEmulator, queued: Any, set_task: Any, log: Log, states: Any, result: Any, why_not: str
) -> None:
    set_task(states, result)
    before = len(services.ledger.requests)
    kill(queued)
    assert services.generation(queued.generation_id).status == ("queued" if why_not else "cancelled")
    assert (len(services.ledger.requests) > before) is (why_not == "")
    assert why_not in log.lines[-1]
    assert (GOES_ON in log.lines[-1]) is (why_not == GOES_ON)


def test_a_task_may_forbid_its_cancellation(queued: Any, set_task: Any, log: Log) -> None:
    set_task("failed")
    queued.cancel_on_kill = False
    kill(queued)
    assert log.lines == [f"cancel_on_kill=False: generation {queued.generation_id} goes on and is billed."]


@pytest.mark.parametrize("discards", [False, True])
def test_the_log_names_the_generation_that_a_cleared_task_leaves(
    queued: Any, set_task: Any, log: Log, discards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Airflow 3.4 on, the next try may not know of it."""
    monkeypatch.setattr(cancellation, "AIRFLOW_V_3_4_PLUS", discards)
    set_task("scheduled")
    kill(queued)
    assert f"generation {queued.generation_id} goes on and is billed." in log.lines[-1]
    assert ("the next try does not know of it" in log.lines[-1]) is discards


@pytest.mark.parametrize("api", [api for api in ALL_APIS if not get_api(api).can_cancel])
def test_a_service_that_cannot_cancel_costs_no_request_and_no_read_of_the_task_state(
    services: SeedanceEmulator, connect: Callable[..., None], log: Log, api: str
) -> None:
    connect(api)
    trigger: Any = make("g")
    trigger._is_abandoned = None
    kill(trigger)
    assert services.ledger.requests == []
    assert "offers no way to cancel: generation g goes on and is billed" in log.lines[-1]


def test_the_cancellation_outlives_on_kill(
    services: SeedanceEmulator, queued: Any, set_task: Any, log: Log
) -> None:
    """Airflow gives ``on_kill`` about a second, and then closes the log of the trigger."""
    set_task("failed")
    fault = services.fault("delay", on="status", hold=True)

    async def kill() -> None:
        killing = asyncio.create_task(queued.on_kill())
        await first_request(services)
        killing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await killing
        assert len(tasks_of_kills()) == 1
        # The last line that a user may see: it is not known yet whether the service still can cancel.
        named = f"generation {queued.generation_id} {GOES_ON}"
        assert log.lines[0] == f"If a try continues, {named}; else it may be cancelled (1 queued)."
        fault.release()
        await asyncio.gather(*tasks_of_kills())

    on_loop(kill())
    assert services.generation(queued.generation_id).status == "cancelled"
    assert cancellation._kills == {}


def test_a_cancellation_times_out(
    services: SeedanceEmulator, queued: Any, set_task: Any, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_task("failed")
    monkeypatch.setattr(cancellation, "CANCEL_TIMEOUT_SECONDS", 0.05)
    fault = services.fault("delay", on="status", hold=True)
    try:
        kill(queued)
    finally:
        fault.release()
    assert services.generation(queued.generation_id).status == "queued"
    assert "was not cancelled" in log.lines[-1]


def test_many_cancellations_share_one_look_up_and_one_client(
    services: SeedanceEmulator, queued: Any, set_task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_task("failed")
    look_up = AsyncMock(return_value=emulator_settings(services, "ark"))
    clients = Mock(side_effect=hub.AsyncClient)
    monkeypatch.setattr(cancellation, "look_up_settings", look_up)
    monkeypatch.setattr(hub, "AsyncClient", clients)
    monkeypatch.setattr(type(get_api("ark")), "calls_per_second", {})  # which would space them out

    on_loop(killed(*[queued] * 10))
    assert (look_up.call_count, clients.call_count) == (1, 1)
    assert services.generation(queued.generation_id).status == "cancelled"
    assert (hub._hubs, hub._connections) == ({}, {})


def test_many_kills_are_few_tasks(services: SeedanceEmulator, queued: Any, set_task: Any, log: Log) -> None:
    """Airflow waits for the first of them; its timeout ends all others at once."""
    set_task("failed")
    fault = services.fault("delay", on="status", hold=True)

    async def kill_all() -> None:
        kills = [asyncio.create_task(queued.on_kill()) for _ in range(300)]
        await first_request(services)
        waiting = [task for task in kills if not task.done()]
        assert len(waiting) <= cancellation.MAX_AWAITED_KILLS + cancellation.MAX_CONCURRENT_CANCELLATIONS
        assert len(tasks_of_kills()) == cancellation.MAX_CONCURRENT_CANCELLATIONS
        fault.release()
        set_task("scheduled")
        await asyncio.gather(*kills, *tasks_of_kills())

    on_loop(kill_all())
    assert services.generation(queued.generation_id).status == "queued"
    assert sum("The task is scheduled" in line for line in log.lines) == 300
    assert cancellation._kills == {}


def test_a_stopped_cancellation_stops_no_other(
    queued: Any, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    stopped = [asyncio.CancelledError] * cancellation.MAX_CONCURRENT_CANCELLATIONS
    is_abandoned = AsyncMock(side_effect=[*stopped, *[False] * 4])
    monkeypatch.setattr(SeedanceGenerationTrigger, "_is_abandoned", is_abandoned)
    on_loop(asyncio.wait_for(killed(*[queued] * (len(stopped) + 4)), 20))
    assert is_abandoned.call_count == len(stopped) + 4
    assert cancellation._kills == {}


@pytest.mark.parametrize("known", [True, False])
def test_no_kill_is_lost_while_the_connection_cannot_be_looked_up(
    connect: Callable[..., None], log: Log, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Without settings of a wait the connection has to be looked up."""
    connect("seedanceapi-v2")
    look_up = cancellation.look_up_settings
    fail = AsyncMock(side_effect=ConnectionError("away"))

    async def kill_all() -> None:
        async with hub.open_hub("seedance_default", look_up) if known else contextlib.nullcontext():
            monkeypatch.setattr(cancellation, "look_up_settings", fail)
            await killed(*(make(f"g{number}") for number in range(10)))
            await killed(make("g10"))

    on_loop(kill_all())
    words = "offers no way to cancel: " if known else "Not cancelled: "
    said = [line for line in log.lines if words in line]
    assert [f"generation g{number} goes on" in line for number, line in enumerate(said)] == [True] * 11


@pytest.mark.parametrize(
    "make_trigger",
    [
        lambda: make("g", poll_interval=3600.0),
        lambda: SeedanceQuotaTrigger(not_before=time.time() + 60),
        lambda: SeedanceCallbackTrigger(deadline=time.time() + 60, callback_nonce="n"),
    ],
)
def test_a_killed_trigger_leaves_no_frames(connect: Callable[..., None], make_trigger: Any) -> None:
    """Airflow keeps the error of each killed trigger until the next cycle, and reads its argument."""
    connect("seedanceapi-v2")

    async def run(trigger: Any) -> None:
        try:
            await anext(trigger.run())
        finally:
            await trigger.cleanup()

    async def caught() -> asyncio.CancelledError:
        running = asyncio.create_task(run(make_trigger()))
        await asyncio.sleep(0.1)
        running.cancel("why")
        await asyncio.wait([running])
        with pytest.raises(asyncio.CancelledError) as error:
            running.result()
        return error.value

    error = on_loop(caught())
    frames = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    assert (error.args, frames) == (("why",), ["caught"])


def test_many_kills_never_hold_the_event_loop(queued: Any, set_task: Any, log: Log) -> None:
    """The triggerer kills one trigger in each cycle of the loop, in which few others go on."""
    set_task("scheduled")
    lines: list[int] = []

    async def count_lines() -> None:
        while True:
            lines.append(len(log.lines))
            await asyncio.sleep(0)

    async def kill_all() -> None:
        counting = asyncio.create_task(count_lines())
        kills = []
        for _ in range(1000):
            kills.append(asyncio.create_task(queued.on_kill()))
            await asyncio.sleep(0)
        await asyncio.gather(*kills, *tasks_of_kills())
        counting.cancel()

    on_loop(kill_all())
    assert len(log.lines) == 2 * 1000
    most = max(later - before for before, later in itertools.pairwise(lines))
    assert most <= 2 + cancellation.MAX_CONCURRENT_CANCELLATIONS


@pytest.mark.parametrize(
    ("states", "map_index", "state"),
    [
        *(({"run": {"task": "failed"}}, map_index, "failed") for map_index in (-1, None)),
        ({"run": {"task_3": "success", "task": "failed"}}, 3, "success"),
        ({"run": {"task": TaskInstanceState.FAILED}}, -1, "failed"),
        ({"run": {"task_3": None}}, 3, None),
        *((states, -1, None) for states in ({"run": {}}, {}, {"run": None}, None, [])),
    ],
)
def test_task_state_is_read_from_the_reply_of_airflow(states: Any, map_index: Any, state: str | None) -> None:
    assert read_task_state(TaskInstance(map_index=map_index), lambda **which: states) == state


def test_only_ended_states_are_abandoned() -> None:
    ended = {"failed", "success", "skipped", "removed"}
    assert {state for state in (*TaskInstanceState, None) if is_abandoned(state)} == ended
    assert all(is_abandoned(state) for state in ABANDONED_STATES)
