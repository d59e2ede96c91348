"""The triggers on an event loop of their own, against a service over real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.triggers.base import DiscrimatedTriggerEvent, TaskSuccessEvent, TriggerEvent
from helpers import ALL_APIS, set_timing
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from support import Log, TaskInstance, emulator_settings, on_loop, smallest
from versions import ENDING_FROM_TRIGGERS, deserialize, needs, serialize

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.validation import prepare_request
from airflow_provider_seedance.client import flows
from airflow_provider_seedance.client.api_client import Client
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import Generation, GenerationStatus, utc_now
from airflow_provider_seedance.polling import hub
from airflow_provider_seedance.polling.wait_state import PollTiming
from airflow_provider_seedance.triggers import cancellation
from airflow_provider_seedance.triggers import seedance as module
from airflow_provider_seedance.triggers.events import GenerationEvent, make_event, read_event
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger, SeedanceQuotaTrigger

Connect = Callable[..., None]
#: Seconds in which no trigger may fire.
EARLIEST = PollTiming().min_trigger_time

URL = "https://cdn.example/out.mp4?X-Signature=topsecret"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No task process to race with."""
    set_timing(monkeypatch, min_trigger_time=0.0)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()
    monkeypatch.setattr(SeedanceGenerationTrigger, "log", log, raising=False)
    return log


def submitted(emulator: SeedanceEmulator, api: str) -> str:
    settings = emulator_settings(emulator, api)
    request = prepare_request(settings, smallest(api)).request
    with Client(settings) as client:
        call = settings.api.submit_call(request)
        outcome = client.run(flows.submit_flow(settings.api, call, request, utc_now))
    return flows.raise_outcome(outcome).generation_id


def make(generation_id: str, **arguments: Any) -> SeedanceGenerationTrigger:
    values: dict[str, Any] = {
        "seedance_conn_id": "seedance_default",
        "generation_id": generation_id,
        "deadline": time.time() + 3600,
        "poll_interval": 0.01,
    }
    trigger = SeedanceGenerationTrigger(**{**values, **arguments})
    trigger.task_instance = TaskInstance()
    return trigger


def fire(trigger: Any) -> Any:
    async def run() -> list[Any]:
        return [event async for event in trigger.run()]

    events = on_loop(run())
    assert len(events) == 1
    return events[0]


# ---------------------------------------------------------------------- serialization


@pytest.mark.parametrize(
    "trigger",
    [
        make("g-1"),
        make(
            "g-2",
            media="image",
            poll_interval=None,
            estimated_wait=90.0,
            cancel_on_kill=False,
            end_from_trigger=True,
            result_defaults={"model": "m", "duration": 5, "credits": 2.5},
        ),
        SeedanceQuotaTrigger(not_before=1795219150.5),
    ],
)
def test_a_trigger_is_made_again_from_what_it_serializes(trigger: Any) -> None:
    path, kwargs = trigger.serialize()
    module_name, name = path.rsplit(".", 1)
    assert (module_name, name) == (module.__name__, type(trigger).__name__)
    carried = deserialize(json.loads(json.dumps(serialize(kwargs))))
    assert carried == kwargs
    assert getattr(module, name)(**carried).serialize() == (path, kwargs)


# ---------------------------------------------------------------------- running


@pytest.mark.parametrize("api", ALL_APIS)
def test_it_fires_once_when_the_generation_has_ended(
    services: SeedanceEmulator, connect: Connect, at_once: None, api: str
) -> None:
    connect(api)
    generation_id = submitted(services, api)
    event = fire(make(generation_id, result_defaults={"model": "asked-for", "resolution": "720p"}))
    generation = read_event(json.loads(json.dumps(event.payload)), generation_id)
    assert generation is not None
    assert generation.status is GenerationStatus.SUCCEEDED
    assert generation.urls
    assert generation.model
    assert generation.resolution


def test_a_failed_render_fires_with_its_reason(
    services: SeedanceEmulator, connect: Connect, at_once: None
) -> None:
    connect("ark")
    services.fault("fail", message="no", code="OutOfMemory")
    generation_id = submitted(services, "ark")
    generation = read_event(fire(make(generation_id, end_from_trigger=True)).payload, generation_id)
    assert generation is not None
    assert (generation.status, generation.error_message, generation.error_code) == (
        "failed",
        "no",
        "OutOfMemory",
    )


def test_a_deadline_in_the_past_fires_at_once(
    services: SeedanceEmulator, connect: Connect, at_once: None
) -> None:
    """The last look is the worker's; a restarted triggerer does not begin the patience anew."""
    connect("ark")
    event = fire(make("g", deadline=time.time() - 1))
    assert event.payload == {"generation_id": "g", "outcome": "deadline"}
    assert services.ledger.requests == []


def test_a_deadline_fires(services: SeedanceEmulator, connect: Connect, at_once: None) -> None:
    connect("ark")
    services.hold()
    generation_id = submitted(services, "ark")
    event = fire(make(generation_id, deadline=time.time() + 0.1))
    assert event.payload == {"generation_id": generation_id, "outcome": "deadline"}


def test_an_unknown_generation_fires(services: SeedanceEmulator, connect: Connect, at_once: None) -> None:
    connect("ark")
    event = fire(make("no-such"))
    assert event.payload == {"generation_id": "no-such", "outcome": "unknown"}
    assert read_event(event.payload, "no-such") is None


@pytest.mark.parametrize("ends", [0.0, 3600.0])
def test_nothing_fires_in_the_first_seconds(monkeypatch: pytest.MonkeyPatch, ends: float) -> None:
    """A task that resumes while its deferring process still ends can be failed by the scheduler."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def wait(state: Any, conn_id: str, look_up: Any, *, not_before: float, **_: Any) -> Any:
        assert not_before == EARLIEST
        return SimpleNamespace(kind="deadline", state=state)

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    monkeypatch.setattr(module, "wait_for_generation", wait)
    monkeypatch.setattr(module.time, "time", lambda: 1000.0)
    fire(make("g", deadline=1000.0 + ends))
    assert EARLIEST >= 5
    assert slept == [EARLIEST]


@pytest.mark.parametrize(("moment", "pause"), [(1000.0, 5.0), (500.0, 5.0), (2800.0, 1800.0)])
def test_the_quota_is_waited_for(monkeypatch: pytest.MonkeyPatch, moment: float, pause: float) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    monkeypatch.setattr(module.time, "time", lambda: 1000.0)
    assert fire(SeedanceQuotaTrigger(not_before=moment)).payload == {"not_before": moment}
    assert slept == [pause]


async def _no_sleep(seconds: float) -> None:
    """Do not wait."""


def test_missing_connection_does_not_delay_a_submission(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look_up(conn_id: str) -> None:
        raise errors.SeedanceConfigurationError("there is no such connection")

    monkeypatch.setattr(module, "look_up_settings", look_up)
    monkeypatch.setattr(module.asyncio, "sleep", _no_sleep)
    trigger = SeedanceQuotaTrigger(not_before=1.0, seedance_conn_id="gone")
    assert fire(trigger).payload == {"not_before": 1.0}
    assert hub._connections == {}


@pytest.mark.parametrize(("moment", "until"), [(1000.0, 1005.0), (2800.0, 2800.0)])
def test_submission_waits_for_the_quota_of_its_connection(
    monkeypatch: pytest.MonkeyPatch, moment: float, until: float
) -> None:
    waits: list[tuple[float, str | None]] = []

    async def wait(not_before: float, conn_id: str | None, look_up: Any) -> None:
        waits.append((not_before, conn_id))

    monkeypatch.setattr(module, "wait_for_submission", wait)
    monkeypatch.setattr(module.time, "time", lambda: 1000.0)
    trigger = SeedanceQuotaTrigger(not_before=moment, seedance_conn_id="mine")
    _, kwargs = trigger.serialize()
    assert kwargs == {"not_before": moment, "seedance_conn_id": "mine"}
    assert fire(trigger).payload == {"not_before": moment}
    assert waits == [(until, "mine")]


# ---------------------------------------------------------------------- events


def generation(status: str = "succeeded", **known: Any) -> Generation:
    if status == "succeeded":
        known.setdefault("urls", (URL,))
    return Generation(generation_id="g-1", api="ark", media="video", status=GenerationStatus(status), **known)


@pytest.mark.parametrize("show", [repr, str, "{}".format])
def test_an_event_shows_no_url(show: Callable[[Any], str]) -> None:
    event = GenerationEvent(make_event(generation()))
    assert show(event) == "GenerationEvent<g-1 ended>"
    assert "topsecret" not in show(GenerationEvent({"generation_id": 5, "result": URL}))
    assert "topsecret" not in show(GenerationEvent(URL))


def test_an_event_passes_through_airflow() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(DiscrimatedTriggerEvent)
    event = GenerationEvent(make_event(generation()))
    carried = adapter.validate_json(adapter.dump_json(event))
    assert isinstance(carried, TriggerEvent)
    assert read_event(carried.payload, "g-1") is not None


@pytest.mark.parametrize(
    "ended",
    [
        generation(credits=2.5, duration=5, model="m", completed_at=datetime(2026, 2, 7, tzinfo=UTC)),
        generation(urls=()),
        generation("failed", error_message="no", error_code="X"),
        generation("cancelled"),
        generation("expired"),
    ],
)
def test_what_is_written_is_read(ended: Generation) -> None:
    assert read_event(json.loads(json.dumps(make_event(ended))), "g-1") == ended


@pytest.mark.parametrize(
    "event",
    [
        make_event(generation("running")),
        make_event(generation("queued")),
        {**make_event(generation(urls=())), "outcome": "ended"},
        {**make_event(generation()), "outcome": "no_output"},
        {**make_event(generation()), "outcome": "callback"},
        {**make_event(generation()), "generation_id": "g-2"},
        {**make_event(generation()), "result": None},
        {**make_event(generation()), "result": {**generation().result(), "generation_id": "g-2"}},
        {**make_event(generation()), "result": {**generation().result(), "status": "unheard-of"}},
        {**make_event(generation()), "result": {**generation().result(), "urls": "text"}},
    ],
)
def test_anything_else_is_asked_for(event: Any) -> None:
    assert read_event(event, "g-1") is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_any_event_is_read_without_an_error(event: Any) -> None:
    assert read_event(event, "g-1") is None


@given(
    st.dictionaries(st.sampled_from(sorted(make_event(generation()))), json_values, max_size=3),
    st.dictionaries(st.sampled_from(sorted(generation().result())), json_values, max_size=3),
)
def test_any_damaged_event_is_asked_for_or_whole(outer: dict[str, Any], inner: dict[str, Any]) -> None:
    event = {**make_event(generation()), "result": {**generation().result(), **inner}, **outer}
    read = read_event(event, "g-1")
    if read is not None:
        assert read.generation_id == "g-1"
        assert read.status.terminal
        assert (
            read.urls or read.status is not GenerationStatus.SUCCEEDED or outer.get("outcome") == "no_output"
        )
        json.dumps(read.result())


# ---------------------------------------------------------------------- ending the task


@needs(ENDING_FROM_TRIGGERS)
@pytest.mark.parametrize("map_index", [-1, 3, None])
def test_it_ends_the_task_with_the_result_of_a_worker(
    services: SeedanceEmulator,
    connect: Connect,
    at_once: None,
    monkeypatch: pytest.MonkeyPatch,
    map_index: int | None,
) -> None:
    connect("seedanceapi-v1")
    written: dict[str, tuple[Any, dict[str, Any]]] = {}

    async def aset(key: str, value: Any, **which: Any) -> None:
        written[key] = (json.loads(json.dumps(value)), which)

    monkeypatch.setattr(BaseXCom, "aset", aset)
    generation_id = submitted(services, "seedanceapi-v1")
    result_defaults = {"resolution": "720p", "duration": 8}
    plain = fire(make(generation_id, result_defaults=result_defaults))
    trigger = make(generation_id, result_defaults=result_defaults, end_from_trigger=True)
    trigger.task_instance.map_index = map_index  # type: ignore[union-attr]
    event = fire(trigger)
    assert isinstance(event, TaskSuccessEvent)
    assert event.xcoms is None  # Airflow would encode them twice
    result, which = written["return_value"]
    assert result == plain.payload["result"]
    assert which == {
        "dag_id": "dag",
        "task_id": "task",
        "run_id": "run",
        "map_index": -1 if map_index is None else map_index,
    }
    assert written["_link_SeedanceOutputLink"][0] == result["url"]


# ---------------------------------------------------------------------- killed


@pytest.fixture
def queued(services: SeedanceEmulator, connect: Connect) -> str:
    connect("ark")
    services.hold()
    return submitted(services, "ark")


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Say what Airflow answers when it is asked for the state of the task instance."""

    def answer(states: Any) -> None:
        def get_task_states(**which: Any) -> Any:
            assert which == {"dag_id": "dag", "task_ids": ["task"], "run_ids": ["run"], "map_index": -1}
            if isinstance(states, Exception):
                raise states
            return states

        monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", get_task_states)

    return answer


@pytest.mark.parametrize(
    ("states", "cancelled"),
    [({"run": {"task": word}}, True) for word in ("failed", "success", "skipped", "removed")]
    + [
        ({"run": {"task": word}}, False)
        for word in ("running", "deferred", "queued", "scheduled", "restarting", "up_for_retry", None)
    ]
    + [({}, False), (None, False), (ConnectionError("away"), False)],
)
def test_it_cancels_only_what_a_person_ended(
    services: SeedanceEmulator,
    queued: str,
    state: Callable[[Any], None],
    log: Log,
    states: Any,
    cancelled: bool,
) -> None:
    state(states)
    on_loop(make(queued).on_kill())
    assert services.generation(queued).status == ("cancelled" if cancelled else "queued")
    assert ("goes on" in log.lines[-1]) is not cancelled


def test_it_cancels_nothing_if_it_may_not(
    services: SeedanceEmulator, queued: str, state: Callable[[Any], None], log: Log
) -> None:
    state({"run": {"task": "failed"}})
    on_loop(make(queued, cancel_on_kill=False).on_kill())
    assert services.generation(queued).status == "queued"
    assert log.lines == [f"cancel_on_kill=False: generation {queued} goes on and is billed."]


@pytest.mark.parametrize("discards", [False, True])
def test_the_log_names_the_generation_that_a_cleared_task_leaves(
    queued: str, state: Callable[[Any], None], log: Log, discards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Airflow 3.4 on, the next try may not know of it."""
    monkeypatch.setattr(cancellation, "AIRFLOW_V_3_4_PLUS", discards)
    state({"run": {"task": "scheduled"}})
    on_loop(make(queued).on_kill())
    assert f"generation {queued} goes on and is billed." in log.lines[-1]
    assert ("the next try does not know of it" in log.lines[-1]) is discards


def test_a_finished_render_is_not_deleted(
    services: SeedanceEmulator, queued: str, state: Callable[[Any], None], log: Log
) -> None:
    """At ark the same call that cancels a queued render destroys a finished one."""
    state({"run": {"task": "failed"}})
    services.finish(queued)
    on_loop(make(queued).on_kill())
    assert services.ledger.cancels() == []
    assert "already ended" in log.lines[-1]


@pytest.mark.parametrize("api", [api for api in ALL_APIS if api != "ark"])
def test_services_that_cannot_cancel_are_not_asked_to(
    services: SeedanceEmulator, connect: Connect, state: Callable[[Any], None], log: Log, api: str
) -> None:
    connect(api)
    services.hold()
    state({"run": {"task": "failed"}})
    generation_id = submitted(services, api)
    on_loop(make(generation_id).on_kill())
    assert services.ledger.cancels() == []
    assert "goes on" in log.lines[-1]
    assert "billed" in log.lines[-1]


def test_the_cancellation_survives_its_own(
    services: SeedanceEmulator, queued: str, state: Callable[[Any], None]
) -> None:
    """Airflow gives ``on_kill`` about a second and then cancels it."""
    state({"run": {"task": "failed"}})
    fault = services.fault("delay", on="status", hold=True)

    async def kill() -> None:
        killing = asyncio.create_task(make(queued).on_kill())
        while not services.ledger.count("status"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        killing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await killing
        assert len(cancellation._cancellations) == 1
        fault.release()
        await asyncio.gather(*cancellation._cancellations)

    on_loop(kill())
    assert services.generation(queued).status == "cancelled"
    assert cancellation._cancellations == set()


def test_a_cancellation_that_takes_too_long_is_given_up(
    services: SeedanceEmulator, queued: str, state: Callable[[Any], None], log: Log, monkeypatch: Any
) -> None:
    state({"run": {"task": "failed"}})
    monkeypatch.setattr(cancellation, "CANCEL_TIMEOUT_SECONDS", 0.05)
    fault = services.fault("delay", on="status", hold=True)
    try:
        on_loop(make(queued).on_kill())
    finally:
        fault.release()
    assert services.generation(queued).status == "queued"
    assert "was not cancelled" in log.lines[-1]
