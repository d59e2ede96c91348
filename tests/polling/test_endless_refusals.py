"""The waits at a service that refuses every status request: each ends, and its error names the generation."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from helpers import set_timing
from support import PROMPT, Store, TaskInstance, deferral, make_context, on_loop, payload_of

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import VideoRequest
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoBatchOperator,
    SeedanceGenerateVideoOperator,
)
from airflow_provider_seedance.sensors.seedance import SeedanceGenerationSensor

Connect = Callable[..., None]

DAY = 86400.0
#: Arguments of every task.
SHORT = {"task_id": "task", "timeout": 0.05, "poll_interval": 0.02}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = dict.fromkeys(("max_quota_wait", "max_worker_quota_wait", "quota_backoff"), 0.1)
    set_timing(monkeypatch, **waits, min_trigger_time=0.0)


@pytest.fixture(params=[("rate_limit", {"retry_after": 0}), ("refuse", {"status": 503})], ids=["429", "503"])
def refusing(
    request: pytest.FixtureRequest, services: SeedanceEmulator, connect: Connect
) -> SeedanceEmulator:
    """A service that accepts submissions and refuses every status request."""
    kind, options = request.param
    connect("seedanceapi-v2")
    services.hold()
    services.fault(kind, on="status", times=None, **options)
    return services


def make(**arguments: Any) -> SeedanceGenerateVideoOperator:
    return SeedanceGenerateVideoOperator(**{**SHORT, "prompt": PROMPT, **arguments})


def make_batch(**arguments: Any) -> SeedanceGenerateVideoBatchOperator:
    return SeedanceGenerateVideoBatchOperator(**{**SHORT, "requests": ["a"], **arguments})


def run_to_its_end(op: Any) -> Any:
    """Execute a task, and resume it after each deferral."""
    context = make_context(Store(), TaskInstance())
    enter = partial(op.execute, context)
    for _ in range(10):
        try:
            return enter()
        except TaskDeferred as deferred:
            kwargs = {**(deferred.kwargs or {}), "event": payload_of(deferred.trigger)}
            enter = partial(op.resume_execution, deferred.method_name, kwargs, context)
    raise AssertionError("the task never ends")


def wait_by_hook(*, asynchronous: bool) -> None:
    hook = SeedanceHook()
    generation_id = hook.submit(VideoRequest(prompt=PROMPT)).generation_id
    if asynchronous:
        on_loop(hook.await_generation(generation_id, 0.05, poll_interval=0.02))
    else:
        hook.wait(generation_id, 0.05, poll_interval=0.02)


def wait_by_sensor() -> None:
    generation_id = SeedanceHook().submit(VideoRequest(prompt=PROMPT)).generation_id
    run_to_its_end(SeedanceGenerationSensor(**SHORT, generation_id=generation_id, deferrable=True))


@pytest.mark.parametrize(
    ("wait", "error"),
    [
        (lambda: wait_by_hook(asynchronous=False), errors.SeedanceTimeoutError),
        (lambda: wait_by_hook(asynchronous=True), errors.SeedanceTimeoutError),
        (wait_by_sensor, errors.SeedanceTimeoutError),
        (lambda: run_to_its_end(make(deferrable=False)), errors.SeedanceTimeoutError),
        (lambda: run_to_its_end(make()), errors.SeedanceTimeoutError),
        (lambda: run_to_its_end(make_batch(deferrable=False)), errors.SeedanceBatchError),
        (lambda: run_to_its_end(make_batch()), errors.SeedanceBatchError),
    ],
    ids=["hook", "asynchronous hook", "sensor", "task", "deferred task", "batch", "deferred batch"],
)
def test_every_wait_ends_and_names_the_generation(
    refusing: SeedanceEmulator, wait: Callable[[], None], error: type[errors.SeedanceError]
) -> None:
    with pytest.raises(error) as caught:
        wait()
    (paid,) = refusing.ledger.submissions
    assert paid.generation_id in str(caught.value)
    assert "goes on and is billed" in str(caught.value)
    assert caught.value.retry_helps


@pytest.mark.parametrize("make_one", [make, make_batch])
def test_a_retry_waits_for_the_same_generation(refusing: SeedanceEmulator, make_one: Any) -> None:
    op, store, ti = make_one(deferrable=False), Store(), TaskInstance()
    for _ in range(2):
        with pytest.raises(errors.SeedanceError, match="goes on and is billed"):
            op.execute(make_context(store, ti))
        ti.retry()
    assert len(refusing.ledger.submissions) == 1


def test_the_wait_for_the_quota_is_measured_from_the_deadline(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("seedanceapi-v2")
    services.hold()
    set_timing(monkeypatch, max_quota_wait=DAY)
    op, context = make(timeout=3600), make_context(Store())
    deferred = deferral(lambda: op.execute(context))
    services.fault("rate_limit", on="status", times=None, retry_after=1800)

    def resume(deadline: float) -> Any:
        kwargs = {**(deferred.kwargs or {}), "deadline": deadline}
        return op.resume_execution("execute_complete", kwargs, context)

    for late in (10.0, DAY - 600.0):
        over = time.time() - late
        again: Any = deferral(partial(resume, over))
        assert again.kwargs["deadline"] == over
        assert again.trigger.deadline > time.time() + 1700
        # Airflow's own timeout comes after all that the trigger may do.
        assert again.timeout.total_seconds() > again.trigger.deadline + DAY - time.time()
    with pytest.raises(errors.SeedanceTimeoutError, match="goes on and is billed"):
        resume(time.time() - DAY - 1)
