"""Callbacks that resolve a submission whose reply was lost."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from support import Store, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.callbacks.inbox import key_for, with_id
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.submission import lookup
from airflow_provider_seedance.triggers.seedance import SeedanceCallbackTrigger
from operators.callback_task import (
    CALLED,
    LOST,
    SILENCE,
    UNANSWERED,
    Connect,
    Task,
    call,
    make,
    resume,
    waits_for,
)

# ---------------------------------------------------------------------- lost reply


@pytest.mark.parametrize("api", UNANSWERED)
@pytest.mark.parametrize(("kind", "options"), LOST)
def test_callback_names_the_generation_of_a_lost_reply(
    held: SeedanceEmulator, connect: Connect, api: str, kind: str, options: dict[str, Any]
) -> None:
    connect(api, **CALLED)
    held.fault(kind, **options)
    store = Store()
    task = Task(held, store)
    waiting = task.execute()
    assert isinstance(waiting.trigger, SeedanceCallbackTrigger)
    assert 590 < waiting.trigger.deadline - time.time() <= lookup.CALLBACK_TIMEOUT_SECONDS
    assert waiting.trigger.callback_nonce == store.value["callback_nonce"]

    found = task.resume(waiting, call(task.paid))
    assert waits_for(found, task.paid)
    assert (store.value["state"], store.value["generation_id"]) == ("submitted", task.paid)
    held.finish(task.paid)
    assert resume(task.op, found, None, task.context)["generation_id"] == task.paid
    assert task.posts == 1


def test_callback_before_the_deferral(
    held: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Early(Store):
        def get(self, key: str, default: Any = None) -> Any:
            found = super().get(key, default)
            return (
                with_id(None, held.ledger.submissions[-1].generation_id)
                if key.startswith("seedance_call")
                else found
            )

    connect("seedanceapi-v1", **CALLED)
    held.fault("drop_reply")
    task = Task(held, Early())
    assert waits_for(task.execute(), task.paid)
    assert task.posts == 1


def test_lookup_comes_before_the_callback(held: SeedanceEmulator, connect: Connect) -> None:
    connect("ark", **CALLED)
    held.fault("drop_reply")
    task = Task(held, Store())
    assert waits_for(task.execute(), task.paid)
    assert task.posts == 1


def test_callback_at_the_end_of_the_deferral(task: Task, callback_timed_out: Any) -> None:
    waiting = task.execute()
    task.mail(waiting, task.paid)
    callback_timed_out()
    assert waits_for(task.resume(waiting, SILENCE), task.paid)
    assert task.posts == 1


def test_missing_callback_fails_the_task_with_advice(task: Task, callback_timed_out: Any) -> None:
    waiting = task.execute()
    callback_timed_out()
    with pytest.raises(errors.SeedanceUncertainSubmitError, match="may have been billed"):
        resume(task.op, waiting, SILENCE, task.context)
    assert task.posts == 1
    assert task.store is not None
    assert task.store.value["state"] == "uncertain"


def test_late_callback_is_found_after_a_clear(task: Task, callback_timed_out: Any) -> None:
    waiting = task.execute()
    callback_timed_out()
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        resume(task.op, waiting, SILENCE, task.context)
    task.mail(waiting, task.paid)
    task.ti.clear()
    assert waits_for(task.execute(), task.paid)
    assert task.posts == 1


def test_clear_after_the_report_submits_anew(task: Task, callback_timed_out: Any) -> None:
    waiting = task.execute()
    callback_timed_out()
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        resume(task.op, waiting, SILENCE, task.context)
    lost = task.paid
    task.ti.clear()
    again = task.execute()
    assert waits_for(again, task.paid)
    assert task.paid != lost
    assert task.posts == 2
    # A call for the first one has another nonce, and is none for the second.
    assert again.trigger.callback_nonce != waiting.trigger.callback_nonce


def test_early_end_of_the_deferral_defers_again(task: Task) -> None:
    waiting = task.execute()
    again = task.resume(waiting, None)
    assert isinstance(again.trigger, SeedanceCallbackTrigger)
    assert again.trigger.serialize() == waiting.trigger.serialize()
    assert task.posts == 1


def test_unknown_id_in_a_callback_is_not_adopted(task: Task, callback_timed_out: Any) -> None:
    waiting = task.execute()
    task.mail(waiting, "made-up")
    again = task.resume(waiting, call("made-up"))
    assert isinstance(again.trigger, SeedanceCallbackTrigger)
    task.mail(waiting, task.paid)
    assert waits_for(task.resume(again, call(task.paid)), task.paid)
    assert task.posts == 1


def test_id_that_stays_unknown_fails_like_a_missing_callback(task: Task, callback_timed_out: Any) -> None:
    waiting = task.execute()
    task.mail(waiting, "made-up")
    callback_timed_out()
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        resume(task.op, waiting, call("made-up"), task.context)
    assert task.posts == 1


@pytest.mark.parametrize("store", [True, False])
def test_unreadable_id_in_a_callback_is_not_adopted(
    held: SeedanceEmulator, connect: Connect, store: bool
) -> None:
    """The outage that lost the reply is the same that keeps us from asking about what a call has named."""
    connect("seedanceapi-v1", **CALLED)
    held.fault("drop_reply")
    task = Task(held, Store() if store else None)
    waiting = task.execute()
    fault = held.fault("gateway_error", on="status", times=None)
    # The first call names an event of the service's own.
    again = task.resume(waiting, call("evt-1"))
    assert isinstance(again.trigger, SeedanceCallbackTrigger)
    assert again.trigger.deadline < waiting.trigger.deadline
    if store:
        assert task.store is not None
        assert task.store.value["state"] == "intent"
    third = task.resume(again, call(task.paid))
    assert isinstance(third.trigger, SeedanceCallbackTrigger)
    fault.remove()
    assert waits_for(task.resume(third, {"outcome": "silence"}), task.paid)
    assert task.posts == 1


@pytest.mark.parametrize("policy", ["fail", "resubmit"])
@pytest.mark.parametrize(
    ("trouble", "options", "kind"),
    [
        ("gateway_error", {}, errors.SeedanceServerError),
        ("rate_limit", {}, errors.SeedanceRateLimitError),
        ("cut", {}, errors.SeedanceConnectionError),
        ("gateway_error", {"status": 401}, errors.SeedanceAuthenticationError),
    ],
)
def test_unconfirmed_id_is_kept_until_it_can_be_read(
    task: Task,
    callback_timed_out: Any,
    trouble: str,
    options: dict[str, Any],
    kind: type[errors.SeedanceError],
    policy: str,
) -> None:
    task.op.on_uncertain_submit = policy
    waiting = task.execute()
    task.mail(waiting, task.paid)
    fault = task.services.fault(trouble, on="status", times=None, **options)
    callback_timed_out()
    with pytest.raises(kind, match=f"named {task.paid} for it in a callback"):
        resume(task.op, waiting, call(task.paid), task.context)
    for begin in (task.ti.retry, task.ti.clear, task.ti.clear):
        begin()
        with pytest.raises(kind, match="may have been billed"):
            task.execute()
        assert task.store is not None
        assert task.store.states == ["intent"]
    fault.remove()
    task.ti.clear()
    assert waits_for(task.execute(), task.paid)
    assert task.posts == 1


def test_clear_keeps_a_late_unconfirmed_id(task: Task, callback_timed_out: Any) -> None:
    waiting = task.execute()
    callback_timed_out()
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        resume(task.op, waiting, SILENCE, task.context)
    task.mail(waiting, task.paid)
    fault = task.services.fault("gateway_error", on="status", times=None)
    task.ti.clear()
    with pytest.raises(errors.SeedanceServerError, match=task.paid):
        task.execute()
    fault.remove()
    task.ti.retry()
    assert waits_for(task.execute(), task.paid)
    assert task.posts == 1


def test_later_invalid_callbacks_do_not_hide_the_right_id(task: Task) -> None:
    task.op.on_uncertain_submit = "resubmit"
    waiting = task.execute()
    assert task.store is not None
    kept = with_id(with_id(None, task.paid), "evt-1")
    task.store.texts[key_for(waiting.trigger.callback_nonce)] = json.dumps(kept)
    assert waits_for(task.resume(waiting, {"outcome": "silence"}), task.paid)
    assert task.posts == 1


def test_early_retry_waits_for_the_callback_too(task: Task) -> None:
    """The worker was killed between the submission and its reply."""
    first = task.execute()
    task.ti.retry()
    second = task.execute()
    assert isinstance(second.trigger, SeedanceCallbackTrigger)
    assert second.trigger.callback_nonce == first.trigger.callback_nonce
    assert abs(second.trigger.deadline - first.trigger.deadline) < 1.0
    assert waits_for(task.resume(second, call(task.paid)), task.paid)
    assert task.posts == 1


def test_early_retry_finds_the_id_of_the_callback(task: Task) -> None:
    first = task.execute()
    task.mail(first, task.paid)
    task.ti.retry()
    assert waits_for(task.execute(), task.paid)
    assert task.posts == 1


def test_unreadable_store_decides_nothing(task: Task) -> None:
    waiting = task.execute()
    assert task.store is not None
    task.store.break_down("get")
    with pytest.raises(errors.SeedanceStateError):
        resume(task.op, waiting, call(task.paid), task.context)
    task.store.before = lambda what: None
    # The API server has stored the id, so the retry finds it.
    task.mail(waiting, task.paid)
    task.ti.retry()
    assert waits_for(task.execute(), task.paid)
    assert task.posts == 1


# ---------------------------------------------------------------------- resubmitting


@pytest.fixture
def bold(held: SeedanceEmulator, connect: Connect) -> Task:
    connect("seedanceapi-v1", **CALLED)
    return Task(held, Store(), on_uncertain_submit="resubmit")


def test_resubmission_waits_for_the_callback_first(bold: Task) -> None:
    bold.services.fault("drop_reply")
    waiting = bold.execute()
    assert isinstance(waiting.trigger, SeedanceCallbackTrigger)
    assert waits_for(bold.resume(waiting, call(bold.paid)), bold.paid)
    assert bold.posts == 1


def test_missing_callback_resubmits_once(bold: Task, callback_timed_out: Any) -> None:
    bold.services.fault("drop_reply")
    waiting = bold.execute()
    callback_timed_out()
    assert waits_for(bold.resume(waiting, SILENCE), bold.paid)
    assert bold.posts == 2


def test_only_one_resubmission(bold: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    bold.services.fault("drop_reply", times=None)
    first = bold.execute()
    # The second submission is waited for as the first was; both were sent, and that is enough.
    monkeypatch.setattr(lookup, "CALLBACK_TIMEOUT_SECONDS", 0.0)
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        resume(bold.op, first, SILENCE, bold.context)
    assert bold.posts == 2


def test_resubmission_waits_for_its_callback_and_is_not_repeated(
    bold: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    bold.services.fault("drop_reply", times=None)
    first = bold.execute()
    assert bold.store is not None
    bold.store.change(intended_at="2026-01-01T00:00:00+00:00")
    second = bold.resume(first, SILENCE)
    assert isinstance(second.trigger, SeedanceCallbackTrigger)
    assert second.trigger.callback_nonce != first.trigger.callback_nonce
    assert second.kwargs is not None
    assert second.kwargs["record"]["resubmitted"] is True
    assert bold.posts == 2
    bold.store.change(intended_at="2026-01-01T00:00:00+00:00")
    with pytest.raises(errors.SeedanceUncertainSubmitError, match="submitted again once"):
        resume(bold.op, second, SILENCE, bold.context)
    assert bold.posts == 2


# ---------------------------------------------------------------------- below Airflow 3.3


@pytest.fixture
def forgetful(held: SeedanceEmulator, connect: Connect) -> Task:
    """A task on an Airflow without a task state store."""
    connect("seedanceapi-v1", **CALLED)
    held.fault("drop_reply")
    return Task(held, None)


def test_without_store_the_deferral_carries_the_record(forgetful: Task) -> None:
    waiting = forgetful.execute()
    assert waits_for(forgetful.resume(waiting, call(forgetful.paid)), forgetful.paid)
    assert forgetful.posts == 1


def test_without_store_a_missing_callback_is_final(forgetful: Task, callback_timed_out: Any) -> None:
    waiting = forgetful.execute()
    callback_timed_out()
    with pytest.raises(errors.SeedanceError) as caught:
        resume(forgetful.op, waiting, SILENCE, forgetful.context)
    assert not caught.value.retry_helps
    assert forgetful.posts == 1


@pytest.mark.parametrize("policy", ["fail", "resubmit"])
def test_without_store_an_unreadable_id_is_named_and_final(
    forgetful: Task, callback_timed_out: Any, policy: str
) -> None:
    forgetful.op.on_uncertain_submit = policy
    waiting = forgetful.execute()
    forgetful.services.fault("gateway_error", on="status", times=None)
    callback_timed_out()
    with pytest.raises(errors.SeedanceUnrecordedError, match=forgetful.paid):
        resume(forgetful.op, waiting, call(forgetful.paid), forgetful.context)
    assert forgetful.posts == 1


def test_without_store_an_unknown_id_is_not_adopted(forgetful: Task) -> None:
    again = forgetful.resume(forgetful.execute(), call("made-up"))
    assert isinstance(again.trigger, SeedanceCallbackTrigger)
    assert waits_for(forgetful.resume(again, call(forgetful.paid)), forgetful.paid)
    assert forgetful.posts == 1


def test_without_store_a_missing_callback_resubmits_once(
    held: SeedanceEmulator, connect: Connect, callback_timed_out: Any
) -> None:
    connect("seedanceapi-v1", **CALLED)
    held.fault("drop_reply", times=None)
    task = Task(held, None, on_uncertain_submit="resubmit")
    waiting = task.execute()
    callback_timed_out()
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        resume(task.op, waiting, SILENCE, task.context)
    assert task.posts == 2


def test_damaged_record_in_the_deferral_is_final(forgetful: Task) -> None:
    waiting = forgetful.execute()
    with pytest.raises(errors.SeedanceRecordError):
        forgetful.op.resume_execution(
            "resume_uncertain", {"record": {"version": 1}, "event": call(forgetful.paid)}, forgetful.context
        )
    assert waiting.kwargs
    assert forgetful.posts == 1


def test_lost_record_of_an_uncertain_submission_is_not_none(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedanceapi-v1", **CALLED)
    with pytest.raises(errors.SeedanceRecordError):
        make(use_callback=True).resume_uncertain(make_context(None))
    assert services.ledger.submissions == []
