"""Results of a single generation from every path, and resumes without a complete event."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk.bases.operator import TriggerFailureReason
from helpers import ALL_APIS
from support import TaskInstance, deferral
from versions import ENDING_FROM_TRIGGERS, require

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.operators import base
from airflow_provider_seedance.polling import shared_quota
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger, SeedanceQuotaTrigger
from airflow_provider_seedance.version_compat import TaskDeferralError, TaskDeferralTimeout
from operators.generation_task import Task, fire, make

TIMEOUT = TriggerFailureReason.TRIGGER_TIMEOUT
FAILURE = TriggerFailureReason.TRIGGER_FAILURE

# ---------------------------------------------------------------------- paths


Path = Callable[[Task], Any]


def direct(task: Task) -> Any:
    task.services.release()
    return task.run(poll_interval=0.01, deferrable=False)


def deferred(task: Task) -> Any:
    return task.resume(fire(task.defer_and_finish().trigger))


def below_3_3(task: Task) -> Any:
    task.without_store()
    return deferred(task)


def finished(go_on: Path) -> Path:
    """Return a path that begins with a deferral and the end of the render."""

    def path(task: Task) -> Any:
        task.defer_and_finish()
        return go_on(task)

    return path


def after_the_deadline(task: Task) -> Any:
    task.deferred.kwargs["deadline"] = time.time() - 1
    return task.resume({"generation_id": task.generation_id, "outcome": "deadline"})


def ended_by_trigger(task: Task) -> Any:
    require(ENDING_FROM_TRIGGERS)
    from airflow.sdk.bases.xcom import BaseXCom

    written: dict[str, Any] = {}

    async def aset(key: str, value: Any, **which: Any) -> None:
        written[key] = json.loads(json.dumps(value))

    trigger = task.defer_and_finish(end_from_trigger=True).trigger
    trigger.task_instance = task.ti
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(BaseXCom, "aset", aset)
        fire(trigger)
    return written["return_value"]


#: Paths that record the end, with one request for it.
RECORDED: dict[str, Path] = {
    "direct": direct,
    "deferred": deferred,
    "without an event": finished(Task.resume),
    "retried": finished(Task.retry),
    "cleared": finished(Task.clear),
    "timed out by Airflow": finished(lambda task: task.fail_deferral(TIMEOUT)),
    "broken trigger": finished(lambda task: task.fail_deferral(FAILURE)),
}
PATHS = {
    **RECORDED,
    "below 3.3": below_3_3,
    "after the deadline": finished(after_the_deadline),
    "ended by the trigger": ended_by_trigger,
}
ANYTHING = {"generation_id", "created_at", "completed_at", "expires_at", "url", "urls", "seed"}


@pytest.mark.parametrize(
    ("path", "api"), [*(("deferred", api) for api in ALL_APIS), *zip(PATHS, itertools.cycle(ALL_APIS))]
)
def test_every_path_returns_the_same_result(task: Task, path: str) -> None:
    expected = direct(task.other_task())
    task.services.hold()
    result = PATHS[path](task)
    assert list(result) == [
        *("generation_id", "api", "media", "status", "model", "url", "urls", "duration", "resolution"),
        *("credits", "cost_usd", "created_at", "completed_at", "expires_at"),
        *("seed", "aspect_ratio", "fps", "last_frame_url", "usage", "reused_from"),
    ]
    for key in set(result) - ANYTHING:
        assert result[key] == expected[key], key
    for key in ANYTHING - {"generation_id", "url", "urls"}:
        assert (result[key] is None) == (expected[key] is None), key
    assert result["generation_id"] == task.generation_id
    assert result["urls"]
    assert result["url"] == result["urls"][0]
    assert json.loads(json.dumps(result)) == result
    assert task.submitted == 2


@pytest.mark.parametrize("path", RECORDED)
def test_terminal_status_is_recorded(task: Task, path: str) -> None:
    RECORDED[path](task)
    # A complete event needs no request beside the one of the trigger.
    assert len(task.services.ledger.requests) == 2
    record = rec.Record.from_value(task.store.value)
    assert (record.state, record.status) == (rec.RecordState.ENDED, "succeeded")


@pytest.mark.parametrize(
    "event",
    [
        None,
        "done",
        {},
        {"generation_id": "other", "outcome": "ended"},
        {"outcome": "deadline"},
        {"status": "success", "result": {"url": "https://evil.example/x.mp4"}},
    ],
)
def test_incomplete_event_is_checked_with_the_service(task: Task, event: Any) -> None:
    task.defer_and_finish()
    result = task.resume(event)
    assert result["status"] == "succeeded"
    assert result["url"].startswith(task.services.url)
    assert task.services.ledger.count("status") == 1


@pytest.mark.parametrize(
    ("fault", "event"),
    [
        ({}, None),
        ({"kind": "gateway_error", "times": None}, None),
        ({"kind": "refuse", "status": 404}, None),
        ({"kind": "refuse", "status": 404}, {"outcome": "callback"}),
    ],
)
def test_early_resume_defers_again(task: Task, fault: dict[str, Any], event: Any) -> None:
    first = task.defer()
    if fault:
        task.services.fault(**fault, on="status")
    again = task.defer_again(event)
    assert again.trigger.generation_id == first.trigger.generation_id
    assert again.trigger.deadline == first.trigger.deadline
    assert event or again.kwargs == first.kwargs
    assert task.posts == 1


@pytest.mark.parametrize("readable", [True, False])
def test_timeout_after_one_last_status_request(task: Task, readable: bool) -> None:
    task.defer().kwargs["deadline"] = time.time() - 1  # type: ignore[index]
    if not readable:
        task.services.fault("gateway_error", on="status", times=None)
    with pytest.raises(errors.SeedanceTimeoutError) as caught:
        task.resume({"generation_id": "x", "outcome": "deadline"})
    for words in (task.generation_id, "goes on and is billed", "does not submit again"):
        assert words in caught.value.message
    assert caught.value.retry_helps
    assert task.services.ledger.count("status") >= 1  # one last look


def test_generation_unknown_to_the_service(task: Task) -> None:
    task.defer_and_finish()
    task.services.forget(task.generation_id)
    with pytest.raises(errors.SeedanceNotFoundError):
        task.resume({"outcome": "unknown"})


def test_broken_trigger_of_an_unfinished_render(task: Task) -> None:
    task.defer()
    with pytest.raises(errors.SeedanceServerError) as caught:
        task.fail_deferral(FAILURE)
    assert caught.value.retry_helps
    assert caught.value.generation_id == task.generation_id
    assert "does not submit" in caught.value.message
    with pytest.raises(errors.SeedanceTimeoutError):
        task.fail_deferral(TIMEOUT)
    # A trigger that always breaks does not extend the deadline.
    task.services.fault("rate_limit", on="status", times=None)
    assert deferral(lambda: task.fail_deferral(FAILURE)).timeout is not None
    task.store.change(submitted_at="2026-01-01T00:00:00+00:00")
    with pytest.raises(errors.SeedanceServerError, match="does not submit"):
        task.fail_deferral(FAILURE)
    assert task.submitted == 1


def test_resume_with_an_unreadable_store_or_another_record_delivers(task: Task) -> None:
    task.defer_and_finish()
    task.store.break_down("get", "set")
    assert task.resume()["status"] == "succeeded"
    task.restore()
    for change in ({"generation_id": "newer"}, {"version": 99}):
        task.store.change(**change)
        record = task.store.value
        assert task.resume()["generation_id"] == task.generation_id
        assert task.store.value == record


both_failures = pytest.mark.parametrize("reason", list(TriggerFailureReason))


@both_failures
def test_failed_deferral_without_record_or_id(task: Task, reason: str) -> None:
    task.op = make()
    with pytest.raises((TaskDeferralTimeout, TaskDeferralError)):
        task.fail_deferral(reason)
    with pytest.raises(errors.SeedanceRecordError, match="names a generation"):
        make().execute_complete(task.context)


@pytest.mark.parametrize(("reason", "stored"), [(TIMEOUT, True), (FAILURE, False)])
@pytest.mark.parametrize("api", ["seedance2api"])
def test_broken_quota_wait_before_any_record_submits(task: Task, reason: str, stored: bool) -> None:
    task.services.set_rate_limit(1, 3600)
    task.other_task().defer()
    task.stored = stored
    assert isinstance(task.defer().trigger, SeedanceQuotaTrigger)
    assert task.posts == 1
    task.services.set_rate_limit(None)
    shutil.rmtree(shared_quota.directory())
    again = deferral(lambda: task.fail_deferral(reason))
    assert isinstance(again.trigger, SeedanceGenerationTrigger)
    assert task.submitted == 2


@pytest.mark.parametrize("broken", [False, True])
def test_a_past_wait_explains_no_missing_id(
    task: Task, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    task.without_store()
    task.services.fault("rate_limit", on="submit", retry_after=1800)
    task.defer()
    if broken:
        deferral(lambda: task.fail_deferral(FAILURE))
    else:
        task.defer_again({})
    pull = TaskInstance.xcom_pull

    def without_id(self: TaskInstance, *, key: str, **kwargs: Any) -> Any:
        if key == "generation_id":
            raise ConnectionError("The API server does not answer.")
        return pull(self, key=key, **kwargs)

    monkeypatch.setattr(TaskInstance, "xcom_pull", without_id)
    with pytest.raises(errors.SeedanceUnrecordedError):
        task.fail_deferral(FAILURE)
    assert task.submitted == 1


@pytest.mark.parametrize(
    ("reason", "change"), [(TIMEOUT, {"prompt": "Something else"}), (FAILURE, {"on_clear": "new"})]
)
def test_broken_quota_wait_delivers_no_earlier_one(task: Task, reason: str, change: dict[str, str]) -> None:
    old = deferred(task)["generation_id"]
    task.ti.clear()
    task.services.fault("rate_limit", on="submit", retry_after=1800)
    assert isinstance(task.defer(**change).trigger, SeedanceQuotaTrigger)
    assert task.store.value["generation_id"] == old
    again = deferral(lambda: task.fail_deferral(reason))
    assert again.trigger.generation_id == task.generation_id != old
    assert task.submitted == 2


@both_failures
def test_broken_quota_wait_is_not_repeated_without_end(task: Task, reason: str) -> None:
    task.services.fault("rate_limit", on="submit", times=None, retry_after=1800)
    timeout = task.defer().timeout
    # Our limit ends before the timeout of Airflow.
    assert base.MAX_QUOTA_WAIT_SECONDS < timeout.total_seconds() < base.MAX_QUOTA_WAIT_SECONDS + 3600
    with pytest.raises(errors.SeedanceRateLimitError):
        task.fail_deferral(reason)
    assert task.submitted == 0


@pytest.mark.parametrize(
    ("deferrable", "message", "code", "error"),
    [
        (True, "out of memory", "InternalError", errors.SeedanceGenerationFailedError),
        (False, "no", "OutputVideoSensitiveContentDetected", errors.SeedanceModerationError),
    ],
)
@pytest.mark.parametrize("api", ["ark"])
def test_failed_render(
    task: Task, deferrable: bool, message: str, code: str, error: type[errors.SeedanceError]
) -> None:
    task.services.release()
    task.services.fault("fail", message=message, code=code)
    with pytest.raises(error) as caught:
        task.resume(fire(task.defer(poll_interval=0.01).trigger)) if deferrable else direct(task)
    assert type(caught.value) is error
    assert (caught.value.generation_id, caught.value.vendor_code) == (task.generation_id, code)
    assert task.generation_id in caught.value.message
    assert message in caught.value.message
    assert task.store.value["status"] == "failed"


@pytest.mark.parametrize("api", ["ark"])
def test_synchronous_wait_times_out(task: Task) -> None:
    with pytest.raises(errors.SeedanceTimeoutError):
        task.run(poll_interval=0.01, deferrable=False, timeout=0.05)
    task.services.release()
    task.ti.retry()
    assert task.run(deferrable=False)["status"] == "succeeded"
    assert task.posts == 1


def test_id_that_only_the_deferral_has_outlives_a_failure(task: Task) -> None:
    task.defer_while_ids_cannot_be_written()
    with pytest.raises(ZeroDivisionError):  # a template that cannot be rendered
        task.op._run(task.context).fail_resume(ZeroDivisionError())
    task.ti.retry()
    task.services.finish(task.generation_id)
    assert task.run()["generation_id"] == task.generation_id
