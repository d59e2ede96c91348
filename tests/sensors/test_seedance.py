"""The sensor: the same result with and without a worker, and no submission."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException
from helpers import ALL_APIS, set_timing
from operators.generation_task import Connect
from support import deferral, make_context, payload_of, submitted

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import GenerationStatus
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.policies.retry import SeedanceRetryPolicy
from airflow_provider_seedance.polling.wait_state import PollTiming
from airflow_provider_seedance.sensors.seedance import SeedanceGenerationSensor
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_3_PLUS

MAX_NOT_FOUND = PollTiming().max_not_found


@pytest.fixture(autouse=True)
def ark(services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> SeedanceEmulator:
    """Connect sensors to ark; triggers fire without delay."""
    set_timing(monkeypatch, min_trigger_time=0.0)
    connect("ark")
    return services


@pytest.fixture
def held(ark: SeedanceEmulator) -> str:
    """A generation that does not end by itself."""
    ark.hold()
    return submitted(ark, "ark")


def make(generation_id: str, **arguments: Any) -> SeedanceGenerationSensor:
    values: dict[str, Any] = {"task_id": "task", "poke_interval": 0.01, "poll_interval": 0.01}
    return SeedanceGenerationSensor(generation_id=generation_id, **{**values, **arguments})


def run(generation_id: str, **arguments: Any) -> Any:
    return make(generation_id, **arguments).execute(make_context(None))


def deferred(sensor: SeedanceGenerationSensor) -> Any:
    return deferral(lambda: sensor.execute(make_context(None)))


def resume(sensor: SeedanceGenerationSensor, deferred: Any, event: Any) -> Any:
    kwargs = {**deferred.kwargs, "event": event}
    return sensor.resume_execution(deferred.method_name, kwargs, make_context(None))


@pytest.mark.parametrize("api", ALL_APIS)
def test_every_path_returns_the_same_result(services: SeedanceEmulator, connect: Connect, api: str) -> None:
    connect(api)
    services.hold()
    generation_id = submitted(services, api)
    sensor = make(generation_id)
    deferral = deferred(sensor)
    assert deferral.trigger.generation_id == generation_id
    assert deferral.trigger.cancel_on_kill is False
    services.finish(generation_id)
    results = [resume(sensor, deferral, event) for event in (payload_of(deferral.trigger), None, "rubbish")]
    results += [run(generation_id), run(generation_id, deferrable=False)]
    assert all(result == results[0] for result in results)
    assert results[0]["generation_id"] == generation_id
    assert results[0]["url"]
    assert len(services.ledger.posts()) == 1


# ---------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, errors.SeedanceGenerationFailedError),
        ({"soft_fail": True}, AirflowSkipException),
        ({"never_fail": True}, AirflowSkipException),
    ],
)
def test_a_failed_generation_fails_or_skips(
    ark: SeedanceEmulator, held: str, arguments: Any, error: type[Exception]
) -> None:
    sensor = make(held, **arguments)
    deferral = deferred(sensor)
    ark.fail(held, "out of memory")
    with pytest.raises(error, match=None if arguments else "out of memory"):
        resume(sensor, deferral, None)
    for deferrable in (True, False):
        with pytest.raises(error, match=None if arguments else "out of memory"):
            run(held, deferrable=deferrable, **arguments)


@pytest.mark.parametrize("deferrable", [True, False])
def test_an_id_without_a_record_at_the_service_fails_at_once(deferrable: bool) -> None:
    with pytest.raises(errors.SeedanceNotFoundError, match="synchronous answer"):
        run("local-123", deferrable=deferrable)


@pytest.mark.parametrize(
    ("name", "value"), [*(("generation_id", value) for value in ("", None, " None")), ("media", "opera")]
)
def test_invalid_arguments_cost_no_request(ark: SeedanceEmulator, name: str, value: str | None) -> None:
    sensor = make("g")
    setattr(sensor, name, value)
    with pytest.raises(errors.SeedanceConfigurationError, match="Nothing was sent"):
        sensor.execute(make_context(None))
    assert ark.ledger.requests == []


# ---------------------------------------------------------------------- unknown generations


def test_an_unknown_generation_ends_a_wait(ark: SeedanceEmulator) -> None:
    sensor = make("no-such")
    with pytest.raises(errors.SeedanceNotFoundError):
        run("no-such", deferrable=False)
    assert ark.ledger.count("status") == MAX_NOT_FOUND
    deferral = deferred(sensor)
    event = payload_of(deferral.trigger)
    assert event["outcome"] == "unknown"
    with pytest.raises(errors.SeedanceNotFoundError):
        resume(sensor, deferral, event)
    # The pokes of a rescheduled sensor are in processes of their own.
    *earlier, last = ({**make_context(None), "task_reschedule_count": n} for n in range(MAX_NOT_FOUND))
    assert not any(make("no-such").poke(context).is_done for context in earlier)
    with pytest.raises(errors.SeedanceNotFoundError):
        make("no-such").poke(last)


def test_a_service_may_know_a_generation_late(ark: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    generation_id = submitted(ark, "ark")
    late = errors.SeedanceNotFoundError("not found", http_status=404)
    real = SeedanceHook.get_generation
    misses = [late, late, None, late, late, late]

    def get(hook: SeedanceHook, *arguments: Any) -> Any:
        if misses and (error := misses.pop(0)):
            raise error
        generation = real(hook, *arguments)
        return replace(generation, status=GenerationStatus.RUNNING) if misses else generation

    monkeypatch.setattr(SeedanceHook, "get_generation", get)
    assert run(generation_id, deferrable=False)["generation_id"] == generation_id
    misses.append(late)
    assert payload_of(deferred(make(generation_id)).trigger)["outcome"] == "ended"


# ---------------------------------------------------------------------- waiting


def test_an_unreadable_state_and_one_not_found_are_waited_for(ark: SeedanceEmulator) -> None:
    generation_id = submitted(ark, "ark")
    ark.fault("gateway_error", on="status", times=4)
    assert run(generation_id, deferrable=False)["generation_id"] == generation_id
    sensor = make(generation_id)
    fault = ark.fault("gateway_error", on="status", times=None)
    first = deferred(sensor)
    fault.remove()
    ark.fault("refuse", on="status", status=404)
    deferral(lambda: resume(sensor, first, None))


@pytest.mark.parametrize(("retry_after", "seconds"), [(600, 600), (None, 60)])
def test_a_used_up_quota_extends_the_deadline(
    ark: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch, retry_after: float | None, seconds: float
) -> None:
    context, sensor = make_context(None), make(submitted(ark, "ark"))
    error = errors.SeedanceRateLimitError("too many requests", http_status=429, retry_after=retry_after)
    with monkeypatch.context() as patch:
        patch.setattr(SeedanceHook, "get_generation", Mock(side_effect=error))
        event = {"generation_id": sensor.generation_id, "outcome": "deadline"}
        over, before = time.time() - 1, time.time()
        again = deferral(lambda: sensor.execute_complete(context, event, deadline=over))
    assert before + seconds <= again.trigger.deadline <= time.time() + seconds
    assert again.kwargs == {"deadline": over}
    assert sensor.execute_complete(context, None, **again.kwargs)["status"] == "succeeded"


def test_a_sensor_waits_until_the_same_deadline_and_the_timeout_names_the_generation(held: str) -> None:
    with pytest.raises(errors.SeedanceTimeoutError, match=held):
        make(held).execute_complete(make_context(None), None, deadline=time.time() - 1)
    deadline = time.time() + 1000
    again = deferral(lambda: make(held).execute_complete(make_context(None), None, deadline=deadline))
    assert again.trigger.deadline == deadline


@pytest.mark.parametrize("timeout", [60, 60.0, timedelta(minutes=1)])
def test_the_deadline_comes_from_the_timeout_of_the_sensor(held: str, timeout: Any) -> None:
    before = time.time()
    deferral = deferred(make(held, timeout=timeout))
    assert before + 60 <= deferral.trigger.deadline <= time.time() + 60
    assert deferral.timeout > timedelta(seconds=60)


def test_arguments_of_a_sensor_in_a_dag_file() -> None:
    sensor = make("{{ params.id }}")
    assert set(sensor.template_fields) == {"generation_id", "media", "seedance_conn_id"}
    if AIRFLOW_V_3_3_PLUS:
        assert isinstance(sensor.retry_policy, SeedanceRetryPolicy)
    assert SeedanceGenerationSensor(task_id="task", generation_id="g").poke_interval == 30
    assert SeedanceGenerationSensor(task_id="task", generation_id="g", poll_interval=7).poke_interval == 7
