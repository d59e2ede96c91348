"""Results of a single generation from every path, and resumes without a complete event."""

from __future__ import annotations

import json
import shutil
import time
from typing import Any

import pytest
from airflow.sdk.bases.operator import TriggerFailureReason
from helpers import ALL_APIS
from support import Store, TaskInstance, deferral, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.operators import base
from airflow_provider_seedance.polling import shared_quota
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger, SeedanceQuotaTrigger
from airflow_provider_seedance.version_compat import TaskDeferralError, TaskDeferralTimeout
from operators.generation_task import Connect, Path, failed_by_airflow, fire, make, resume

# ---------------------------------------------------------------------- paths


PATHS = [name for name in vars(Path) if not name.startswith("_") and name != "begin"]
PATHS.remove("broken_below_3_3")  # the result defaults were lost with the trigger
ANYTHING = {"generation_id", "created_at", "completed_at", "expires_at", "url", "urls"}


@pytest.mark.parametrize("api", ALL_APIS)
@pytest.mark.parametrize("name", PATHS)
def test_every_path_returns_the_same_result(path: Path, connect: Connect, api: str, name: str) -> None:
    connect(api)
    expected = Path(path.emulator, path.monkeypatch).direct()
    result = getattr(path, name)()
    assert list(result) == [
        "generation_id",
        "api",
        "media",
        "status",
        "model",
        "url",
        "urls",
        "duration",
        "resolution",
        "credits",
        "cost_usd",
        "created_at",
        "completed_at",
        "expires_at",
    ]
    for key in set(result) - ANYTHING:
        assert result[key] == expected[key], key
    for key in ANYTHING - {"generation_id", "url", "urls"}:
        assert (result[key] is None) == (expected[key] is None), key
    assert result["generation_id"] == path.emulator.ledger.submissions[-1].generation_id
    assert result["urls"]
    assert result["url"] == result["urls"][0]
    assert json.loads(json.dumps(result)) == result
    assert len(path.emulator.ledger.submissions) == 2


def test_broken_trigger_below_3_3_loses_no_finished_render(path: Path, connect: Connect) -> None:
    """The id is in XCom, and nowhere else."""
    connect("seedance2api")
    result = path.broken_below_3_3()
    assert result["status"] == "succeeded"
    assert result["urls"]
    assert len(path.emulator.ledger.submissions) == 1


@pytest.mark.parametrize("name", [name for name in PATHS if "below" not in name and "by_trigger" not in name])
def test_terminal_status_is_recorded(path: Path, connect: Connect, name: str) -> None:
    connect("seedanceapi-v2")
    getattr(path, name)()
    record = rec.Record.from_value(path.store.value)
    assert (record.state, record.status) == (rec.RecordState.ENDED, "succeeded")


def test_complete_event_needs_no_request(path: Path, connect: Connect) -> None:
    connect("seedanceapi-v2")
    path.deferred()
    assert len(path.emulator.ledger.requests) == 2  # the submission and one status


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
def test_incomplete_event_is_checked_with_the_service(path: Path, connect: Connect, event: Any) -> None:
    connect("seedanceapi-v2")
    deferred = path.begin()
    result = resume(path.operator, deferred, event, path.context)
    assert result["status"] == "succeeded"
    assert result["url"].startswith(path.emulator.url)
    assert path.emulator.ledger.count("status") == 1


def test_event_of_another_generation_is_ignored(path: Path, connect: Connect) -> None:
    connect("seedanceapi-v2")
    deferred = path.begin()
    event = fire(deferred.trigger)
    other = json.loads(json.dumps(event).replace(event["generation_id"], "task-other"))
    result = resume(path.operator, deferred, other, path.context)
    assert result["generation_id"] == event["generation_id"]


# ---------------------------------------------------------------------- resume


def test_early_resume_defers_again(services: SeedanceEmulator, connect: Connect) -> None:
    connect("runbase")
    services.hold()
    context = make_context(Store())
    op = make()
    first = deferral(lambda: op.execute(context))
    again = deferral(lambda: resume(op, first, None, context))
    assert again.trigger.generation_id == first.trigger.generation_id
    assert again.trigger.deadline == first.trigger.deadline
    assert again.kwargs == first.kwargs
    assert len(services.ledger.posts()) == 1


def test_early_resume_defers_again_while_the_service_is_unreachable(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("runbase")
    services.hold()
    context = make_context(Store())
    op = make()
    first = deferral(lambda: op.execute(context))
    services.fault("gateway_error", on="status", times=None)
    assert (
        deferral(lambda: resume(op, first, None, context)).trigger.generation_id
        == first.trigger.generation_id
    )


@pytest.mark.parametrize("readable", [True, False])
def test_timeout_after_one_last_status_request(
    services: SeedanceEmulator, connect: Connect, readable: bool
) -> None:
    connect("runbase")
    services.hold()
    context = make_context(Store())
    op = make()
    deferred = deferral(lambda: op.execute(context))
    deferred.kwargs["deadline"] = time.time() - 1  # type: ignore[index]
    if not readable:
        services.fault("gateway_error", on="status", times=None)
    with pytest.raises(errors.SeedanceTimeoutError) as caught:
        resume(op, deferred, {"generation_id": "x", "outcome": "deadline"}, context)
    assert deferred.trigger.generation_id in caught.value.message
    assert "goes on and is billed" in caught.value.message
    assert "does not submit again" in caught.value.message
    assert caught.value.retry_helps
    assert services.ledger.count("status") >= 1  # one last look


def test_finished_render_is_delivered_after_the_deadline(path: Path, connect: Connect) -> None:
    connect("runbase")
    deferred = path.begin()
    deferred.kwargs["deadline"] = time.time() - 1  # type: ignore[index]
    event = {"generation_id": deferred.trigger.generation_id, "outcome": "deadline"}
    assert resume(path.operator, deferred, event, path.context)["status"] == "succeeded"


def test_generation_unknown_to_the_service(path: Path, connect: Connect) -> None:
    connect("runbase")
    deferred = path.begin()
    path.emulator.forget(deferred.trigger.generation_id)
    with pytest.raises(errors.SeedanceNotFoundError):
        resume(path.operator, deferred, {"outcome": "unknown"}, path.context)


@pytest.mark.parametrize("event", [None, {"outcome": "callback"}], ids=["no event", "callback"])
def test_one_not_found_does_not_end_a_wait(path: Path, connect: Connect, event: Any) -> None:
    connect("runbase")
    deferred = path.begin()
    path.emulator.fault("refuse", on="status", status=404)
    again = deferral(lambda: resume(path.operator, deferred, event, path.context))
    assert resume(path.operator, again, fire(again.trigger), path.context)["status"] == "succeeded"


def test_broken_trigger_of_an_unfinished_render(services: SeedanceEmulator, connect: Connect) -> None:
    connect("runbase")
    services.hold()
    context = make_context(Store())
    op = make()
    generation_id = deferral(lambda: op.execute(context)).trigger.generation_id
    with pytest.raises(errors.SeedanceServerError) as caught:
        failed_by_airflow(op, context, TriggerFailureReason.TRIGGER_FAILURE)
    assert caught.value.retry_helps
    assert caught.value.generation_id == generation_id
    assert "does not submit" in caught.value.message
    with pytest.raises(errors.SeedanceTimeoutError):
        failed_by_airflow(op, context, TriggerFailureReason.TRIGGER_TIMEOUT)


@pytest.mark.parametrize("reason", list(TriggerFailureReason))
def test_failed_deferral_without_record_or_id(reason: str, connect: Connect) -> None:
    with pytest.raises((TaskDeferralTimeout, TaskDeferralError)):
        failed_by_airflow(make(), make_context(Store()), reason)


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("reason", list(TriggerFailureReason))
def test_broken_quota_wait_before_any_record_submits(
    services: SeedanceEmulator, connect: Connect, reason: str, store: bool
) -> None:
    connect("seedance2api")
    services.hold()
    services.set_rate_limit(1, 3600)
    deferral(lambda: make().execute(make_context(Store())))
    op, context = make(), make_context(Store() if store else None)
    assert isinstance(deferral(lambda: op.execute(context)).trigger, SeedanceQuotaTrigger)
    assert len(services.ledger.posts()) == 1
    services.set_rate_limit(None)
    shutil.rmtree(shared_quota.directory())
    again = deferral(lambda: failed_by_airflow(op, context, reason))
    assert isinstance(again.trigger, SeedanceGenerationTrigger)
    assert len(services.ledger.submissions) == 2


@pytest.mark.parametrize("broken", [False, True])
def test_quota_wait_of_the_past_never_explains_a_missing_id(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    connect("seedanceapi-v1")
    services.hold()
    op, context = make(), make_context(None)
    services.fault("rate_limit", on="submit", retry_after=1800)
    deferred = deferral(lambda: op.execute(context))
    if broken:
        deferral(lambda: failed_by_airflow(op, context, TriggerFailureReason.TRIGGER_FAILURE))
    else:
        deferral(lambda: resume(op, deferred, {}, context))
    pull = TaskInstance.xcom_pull

    def without_id(self: TaskInstance, *, key: str, **kwargs: Any) -> Any:
        if key == "generation_id":
            raise ConnectionError("The API server does not answer.")
        return pull(self, key=key, **kwargs)

    monkeypatch.setattr(TaskInstance, "xcom_pull", without_id)
    with pytest.raises(errors.SeedanceUnrecordedError):
        failed_by_airflow(op, context, TriggerFailureReason.TRIGGER_FAILURE)
    assert len(services.ledger.submissions) == 1


@pytest.mark.parametrize("reason", list(TriggerFailureReason))
@pytest.mark.parametrize("change", [{"prompt": "Something else"}, {"on_clear": "new"}], ids=str)
def test_broken_quota_wait_does_not_deliver_an_earlier_render(
    path: Path, connect: Connect, reason: str, change: dict[str, str]
) -> None:
    connect("seedanceapi-v1")
    old = path.deferred()["generation_id"]
    path.ti.clear()
    op = make(**change)
    path.emulator.fault("rate_limit", on="submit", retry_after=1800)
    deferred = deferral(lambda: op.execute(path.context))
    assert isinstance(deferred.trigger, SeedanceQuotaTrigger)
    assert path.store.value["generation_id"] == old
    again = deferral(lambda: failed_by_airflow(op, path.context, reason))
    new = path.emulator.ledger.submissions[-1].generation_id
    assert again.trigger.generation_id == new != old
    assert len(path.emulator.ledger.submissions) == 2


@pytest.mark.parametrize("reason", list(TriggerFailureReason))
def test_broken_quota_wait_is_not_repeated_without_end(
    services: SeedanceEmulator, connect: Connect, reason: str
) -> None:
    connect("seedanceapi-v1")
    op, context = make(), make_context(Store())
    services.fault("rate_limit", on="submit", times=None, retry_after=1800)
    deferred = deferral(lambda: op.execute(context))
    # Our limit ends before the timeout of Airflow.
    assert deferred.timeout is not None
    assert base.MAX_QUOTA_WAIT_SECONDS < deferred.timeout.total_seconds() < base.MAX_QUOTA_WAIT_SECONDS + 3600
    with pytest.raises(errors.SeedanceRateLimitError):
        failed_by_airflow(op, context, reason)
    assert services.ledger.submissions == []


def test_trigger_that_always_breaks_does_not_extend_the_deadline(path: Path, connect: Connect) -> None:
    connect("runbase")
    path.begin()
    path.emulator.fault("rate_limit", on="status", times=None)
    assert deferral(lambda: broken(path)).timeout is not None
    path.store.change(submitted_at="2026-01-01T00:00:00+00:00")
    with pytest.raises(errors.SeedanceServerError, match="does not submit"):
        broken(path)
    assert len(path.emulator.ledger.submissions) == 1


def broken(path: Path) -> Any:
    return failed_by_airflow(path.operator, path.context, TriggerFailureReason.TRIGGER_FAILURE)


def test_resume_with_an_unreadable_store_delivers(path: Path, connect: Connect) -> None:
    connect("runbase")
    deferred = path.begin()
    path.store.break_down("get", "set")
    assert resume(path.operator, deferred, None, path.context)["status"] == "succeeded"


def test_resume_with_a_damaged_record_delivers(path: Path, connect: Connect) -> None:
    connect("runbase")
    deferred = path.begin()
    path.store.change(version=99)
    assert resume(path.operator, deferred, None, path.context)["status"] == "succeeded"
    assert path.store.value["version"] == 99


def test_record_of_another_generation_is_not_changed(path: Path, connect: Connect) -> None:
    connect("runbase")
    deferred = path.begin()
    path.store.change(generation_id="newer")
    assert resume(path.operator, deferred, None, path.context)["generation_id"] != "newer"
    assert path.store.value["generation_id"] == "newer"
    assert path.store.value["state"] == "submitted"


def test_resume_without_generation_id(connect: Connect) -> None:
    with pytest.raises(errors.SeedanceRecordError, match="names a generation"):
        make().execute_complete(make_context(Store()))


# ---------------------------------------------------------------------- failures


@pytest.mark.parametrize("deferred", [True, False])
@pytest.mark.parametrize(
    ("message", "code", "error"),
    [
        ("out of memory", "InternalError", errors.SeedanceGenerationFailedError),
        ("no", "OutputVideoSensitiveContentDetected", errors.SeedanceModerationError),
    ],
)
def test_failed_render(
    services: SeedanceEmulator,
    connect: Connect,
    deferred: bool,
    message: str,
    code: str,
    error: type[errors.SeedanceError],
) -> None:
    connect("ark")
    services.fault("fail", message=message, code=code)
    store = Store()
    context = make_context(store)
    op = make(poll_interval=0.01, deferrable=deferred)

    def to_the_end() -> None:
        if deferred:
            wait = deferral(lambda: op.execute(context))
            resume(op, wait, fire(wait.trigger), context)
        else:
            op.execute(context)

    with pytest.raises(error) as caught:
        to_the_end()
    generation_id = services.ledger.submissions[0].generation_id
    assert type(caught.value) is error
    assert (caught.value.generation_id, caught.value.vendor_code) == (generation_id, code)
    assert generation_id in caught.value.message
    assert message in caught.value.message
    assert store.value["status"] == "failed"


def test_synchronous_wait_times_out(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    services.hold()
    store, ti = Store(), TaskInstance()
    op = make(poll_interval=0.01, deferrable=False, timeout=0.05)
    with pytest.raises(errors.SeedanceTimeoutError):
        op.execute(make_context(store, ti))
    services.release()
    ti.retry()
    assert make(deferrable=False).execute(make_context(store, ti))["status"] == "succeeded"
    assert len(services.ledger.posts()) == 1


@pytest.mark.parametrize("again", [TaskInstance.retry, TaskInstance.clear])
def test_an_argument_refused_after_a_submission_names_the_generation(
    services: SeedanceEmulator, connect: Connect, again: Any
) -> None:
    connect("runbase")
    services.hold()
    ti, store = TaskInstance(), Store()
    deferral(lambda: make().execute(make_context(store, ti)))
    again(ti)
    with pytest.raises(errors.SeedanceRequestError) as caught:
        make(duration=9999).execute(make_context(store, ti))
    assert services.ledger.submissions[0].generation_id in caught.value.message
    assert "Nothing was sent" not in caught.value.message
