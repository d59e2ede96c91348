"""A batch across retries, clears, lost workers and failed deferrals: each render is paid for once."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import replace
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
from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.batch import requests
from airflow_provider_seedance.ledger import task_state
from airflow_provider_seedance.operators.batch_run import BatchTiming
from airflow_provider_seedance.submission import submitter
from airflow_provider_seedance.triggers import events
from operators.batch_runner import Batch, keys, kinds
from operators.generation_task import Killed

# ---------------------------------------------------------------------- retries and clears


def test_order_of_requests_does_not_matter(batch: Batch) -> None:
    first = batch.run(["a", "b", "a"])
    batch.ti.clear()
    second = batch.run(["b", "a", "a"])
    assert sorted(batch.paid) == ["a", "a", "b"]
    ids = [entry["generation_id"] for entry in first["succeeded"]]
    assert [entry["generation_id"] for entry in second["succeeded"]] == [ids[1], ids[0], ids[2]]


def test_clear_delivers_successes_without_requests_or_pays_for_all(batch: Batch) -> None:
    first = batch.run(["a", "b"])
    requests = len(batch.services.ledger.requests)
    assert batch.clear() == first
    assert len(batch.services.ledger.requests) == requests
    batch.ti.retry()
    batch.run(["a", "b"], on_clear="new")
    assert len(batch.paid) == 2
    batch.clear()
    assert len(batch.paid) == 4


@pytest.mark.parametrize("deferrable", [True, False])
def test_large_results_are_read_again(batch: Batch, nothing_fits: None, deferrable: bool) -> None:
    first = batch.run(["a", "b", "c"], max_in_flight=1, deferrable=deferrable)
    assert batch.entries <= 5
    assert batch.clear() == first
    assert len(batch.paid) == 3


@pytest.mark.parametrize("api", ["seedanceapi-v1"])
def test_reported_credits_count_without_stored_result(
    batch: Batch, nothing_fits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_event = events.make_event
    dearer = lambda generation: make_event(replace(generation, credits=40))  # noqa: E731
    monkeypatch.setattr(events, "make_event", dearer)
    result = batch.run(["a", "b", "c", "d"], max_in_flight=1, max_credits=100, on_item_failure="keep")
    # 28 by the price list, 40 as reported: a third render could make it 108.
    assert len(batch.paid) == len(result["succeeded"]) == 2


# ---------------------------------------------------------------------- uncertain submissions


@pytest.mark.parametrize("api", ["ark", "fal", "runbase"])
def test_lost_reply_fails_one_item(batch: Batch, api: str) -> None:
    batch.services.fault("drop_reply", prompt="b")
    result = batch.run(["a", "b", "c"], on_item_failure="keep")
    again = batch.retry()
    assert sorted(batch.paid) == ["a", "b", "c"]
    if get_api(api).can_look_up:
        assert result["counts"]["succeeded"] == 3
        return
    assert kinds(result) == kinds(again) == [("1", "uncertain")]
    assert batch.clear()["counts"]["succeeded"] == 3
    assert sorted(batch.paid) == ["a", "b", "b", "c"]


@pytest.mark.parametrize("api", ["ark"])
def test_failed_lookup_is_repeated(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    set_submission_timing(monkeypatch, retry_after=0.01)
    batch.services.fault("drop_reply", prompt="b")
    batch.services.fault("cut", on="list", times=3)
    assert keys(batch.run(["a", "b", "c"])["succeeded"]) == ["0", "1", "2"]
    assert sorted(batch.paid) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("kind", "options", "error", "policy"),
    [
        ("cut", {}, "Connection", "fail"),
        ("rate_limit", {}, "RateLimit", "resubmit"),
        ("gateway_error", {"status": 401}, "Authentication", "fail"),
        ("gateway_error", {"status": 403}, "Forbidden", "resubmit"),
    ],
)
@pytest.mark.parametrize("api", ["ark"])
def test_persistently_failed_lookup_is_left_to_the_next_try(
    batch: Batch, kind: str, options: dict[str, Any], error: str, policy: str
) -> None:
    expected = getattr(errors, f"Seedance{error}Error")
    batch.services.fault("drop_reply", prompt="b")
    lists = batch.services.fault(kind, on="list", times=None, **options)
    with pytest.raises(expected, match="One generation may have been billed"):
        batch.run(["b", "c"], deferrable=False, on_uncertain_submit=policy)
    with pytest.raises(expected, match="One generation may have been billed"):
        batch.retry()
    lists.remove()
    assert keys(batch.retry()["succeeded"]) == ["0", "1"]
    assert batch.paid == ["b", "c"]


@pytest.mark.parametrize("api", ["ark"])
def test_uncertain_item_behind_a_stop_is_not_reported_as_not_submitted(batch: Batch) -> None:
    batch.services.fault("drop_reply", prompt="b")
    lists = batch.services.fault("gateway_error", on="list", times=None, status=402)
    result = batch.run(["a", "b", "c"], on_item_failure="keep", deferrable=False)
    assert (keys(result["succeeded"]), kinds(result)) == (["0"], [("1", "uncertain")])
    assert result["not_submitted"] == ["2"]
    lists.remove()
    # The record stays, so that the service is read before anything is submitted again.
    assert keys(batch.clear()["succeeded"]) == ["0", "1", "2"]
    assert batch.paid == ["a", "b", "c"]


def test_worker_loss_leaves_one_uncertain_item(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    send = submitter.Submission._send

    def die_after_b(self: Any, call: Any, request: Any, **options: Any) -> Any:
        outcome = send(self, call, request, **options)
        if request.prompt == "b":
            raise Killed
        return outcome

    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(submitter.Submission, "_send", die_after_b)
        batch.run(["a", "b", "c"])
    with pytest.raises(errors.SeedanceBatchFinalError, match="uncertain") as caught:
        batch.retry()
    assert "2 succeeded" in str(caught.value)
    assert sorted(batch.paid) == ["a", "b", "c"]


def test_uncertain_submissions_open_the_breaker(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = batch.services.fault("gateway_error", on="submit", accept=True, times=None, status=502)
    set_submission_timing(monkeypatch, retry_after=0.01, min_backoff=0.01)
    requests = [f"lamp {number}" for number in range(5)]
    with pytest.raises(errors.SeedanceServerError, match="does not answer submissions"):
        batch.run(requests, on_item_failure="keep", timing=BatchTiming(max_unreachable=1))
    assert len(batch.paid) == 3
    fault.remove()
    batch.ti.retry()
    result = batch.run(requests, on_item_failure="keep")
    assert (len(result["succeeded"]), len(result["failed"])) == (2, 3)
    assert len(batch.paid) == 5
    # The advice for a person is kept.
    assert all("clear this task" in entry["error"] for entry in result["failed"])


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("api", ["runbase"])
def test_lost_replies_between_rate_limits_submit_an_item_twice_at_most(batch: Batch, stored: bool) -> None:
    for _ in range(4):
        batch.services.fault("drop_reply")
        batch.services.fault("rate_limit", retry_after=0)
    batch.stored = stored
    result = batch.run(["A lamp"], on_item_failure="keep", on_uncertain_submit="resubmit")
    assert kinds(result) == [("0", "uncertain")]
    assert len(batch.paid) == 2


def test_changed_list_in_a_retry_submits_nothing_new(batch: Batch) -> None:
    batch.services.fault("fail", prompt="b", message="no")
    with pytest.raises(errors.SeedanceBatchError):
        batch.run(["a", "b", "c"])
    batch.ti.retry()
    # b failed and may be replaced; c was paid for, so the request in its place is not submitted.
    with pytest.raises(errors.SeedanceBatchFinalError, match="changed"):
        batch.run(["a", "b", "d"])
    assert sorted(batch.paid) == ["a", "b", "b", "c"]
    assert keys(batch.clear()["succeeded"]) == ["0", "1", "2"]
    assert sorted(batch.paid) == ["a", "b", "b", "c", "d"]


@pytest.mark.parametrize("left", [["a"], []])
def test_orphans_are_reported(batch: Batch, tmp_path: Path, left: list[str]) -> None:
    """Every entry reads the file of requests again, perhaps while another process writes it."""
    path = tmp_path / "requests.jsonl"
    write = lambda prompts: path.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))  # noqa: E731
    write(["a", "b", "c"])
    batch.services.hold()

    def lose(_: TaskDeferred) -> None:
        write(left)
        batch.services.release()

    batch.before_resume = lose
    with pytest.raises(errors.SeedanceBatchFinalError, match="not in the list any more") as caught:
        batch.run(str(path))
    ids = {one.prompt: one.generation_id for one in batch.services.ledger.submissions}
    assert all(ids[prompt] in str(caught.value) for prompt in "abc")
    write(["a", "b", "c"])
    batch.before_resume = lambda _: None
    assert keys(batch.clear()["succeeded"]) == ["0", "1", "2"]
    assert sorted(batch.paid) == ["a", "b", "c"]


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize("emulator_options", [{"render_seconds": 0.05, "speed": 1}], ids=["real time"])
def test_nothing_is_submitted_before_retry_after(batch: Batch, deferrable: bool) -> None:
    batch.services.fault("rate_limit", on="submit", prompt="c", retry_after=3600)
    waits: list[float | None] = []

    def note(deferred: TaskDeferred) -> None:
        waits.append(deferred.trigger.submit_not_before)
        if not deferred.trigger.generation_ids:
            raise Killed  # instead of a wait of an hour

    batch.before_resume = note
    with pytest.raises((Killed, errors.SeedanceRateLimitError)) as caught:
        batch.run(["a", "b", "c", "d"], deferrable=deferrable)
    assert batch.paid == ["a", "b"]
    assert sum(one.kind == "submit" for one in batch.services.ledger.requests) == 3
    if deferrable:
        assert len({round(moment or 0) for moment in waits}) == 1
        assert (waits[-1] or 0) > time.time() + 3000
    else:
        assert (getattr(caught.value, "retry_after", None) or 0) > 3000


@pytest.mark.parametrize("count", [3, 5])
def test_unwritten_ids_are_in_the_deferral(batch: Batch, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    set_submission_timing(monkeypatch, retry_after=0.02)
    batch.services.hold()
    batch.lose_ids(after=3)

    def back(_: TaskDeferred) -> None:
        batch.restore()
        batch.services.release()

    batch.before_resume = back
    result = batch.run([f"lamp {number}" for number in range(count)], on_item_failure="keep")
    assert result["counts"] == {"total": count, "succeeded": count, "failed": 0, "not_submitted": 0}
    assert len(batch.paid) == count


def test_unreadable_records_are_not_an_empty_store(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    batch.store.break_down("set")
    with pytest.raises(errors.SeedanceStateError, match="could not be written"):
        batch.run(["a"])
    assert batch.paid == []
    batch.restore()
    monkeypatch.setattr(task_state, "GROUP_SIZE", 3)
    batch.run([f"lamp {number}" for number in range(4)])
    good = dict(batch.store.texts)
    name = "seedance_records"
    for damage in ({name: "{}"}, {name: '{"version": 99}'}, {f"{name}_1": "[]"}):
        batch.store.texts = {**good, **damage}
        with pytest.raises(errors.SeedanceRecordError):
            batch.clear()
    batch.store.texts = {"seedance_records": good["seedance_records"]}
    with pytest.raises(errors.SeedanceRecordError, match="missing"):
        batch.enter()
    assert len(batch.paid) == 4


def test_deferral_carries_the_records_below_airflow_3_3(batch: Batch) -> None:
    batch.without_store()
    batch.services.fault("fail", prompt="b", message="no")
    result = batch.run(["a", "b", "c"], max_in_flight=1, on_item_failure="keep")
    assert result["counts"] == {"total": 3, "succeeded": 2, "failed": 1, "not_submitted": 0}
    assert sorted(batch.paid) == ["a", "b", "c"]
    batch.services.fault("fail", prompt="b", message="no")
    other = batch.other_task()
    other.without_store()
    with pytest.raises(errors.SeedanceUnrecordedError, match="no task state store"):
        other.run(["a", "b", "c"])


# ---------------------------------------------------------------------- problems on a resume

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
    held.services.finish(held.ids[0])
    result = held.fail_deferral(TIMEOUT)
    assert keys(result["succeeded"]) == ["0"]
    assert kinds(result) == [("1", "timeout")]
    assert sorted(held.paid) == ["a", "b"]


def test_timed_out_deferral_reads_results_without_record(batch: Batch, nothing_fits: None) -> None:
    expected = batch.run(["a"])
    batch.ti.clear()
    batch.defer(["a"], timeout=0.01)
    assert batch.fail_deferral(TIMEOUT) == expected


@BOTH_FAILURES
@pytest.mark.parametrize(
    ("policy", "error", "says"),
    [
        ("fail", errors.SeedanceUnrecordedError, "unknown id"),
        ("resubmit", errors.SeedanceServerError, "a retry submits them again"),
    ],
)
def test_failed_deferral_without_records_pays_for_nothing_again(
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
    policy: str,
    error: type[errors.SeedanceError],
    says: str,
) -> None:
    """Below Airflow 3.3; a retry resubmits if the user has decided so, and the same try does not."""
    batch.services.hold()
    batch.without_store()
    monkeypatch.setattr(TaskInstance, "xcom_push", lambda *_, **__: 1 / 0)
    batch.defer(["a", "b"], on_uncertain_submit=policy)
    with pytest.raises(error, match=says):
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
def test_id_that_only_the_deferral_has_outlives_a_failure(batch: Batch, tmp_path: Path, problem: str) -> None:
    batch.services.hold()
    path = tmp_path / "requests.jsonl"
    path.write_text('"a"\n')
    batch.lose_ids()
    batch.defer(str(path))
    batch.restore()
    resume: Any = partial(batch.fail_deferral, "broken")
    if problem == "template":
        resume = partial(batch.op._run(batch.context).fail_resume, ZeroDivisionError())
    elif problem == "bad line":
        path.write_text('"a"\n{"colour": 1}\n')
        resume = batch.resume
    with pytest.raises((errors.SeedanceError, ZeroDivisionError)):
        resume()
    stored = task_state.TaskStateStore(batch.store).records().values()
    assert [record and record.generation_id for record in stored] == batch.ids


def test_earlier_records_are_not_the_latest(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below Airflow 3.3, where the XCom of the later deferral was too large."""
    batch.without_store()
    first = batch.defer(["a", "b"], max_in_flight=1)
    event = {"outcome": "many", "overdue": first.trigger.generation_ids}
    push = TaskInstance.xcom_push
    too_large = Mock(side_effect=ValueError("The value is too large."))
    push_short = lambda ti, key, value: too_large() if value else push(ti, key, value)  # noqa: E731
    monkeypatch.setattr(TaskInstance, "xcom_push", push_short)
    batch.defer_again(event)
    assert batch.paid == ["a", "b"]
    with pytest.raises(errors.SeedanceUnrecordedError):
        batch.fail_deferral(TIMEOUT)
