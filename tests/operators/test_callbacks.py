"""Tasks with callbacks: deferral, resume, and refused arguments."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support import PROMPT, Store, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.callbacks import tokens
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.operators.seedance import (
    SeedreamGenerateImageOperator,
)
from operators.callback_task import (
    CALLED,
    CALLING,
    NOWHERE,
    SECRET,
    Connect,
    Task,
    call,
    make,
    resume,
    waits_for,
)

# ---------------------------------------------------------------------- deferral and resume


@pytest.mark.parametrize("api", CALLING)
def test_submission_contains_the_callback_url(held: SeedanceEmulator, connect: Connect, api: str) -> None:
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
def test_callback_url_is_not_stored(held: SeedanceEmulator, connect: Connect, api: str) -> None:
    connect(api, **CALLED)
    store = Store()
    deferred = Task(held, store).execute()
    stored = str((store.texts, deferred.trigger.serialize(), deferred.kwargs))
    assert SECRET not in stored
    assert "callbacks/" not in stored


@pytest.mark.parametrize("api", CALLING)
def test_callback_needs_one_request_for_the_result(
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
@pytest.mark.parametrize("status", ["succeeded", "failed"])
def test_early_callback_ends_nothing(held: SeedanceEmulator, connect: Connect, api: str, status: str) -> None:
    connect(api, **CALLED)
    task = Task(held, Store())
    first = task.execute()
    again = task.resume(first, {**call(task.paid), "status": status})
    assert waits_for(again, task.paid)
    # From now on it is polled for as if there were no calls, and calls count as before.
    assert again.trigger.callback_received
    assert again.trigger.callback_nonce == first.trigger.callback_nonce
    held.finish(task.paid)
    assert resume(task.op, again, call(task.paid), task.context)["status"] == "succeeded"
    assert task.posts == 1


def test_callback_with_another_id_does_not_change_the_delivery(
    held: SeedanceEmulator, connect: Connect
) -> None:
    connect("ark", **CALLED)
    task, other = Task(held, Store()), Task(held, Store())
    other.execute()
    foreign_id = other.paid
    deferred = task.execute()
    held.finish(task.paid)
    result = resume(task.op, deferred, call(foreign_id), task.context)
    assert result["generation_id"] == task.paid


def test_callback_of_a_failed_render(held: SeedanceEmulator, connect: Connect) -> None:
    connect("seedance2api", **CALLED)
    task = Task(held, Store())
    deferred = task.execute()
    held.fail(task.paid, "no herons")
    with pytest.raises(errors.SeedanceGenerationFailedError, match="no herons"):
        resume(task.op, deferred, call(task.paid), task.context)


def test_no_callback_url_without_use_callback(held: SeedanceEmulator, connect: Connect) -> None:
    connect("ark", **CALLED)
    task = Task(held, Store(), use_callback=False)
    deferred = task.execute()
    assert held.ledger.submissions[0].callback_url is None
    assert task.store is not None
    assert task.store.value["callback_nonce"] is None
    assert deferred.trigger.callback_nonce is None


def test_each_submission_has_its_own_nonce(held: SeedanceEmulator, connect: Connect) -> None:
    connect("ark", **CALLED)
    task = Task(held, Store(), on_clear="new")
    first = task.execute()
    held.finish(task.paid)
    task.ti.clear()
    second = task.execute()
    assert task.posts == 2
    assert first.trigger.callback_nonce != second.trigger.callback_nonce


def test_retry_waits_for_the_same_callback(held: SeedanceEmulator, connect: Connect) -> None:
    connect("ark", **CALLED)
    task = Task(held, Store())
    first = task.execute()
    task.ti.retry()
    second = task.execute()
    assert task.posts == 1
    assert first.trigger.callback_nonce == second.trigger.callback_nonce


# ---------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("api", "extra", "says"),
    [
        ("ark", {}, "callback_base_url and callback_secret"),
        ("ark", {"callback_base_url": NOWHERE}, "callback_secret in the extra"),
        ("ark", {"callback_secret": SECRET}, "callback_base_url in the extra"),
        ("runbase", CALLED, "runbase does not call back"),
    ],
)
def test_use_callback_is_refused_without_support(
    services: SeedanceEmulator, connect: Connect, api: str, extra: dict[str, Any], says: str
) -> None:
    connect(api, **extra)
    with pytest.raises(errors.SeedanceError, match=says):
        make().execute(make_context(Store()))
    assert services.ledger.requests == []


def test_synchronous_images_need_no_callback(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark", **CALLED)
    op = SeedreamGenerateImageOperator(task_id="task", prompt=PROMPT, use_callback=True)
    with pytest.raises(errors.SeedanceRequestError, match="does not call back for a request for image"):
        op.execute(make_context(Store()))
    assert services.ledger.requests == []


def test_callback_url_in_extra_params_is_refused(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark", **CALLED)
    op = make(extra_params={"callback_url": "https://elsewhere.example/"})
    with pytest.raises(errors.SeedanceRequestError, match="one address only"):
        op.execute(make_context(Store()))
    assert services.ledger.requests == []
