"""A service that answers every status request with 429, or 503, for ever: nobody waits for ever, and nothing is forgotten."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from helpers import set_timing
from support import PROMPT, Store, TaskInstance, deferral, make_context, on_loop

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import VideoRequest
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoBatchOperator,
    SeedanceGenerateVideoOperator,
)
from airflow_provider_seedance.sensors.seedance import SeedanceGenerationSensor
from airflow_provider_seedance.triggers import seedance as triggers

Connect = Callable[..., None]

PATIENCE = 0.3
FAULTS = [("rate_limit", {"retry_after": 0}), ("refuse", {"status": 503})]
DAY = 86400.0


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    set_timing(
        monkeypatch,
        max_quota_wait=PATIENCE,
        max_worker_quota_wait=PATIENCE,
        quota_backoff=PATIENCE,
        min_trigger_time=0.0,
    )


@pytest.fixture(params=FAULTS, ids=["429", "503"])
def refusing(
    request: pytest.FixtureRequest, services: SeedanceEmulator, connect: Connect
) -> SeedanceEmulator:
    """A service that takes submissions, and answers no status request."""
    kind, options = request.param
    connect("seedanceapi-v2")
    services.hold()
    services.fault(kind, on="status", times=None, **options)
    return services


def make(**arguments: Any) -> SeedanceGenerateVideoOperator:
    return SeedanceGenerateVideoOperator(
        **{"task_id": "task", "prompt": PROMPT, "timeout": 0.2, "poll_interval": 0.05, **arguments}
    )


def make_batch(**arguments: Any) -> SeedanceGenerateVideoBatchOperator:
    return SeedanceGenerateVideoBatchOperator(
        **{"task_id": "task", "requests": ["a"], "timeout": 0.2, "poll_interval": 0.05, **arguments}
    )


def event_of(trigger: Any) -> Any:
    path, kwargs = trigger.serialize()
    again = getattr(triggers, path.rpartition(".")[2])(**json.loads(json.dumps(kwargs)))

    async def first() -> Any:
        async for event in again.run():
            return event
        raise AssertionError("no event")

    return json.loads(json.dumps(on_loop(first()).payload))


def resume_until_it_ends(op: Any, context: Any, call: Callable[[], Any], most: int = 10) -> Any:
    from airflow.providers.common.compat.sdk import TaskDeferred

    for _ in range(most):
        try:
            return call()
        except TaskDeferred as deferred:
            kwargs = {**(deferred.kwargs or {}), "event": event_of(deferred.trigger)}
            name = deferred.method_name
            call = lambda name=name, kwargs=kwargs: op.resume_execution(name, kwargs, context)  # type: ignore[misc]  # noqa: E731
    raise AssertionError("the task never ends")


def says_what_goes_on(error: errors.SeedanceError, services: SeedanceEmulator) -> None:
    (paid,) = services.ledger.submissions
    assert paid.generation_id in str(error)
    assert "goes on and is billed" in str(error)
    assert error.retry_helps


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_wait_of_the_hook(refusing: SeedanceEmulator, asynchronous: bool) -> None:
    hook = SeedanceHook()
    generation_id = hook.submit(VideoRequest(prompt=PROMPT)).generation_id

    def wait() -> None:
        if asynchronous:
            on_loop(hook.await_generation(generation_id, 0.2, poll_interval=0.05))
        else:
            hook.wait(generation_id, 0.2, poll_interval=0.05)

    with pytest.raises(errors.SeedanceTimeoutError) as caught:
        wait()
    says_what_goes_on(caught.value, refusing)


def test_a_worker_that_waits_itself(refusing: SeedanceEmulator) -> None:
    store, ti = Store(), TaskInstance()
    with pytest.raises(errors.SeedanceTimeoutError) as caught:
        make(deferrable=False).execute(make_context(store, ti))
    says_what_goes_on(caught.value, refusing)
    assert store.value["generation_id"] == refusing.ledger.submissions[0].generation_id


def test_a_task_in_the_triggerer(refusing: SeedanceEmulator) -> None:
    op, context = make(), make_context(Store(), TaskInstance())
    with pytest.raises(errors.SeedanceTimeoutError) as caught:
        resume_until_it_ends(op, context, lambda: op.execute(context))
    says_what_goes_on(caught.value, refusing)


def test_a_sensor(refusing: SeedanceEmulator) -> None:
    with pytest.raises(errors.SeedanceTimeoutError):
        make(deferrable=False).execute(make_context(Store()))
    generation_id = refusing.ledger.submissions[0].generation_id
    op = SeedanceGenerationSensor(
        task_id="sensor", generation_id=generation_id, timeout=0.2, poll_interval=0.05, deferrable=True
    )
    context = make_context(None)
    with pytest.raises(errors.SeedanceTimeoutError) as caught:
        resume_until_it_ends(op, context, lambda: op.execute(context))
    says_what_goes_on(caught.value, refusing)


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_batch(refusing: SeedanceEmulator, deferrable: bool) -> None:
    op, context = make_batch(deferrable=deferrable), make_context(Store(), TaskInstance())
    with pytest.raises(errors.SeedanceBatchError) as caught:
        resume_until_it_ends(op, context, lambda: op.execute(context))
    says_what_goes_on(caught.value, refusing)
    assert "timeout" in str(caught.value)


@pytest.mark.parametrize("make_one", [make, make_batch])
def test_a_retry_waits_for_the_same_one(refusing: SeedanceEmulator, make_one: Any) -> None:
    op, store, ti = make_one(deferrable=False), Store(), TaskInstance()
    for _ in range(2):
        with pytest.raises(errors.SeedanceError, match="goes on and is billed"):
            op.execute(make_context(store, ti))
        ti.retry()
    assert len(refusing.ledger.submissions) == 1


def test_the_patience_is_counted_from_the_deadline_and_not_from_the_latest_refusal(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("seedanceapi-v2")
    services.hold()
    set_timing(monkeypatch, max_quota_wait=DAY)
    op, context = make(timeout=3600), make_context(Store())
    deferred = deferral(lambda: op.execute(context))
    services.fault("rate_limit", on="status", times=None, retry_after=1800)
    assert deferred.kwargs is not None
    for late in (10.0, DAY - 10.0):
        over = time.time() - late
        kwargs = {**deferred.kwargs, "deadline": over}
        again = deferral(lambda kwargs=kwargs: op.resume_execution("execute_complete", kwargs, context))  # type: ignore[misc]
        assert again.kwargs is not None
        assert again.kwargs["deadline"] == over
        assert again.trigger.deadline > time.time() + 1700
        # The safety net of Airflow comes after all that the trigger may do.
        assert again.timeout is not None
        assert again.timeout.total_seconds() > again.trigger.deadline + DAY - time.time()
    kwargs = {**deferred.kwargs, "deadline": time.time() - DAY - 1}
    with pytest.raises(errors.SeedanceTimeoutError, match="goes on and is billed"):
        op.resume_execution("execute_complete", kwargs, context)
