"""Delivery of callbacks to task instances, in a metadata database of Airflow."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from metadata_rows import add_xcom
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from airflow_provider_seedance.api_server import callback_delivery
from airflow_provider_seedance.callbacks.inbox import with_id
from airflow_provider_seedance.callbacks.payload import CallbackPayload
from airflow_provider_seedance.callbacks.tokens import CallbackClaims
from airflow_provider_seedance.generations import GenerationStatus
from airflow_provider_seedance.polling.wait_state import default_timing
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_3_PLUS
from api_server.delivery_database import (
    CLAIMS,
    KWARGS,
    RESULT,
    RUN,
    SUCCEEDED,
    add,
    deliver_unchanged,
    event_of,
    stored_ids,
    task_instance,
)

needs_store = pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="the task state store came with Airflow 3.3")


@pytest.mark.parametrize(
    ("dialect", "statements"),
    [
        ("sqlite", ["BEGIN IMMEDIATE", "the query"]),
        ("postgresql", ["SET LOCAL lock_timeout = '3s'", "the query"]),
        (
            "mysql",
            [
                "SET SESSION innodb_lock_wait_timeout = 3",
                "the query",
                "SET SESSION innodb_lock_wait_timeout = DEFAULT",
            ],
        ),
    ],
)
def test_a_row_lock_times_out(dialect: str, statements: list[str]) -> None:
    done: list[str] = []
    session = SimpleNamespace(
        get_bind=lambda: SimpleNamespace(dialect=SimpleNamespace(name=dialect)),
        connection=lambda: SimpleNamespace(exec_driver_sql=done.append),
        scalar=done.append,
    )
    callback_delivery._lock(session, "the query")
    assert done == statements


# ---------------------------------------------------------------------- resuming


@pytest.mark.parametrize(
    "payload", [SUCCEEDED, CallbackPayload(status=GenerationStatus.FAILED)], ids=["id", "without an id"]
)
def test_a_deferred_task_is_resumed(database: None, payload: CallbackPayload) -> None:
    add()
    assert callback_delivery.deliver(CLAIMS, payload).kind == "resumed"
    ti = task_instance()
    assert (ti.state, ti.trigger_id, ti.next_method) == ("scheduled", None, "execute_complete")
    assert event_of(ti) == {"outcome": "callback", "generation_id": "g1"}


def test_one_of_many_concurrent_callbacks_resumes(database: None) -> None:
    add()
    kinds: list[str] = []
    together = threading.Barrier(8)

    def call() -> None:
        together.wait()
        while True:
            try:
                kinds.append(callback_delivery.deliver(CLAIMS, SUCCEEDED).kind)
                return
            except OperationalError:
                time.sleep(0.01)  # the database is locked: the queue retries

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The others find a scheduled task: their id is stored, and the task is not touched.
    assert sorted(kinds) == ["resumed"] + ["retry"] * 7
    assert task_instance().state == "scheduled"


def test_a_status_that_is_not_terminal_changes_nothing(database: None) -> None:
    add()
    for payload in [
        CallbackPayload(generation_id="g1", status=GenerationStatus.RUNNING),
        CallbackPayload(generation_id="g1", status=GenerationStatus.QUEUED),
        CallbackPayload(generation_id="another", status=GenerationStatus.RUNNING),
        CallbackPayload(),
    ]:
        assert deliver_unchanged(payload).kind == "ignored"


@pytest.mark.parametrize("ends", [True, False])
def test_another_id_and_one_without_a_status_have_to_be_confirmed(database: None, ends: bool) -> None:
    add(kwargs={**KWARGS, "end_from_trigger": ends})
    for generation_id, status in (
        ("another", None),
        ("another", GenerationStatus.SUCCEEDED),
        ("another", GenerationStatus.FAILED),
        ("g1", None),
    ):
        outcome = deliver_unchanged(CallbackPayload(generation_id=generation_id, status=status))
        assert outcome.kind == "confirm"
        assert outcome.trigger_kwargs["generation_id"] == "g1"
        assert not AIRFLOW_V_3_3_PLUS or stored_ids() is None


@pytest.mark.parametrize("generation_id", ["g1", "another"])
def test_the_event_of_a_confirmed_end_goes_to_the_worker(database: None, generation_id: str) -> None:
    add()
    event = {"outcome": "ended", "generation_id": "g1"}
    payload = CallbackPayload(generation_id=generation_id, status=GenerationStatus.FAILED)
    assert callback_delivery.deliver(CLAIMS, payload, on_worker=True, event=event).kind == "resumed"
    assert event_of(task_instance()) == event
    assert not AIRFLOW_V_3_3_PLUS or generation_id == "g1" or stored_ids() is None


@pytest.mark.parametrize(
    "trigger",
    [
        {"kwargs": {**KWARGS, "callback_nonce": "n2"}},
        {"kwargs": {**KWARGS, "callback_nonce": None}},
        {"kwargs": {"generation_id": "g1"}},
        {"classpath": "another.provider.Trigger"},
        {"kwargs": None},
    ],
)
def test_a_task_with_another_trigger_is_not_resumed(database: None, trigger: dict[str, Any]) -> None:
    add(**trigger)
    assert deliver_unchanged().kind == "ignored"
    assert callback_delivery.complete_task(CLAIMS, {}).kind == "ignored"


def test_a_task_is_not_resumed_right_after_its_deferral(database: None) -> None:
    add(age=1.0)
    outcome = deliver_unchanged()
    assert outcome.kind == "retry"
    assert 0 < outcome.seconds <= default_timing().min_trigger_time


def test_another_mapped_instance_is_not_resumed(database: None) -> None:
    add()
    add(map_index=3, kwargs={**KWARGS, "callback_nonce": "n3"})
    assert deliver_unchanged(map_index=3).kind == "resumed"


def test_a_task_that_does_not_exist(database: None) -> None:
    add()
    for other in [
        {"dag_id": "none"},
        {"run_id": "none"},
        {"task_id": "none"},
        {"map_index": 9},
        {"map_index": -(2**40)},
        # MySQL compares text without regard to case by default.
        {"dag_id": "DAG"},
        {"run_id": RUN.upper()},
        {"task_id": "Task"},
    ]:
        claims = CallbackClaims(**{**vars(CLAIMS), **other})
        assert deliver_unchanged(claims=claims).kind == "ignored"
        assert callback_delivery.complete_task(claims, {}).kind == "ignored"


# ---------------------------------------------------------------------- storing ids


@needs_store
@pytest.mark.parametrize(
    ("kind", "state"),
    [
        # A task that has not deferred yet.
        *(("retry", state) for state in ("running", "queued", "scheduled", "restarting")),
        # One that may be tried again.
        *(("stored", state) for state in ("failed", "up_for_retry", "up_for_reschedule", None)),
        *(("ignored", state) for state in ("success", "skipped", "removed", "upstream_failed")),
    ],
)
def test_the_id_is_stored_unless_the_task_has_ended(database: None, kind: str, state: str | None) -> None:
    add(state)
    assert deliver_unchanged().kind == kind
    assert stored_ids() == (None if kind == "ignored" else with_id(None, "g1"))
    assert stored_ids("n2") is None


@needs_store
def test_nothing_is_stored_without_an_id(database: None) -> None:
    add("failed")
    without_id = CallbackPayload(status=GenerationStatus.SUCCEEDED)
    assert callback_delivery.deliver(CLAIMS, without_id).kind == "ignored"
    assert stored_ids() is None


@needs_store
def test_later_ids_do_not_replace_earlier_ones(database: None) -> None:
    add("running")
    for generation_id in ("g1", "rubbish", "g1"):
        callback_delivery.deliver(CLAIMS, CallbackPayload(generation_id=generation_id))
    assert stored_ids() == with_id(with_id(None, "g1"), "rubbish")


def test_without_a_store_nothing_is_stored(database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback_delivery, "_store_id", lambda *_: False)
    add("failed")
    assert callback_delivery.deliver(CLAIMS, SUCCEEDED).kind == "ignored"


# ---------------------------------------------------------------------- an uncertain submission


@pytest.mark.parametrize("status", [None, GenerationStatus.RUNNING, GenerationStatus.SUCCEEDED])
def test_an_uncertain_submission_gets_its_id(database: None, status: GenerationStatus | None) -> None:
    add(kwargs={"deadline": 1.0, "callback_nonce": "n1"})
    assert deliver_unchanged(CallbackPayload(status=status)).kind == "ignored"
    payload = CallbackPayload(generation_id="g7", status=status)
    assert callback_delivery.deliver(CLAIMS, payload).kind == "resumed"
    assert event_of(task_instance()) == {"outcome": "callback", "generation_id": "g7"}
    if AIRFLOW_V_3_3_PLUS:
        assert stored_ids() == with_id(None, "g7")


# ---------------------------------------------------------------------- completing a task


@needs_store
def test_a_task_is_completed_with_its_result(database: None) -> None:
    ti_id = add(kwargs={**KWARGS, "end_from_trigger": True})
    outcome = deliver_unchanged()
    assert outcome.kind == "confirm"
    assert outcome.trigger_kwargs["generation_id"] == "g1"
    with create_session() as session:
        run = {"dag_run_id": session.scalar(select(DagRun.id)), "dag_id": "dag", "run_id": RUN}
        add_xcom(session, ti_id, "return_value", "of an earlier try", **run, task_id="task", map_index=2)
    assert callback_delivery.complete_task(CLAIMS, RESULT).kind == "resumed"
    assert task_instance().state == "success"
    with create_session() as session:
        rows = session.execute(select(XComModel.key, XComModel.value, XComModel.map_index)).all()
    assert {key: value for key, value, _ in rows} == {
        "return_value": RESULT,
        "_link_SeedanceOutputLink": RESULT["url"],
    }
    assert {map_index for *_, map_index in rows} == {2}
    assert callback_delivery.complete_task(CLAIMS, RESULT).kind == "ignored"


@pytest.mark.parametrize("on_worker", [True, False], ids=["requested", "custom XCom backend"])
def test_a_worker_ends_the_task(database: None, monkeypatch: pytest.MonkeyPatch, on_worker: bool) -> None:
    if not on_worker:
        monkeypatch.setenv("AIRFLOW__CORE__XCOM_BACKEND", "somewhere.Else")
    add(kwargs={**KWARGS, "end_from_trigger": True})
    assert callback_delivery.deliver(CLAIMS, SUCCEEDED, on_worker=on_worker).kind == "resumed"
