"""Problems on the resume of a batch: unusable requests and failed deferrals."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
from support import Store, TaskInstance, deferral, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch import requests
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.ledger import task_state
from airflow_provider_seedance.submission import store as records
from operators.batch_runner import Connect, Runner, keys, make, paid


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("problem", ["bad line", "unreachable"])
def test_problem_with_the_requests_on_a_resume_names_paid_generations(
    services: SeedanceEmulator,
    connect: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    problem: str,
    store: bool,
) -> None:
    connect("seedanceapi-v2")
    path = tmp_path / "requests.jsonl"
    path.write_text('"a"\n"b"\n')
    services.hold()
    runner, op = Runner(store=store), make(str(path))

    def break_requests(_: TaskDeferred) -> None:
        services.release()
        if problem == "bad line":
            path.write_text('"a"\n"b"\n{"colour": 1}\n')
        else:
            monkeypatch.setattr(requests, "read_text", unreachable)

    def unreachable(*_: Any, **__: Any) -> str:
        raise errors.SeedanceMediaError("The store answers 503. Nothing was sent.")

    runner.before_resume = break_requests
    with pytest.raises(errors.SeedanceError) as caught:
        runner.run(op)
    assert isinstance(caught.value, errors.SeedanceUnrecordedError) is not store
    assert all(one.generation_id in caught.value.message for one in services.ledger.submissions)
    assert "othing is billed" not in caught.value.message
    assert "othing was sent" not in caught.value.message
    assert sorted(paid(services)) == ["a", "b"]


@pytest.mark.parametrize("store", [True, False])
def test_timed_out_deferral_reads_overdue_generations(
    services: SeedanceEmulator, connect: Connect, store: bool
) -> None:
    connect("seedanceapi-v2")
    services.hold()
    op, context = (
        make(["a", "b"], timeout=0.05, on_item_failure="keep"),
        make_context(Store() if store else None),
    )
    deferral(lambda: op.execute(context))
    services.finish(services.ledger.submissions[0].generation_id)
    time.sleep(0.1)
    result = op.resume_execution(
        TRIGGER_FAIL_REPR, {"error": TriggerFailureReason.TRIGGER_TIMEOUT, "traceback": None}, context
    )
    assert keys(result["succeeded"]) == ["0"]
    assert [(entry["key"], entry["kind"]) for entry in result["failed"]] == [("1", "timeout")]
    assert sorted(paid(services)) == ["a", "b"]


def test_timed_out_deferral_reads_results_that_no_record_has(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("seedanceapi-v2")
    monkeypatch.setattr(task_state, "MAX_VALUE_BYTES", 1)
    runner = Runner()
    expected = runner.run(make(["a"]))
    runner.ti.clear()
    op, context = make(["a"], timeout=0.01), make_context(runner.store, runner.ti)
    deferral(lambda: op.execute(context))
    result = op.resume_execution(
        TRIGGER_FAIL_REPR, {"error": TriggerFailureReason.TRIGGER_TIMEOUT, "traceback": None}, context
    )
    assert result == expected


@pytest.mark.parametrize("reason", [TriggerFailureReason.TRIGGER_TIMEOUT, "Trigger failure"])
def test_failed_deferral_without_any_record_is_final(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    connect("seedanceapi-v2")
    services.hold()
    op, context = make(["a", "b"]), make_context(None)
    monkeypatch.setattr(TaskInstance, "xcom_push", lambda *_, **__: 1 / 0)
    deferral(lambda: op.execute(context))
    with pytest.raises(errors.SeedanceUnrecordedError, match="unknown id"):
        op.resume_execution(TRIGGER_FAIL_REPR, {"error": reason, "traceback": None}, context)
    assert sorted(paid(services)) == ["a", "b"]


@pytest.mark.parametrize("reason", [TriggerFailureReason.TRIGGER_TIMEOUT, "Trigger failure"])
@pytest.mark.parametrize("store", [True, False])
def test_failed_deferral_is_never_paid_for_again(
    services: SeedanceEmulator, connect: Connect, store: bool, reason: str
) -> None:
    """Airflow then hands on the reason, and none of the arguments of the deferral."""
    connect("seedanceapi-v2")
    services.hold()
    op, context = make(["a", "b"]), make_context(Store() if store else None)
    deferral(lambda: op.execute(context))
    resume = partial(
        op.resume_execution, TRIGGER_FAIL_REPR, {"error": reason, "traceback": ["Traceback"]}, context
    )
    if reason == TriggerFailureReason.TRIGGER_TIMEOUT:
        assert len(deferral(resume).trigger.generation_ids) == 2
    elif not store:
        with pytest.raises(errors.SeedanceUnrecordedError, match="may be billed") as caught:
            resume()
        assert not caught.value.retry_helps
        assert all(one.generation_id in caught.value.message for one in services.ledger.submissions)
    else:
        with pytest.raises(errors.SeedanceServerError, match="a retry waits for them again"):
            resume()
    assert sorted(paid(services)) == ["a", "b"]


@pytest.mark.parametrize("problem", ["broken trigger", "bad line", "template"])
def test_id_that_only_the_deferral_has_outlives_a_resume_that_fails(
    services: SeedanceEmulator,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    problem: str,
) -> None:
    connect("seedanceapi-v2")
    monkeypatch.setattr(records, "WRITE_BACKOFF_SECONDS", ())
    services.hold()
    path, store = tmp_path / "requests.jsonl", Store()
    path.write_text('"a"\n')
    op, context = make(str(path)), make_context(store)

    def before(what: str) -> None:
        if what == "set" and paid(services):
            raise ConnectionError("the API server is away")

    store.before = before
    wait = deferral(lambda: op.execute(context))
    store.before = lambda what: None
    resume = partial(op.resume_execution, wait.method_name, {**(wait.kwargs or {}), "event": None}, context)
    if problem == "broken trigger":
        resume = partial(
            op.resume_execution, TRIGGER_FAIL_REPR, {"error": "broken", "traceback": None}, context
        )
    elif problem == "template":
        resume = partial(op._run(context).fail_resume, ZeroDivisionError())
    else:
        path.write_text('"a"\n{"colour": 1}\n')
    with pytest.raises((errors.SeedanceError, ZeroDivisionError)):
        resume()
    ids = [record and record.generation_id for record in task_state.TaskStateStore(store).records().values()]
    assert ids == [services.ledger.submissions[0].generation_id]


def test_records_of_an_earlier_deferral_are_not_taken_for_the_latest(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below Airflow 3.3, where the XCom of the later deferral was too large."""
    connect("seedanceapi-v2")
    op, context = make(["a", "b"], max_in_flight=1), make_context(None)
    first = deferral(lambda: op.execute(context))
    event = {"outcome": "many", "overdue": first.trigger.generation_ids}
    push = TaskInstance.xcom_push

    def push_short(self: TaskInstance, key: str, value: Any) -> None:
        if value:
            raise ValueError("The value is too large.")
        push(self, key, value)

    monkeypatch.setattr(TaskInstance, "xcom_push", push_short)
    deferral(partial(op.execute_complete, context, event, **first.kwargs))
    assert paid(services) == ["a", "b"]
    with pytest.raises(errors.SeedanceUnrecordedError):
        op.resume_execution(
            TRIGGER_FAIL_REPR, {"error": TriggerFailureReason.TRIGGER_TIMEOUT, "traceback": None}, context
        )
