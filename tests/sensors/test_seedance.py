"""The sensor: the same result with and without a worker, and nothing ever paid."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException
from helpers import ALL_APIS, set_timing
from support import deferral, make_context, on_loop
from triggers.test_seedance import submitted

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import GenerationStatus
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.policies.retry import SeedanceRetryPolicy
from airflow_provider_seedance.polling.wait_state import PollTiming
from airflow_provider_seedance.sensors.seedance import SeedanceGenerationSensor
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_3_PLUS

Connect = Callable[..., None]


@pytest.fixture(autouse=True)
def _no_race_to_mind(monkeypatch: pytest.MonkeyPatch) -> None:
    set_timing(monkeypatch, min_trigger_time=0.0)


def make(generation_id: str, **arguments: Any) -> SeedanceGenerationSensor:
    values: dict[str, Any] = {"task_id": "task", "poke_interval": 0.01, "poll_interval": 0.01}
    return SeedanceGenerationSensor(generation_id=generation_id, **{**values, **arguments})


def fire(trigger: Any) -> Any:
    async def first() -> Any:
        events = [event async for event in trigger.run()]
        return events[0]

    return json.loads(json.dumps(on_loop(first()).payload))


def poked(sensor: SeedanceGenerationSensor) -> Any:
    sensor.deferrable = False
    return sensor.execute(make_context(None))


@pytest.mark.parametrize("api", ALL_APIS)
def test_the_same_result_from_every_path(services: SeedanceEmulator, connect: Connect, api: str) -> None:
    connect(api)
    services.hold()
    generation_id = submitted(services, api)
    context = make_context(None)
    sensor = make(generation_id)
    deferred = deferral(lambda: sensor.execute(context))
    assert deferred.trigger.generation_id == generation_id
    assert deferred.trigger.cancel_on_kill is False
    services.finish(generation_id)
    results = [
        sensor.resume_execution(deferred.method_name, {**deferred.kwargs, "event": event}, context)  # type: ignore[dict-item]
        for event in (fire(deferred.trigger), None, "rubbish")
    ]
    results += [make(generation_id).execute(context), poked(make(generation_id))]
    assert all(result == results[0] for result in results)
    assert results[0]["generation_id"] == generation_id
    assert results[0]["url"]
    assert len(services.ledger.posts()) == 1


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_failed_generation(services: SeedanceEmulator, connect: Connect, deferrable: bool) -> None:
    connect("ark")
    services.fault("fail", message="no")
    generation_id = submitted(services, "ark")
    sensor = make(generation_id, deferrable=deferrable)
    with pytest.raises(errors.SeedanceGenerationFailedError, match="no"):
        sensor.execute(make_context(None))


def test_a_generation_nobody_knows_ends_a_deferred_wait(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    context = make_context(None)
    sensor = make("no-such")
    deferred = deferral(lambda: sensor.execute(context))
    event = fire(deferred.trigger)
    assert event["outcome"] == "unknown"
    with pytest.raises(errors.SeedanceNotFoundError):
        sensor.execute_complete(context, event, **deferred.kwargs or {})


def test_a_generation_nobody_knows_ends_the_poking(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    with pytest.raises(errors.SeedanceNotFoundError):
        poked(make("no-such"))
    assert services.ledger.count("status") == PollTiming().max_not_found


def test_rescheduled_pokes_for_a_generation_nobody_knows_end(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("ark")
    for count in range(PollTiming().max_not_found - 1):
        context = {**make_context(None), "task_reschedule_count": count}
        assert not make("no-such").poke(context).is_done
    with pytest.raises(errors.SeedanceNotFoundError):
        make("no-such").poke({**make_context(None), "task_reschedule_count": PollTiming().max_not_found - 1})


def test_a_generation_that_is_known_a_little_late(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("ark")
    generation_id = submitted(services, "ark")
    late = errors.SeedanceNotFoundError("not found", http_status=404)
    real = SeedanceHook.get_generation
    misses = [late, late, None, late, late, late]

    def get(hook: SeedanceHook, *arguments: Any) -> Any:
        if misses and (error := misses.pop(0)):
            raise error
        generation = real(hook, *arguments)
        return replace(generation, status=GenerationStatus.RUNNING) if misses else generation

    monkeypatch.setattr(SeedanceHook, "get_generation", get)
    assert poked(make(generation_id))["generation_id"] == generation_id
    misses.append(late)
    context = make_context(None)
    sensor = make(generation_id)
    deferred = deferral(lambda: sensor.execute(context))
    assert fire(deferred.trigger)["outcome"] == "ended"


@pytest.mark.parametrize("deferrable", [True, False])
def test_an_id_without_a_record_at_the_service_fails_at_once(
    services: SeedanceEmulator, connect: Connect, deferrable: bool
) -> None:
    connect("ark")
    with pytest.raises(errors.SeedanceNotFoundError, match="synchronous answer"):
        make("local-123", deferrable=deferrable).execute(make_context(None))


@pytest.mark.parametrize(("retry_after", "seconds"), [(600, 600), (None, 60)])
def test_a_deadline_is_not_kept_while_the_quota_is_used_up(
    services: SeedanceEmulator,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    retry_after: float | None,
    seconds: float,
) -> None:
    connect("ark")
    context = make_context(None)
    sensor = make(submitted(services, "ark"))

    def get(*arguments: Any) -> Any:
        raise errors.SeedanceRateLimitError("too many requests", http_status=429, retry_after=retry_after)

    with monkeypatch.context() as patch:
        patch.setattr(SeedanceHook, "get_generation", get)
        event = {"generation_id": sensor.generation_id, "outcome": "deadline"}
        over = time.time() - 1
        again = deferral(lambda: sensor.execute_complete(context, event, deadline=over))
    assert 0 <= time.time() + seconds - again.trigger.deadline < 10
    assert again.kwargs == {"deadline": over}
    assert sensor.execute_complete(context, None, **again.kwargs)["status"] == "succeeded"


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_soft_failure_skips(services: SeedanceEmulator, connect: Connect, deferrable: bool) -> None:
    connect("ark")
    services.fault("fail", message="no")
    generation_id = submitted(services, "ark")
    for how in ("soft_fail", "never_fail"):
        sensor = make(generation_id, deferrable=deferrable, **{how: True})
        with pytest.raises(AirflowSkipException):
            sensor.execute(make_context(None))


def test_a_soft_failure_after_a_deferral_skips(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    services.hold()
    generation_id = submitted(services, "ark")
    context = make_context(None)
    sensor = make(generation_id, soft_fail=True)
    deferred = deferral(lambda: sensor.execute(context))
    services.fail(generation_id, "no")
    with pytest.raises(AirflowSkipException):
        sensor.resume_execution(deferred.method_name, {**deferred.kwargs, "event": None}, context)  # type: ignore[dict-item]


def test_a_state_that_cannot_be_read_is_waited_for(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    generation_id = submitted(services, "ark")
    services.fault("gateway_error", on="status", times=4)
    assert poked(make(generation_id))["generation_id"] == generation_id
    services.fault("gateway_error", on="status", times=None)
    deferral(lambda: make(generation_id).execute(make_context(None)))


def test_out_of_patience(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    services.hold()
    generation_id = submitted(services, "ark")
    with pytest.raises(errors.SeedanceTimeoutError) as caught:
        make(generation_id).execute_complete(make_context(None), None, deadline=time.time() - 1)
    assert generation_id in caught.value.message


def test_resumed_early_it_waits_on(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    services.hold()
    generation_id = submitted(services, "ark")
    deadline = time.time() + 100
    again = deferral(
        lambda: make(generation_id).execute_complete(make_context(None), None, deadline=deadline)
    )
    assert again.trigger.deadline == deadline


@pytest.mark.parametrize("timeout", [60, 60.0, timedelta(minutes=1)])
def test_the_budget_is_the_sensors_timeout(
    services: SeedanceEmulator, connect: Connect, timeout: Any
) -> None:
    connect("ark")
    services.hold()
    before = time.time()
    deferred = deferral(lambda: make(submitted(services, "ark"), timeout=timeout).execute(make_context(None)))
    assert before + 60 <= deferred.trigger.deadline <= time.time() + 60
    assert isinstance(deferred.timeout, timedelta)
    assert deferred.timeout > timedelta(seconds=60)


@pytest.mark.parametrize(
    "arguments", [{"generation_id": ""}, {"generation_id": None}, {"generation_id": "g", "media": "opera"}]
)
def test_bad_arguments(services: SeedanceEmulator, connect: Connect, arguments: dict[str, Any]) -> None:
    connect("ark")
    sensor = make("g")
    for name, value in arguments.items():
        setattr(sensor, name, value)
    with pytest.raises(errors.SeedanceConfigurationError, match="Nothing was sent"):
        sensor.execute(make_context(None))
    assert services.ledger.requests == []


def test_it_is_a_sensor_like_others() -> None:
    sensor = make("{{ params.id }}")
    assert set(sensor.template_fields) == {"generation_id", "media", "seedance_conn_id"}
    if AIRFLOW_V_3_3_PLUS:
        assert isinstance(sensor.retry_policy, SeedanceRetryPolicy)
    assert SeedanceGenerationSensor(task_id="task", generation_id="g").poke_interval == 30
    assert SeedanceGenerationSensor(task_id="task", generation_id="g", poll_interval=7).poke_interval == 7
