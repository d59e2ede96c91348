"""Tasks that are called back: what is deferred with, what a call resumes, and what it settles."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from support import PROMPT, Store, TaskInstance, deferral, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.callbacks import tokens
from airflow_provider_seedance.callbacks.inbox import key_for, with_id
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoOperator,
    SeedreamGenerateImageOperator,
)
from airflow_provider_seedance.submission import submitter
from airflow_provider_seedance.triggers.seedance import SeedanceCallbackTrigger, SeedanceGenerationTrigger

CALLING = ("seedance2api", "seedanceapi-v1", "seedanceapi-v2", "ark")
#: Those that cannot be asked for a submission whose reply was lost.
UNANSWERED = CALLING[:3]
#: Nobody listens there: what the emulator calls goes nowhere, and the tests say what was told.
NOWHERE = "http://127.0.0.1:1"
SECRET = "a secret for the addresses"
CALLED = {"callback_base_url": NOWHERE, "callback_secret": SECRET}
LOST = [
    ("drop_reply", {}),
    ("cut_body", {}),
    ("rubbish", {}),
    ("gateway_error", {"accept": True}),
    ("gateway_error", {"accept": True, "status": 504}),
]

Connect = Callable[..., None]


def make(**arguments: Any) -> SeedanceGenerateVideoOperator:
    return SeedanceGenerateVideoOperator(
        **{"task_id": "task", "prompt": PROMPT, "use_callback": True, **arguments}
    )


def resume(op: Any, deferred: TaskDeferred, event: Any, context: Any) -> Any:
    # As Airflow stores it in between.
    kwargs = json.loads(json.dumps(deferred.kwargs or {}))
    return op.resume_execution(deferred.method_name, {**kwargs, "event": event}, context)


def call(generation_id: str) -> dict[str, str]:
    """What the route tells a task."""
    return {"outcome": "callback", "generation_id": generation_id}


SILENCE = {"outcome": "silence"}


class Task:
    """A task whose service calls back, where renders end when the test says so."""

    def __init__(self, services: SeedanceEmulator, store: Store | None, **arguments: Any) -> None:
        self.services, self.store, self.ti = services, store, TaskInstance()
        self.context = make_context(store, self.ti)
        self.op = make(**arguments)

    def execute(self) -> TaskDeferred:
        return deferral(lambda: self.op.execute(self.context))

    def resume(self, deferred: TaskDeferred, event: Any) -> TaskDeferred:
        return deferral(lambda: resume(self.op, deferred, event, self.context))

    def mail(self, deferred: TaskDeferred, generation_id: str) -> None:
        """Let the API server keep what a callback told."""
        assert self.store is not None
        nonce = deferred.trigger.callback_nonce
        self.store.texts[key_for(nonce)] = json.dumps(with_id(None, generation_id))

    @property
    def posts(self) -> int:
        return len(self.services.ledger.posts())

    @property
    def paid(self) -> str:
        """The id of the latest render that was paid for."""
        return self.services.ledger.submissions[-1].generation_id


@pytest.fixture
def held(services: SeedanceEmulator) -> SeedanceEmulator:
    services.hold()
    return services


@pytest.fixture
def task(held: SeedanceEmulator, connect: Connect) -> Task:
    """One whose submission will be taken, and the reply be lost."""
    connect("seedanceapi-v1", **CALLED)
    held.fault("drop_reply")
    return Task(held, Store())


@pytest.fixture
def out_of_patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(submitter, "CALLBACK_TIMEOUT_SECONDS", 0.0)


def waits_for(deferred: TaskDeferred, generation_id: str) -> bool:
    trigger = deferred.trigger
    return isinstance(trigger, SeedanceGenerationTrigger) and trigger.generation_id == generation_id


# ---------------------------------------------------------------------- the ordinary way


@pytest.mark.parametrize("api", CALLING)
def test_the_service_is_told_where_to_call(held: SeedanceEmulator, connect: Connect, api: str) -> None:
    connect(api, **CALLED)
    store = Store()
    deferred = Task(held, store).execute()
    nonce = store.value["callback_nonce"]
    assert deferred.trigger.callback_nonce == deferred.kwargs["callback_nonce"] == nonce  # type: ignore[index]
    url = held.ledger.submissions[0].callback_url
    assert url
    assert url.startswith(f"{NOWHERE}/seedance/callbacks/")
    token = url.rpartition("/")[2]
    assert tokens.verify(token, SECRET, time.time())
    ticket = tokens.decode_unverified(token)
    assert ticket is not None
    assert (ticket.nonce, ticket.dag_id, ticket.conn_id) == (nonce, "dag", "seedance_default")


@pytest.mark.parametrize("api", CALLING)
def test_nothing_that_could_make_a_call_is_stored(held: SeedanceEmulator, connect: Connect, api: str) -> None:
    connect(api, **CALLED)
    store = Store()
    deferred = Task(held, store).execute()
    stored = str((store.texts, deferred.trigger.serialize(), deferred.kwargs))
    assert SECRET not in stored
    assert "callbacks/" not in stored


@pytest.mark.parametrize("api", CALLING)
def test_after_a_call_one_request_brings_the_result(
    held: SeedanceEmulator, connect: Connect, api: str
) -> None:
    connect(api, **CALLED)
    task = Task(held, Store())
    deferred = task.execute()
    held.finish(task.paid)
    result = resume(task.op, deferred, call(task.paid), task.context)
    assert (result["generation_id"], result["status"]) == (task.paid, "succeeded")
    assert result["url"]
    assert len(held.ledger.requests) == 2


@pytest.mark.parametrize("api", CALLING)
@pytest.mark.parametrize("told", ["succeeded", "failed"])
def test_a_call_that_came_too_early_ends_nothing(
    held: SeedanceEmulator, connect: Connect, api: str, told: str
) -> None:
    connect(api, **CALLED)
    task = Task(held, Store())
    first = task.execute()
    again = task.resume(first, {**call(task.paid), "status": told})
    assert waits_for(again, task.paid)
    # From now on it is polled for as if there were no calls, and calls count as before.
    assert again.trigger.called
    assert again.trigger.callback_nonce == first.trigger.callback_nonce
    held.finish(task.paid)
    assert resume(task.op, again, call(task.paid), task.context)["status"] == "succeeded"
    assert task.posts == 1


def test_a_call_that_names_another_generation_does_not_change_which_is_delivered(
    held: SeedanceEmulator, connect: Connect
) -> None:
    connect("ark", **CALLED)
    task, other = Task(held, Store()), Task(held, Store())
    other.execute()
    somebody_elses = other.paid
    deferred = task.execute()
    held.finish(task.paid)
    result = resume(task.op, deferred, call(somebody_elses), task.context)
    assert result["generation_id"] == task.paid


def test_a_render_that_failed_fails_after_a_call(held: SeedanceEmulator, connect: Connect) -> None:
    connect("seedance2api", **CALLED)
    task = Task(held, Store())
    deferred = task.execute()
    held.fail(task.paid, "no herons")
    with pytest.raises(errors.SeedanceGenerationFailedError, match="no herons"):
        resume(task.op, deferred, call(task.paid), task.context)


def test_without_use_callback_nothing_calls(held: SeedanceEmulator, connect: Connect) -> None:
    connect("ark", **CALLED)
    task = Task(held, Store(), use_callback=False)
    deferred = task.execute()
    assert held.ledger.submissions[0].callback_url is None
    assert task.store is not None
    assert task.store.value["callback_nonce"] is None
    assert deferred.trigger.callback_nonce is None


def test_every_submission_has_a_nonce_of_its_own(held: SeedanceEmulator, connect: Connect) -> None:
    connect("ark", **CALLED)
    task = Task(held, Store(), on_clear="new")
    first = task.execute()
    held.finish(task.paid)
    task.ti.clear()
    second = task.execute()
    assert task.posts == 2
    assert first.trigger.callback_nonce != second.trigger.callback_nonce


def test_a_retry_goes_on_to_wait_for_the_same_call(held: SeedanceEmulator, connect: Connect) -> None:
    connect("ark", **CALLED)
    task = Task(held, Store())
    first = task.execute()
    task.ti.retry()
    second = task.execute()
    assert task.posts == 1
    assert first.trigger.callback_nonce == second.trigger.callback_nonce


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("api", "extra", "says"),
    [
        ("ark", {}, "callback_base_url and callback_secret"),
        ("ark", {"callback_base_url": NOWHERE}, "callback_secret in the extra"),
        ("ark", {"callback_secret": SECRET}, "callback_base_url in the extra"),
        ("runbase", CALLED, "runbase does not call back"),
    ],
)
def test_what_cannot_be_called_back_is_refused(
    services: SeedanceEmulator, connect: Connect, api: str, extra: dict[str, Any], says: str
) -> None:
    connect(api, **extra)
    with pytest.raises(errors.SeedanceError, match=says):
        make().execute(make_context(Store()))
    assert services.ledger.requests == []


def test_images_that_come_at_once_are_not_called_back_for(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("ark", **CALLED)
    op = SeedreamGenerateImageOperator(task_id="task", prompt=PROMPT, use_callback=True)
    with pytest.raises(errors.SeedanceRequestError, match="does not call back for a request for image"):
        op.execute(make_context(Store()))
    assert services.ledger.requests == []


def test_an_address_of_the_users_own_is_not_overwritten(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark", **CALLED)
    op = make(extra_params={"callback_url": "https://elsewhere.example/"})
    with pytest.raises(errors.SeedanceRequestError, match="one address only"):
        op.execute(make_context(Store()))
    assert services.ledger.requests == []


# ---------------------------------------------------------------------- a reply that was lost


@pytest.mark.parametrize("api", UNANSWERED)
@pytest.mark.parametrize(("kind", "options"), LOST)
def test_a_call_tells_what_the_lost_reply_would_have(
    held: SeedanceEmulator, connect: Connect, api: str, kind: str, options: dict[str, Any]
) -> None:
    connect(api, **CALLED)
    held.fault(kind, **options)
    store = Store()
    task = Task(held, store)
    waiting = task.execute()
    assert isinstance(waiting.trigger, SeedanceCallbackTrigger)
    assert 590 < waiting.trigger.moment - time.time() <= submitter.CALLBACK_TIMEOUT_SECONDS
    assert waiting.trigger.callback_nonce == store.value["callback_nonce"]

    found = task.resume(waiting, call(task.paid))
    assert waits_for(found, task.paid)
    assert (store.value["state"], store.value["generation_id"]) == ("submitted", task.paid)
    held.finish(task.paid)
    assert resume(task.op, found, None, task.context)["generation_id"] == task.paid
    assert task.posts == 1


def test_a_call_that_came_before_the_deferral(
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


def test_a_service_that_can_be_asked_is_asked_first(held: SeedanceEmulator, connect: Connect) -> None:
    connect("ark", **CALLED)
    held.fault("drop_reply")
    task = Task(held, Store())
    assert waits_for(task.execute(), task.paid)
    assert task.posts == 1


def test_a_call_that_came_while_the_deferral_ran_out(task: Task, out_of_patience: Any) -> None:
    waiting = task.execute()
    task.mail(waiting, task.paid)
    out_of_patience()
    assert waits_for(task.resume(waiting, SILENCE), task.paid)
    assert task.posts == 1


def test_silence_fails_the_task_and_says_what_to_do(task: Task, out_of_patience: Any) -> None:
    waiting = task.execute()
    out_of_patience()
    with pytest.raises(errors.SeedanceUncertainSubmitError, match="may have been billed"):
        resume(task.op, waiting, SILENCE, task.context)
    assert task.posts == 1
    assert task.store is not None
    assert task.store.value["state"] == "uncertain"


def test_a_call_after_the_task_has_failed_is_found_by_a_clear(task: Task, out_of_patience: Any) -> None:
    waiting = task.execute()
    out_of_patience()
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        resume(task.op, waiting, SILENCE, task.context)
    task.mail(waiting, task.paid)
    task.ti.clear()
    assert waits_for(task.execute(), task.paid)
    assert task.posts == 1


def test_a_clear_after_it_was_reported_submits_anew(task: Task, out_of_patience: Any) -> None:
    waiting = task.execute()
    out_of_patience()
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


def test_a_deferral_that_ends_early_goes_on_waiting(task: Task) -> None:
    waiting = task.execute()
    again = task.resume(waiting, None)
    assert isinstance(again.trigger, SeedanceCallbackTrigger)
    assert again.trigger.serialize() == waiting.trigger.serialize()
    assert task.posts == 1


def test_an_id_that_the_service_does_not_know_is_not_believed(task: Task, out_of_patience: Any) -> None:
    waiting = task.execute()
    task.mail(waiting, "made-up")
    again = task.resume(waiting, call("made-up"))
    assert isinstance(again.trigger, SeedanceCallbackTrigger)
    task.mail(waiting, task.paid)
    assert waits_for(task.resume(again, call(task.paid)), task.paid)
    assert task.posts == 1


def test_an_id_that_is_never_known_comes_to_the_same_as_silence(task: Task, out_of_patience: Any) -> None:
    waiting = task.execute()
    task.mail(waiting, "made-up")
    out_of_patience()
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        resume(task.op, waiting, call("made-up"), task.context)
    assert task.posts == 1


@pytest.mark.parametrize("store", [True, False])
def test_an_id_is_not_believed_while_the_service_cannot_be_read(
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
    assert again.trigger.moment < waiting.trigger.moment
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
def test_an_id_that_was_told_is_not_given_up_before_it_could_be_read(
    task: Task,
    out_of_patience: Any,
    trouble: str,
    options: dict[str, Any],
    kind: type[errors.SeedanceError],
    policy: str,
) -> None:
    task.op.on_uncertain_submit = policy
    waiting = task.execute()
    task.mail(waiting, task.paid)
    fault = task.services.fault(trouble, on="status", times=None, **options)
    out_of_patience()
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


def test_an_id_that_was_told_late_is_not_left_behind_by_a_clear_either(
    task: Task, out_of_patience: Any
) -> None:
    waiting = task.execute()
    out_of_patience()
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


def test_rubbish_after_the_right_id_does_not_make_it_forgotten(task: Task) -> None:
    task.op.on_uncertain_submit = "resubmit"
    waiting = task.execute()
    assert task.store is not None
    kept = with_id(with_id(None, task.paid), "evt-1")
    task.store.texts[key_for(waiting.trigger.callback_nonce)] = json.dumps(kept)
    assert waits_for(task.resume(waiting, {"outcome": "silence"}), task.paid)
    assert task.posts == 1


def test_a_retry_within_ten_minutes_waits_for_the_call_too(task: Task) -> None:
    """The worker was killed between the submission and its reply."""
    first = task.execute()
    task.ti.retry()
    second = task.execute()
    assert isinstance(second.trigger, SeedanceCallbackTrigger)
    assert second.trigger.callback_nonce == first.trigger.callback_nonce
    assert abs(second.trigger.moment - first.trigger.moment) < 1.0
    assert waits_for(task.resume(second, call(task.paid)), task.paid)
    assert task.posts == 1


def test_a_retry_within_ten_minutes_finds_what_was_told(task: Task) -> None:
    first = task.execute()
    task.mail(first, task.paid)
    task.ti.retry()
    assert waits_for(task.execute(), task.paid)
    assert task.posts == 1


def test_a_store_that_cannot_be_read_settles_nothing(task: Task) -> None:
    waiting = task.execute()
    assert task.store is not None
    task.store.break_down("get")
    with pytest.raises(errors.SeedanceStateError):
        resume(task.op, waiting, call(task.paid), task.context)
    task.store.before = lambda what: None
    # The API server has kept what was told, so the retry of that finds it.
    task.mail(waiting, task.paid)
    task.ti.retry()
    assert waits_for(task.execute(), task.paid)
    assert task.posts == 1


# ---------------------------------------------------------------------- resubmitting


@pytest.fixture
def bold(held: SeedanceEmulator, connect: Connect) -> Task:
    connect("seedanceapi-v1", **CALLED)
    return Task(held, Store(), on_uncertain_submit="resubmit")


def test_resubmitting_waits_for_the_call_first(bold: Task) -> None:
    bold.services.fault("drop_reply")
    waiting = bold.execute()
    assert isinstance(waiting.trigger, SeedanceCallbackTrigger)
    assert waits_for(bold.resume(waiting, call(bold.paid)), bold.paid)
    assert bold.posts == 1


def test_after_silence_it_is_submitted_again_once(bold: Task, out_of_patience: Any) -> None:
    bold.services.fault("drop_reply")
    waiting = bold.execute()
    out_of_patience()
    assert waits_for(bold.resume(waiting, SILENCE), bold.paid)
    assert bold.posts == 2


def test_once_and_no_more(bold: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    bold.services.fault("drop_reply", times=None)
    first = bold.execute()
    # The second submission is waited for as the first was; both were sent, and that is enough.
    monkeypatch.setattr(submitter, "CALLBACK_TIMEOUT_SECONDS", 0.0)
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        resume(bold.op, first, SILENCE, bold.context)
    assert bold.posts == 2


def test_the_second_submission_is_waited_for_and_not_repeated(
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


def test_without_a_store_the_deferral_carries_the_record(forgetful: Task) -> None:
    waiting = forgetful.execute()
    assert waits_for(forgetful.resume(waiting, call(forgetful.paid)), forgetful.paid)
    assert forgetful.posts == 1


def test_without_a_store_silence_is_final(forgetful: Task, out_of_patience: Any) -> None:
    waiting = forgetful.execute()
    out_of_patience()
    with pytest.raises(errors.SeedanceError) as caught:
        resume(forgetful.op, waiting, SILENCE, forgetful.context)
    assert not caught.value.retry_helps
    assert forgetful.posts == 1


@pytest.mark.parametrize("policy", ["fail", "resubmit"])
def test_without_a_store_an_id_that_cannot_be_read_is_named_and_final(
    forgetful: Task, out_of_patience: Any, policy: str
) -> None:
    forgetful.op.on_uncertain_submit = policy
    waiting = forgetful.execute()
    forgetful.services.fault("gateway_error", on="status", times=None)
    out_of_patience()
    with pytest.raises(errors.SeedanceUnrecordedError, match=forgetful.paid):
        resume(forgetful.op, waiting, call(forgetful.paid), forgetful.context)
    assert forgetful.posts == 1


def test_without_a_store_an_unknown_id_is_not_believed_either(forgetful: Task) -> None:
    again = forgetful.resume(forgetful.execute(), call("made-up"))
    assert isinstance(again.trigger, SeedanceCallbackTrigger)
    assert waits_for(forgetful.resume(again, call(forgetful.paid)), forgetful.paid)
    assert forgetful.posts == 1


def test_without_a_store_it_is_submitted_again_once(
    held: SeedanceEmulator, connect: Connect, out_of_patience: Any
) -> None:
    connect("seedanceapi-v1", **CALLED)
    held.fault("drop_reply", times=None)
    task = Task(held, None, on_uncertain_submit="resubmit")
    waiting = task.execute()
    out_of_patience()
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        resume(task.op, waiting, SILENCE, task.context)
    assert task.posts == 2


def test_a_record_that_was_damaged_in_between_is_final(forgetful: Task) -> None:
    waiting = forgetful.execute()
    with pytest.raises(errors.SeedanceRecordError):
        forgetful.op.resume_execution(
            "resume_uncertain", {"record": {"version": 1}, "event": call(forgetful.paid)}, forgetful.context
        )
    assert waiting.kwargs
    assert forgetful.posts == 1
