"""Problems on the resume of a batch: unusable requests and failed deferrals."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk.bases.operator import TriggerFailureReason
from helpers import set_submission_timing
from support import TaskInstance, deferral

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch import requests
from airflow_provider_seedance.ledger import task_state
from operators.batch_runner import Batch, keys, kinds

TIMEOUT = TriggerFailureReason.TRIGGER_TIMEOUT
BOTH_FAILURES = pytest.mark.parametrize("reason", list(TriggerFailureReason))


@pytest.fixture(params=[True, False], ids=["stored", "not stored"])
def held(batch: Batch, request: pytest.FixtureRequest) -> Batch:
    """Batch whose renders end when the test says so, with and without a task state store."""
    batch.services.hold()
    batch.stored = request.param
    return batch


@pytest.mark.parametrize("problem", ["bad line", "unreachable"])
def test_problem_with_the_requests_on_a_resume_names_paid_generations(
    held: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text('"a"\n"b"\n')
    unreachable = Mock(side_effect=errors.SeedanceMediaError("The store answers 503. Nothing was sent."))

    def break_requests(_: TaskDeferred) -> None:
        held.services.release()
        if problem == "bad line":
            path.write_text('"a"\n"b"\n{"colour": 1}\n')
        else:
            monkeypatch.setattr(requests, "read_text", unreachable)

    held.before_resume = break_requests
    with pytest.raises(errors.SeedanceError) as caught:
        held.run(str(path))
    assert isinstance(caught.value, errors.SeedanceUnrecordedError) is not held.stored
    assert held.paid_ids_in(caught.value.message)
    assert "othing is billed" not in caught.value.message
    assert "othing was sent" not in caught.value.message
    assert sorted(held.paid) == ["a", "b"]


def test_timed_out_deferral_reads_overdue_generations(held: Batch) -> None:
    held.defer(["a", "b"], timeout=1e-6, on_item_failure="keep")
    held.services.finish(held.services.ledger.submissions[0].generation_id)
    result = held.fail_deferral(TIMEOUT)
    assert keys(result["succeeded"]) == ["0"]
    assert kinds(result) == [("1", "timeout")]
    assert sorted(held.paid) == ["a", "b"]


def test_timed_out_deferral_reads_results_without_record(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_state, "MAX_VALUE_BYTES", 1)
    expected = batch.run(["a"])
    batch.ti.clear()
    batch.defer(["a"], timeout=0.01)
    assert batch.fail_deferral(TIMEOUT) == expected


@BOTH_FAILURES
def test_failed_deferral_without_record_is_final(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    batch.services.hold()
    batch.stored = False
    monkeypatch.setattr(TaskInstance, "xcom_push", lambda *_, **__: 1 / 0)
    batch.defer(["a", "b"])
    with pytest.raises(errors.SeedanceUnrecordedError, match="unknown id"):
        batch.fail_deferral(reason)
    assert sorted(batch.paid) == ["a", "b"]


@BOTH_FAILURES
def test_failed_wait_for_the_quota_submits_once_more(held: Batch, reason: str) -> None:
    """Nothing was submitted: no retry is used up, and what a trigger that breaks each time costs is bounded."""
    refused = held.services.fault("rate_limit", retry_after=1800, times=None)
    held.defer(["a", "b"])
    with pytest.raises(errors.SeedanceRateLimitError) as caught:
        held.fail_deferral(reason)
    assert "billed" not in caught.value.message
    assert held.paid == []
    refused.remove()
    assert len(deferral(partial(held.fail_deferral, reason)).trigger.generation_ids) == 2
    assert sorted(held.paid) == ["a", "b"]


@BOTH_FAILURES
def test_failed_deferral_is_never_paid_for_again(held: Batch, reason: str) -> None:
    """Airflow then hands on the reason, and none of the arguments of the deferral."""
    held.defer(["a", "b"])
    resume = partial(held.fail_deferral, reason)
    if reason == TIMEOUT:
        assert len(deferral(resume).trigger.generation_ids) == 2
    elif not held.stored:
        with pytest.raises(errors.SeedanceUnrecordedError, match="may be billed") as caught:
            resume()
        assert not caught.value.retry_helps
        assert held.paid_ids_in(caught.value.message)
    else:
        with pytest.raises(errors.SeedanceServerError, match="a retry waits for them again"):
            resume()
    assert sorted(held.paid) == ["a", "b"]


@pytest.mark.parametrize("problem", ["broken trigger", "bad line", "template"])
def test_id_that_only_the_deferral_has_outlives_a_failure(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, problem: str
) -> None:
    set_submission_timing(monkeypatch, write_backoff=())
    batch.services.hold()
    path = tmp_path / "requests.jsonl"
    path.write_text('"a"\n')

    def before(what: str) -> None:
        if what == "set" and batch.paid:
            raise ConnectionError("the API server is away")

    batch.store.before = before
    wait = batch.defer(str(path))
    batch.store.before = lambda what: None
    resume: Any = partial(batch.fail_deferral, "broken")
    if problem == "template":
        resume = partial(batch.op._run(batch.context).fail_resume, ZeroDivisionError())
    elif problem == "bad line":
        path.write_text('"a"\n{"colour": 1}\n')
        kwargs = {**(wait.kwargs or {}), "event": None}
        resume = partial(batch.op.resume_execution, wait.method_name, kwargs, batch.context)
    with pytest.raises((errors.SeedanceError, ZeroDivisionError)):
        resume()
    stored = task_state.TaskStateStore(batch.store).records().values()
    ids = [record and record.generation_id for record in stored]
    assert ids == [batch.services.ledger.submissions[0].generation_id]


def test_records_of_an_earlier_deferral_are_not_the_latest(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below Airflow 3.3, where the XCom of the later deferral was too large."""
    batch.stored = False
    first = batch.defer(["a", "b"], max_in_flight=1)
    event = {"outcome": "many", "overdue": first.trigger.generation_ids}
    push = TaskInstance.xcom_push
    too_large = Mock(side_effect=ValueError("The value is too large."))
    push_short = lambda ti, key, value: too_large() if value else push(ti, key, value)  # noqa: E731
    monkeypatch.setattr(TaskInstance, "xcom_push", push_short)
    deferral(partial(batch.op.execute_complete, batch.context, event, **first.kwargs))
    assert batch.paid == ["a", "b"]
    with pytest.raises(errors.SeedanceUnrecordedError):
        batch.fail_deferral(TIMEOUT)


@BOTH_FAILURES
def test_a_failed_deferral_pays_for_nothing_again_where_the_records_are_lost(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """Below Airflow 3.3; a retry resubmits, as the user has decided, and the same try does not."""
    batch.stored = False
    monkeypatch.setattr(TaskInstance, "xcom_push", lambda self, key, value: None)
    batch.defer(["a"], on_uncertain_submit="resubmit")
    with pytest.raises(errors.SeedanceServerError, match="a retry submits them again"):
        batch.fail_deferral(reason)
    assert batch.paid == ["a"]
