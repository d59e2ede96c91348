"""Rate limits, Airflow below 3.3, and on_kill of a single generation."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from airflow.sdk.bases.operator import TriggerFailureReason
from support import Log, TaskInstance, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.operators import base
from airflow_provider_seedance.operators.task_hooks import Hooks
from airflow_provider_seedance.polling.submission_rate import MIN_REFUSED_SECONDS
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger, SeedanceQuotaTrigger
from operators.generation_task import Task, make


@pytest.fixture
def api() -> str:
    return "ark"


@pytest.mark.parametrize("api", ["seedance2api"])
def test_long_rate_limit_defers_and_then_submits(task: Task) -> None:
    task.services.fault("rate_limit", retry_after=1800)
    before = time.time()
    deferred = task.defer()
    assert isinstance(deferred.trigger, SeedanceQuotaTrigger)
    assert before + 1700 < deferred.trigger.not_before < time.time() + 1900
    assert deferred.method_name == "resume_submit"
    assert "generation_id" not in task.ti.pushed
    before = time.time()
    trigger = task.defer_again({"not_before": 1}).trigger
    assert isinstance(trigger, SeedanceGenerationTrigger)
    assert before <= trigger.submitted_at <= time.time()
    task.ti.clear()
    assert task.defer().trigger.submitted_at == pytest.approx(trigger.submitted_at, abs=0.001)
    assert task.submitted == 1


@pytest.mark.parametrize("api", ["seedance2api"])
def test_quota_used_up_by_another_task_costs_no_rejected_request(task: Task) -> None:
    task.services.set_rate_limit(1, 3600)
    task.other_task().defer()
    trigger = task.defer().trigger
    assert isinstance(trigger, SeedanceQuotaTrigger)
    assert trigger.seedance_conn_id == "seedance_default"
    assert time.time() + 3500 < trigger.not_before < time.time() + 3700
    assert task.posts == 1
    assert task.store.states == []  # nothing was sent, so there is nothing to remember
    # When the trigger has fired, it submits, despite the noted quota.
    task.services.set_rate_limit(None)
    assert isinstance(task.defer_again({"not_before": 1}).trigger, SeedanceGenerationTrigger)
    assert task.submitted == 2


def test_submissions_above_the_limit_of_a_minute_wait_without_a_request(task: Task) -> None:
    task.connect("ark", submissions_per_minute=1)
    second, third = task.other_task(), task.other_task()
    before = time.time()
    task.defer()
    trigger, last = second.defer().trigger, third.defer().trigger
    assert isinstance(trigger, SeedanceQuotaTrigger)
    assert before + 50 < trigger.not_before < time.time() + 71
    assert last.not_before > trigger.not_before + 50  # each has a minute of its own
    assert task.posts == 1
    assert isinstance(second.defer_again({"not_before": 1}).trigger, SeedanceGenerationTrigger)
    assert task.submitted == 2


def test_a_refused_submission_lowers_the_rate_of_its_model(task: Task) -> None:
    task.connect("ark", submissions_per_minute=60)
    task.services.fault("rate_limit", retry_after=None, times=4)
    before = time.time()
    assert task.defer().trigger.not_before >= before + MIN_REFUSED_SECONDS
    waits = [task.other_task().defer().trigger for _ in range(8)]
    assert any(isinstance(wait, SeedanceQuotaTrigger) for wait in waits)
    assert task.submitted < 8


@pytest.mark.parametrize(("hours", "waits"), [(5, True), (160, True), (600, False)])
def test_a_plan_that_is_used_up_is_waited_for_unless_too_long(task: Task, hours: int, waits: bool) -> None:
    reset_at = datetime.now(UTC) + timedelta(hours=hours)
    message = f"You have exceeded the usage quota. It will reset at {reset_at:%Y-%m-%d %H:%M:%S %z} UTC."
    task.services.fault("refuse", status=429, code="AccountQuotaExceeded", message=message)
    if waits:
        assert task.defer().trigger.not_before == pytest.approx(reset_at.timestamp(), abs=300)
        assert isinstance(task.defer_again({"not_before": 1}).trigger, SeedanceGenerationTrigger)
    else:
        with pytest.raises(errors.SeedanceRateLimitError, match="will reset at"):
            task.run()
    assert task.posts == 1 + waits


@pytest.mark.parametrize("api", ["seedance2api"])
def test_synchronous_task_raises_a_long_rate_limit(task: Task) -> None:
    task.services.fault("rate_limit", retry_after=1800)
    with pytest.raises(errors.SeedanceRateLimitError) as caught:
        task.run(deferrable=False)
    assert caught.value.retry_after == pytest.approx(1800, abs=300)


@pytest.mark.parametrize("api", ["runbase"])
def test_submission_is_not_deferred_without_end(task: Task) -> None:
    task.services.fault("rate_limit", times=None, retry_after=3600)
    first = task.defer().kwargs
    assert first["refusals"] == 1
    again = task.defer_again().kwargs
    assert again == {"refusals": 2, "since": first["since"], "granted": "seedance_default"}
    long_ago = time.time() - base.MAX_QUOTA_WAIT_SECONDS
    with pytest.raises(errors.SeedanceRateLimitError):
        make().resume_submit(task.context, None, refusals=9, since=long_ago)
    assert task.submitted == 0


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("api", ["runbase"])
def test_lost_replies_and_rate_limits_alternately_submit_twice_at_most(task: Task, stored: bool) -> None:
    for _ in range(4):
        task.services.fault("drop_reply")
        task.services.fault("rate_limit", retry_after=1800)
    task.stored = stored
    assert task.defer(on_uncertain_submit="resubmit").method_name == "resume_submit"
    with pytest.raises(errors.SeedanceUncertainSubmitError, match="submitted again once"):
        task.resume()
    assert task.submitted == 2
    assert task.posts == 3


@pytest.mark.parametrize("api", ["runbase"])
def test_the_renders_page_learns_that_a_submission_is_uncertain(task: Task) -> None:
    task.services.fault("drop_reply")
    with pytest.raises(errors.SeedanceUncertainSubmitError) as caught:
        task.defer()
    assert task.ti.pushed["seedance_error"] == str(caught.value)
    assert task.ti.pushed["seedance_report"] == {"kind": "uncertain"}


@pytest.mark.parametrize(
    ("case", "on_uncertain", "final"),
    [
        ("failed", "fail", True),
        ("failed", "resubmit", False),
        ("deadline", "fail", True),
        (TriggerFailureReason.TRIGGER_FAILURE, "fail", True),
        (TriggerFailureReason.TRIGGER_TIMEOUT, "resubmit", False),
    ],
)
def test_below_3_3_failures_after_a_post_are_final(
    forgetful: Task, case: str, on_uncertain: str, final: bool
) -> None:
    deferred = forgetful.defer(on_uncertain_submit=on_uncertain)
    generation_id = deferred.trigger.generation_id
    to_the_end: Any = forgetful.resume
    if case == "failed":
        forgetful.services.fail(generation_id, "no")
    elif case == "deadline":
        deferred.kwargs["deadline"] = 1.0  # type: ignore[index]
    else:
        to_the_end = partial(forgetful.fail_deferral, case)
    with pytest.raises(errors.SeedanceError) as caught:
        to_the_end()
    assert isinstance(caught.value, errors.SeedanceUnrecordedError) == final
    assert caught.value.retry_helps is not final
    assert caught.value.generation_id == generation_id
    assert generation_id in caught.value.message
    if final:
        assert "not retried" in caught.value.message


@pytest.mark.parametrize("cause", [AirflowTaskTimeout("over"), errors.SeedanceTimeoutError("over")], ids=repr)
def test_below_3_3_failed_wait_on_a_worker_is_final(
    task: Task, monkeypatch: pytest.MonkeyPatch, cause: BaseException
) -> None:
    monkeypatch.setattr(SeedanceHook, "wait_for_end", Mock(side_effect=cause))
    with pytest.raises(type(cause)):
        task.run(deferrable=False)
    task.ti = TaskInstance()
    task.without_store()
    with pytest.raises(errors.SeedanceUnrecordedError) as caught:
        task.run()
    assert caught.value.generation_id == task.generation_id
    assert caught.value.__cause__ is cause


def test_below_3_3_connection_deleted_while_deferred_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", raising=False)
    with pytest.raises(errors.SeedanceUnrecordedError, match="gen-1"):
        make().execute_complete(make_context(None), None, "gen-1", {}, time.time())


def test_below_3_3_failures_before_the_submission_are_retried(forgetful: Task) -> None:
    forgetful.services.stop()
    with pytest.raises(errors.SeedanceConnectionError) as caught:
        forgetful.run()
    assert caught.value.retry_helps


@pytest.mark.parametrize(
    ("state", "allowed", "cancelled"),
    [("failed", True, True), ("failed", False, False), ("restarting", True, False), (None, True, False)],
)
def test_on_kill_cancels_abandoned_generations_only(
    task: Task, state: str | None, allowed: bool, cancelled: bool
) -> None:
    task.prepare(deferrable=False, poll_interval=0.01, cancel_on_kill=allowed)
    with ThreadPoolExecutor() as workers:
        run = workers.submit(task.run)
        try:
            while not task.services.ledger.count("status"):
                wait([run], timeout=0.01)
                assert not run.done()
            task.ti.state = state
            task.op.on_kill()
        finally:
            task.services.release()
    assert isinstance(run.exception(), errors.SeedanceGenerationCancelledError) is cancelled
    assert [deletion.effect for deletion in task.services.ledger.deletions] == ["cancelled"] * cancelled


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize(
    ("moment", "state", "allowed", "cancelled"),
    [
        ("record", "failed", True, True),
        ("id", "failed", True, True),
        ("record", "failed", False, False),
        ("record", "restarting", True, False),
        ("id", None, True, False),
    ],
)
def test_on_kill_between_the_submission_and_the_wait(
    task: Task, deferrable: bool, moment: str, state: str | None, allowed: bool, cancelled: bool
) -> None:
    """Airflow calls it once, and lets the task go on for a minute."""
    task.prepare(deferrable=deferrable, poll_interval=0.01, cancel_on_kill=allowed)
    task.ti.state = state

    def kill(*_: Any, **__: Any) -> None:
        if task.submitted and not task.op.killed:
            task.op.on_kill()
            if not cancelled:
                task.services.release()

    if moment == "record":
        task.store.before = kill
    else:
        task.ti.xcom_push = kill
    if deferrable:
        task.defer()
    elif cancelled:
        with pytest.raises(errors.SeedanceGenerationCancelledError):
            task.run()
    else:
        assert task.run()["status"] == "succeeded"
    assert task.op.killed
    assert [deletion.effect for deletion in task.services.ledger.deletions] == ["cancelled"] * cancelled


def test_on_kill_never_raises(task: Task, log: Log) -> None:
    task.prepare(deferrable=False)
    task.op.on_kill()
    run = SimpleNamespace(hooks=Hooks("seedance_default"), context={"ti": object()}, log=task.op.log)
    task.op.cancel_when_killed(run, {"seedance_default": ["some-id"]})
    assert task.services.ledger.requests == []
    assert "was not cancelled, it goes on and is billed" in log.lines[-1]
