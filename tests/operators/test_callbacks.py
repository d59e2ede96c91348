"""Tasks with callbacks: deferral, resume, and refused arguments."""

from __future__ import annotations

import time
from typing import Any

import pytest

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.callbacks import tokens
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from operators.generation_task import CALLBACK_SECRET, CALLED, NOWHERE, Connect, Task, callback

CALLING = ("seedance2api", "seedanceapi-v1", "seedanceapi-v2", "ark")


@pytest.fixture
def api() -> str:
    return "ark"


@pytest.fixture
def task(services: SeedanceEmulator, connect: Connect, api: str) -> Task:
    connect(api, **CALLED)
    return Task(services, connect, use_callback=True)


# ---------------------------------------------------------------------- deferral and resume


@pytest.mark.parametrize("api", CALLING)
def test_submission_contains_the_callback_url_and_the_deferral_does_not(task: Task) -> None:
    deferred = task.defer()
    nonce = task.store.value["callback_nonce"]
    assert deferred.trigger.callback_nonce == deferred.kwargs["callback_nonce"] == nonce
    url = task.services.ledger.submissions[0].callback_url
    assert url.startswith(f"{NOWHERE}/seedance/callbacks/")
    token = url.rpartition("/")[2]
    assert tokens.verify(token, CALLBACK_SECRET, time.time())
    claims = tokens.decode_unverified(token)
    assert (claims.nonce, claims.dag_id, claims.conn_id) == (nonce, "dag", "seedance_default")
    stored = str((task.store.texts, deferred.trigger.serialize(), deferred.kwargs))
    assert CALLBACK_SECRET not in stored
    assert "callbacks/" not in stored


@pytest.mark.parametrize("api", CALLING)
def test_callback_needs_one_request_for_the_result(task: Task) -> None:
    task.defer_and_finish()
    result = task.resume(task.called)
    assert (result["generation_id"], result["status"]) == (task.generation_id, "succeeded")
    assert result["url"]
    assert len(task.services.ledger.requests) == 2


@pytest.mark.parametrize(("api", "status"), [*zip(CALLING, ("succeeded", "failed") * 2, strict=True)])
def test_early_callback_ends_nothing(task: Task, status: str) -> None:
    first = task.defer()
    again = task.defer_again({**task.called, "status": status})
    assert task.waits_for(task.generation_id)
    # From now on it is polled for as if there were no calls, and calls count as before.
    assert again.trigger.callback_received
    assert again.trigger.callback_nonce == first.trigger.callback_nonce
    task.services.finish(task.generation_id)
    assert task.resume(task.called)["status"] == "succeeded"
    assert task.posts == 1


def test_callback_with_another_id_does_not_change_the_delivery(task: Task) -> None:
    other = Task(task.services, task.connect, use_callback=True)
    other.defer()
    foreign_id = other.generation_id
    task.defer_and_finish()
    assert task.resume(callback(foreign_id))["generation_id"] == task.generation_id != foreign_id


def test_no_callback_url_without_use_callback(task: Task) -> None:
    deferred = task.defer(use_callback=False)
    assert task.services.ledger.submissions[0].callback_url is None
    assert task.store.value["callback_nonce"] is None
    assert deferred.trigger.callback_nonce is None


def test_retry_waits_for_the_same_callback(task: Task) -> None:
    first = task.defer()
    task.ti.retry()
    assert first.trigger.callback_nonce == task.defer().trigger.callback_nonce
    assert task.posts == 1


# ---------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("api", "extra", "says"),
    [
        ("ark", {}, "callback_base_url and callback_secret"),
        ("ark", {"callback_base_url": NOWHERE}, "callback_secret in the extra"),
        ("ark", {"callback_secret": CALLBACK_SECRET}, "callback_base_url in the extra"),
        ("runbase", CALLED, "runbase does not call back"),
    ],
)
def test_use_callback_needs_support(task: Task, api: str, extra: dict[str, Any], says: str) -> None:
    task.connect(api, **extra)
    with pytest.raises(errors.SeedanceError, match=says):
        task.run()
    assert task.services.ledger.requests == []
