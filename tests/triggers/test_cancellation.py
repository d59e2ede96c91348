"""What a trigger does when Airflow drops it because a callback has resumed or ended its task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk import TaskInstanceState
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from helpers import set_timing
from support import Log, TaskInstance, emulator_settings, on_loop, smallest

from airflow_provider_seedance.apis.validation import prepare_request
from airflow_provider_seedance.client import flows
from airflow_provider_seedance.client.api_client import Client
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.polling import hub
from airflow_provider_seedance.triggers import cancellation
from airflow_provider_seedance.triggers.cancellation import ABANDONED_STATES, is_abandoned, read_task_state
from airflow_provider_seedance.triggers.seedance import SeedanceCallbackTrigger, SeedanceGenerationTrigger


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()
    monkeypatch.setattr(SeedanceGenerationTrigger, "log", log, raising=False)
    return log


@pytest.fixture
def queued(services: SeedanceEmulator, connect: Callable[..., None]) -> SeedanceGenerationTrigger:
    """The trigger of a render that is queued, at the service that cancels."""
    connect("ark")
    services.hold()
    settings = emulator_settings(services, "ark")
    request = prepare_request(settings, smallest("ark")).request
    with Client(settings) as client:
        outcome: Any = client.run(
            flows.submit_flow(settings.api, settings.api.submit_call(request), request, utc_now)
        )
    trigger = SeedanceGenerationTrigger(
        seedance_conn_id="seedance_default",
        generation_id=outcome.generation.generation_id,
        deadline=time.time() + 60,
        callback_nonce="n1",
    )
    trigger.task_instance = TaskInstance(map_index=2)  # type: ignore[assignment]
    return trigger


@pytest.fixture
def airflow_says(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """Say what Airflow tells of the task: its state, and its result."""

    def say(state: str, result: Any) -> None:
        def get_task_states(**which: Any) -> Any:
            return {"run": {"task_2": state, "task": state}}

        def get_one(**which: Any) -> Any:
            assert which == {
                "key": "return_value",
                "dag_id": "dag",
                "task_id": "task",
                "run_id": "run",
                "map_index": 2,
            }
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", get_task_states)
        monkeypatch.setattr(BaseXCom, "get_one", get_one)

    return say


@pytest.mark.parametrize("state", ["scheduled", "queued", "running", "deferred"])
def test_a_task_that_was_resumed_is_let_alone(
    services: SeedanceEmulator, queued: Any, airflow_says: Any, state: str, log: Log
) -> None:
    airflow_says(state, None)
    before = len(services.ledger.requests)
    on_loop(queued.on_kill())
    assert len(services.ledger.requests) == before


def test_a_task_that_a_callback_has_ended_costs_no_request(
    services: SeedanceEmulator, queued: Any, airflow_says: Any
) -> None:
    airflow_says("success", {"status": "succeeded", "generation_id": queued.generation_id})
    before = len(services.ledger.requests)
    on_loop(queued.on_kill())
    assert len(services.ledger.requests) == before


@pytest.mark.parametrize("result", [None, "text", {"status": "running"}, ConnectionError("away")])
@pytest.mark.parametrize("state", ["failed", "success"])
def test_what_a_person_ended_is_cancelled(
    services: SeedanceEmulator, queued: Any, airflow_says: Any, state: str, result: Any, log: Log
) -> None:
    airflow_says(state, result)
    on_loop(queued.on_kill())
    assert services.generation(queued.generation_id).status == "cancelled"


# ---------------------------------------------------------------------- waiting for a call


def test_nobody_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    set_timing(monkeypatch, min_trigger_time=0.0)

    async def first() -> Any:
        async for event in SeedanceCallbackTrigger(deadline=time.time(), callback_nonce="n1").run():
            return event
        raise AssertionError("no event")

    assert on_loop(first()).payload == {"outcome": "no_callback"}


def test_it_is_made_again_as_it_was() -> None:
    path, kwargs = SeedanceCallbackTrigger(deadline=5.0, callback_nonce="n1").serialize()
    assert path == "airflow_provider_seedance.triggers.seedance.SeedanceCallbackTrigger"
    assert SeedanceCallbackTrigger(**kwargs).serialize() == (path, kwargs)


# ---------------------------------------------------------------------- the state of the task


@pytest.mark.parametrize(
    ("states", "map_index", "state"),
    [
        ({"run": {"task": "failed"}}, -1, "failed"),
        ({"run": {"task": "failed"}}, None, "failed"),
        ({"run": {"task_3": "success", "task": "failed"}}, 3, "success"),
        ({"run": {"task": TaskInstanceState.FAILED}}, -1, "failed"),
        ({"run": {"task_3": None}}, 3, None),
        ({"run": {}}, -1, None),
        ({}, -1, None),
        ({"run": None}, -1, None),
        (None, -1, None),
        ([], -1, None),
    ],
)
def test_task_state_is_read_from_the_reply_of_airflow(
    states: Any, map_index: int | None, state: str | None
) -> None:
    ti = TaskInstance()
    ti.map_index = map_index  # type: ignore[assignment]
    assert read_task_state(ti, lambda **which: states) == state


def test_only_ended_states_are_abandoned() -> None:
    states = [*TaskInstanceState, None]
    assert {state for state in states if is_abandoned(state)} == {
        TaskInstanceState.FAILED,
        TaskInstanceState.SUCCESS,
        TaskInstanceState.SKIPPED,
        TaskInstanceState.REMOVED,
    }
    assert all(is_abandoned(state) for state in ABANDONED_STATES)


# ---------------------------------------------------------------------- many at once


def test_many_cancellations_share_one_look_up_and_one_client(
    services: SeedanceEmulator,
    queued: SeedanceGenerationTrigger,
    airflow_says: Any,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    airflow_says("failed", None)
    look_ups: list[str] = []
    clients: list[Any] = []

    async def look_up(conn_id: str) -> Any:
        look_ups.append(conn_id)
        return emulator_settings(services, "ark")

    class Counted(hub.AsyncClient):
        def __init__(self, settings: Any, **options: Any) -> None:
            super().__init__(settings, **options)
            clients.append(self)

    monkeypatch.setattr(cancellation, "look_up_settings", look_up)
    monkeypatch.setattr(hub, "AsyncClient", Counted)

    async def kill_all() -> None:
        await asyncio.gather(*(queued.on_kill() for _ in range(50)))

    on_loop(kill_all())
    assert (len(look_ups), len(clients)) == (1, 1)
    assert services.generation(queued.generation_id).status == "cancelled"
    assert (hub._hubs, hub._connections) == ({}, {})


def test_services_that_cannot_cancel_cost_no_read_of_the_task_state(
    services: SeedanceEmulator, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    connect("runbase")
    monkeypatch.setattr(SeedanceGenerationTrigger, "_is_abandoned", None)
    trigger = SeedanceGenerationTrigger(
        seedance_conn_id="seedance_default", generation_id="g", deadline=time.time() + 60
    )
    on_loop(trigger.on_kill())
    assert services.ledger.requests == []
    assert "offers no way to cancel" in log.lines[-1]
