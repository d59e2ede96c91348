"""Rate limits, Airflow below 3.3, and on_kill of a single generation."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

import pytest
from airflow.sdk.bases.operator import TriggerFailureReason
from support import Log, Store, TaskInstance, deferral, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.triggers.cancellation import cancel_abandoned
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger, SeedanceQuotaTrigger
from operators.generation_task import Connect, failed_by_airflow, make, resume

# ---------------------------------------------------------------------- quota


def test_long_rate_limit_defers_and_then_submits(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedance2api")
    services.hold()
    services.fault("rate_limit", retry_after=1800)
    store = Store()
    context = make_context(store)
    op = make()
    before = time.time()
    deferred = deferral(lambda: op.execute(context))
    assert isinstance(deferred.trigger, SeedanceQuotaTrigger)
    assert before + 1700 < deferred.trigger.not_before < time.time() + 1900
    assert deferred.method_name == "resume_submit"
    assert "generation_id" not in context["ti"].pushed
    again = deferral(lambda: resume(op, deferred, {"not_before": 1}, context))
    assert isinstance(again.trigger, SeedanceGenerationTrigger)
    assert len(services.ledger.submissions) == 1


def test_quota_used_up_by_another_task_costs_no_rejected_request(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedance2api")
    services.set_rate_limit(1, 3600)
    services.hold()
    deferral(lambda: make().execute(make_context(Store())))
    op, store = make(), Store()
    context = make_context(store)
    deferred = deferral(lambda: op.execute(context))
    assert isinstance(deferred.trigger, SeedanceQuotaTrigger)
    assert deferred.trigger.seedance_conn_id == "seedance_default"
    assert time.time() + 3500 < deferred.trigger.not_before < time.time() + 3700
    assert len(services.ledger.posts()) == 1
    assert store.states == []  # nothing was sent, so there is nothing to remember
    # Granted by the triggerer, it submits even if an earlier note forbids it.
    services.set_rate_limit(None)
    again = deferral(lambda: resume(op, deferred, {"not_before": 1}, context))
    assert isinstance(again.trigger, SeedanceGenerationTrigger)
    assert len(services.ledger.submissions) == 2


def test_trigger_carries_the_time_of_submission(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    services.hold()
    store, ti = Store(), TaskInstance()
    before = time.time()
    op = make()
    deferred = deferral(lambda: op.execute(make_context(store, ti)))
    submitted_at = deferred.trigger.submitted_at
    assert before <= submitted_at <= time.time()
    ti.clear()
    again = deferral(lambda: op.execute(make_context(store, ti)))
    assert again.trigger.submitted_at == pytest.approx(submitted_at, abs=0.001)


def test_synchronous_task_raises_a_long_rate_limit(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedance2api")
    services.fault("rate_limit", retry_after=1800)
    with pytest.raises(errors.SeedanceRateLimitError) as caught:
        make(deferrable=False).execute(make_context(Store()))
    assert caught.value.retry_after == pytest.approx(1800, abs=30)


# ---------------------------------------------------------------------- below Airflow 3.3


@pytest.mark.parametrize(("on_uncertain", "final"), [("fail", True), ("resubmit", False)])
@pytest.mark.parametrize("case", ["failed", "deadline", "broken trigger", "timeout"])
def test_below_3_3_failures_after_the_submission_are_final(
    services: SeedanceEmulator, connect: Connect, case: str, on_uncertain: str, final: bool
) -> None:
    connect("ark")
    services.hold()
    context = make_context(None)
    op = make(on_uncertain_submit=on_uncertain)
    deferred = deferral(lambda: op.execute(context))
    generation_id = deferred.trigger.generation_id

    def to_the_end() -> None:
        if case == "failed":
            services.fail(generation_id, "no")
            resume(op, deferred, None, context)
        elif case == "deadline":
            deferred.kwargs["deadline"] = 1.0  # type: ignore[index]
            resume(op, deferred, None, context)
        elif case == "broken trigger":
            failed_by_airflow(op, context, TriggerFailureReason.TRIGGER_FAILURE)
        else:
            failed_by_airflow(op, context, TriggerFailureReason.TRIGGER_TIMEOUT)

    with pytest.raises(errors.SeedanceError) as caught:
        to_the_end()
    assert isinstance(caught.value, errors.SeedanceUnrecordedError) == final
    assert caught.value.retry_helps is not final
    assert caught.value.generation_id == generation_id
    assert generation_id in caught.value.message
    if final:
        assert "not retried" in caught.value.message


def test_below_3_3_failed_synchronous_wait_is_final(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    services.hold()
    with pytest.raises(errors.SeedanceUnrecordedError) as caught:
        make(deferrable=False, poll_interval=0.01, timeout=0.05).execute(make_context(None))
    assert caught.value.generation_id == services.ledger.submissions[0].generation_id
    assert isinstance(caught.value.__cause__, errors.SeedanceTimeoutError)


def test_below_3_3_failures_before_the_submission_are_retried(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("ark")
    services.stop()
    with pytest.raises(errors.SeedanceConnectionError) as caught:
        make().execute(make_context(None))
    assert caught.value.retry_helps


def test_below_3_3_every_submission_logs_a_warning(
    services: SeedanceEmulator, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    connect("ark")
    services.hold()
    deferral(lambda: make().execute(make_context(None)))
    assert "no task state store" in caplog.text


# ---------------------------------------------------------------------- on_kill


def wait_for(op: Any, context: Any, generation_id: str) -> None:
    hook = SeedanceHook("seedance_default")
    op.cancel_abandoned = partial(cancel_abandoned, hook, context["ti"], [generation_id], "video", op.log)


def wait_in_thread(op: Any, context: Any) -> threading.Thread:
    def run() -> None:
        with pytest.raises(errors.SeedanceGenerationCancelledError):
            op.execute(context)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("state", "cancelled"),
    [("failed", True), ("success", True), ("skipped", True), ("removed", True)]
    + [(state, False) for state in ("running", "restarting", "up_for_retry", "queued", None)],
)
def test_on_kill_cancels_abandoned_generations_only(
    services: SeedanceEmulator, connect: Connect, state: str | None, cancelled: bool
) -> None:
    connect("ark")
    services.hold()
    op, context = make(deferrable=False), make_context(Store())
    generation_id = deferral(lambda: make().execute(context)).trigger.generation_id
    context["ti"].state = state
    wait_for(op, context, generation_id)
    op.on_kill()
    assert services.generation(generation_id).status == ("cancelled" if cancelled else "queued")
    assert len(services.ledger.deletions) == int(cancelled)


def test_on_kill_while_it_waits(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    services.hold()
    op, context = make(deferrable=False, poll_interval=0.01), make_context(Store())
    thread = wait_in_thread(op, context)
    while not services.ledger.count("status"):
        thread.join(0.01)
    context["ti"].state = "failed"
    op.on_kill()
    thread.join(10)
    assert [deletion.effect for deletion in services.ledger.deletions] == ["cancelled"]


def test_on_kill_without_anything_to_cancel(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    services.hold()
    op, context = make(deferrable=False, cancel_on_kill=False), make_context(Store())
    context["ti"].state = "failed"
    make().on_kill()
    wait_for(op, context, "some-id")
    op.on_kill()
    assert services.ledger.requests == []


def test_on_kill_never_raises(services: SeedanceEmulator, connect: Connect, log: Log) -> None:
    connect("ark")
    op, context = make(deferrable=False), make_context(Store())
    context["ti"] = object()
    wait_for(op, context, "some-id")
    op.on_kill()
    assert services.ledger.requests == []
    assert "was not cancelled, it goes on and is billed" in log.lines[-1]


@pytest.mark.parametrize("stored", [True, False])
def test_alternating_lost_replies_and_rate_limits_submit_twice_at_most(
    services: SeedanceEmulator, connect: Connect, stored: bool
) -> None:
    connect("runbase")
    for _ in range(4):
        services.fault("drop_reply")
        services.fault("rate_limit", retry_after=1800)
    op, context = make(on_uncertain_submit="resubmit"), make_context(Store() if stored else None)
    waiting = deferral(lambda: op.execute(context))
    assert waiting.method_name == "resume_submit"
    with pytest.raises(errors.SeedanceUncertainSubmitError, match="submitted again once"):
        resume(op, waiting, None, context)
    assert len(services.ledger.submissions) == 2
    assert len(services.ledger.posts()) == 3
