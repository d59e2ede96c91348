"""The triggers on an event loop of their own, against a service over real sockets."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import ANY, AsyncMock

import pytest
from airflow.sdk.bases.xcom import BaseXCom
from airflow.triggers.base import TaskSuccessEvent
from helpers import ALL_APIS, set_timing
from support import fire, payload_of, submitted
from versions import ENDING_FROM_TRIGGERS, deserialize, needs, serialize

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import GenerationStatus
from airflow_provider_seedance.polling import hub
from airflow_provider_seedance.polling.wait_state import PollTiming, WaitStep
from airflow_provider_seedance.triggers import seedance as module
from airflow_provider_seedance.triggers.events import read_event
from airflow_provider_seedance.triggers.seedance import SeedanceCallbackTrigger, SeedanceQuotaTrigger
from triggers.generation_trigger import make

Connect = Callable[..., None]

#: Seconds in which no trigger may fire.
MIN_SECONDS = PollTiming().min_trigger_time


@pytest.fixture
def submit(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """Submit to a service; triggers fire without delay: there is no task process to race with."""
    set_timing(monkeypatch, min_trigger_time=0.0)

    def submit(api: str) -> str:
        connect(api)
        return submitted(services, api)

    return submit


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that a trigger sleeps, none of which pass; it is 1000 seconds after 1970."""
    slept: list[float] = []
    monkeypatch.setattr(module.asyncio, "sleep", AsyncMock(side_effect=slept.append))
    monkeypatch.setattr(module.time, "time", lambda: 1000.0)
    return slept


@pytest.mark.parametrize(
    "trigger",
    [
        make("g-1"),
        make("g-2", media="image", poll_interval=None, estimated_wait=90.0, cancel_on_kill=False),
        make("g-3", end_from_trigger=True, result_defaults={"model": "m", "duration": 5, "credits": 2.5}),
        SeedanceQuotaTrigger(not_before=1795219150.5),
        SeedanceCallbackTrigger(deadline=5.0, callback_nonce="n1"),
    ],
)
def test_a_trigger_is_restored_from_what_it_serializes(trigger: Any) -> None:
    path, kwargs = trigger.serialize()
    module_name, name = path.rsplit(".", 1)
    assert (module_name, name) == (module.__name__, type(trigger).__name__)
    carried = deserialize(json.loads(json.dumps(serialize(kwargs))))
    assert carried == kwargs
    assert getattr(module, name)(**carried).serialize() == (path, kwargs)


@pytest.mark.parametrize("api", ALL_APIS)
def test_an_ended_generation_fires(submit: Callable[[str], str], api: str) -> None:
    generation_id = submit(api)
    trigger = make(generation_id, result_defaults={"model": "requested", "resolution": "720p"})
    generation = read_event(payload_of(trigger), generation_id)
    assert generation
    assert generation.status is GenerationStatus.SUCCEEDED
    assert all((generation.urls, generation.model, generation.resolution))


def test_a_failure_fires_with_its_reason(services: SeedanceEmulator, submit: Callable[[str], str]) -> None:
    services.fault("fail", message="no", code="OutOfMemory")
    generation_id = submit("ark")
    generation = read_event(payload_of(make(generation_id, end_from_trigger=True)), generation_id)
    assert generation
    assert (generation.status, generation.error_message) == ("failed", "no")
    assert generation.error_code == "OutOfMemory"


@pytest.mark.parametrize("seconds", [-1.0, 0.03])
def test_a_deadline_fires(services: SeedanceEmulator, submit: Callable[[str], str], seconds: float) -> None:
    """It does not move when the triggerer restarts, and the last reading is the worker's."""
    services.hold()
    generation_id = submit("ark")
    event = payload_of(make(generation_id, deadline=time.time() + seconds))
    assert event == {"generation_id": generation_id, "outcome": "deadline"}
    assert seconds > 0 or not services.ledger.count("status")


@pytest.mark.parametrize("ends", [0.0, 3600.0])
def test_nothing_fires_at_first(monkeypatch: pytest.MonkeyPatch, slept: list[float], ends: float) -> None:
    """A task that resumes while its deferring process still ends can be failed by the scheduler."""

    wait = AsyncMock(side_effect=lambda state, *_, **__: WaitStep("deadline", state))
    monkeypatch.setattr(module, "wait_for_generation", wait)
    fire(make("g", deadline=1000.0 + ends))
    assert wait.await_args
    assert wait.await_args.kwargs["not_before"] == MIN_SECONDS >= 5
    assert slept == [pytest.approx(MIN_SECONDS, abs=0.1)]


@needs(ENDING_FROM_TRIGGERS)
@pytest.mark.parametrize("map_index", [-1, 3, None])
def test_a_trigger_ends_the_task_with_the_result_of_a_worker(
    submit: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, map_index: Any
) -> None:
    written: dict[str, tuple[Any, dict[str, Any]]] = {}

    async def aset(key: str, value: Any, **which: Any) -> None:
        written[key] = (json.loads(json.dumps(value)), which)

    threads: list[str] = []
    monkeypatch.setattr(BaseXCom, "aset", aset)
    monkeypatch.setattr(module, "record_end", lambda _: threads.append(threading.current_thread().name))
    known: dict[str, Any] = {"result_defaults": {"resolution": "720p", "duration": 8}}
    generation_id = submit("seedanceapi-v1")
    plain = payload_of(make(generation_id, **known))
    event = fire(make(generation_id, **known, end_from_trigger=True, map_index=map_index))
    assert isinstance(event, TaskSuccessEvent)
    assert event.xcoms is None  # Airflow would encode them twice
    result, which = written["return_value"]
    assert result == plain["result"]
    names = {"dag_id": "dag", "task_id": "task", "run_id": "run"}
    assert which == {**names, "map_index": -1 if map_index is None else map_index}
    assert written["_link_SeedanceOutputLink"][0] == result["url"]
    # Not one of the threads that resolve host names: the database may hang.
    assert [name.partition("_")[0] for name in threads] == ["seedance-ledger"]


@pytest.mark.parametrize("conn_id", [None, "missing"])
@pytest.mark.parametrize(("moment", "pause"), [(1000.0, 5.0), (500.0, 5.0), (2800.0, 1800.0)])
def test_a_submission_waits_for_its_time_and_for_no_missing_connection(
    monkeypatch: pytest.MonkeyPatch, slept: list[float], moment: float, pause: float, conn_id: str | None
) -> None:
    missing = errors.SeedanceConfigurationError("there is no such connection")
    monkeypatch.setattr(module, "look_up_settings", AsyncMock(side_effect=missing))
    trigger = SeedanceQuotaTrigger(not_before=moment, seedance_conn_id=conn_id)
    assert fire(trigger).payload == {"not_before": moment}
    assert sum(slept) == pytest.approx(pause, abs=0.1)
    assert hub._connections == {}


@pytest.mark.parametrize(("moment", "until"), [(1000.0, 1005.0), (2800.0, 2800.0)])
def test_a_submission_waits_for_the_quota_of_its_connection(
    monkeypatch: pytest.MonkeyPatch, slept: list[float], moment: float, until: float
) -> None:
    wait = AsyncMock()
    monkeypatch.setattr(module, "wait_for_submission", wait)
    trigger = SeedanceQuotaTrigger(not_before=moment, seedance_conn_id="mine")
    _, kwargs = trigger.serialize()
    assert kwargs == {"not_before": moment, "seedance_conn_id": "mine"}
    assert fire(trigger).payload == {"not_before": moment}
    wait.assert_awaited_once_with(until, "mine", ANY)


def test_a_callback_that_does_not_come_fires_at_the_deadline(submit: Callable[[str], str]) -> None:
    trigger = SeedanceCallbackTrigger(deadline=time.time(), callback_nonce="n1")
    assert fire(trigger).payload == {"outcome": "no_callback"}
