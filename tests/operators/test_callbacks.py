"""Tasks with callbacks: deferral and resume, and submissions whose reply was lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.callbacks import tokens
from airflow_provider_seedance.callbacks.inbox import key_for, with_id
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.submission.timing import TIMING
from airflow_provider_seedance.triggers.seedance import SeedanceCallbackTrigger
from operators.generation_task import CALLBACK_SECRET, CALLED, NOWHERE, SILENCE, Connect, Task, callback

TimeOut = Callable[[], None]

#: Services that call back.
CALLING = ("seedance2api", "seedanceapi-v1", "seedanceapi-v2", "ark")

LOST = [
    ("drop_reply", {}),
    ("cut_body", {}),
    ("rubbish", {}),
    ("gateway_error", {"accept": True}),
    ("gateway_error", {"accept": True, "status": 504}),
]


@pytest.fixture
def api() -> str:
    """Service without a look-up of lost submissions."""
    return "seedanceapi-v1"


@pytest.fixture
def calling(services: SeedanceEmulator, connect: Connect, api: str) -> Task:
    connect(api, **CALLED)
    return Task(services, connect, use_callback=True)


@pytest.fixture
def task(calling: Task) -> Task:
    """Task whose submission is accepted and whose reply is lost."""
    calling.services.fault("drop_reply")
    return calling


def awaits_callback(task: Task) -> bool:
    return isinstance(task.deferred.trigger, SeedanceCallbackTrigger)


@pytest.mark.parametrize("api", CALLING)
def test_submission_contains_the_callback_url_and_the_deferral_does_not(calling: Task) -> None:
    deferred = calling.defer()
    nonce = calling.store.value["callback_nonce"]
    assert deferred.trigger.callback_nonce == deferred.kwargs["callback_nonce"] == nonce
    url = calling.services.ledger.submissions[0].callback_url
    assert url.startswith(f"{NOWHERE}/seedance/callbacks/")
    token = url.rpartition("/")[2]
    assert tokens.verify(token, CALLBACK_SECRET, time.time())
    claims = tokens.decode_unverified(token)
    assert (claims.nonce, claims.dag_id, claims.conn_id) == (nonce, "dag", "seedance_default")
    stored = str((calling.store.texts, deferred.trigger.serialize(), deferred.kwargs))
    assert CALLBACK_SECRET not in stored
    assert "callbacks/" not in stored


@pytest.mark.parametrize("api", CALLING)
def test_callback_needs_one_request_for_the_result(calling: Task) -> None:
    calling.defer_and_finish()
    result = calling.resume(calling.called)
    assert (result["generation_id"], result["status"]) == (calling.generation_id, "succeeded")
    assert result["url"]
    assert len(calling.services.ledger.requests) == 2


@pytest.mark.parametrize(("api", "status"), [*zip(CALLING, ("succeeded", "failed") * 2, strict=True)])
def test_early_callback_ends_nothing(calling: Task, status: str) -> None:
    first = calling.defer()
    again = calling.defer_again({**calling.called, "status": status})
    assert calling.waits_for(calling.generation_id)
    # From now on it is polled for as if there were no calls, and calls count as before.
    assert again.trigger.callback_received
    assert again.trigger.callback_nonce == first.trigger.callback_nonce
    calling.services.finish(calling.generation_id)
    assert calling.resume(calling.called)["status"] == "succeeded"
    assert calling.posts == 1


def test_callback_with_another_id_does_not_change_the_delivery(calling: Task) -> None:
    other = calling.other_task()
    other.defer()
    foreign_id = other.generation_id
    calling.defer_and_finish()
    assert calling.resume(callback(foreign_id))["generation_id"] == calling.generation_id != foreign_id


def test_no_callback_url_without_use_callback(calling: Task) -> None:
    deferred = calling.defer(use_callback=False)
    assert calling.services.ledger.submissions[0].callback_url is None
    assert calling.store.value["callback_nonce"] is None
    assert deferred.trigger.callback_nonce is None


def test_retry_waits_for_the_same_callback(calling: Task) -> None:
    first = calling.defer()
    calling.ti.retry()
    assert first.trigger.callback_nonce == calling.defer().trigger.callback_nonce
    assert calling.posts == 1


def test_use_callback_needs_a_service_that_calls(calling: Task) -> None:
    calling.connect("runbase", **CALLED)
    with pytest.raises(errors.SeedanceRequestError, match="runbase does not call back"):
        calling.run()
    assert calling.services.ledger.requests == []


# ---------------------------------------------------------------------- lost reply


@pytest.mark.parametrize(
    ("api", "kind", "options"),
    [
        *(("seedanceapi-v1", *lost) for lost in LOST),
        *((api, "drop_reply", {}) for api in ("seedance2api", "seedanceapi-v2")),
    ],
)
def test_callback_resolves_a_lost_reply(calling: Task, kind: str, options: dict[str, Any]) -> None:
    calling.services.fault(kind, **options)
    before = time.time()
    trigger = calling.defer().trigger
    assert awaits_callback(calling)
    assert before - 1 < trigger.deadline - TIMING.callback_timeout <= time.time()
    assert trigger.callback_nonce == calling.store.value["callback_nonce"]

    calling.defer_again(calling.called)
    assert calling.waits_for(calling.generation_id)
    value = calling.store.value
    assert (value["state"], value["generation_id"]) == ("submitted", calling.generation_id)
    calling.services.finish(calling.generation_id)
    assert calling.resume()["generation_id"] == calling.generation_id
    assert calling.posts == 1


def test_callback_before_the_deferral(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    get = task.store.get

    def with_callback(key: str, default: Any = None) -> Any:
        found = get(key, default)
        return with_id(None, task.generation_id) if key.startswith("seedance_call") else found

    monkeypatch.setattr(task.store, "get", with_callback)
    task.defer()
    assert task.polls_its_only_submission


@pytest.mark.parametrize("api", ["ark"])
def test_lookup_comes_before_the_callback(task: Task) -> None:
    task.defer()
    assert task.polls_its_only_submission


def test_callback_at_the_end_of_the_deferral(task: Task, callback_timed_out: TimeOut) -> None:
    waiting = task.defer()
    # The deferral ended early.
    assert task.defer_again().trigger.serialize() == waiting.trigger.serialize()
    task.store_callback(task.generation_id)
    callback_timed_out()
    task.defer_again(SILENCE)
    assert task.polls_its_only_submission


@pytest.mark.parametrize("stored", [True, False])
def test_unknown_id_is_not_adopted(task: Task, stored: bool, caplog: pytest.LogCaptureFixture) -> None:
    task.stored = stored
    caplog.set_level("INFO")
    task.defer()
    task.store_callback("made-up")
    task.defer_again(callback("made-up"))
    assert awaits_callback(task)
    assert "A callback named generation made-up, which the service does not know." in caplog.messages
    task.store_callback(task.generation_id)
    task.defer_again(task.called)
    assert task.polls_its_only_submission
    found = f"The submission whose reply was lost was taken: it is generation {task.generation_id}."
    assert found in caplog.messages


def test_id_that_stays_unknown_fails_like_a_missing_callback(task: Task, callback_timed_out: TimeOut) -> None:
    task.defer()
    task.store_callback("made-up")
    callback_timed_out()
    with pytest.raises(errors.SeedanceUncertainSubmitError) as caught:
        task.resume(callback("made-up"))
    assert "made-up" not in str(caught.value)
    assert task.posts == 1


@pytest.mark.parametrize("stored", [True, False])
def test_unreadable_id_is_not_adopted(task: Task, stored: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The outage that lost the reply is the same that keeps us from asking about what a call has named."""
    task.stored = stored
    waiting = task.defer()
    fault = task.services.fault("gateway_error", on="status", times=None)
    # The first call names an event of the service's own.
    again = task.defer_again(callback("evt-1"))
    assert awaits_callback(task)
    assert "Generation evt-1, named by a callback, cannot be read now: " in caplog.text
    assert again.trigger.deadline < waiting.trigger.deadline
    if stored:
        assert task.store.value["state"] == "intent"
    task.defer_again(task.called)
    assert awaits_callback(task)
    fault.remove()
    task.defer_again(SILENCE)
    assert task.polls_its_only_submission


@pytest.mark.parametrize(
    ("trouble", "options", "kind", "policy"),
    [
        ("gateway_error", {}, errors.SeedanceServerError, "fail"),
        ("rate_limit", {}, errors.SeedanceRateLimitError, "resubmit"),
        ("cut", {}, errors.SeedanceConnectionError, "fail"),
        ("gateway_error", {"status": 401}, errors.SeedanceAuthenticationError, "resubmit"),
    ],
)
def test_unconfirmed_id_is_kept_until_it_can_be_read(
    task: Task,
    callback_timed_out: TimeOut,
    trouble: str,
    options: dict[str, Any],
    kind: type[errors.SeedanceError],
    policy: str,
) -> None:
    task.defer(on_uncertain_submit=policy)
    task.store_callback(task.generation_id)
    fault = task.services.fault(trouble, on="status", times=None, **options)
    callback_timed_out()
    with pytest.raises(kind, match=f"named {task.generation_id} for it in a callback"):
        task.resume(task.called)
    for begin in (task.ti.retry, task.ti.clear, task.ti.clear):
        begin()
        with pytest.raises(kind, match="may have been billed"):
            task.run()
        assert task.store.states == ["intent"]
    fault.remove()
    task.ti.clear()
    task.defer()
    assert task.polls_its_only_submission


def test_later_invalid_callbacks_do_not_hide_the_right_id(task: Task) -> None:
    waiting = task.defer(on_uncertain_submit="resubmit")
    kept = with_id(with_id(None, task.generation_id), "evt-1")
    task.store.texts[key_for(waiting.trigger.callback_nonce)] = json.dumps(kept)
    task.defer_again(SILENCE)
    assert task.polls_its_only_submission


def test_unreadable_store_decides_nothing(task: Task) -> None:
    task.defer()
    task.store.break_down("get")
    with pytest.raises(errors.SeedanceStateError):
        task.resume(task.called)
    task.restore()
    # The API server has stored the id, so the retry finds it.
    task.store_callback(task.generation_id)
    task.ti.retry()
    task.defer()
    assert task.polls_its_only_submission


def test_early_retry_waits_for_the_callback_too(task: Task) -> None:
    """The worker was killed between the submission and its reply."""
    first = task.defer().trigger
    task.ti.retry()
    second = task.defer().trigger
    assert awaits_callback(task)
    assert second.callback_nonce == first.callback_nonce
    assert abs(second.deadline - first.deadline) < 1.0
    task.defer_again(task.called)
    assert task.polls_its_only_submission


@pytest.fixture
def missing(task: Task, callback_timed_out: TimeOut) -> Task:
    """Task that failed because its callback did not come."""
    task.defer()
    callback_timed_out()
    with pytest.raises(errors.SeedanceUncertainSubmitError, match="may have been billed"):
        task.resume(SILENCE)
    assert task.store.value["state"] == "uncertain"
    assert task.posts == 1
    return task


def test_clear_after_the_report_submits_again(missing: Task) -> None:
    lost, waiting = missing.generation_id, missing.deferred
    missing.ti.clear()
    again = missing.defer()
    assert missing.waits_for(missing.generation_id)
    assert missing.generation_id != lost
    assert missing.posts == 2
    # A call for the first one has another nonce, and is none for the second.
    assert again.trigger.callback_nonce != waiting.trigger.callback_nonce


def test_clear_keeps_a_late_unconfirmed_id(missing: Task) -> None:
    missing.store_callback(missing.generation_id)
    fault = missing.services.fault("gateway_error", on="status", times=None)
    missing.ti.clear()
    with pytest.raises(errors.SeedanceServerError, match=missing.generation_id):
        missing.run()
    fault.remove()
    missing.ti.retry()
    missing.defer()
    assert missing.polls_its_only_submission


def test_without_store_there_is_only_one_resubmission(calling: Task, callback_timed_out: TimeOut) -> None:
    calling.without_store()
    calling.services.fault("drop_reply", times=None)
    calling.defer(on_uncertain_submit="resubmit")
    callback_timed_out()
    with pytest.raises(errors.SeedanceUncertainSubmitError) as caught:
        calling.resume(SILENCE)
    assert not caught.value.retry_helps
    assert calling.posts == 2


def test_resubmission_waits_for_its_callback_and_is_not_repeated(calling: Task) -> None:
    calling.services.fault("drop_reply", times=None)
    first = calling.defer(on_uncertain_submit="resubmit")
    calling.store.change(intended_at="2026-01-01T00:00:00+00:00")
    second = calling.defer_again(SILENCE)
    assert awaits_callback(calling)
    assert second.trigger.callback_nonce != first.trigger.callback_nonce
    assert second.kwargs["record"]["resubmitted"] is True
    assert calling.posts == 2
    calling.store.change(intended_at="2026-01-01T00:00:00+00:00")
    with pytest.raises(errors.SeedanceUncertainSubmitError, match="submitted again once"):
        calling.resume(SILENCE)
    assert calling.posts == 2


# ---------------------------------------------------------------------- below Airflow 3.3


@pytest.mark.parametrize("policy", ["fail", "resubmit"])
def test_an_unreadable_id_is_final(forgetful: Task, callback_timed_out: TimeOut, policy: str) -> None:
    forgetful.defer(on_uncertain_submit=policy)
    forgetful.services.fault("gateway_error", on="status", times=None)
    callback_timed_out()
    with pytest.raises(errors.SeedanceUnrecordedError, match=forgetful.generation_id):
        forgetful.resume(forgetful.called)
    assert forgetful.posts == 1


def test_damaged_or_missing_record_in_the_deferral_is_final(forgetful: Task) -> None:
    forgetful.defer()
    for kwargs in ({"record": {"version": 1}}, {}):
        forgetful.deferred.kwargs = kwargs
        with pytest.raises(errors.SeedanceRecordError):
            forgetful.resume(forgetful.called)
    assert forgetful.posts == 1
