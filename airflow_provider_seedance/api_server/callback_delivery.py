"""
Delivery of callbacks to task instances: the one module that knows Airflow's internals for it.

It uses Airflow's models as the triggerer, the scheduler and the API server do (Airflow 3.1 to 3.4). Where a part of
them is missing or fails, the polls of the triggerer find the end of the generation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from airflow.configuration import conf
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.triggers.base import TaskSuccessEvent, TriggerEvent
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_provider_seedance.callbacks.inbox import RETENTION_DAYS, key_for, with_id
from airflow_provider_seedance.callbacks.payload import CallbackPayload
from airflow_provider_seedance.callbacks.tokens import CallbackClaims
from airflow_provider_seedance.links.seedance import OUTPUT_LINK_KEY
from airflow_provider_seedance.polling.wait_state import default_timing
from airflow_provider_seedance.version_compat import stored_coordinates

#: Timeout for a row lock; few deliveries run at once, and one must not block the others.
LOCK_TIMEOUT_SECONDS = 3

#: Statement before a row is locked. sqlite has no row locks: without a write lock, two concurrent callbacks could both
#: find the task deferred, and the second would reschedule it while it runs. PostgreSQL waits for a lock without a
#: limit, MySQL for 50 seconds.
_BEFORE_LOCKING = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'",
    "mysql": f"SET SESSION innodb_lock_wait_timeout = {LOCK_TIMEOUT_SECONDS}",
}

#: Statement after it: what MySQL was set to outlives the transaction.
_AFTER_LOCKING = {"mysql": "SET SESSION innodb_lock_wait_timeout = DEFAULT"}

_TRIGGERS = "airflow_provider_seedance.triggers."

#: States of a task that may still defer.
_BEFORE_DEFERRAL = ("running", "queued", "scheduled", "restarting")

#: States of a task whose next try or clear may read the stored id.
_FAILED = ("failed", "up_for_retry", "up_for_reschedule", None)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """
    Outcome of a delivery.

    :param kind: ``resumed``; ``retry`` later; ``confirm``: the status has to be read first, because the payload has
        none or another id, or the task ends without a worker; ``stored`` for the next try; ``ignored``.
    :param seconds: With ``retry``: when, if known.
    :param trigger_kwargs: With ``resumed`` and ``confirm``: the kwargs of the trigger.
    """

    kind: Literal["resumed", "retry", "confirm", "stored", "ignored"]
    seconds: float | None = None
    trigger_kwargs: dict[str, Any] = field(default_factory=dict)


def deliver(
    claims: CallbackClaims,
    payload: CallbackPayload,
    *,
    on_worker: bool = False,
    event: dict[str, Any] | None = None,
) -> Outcome:
    """
    Resume the task instance that a callback is for, or store the id that it names.

    Duplicates, replays, and callbacks for an older submission, a cleared or an ended task change nothing.

    :param on_worker: Resume on a worker, even if the task could be ended here.
    :param event: Event for the worker, if the service has reported the end.
    :raises Exception: The database failed; nothing has changed.
    """
    with _locked_task_instance(claims) as (ti, session):
        if ti is None:
            return Outcome(kind="ignored")
        if ti.state == "deferred":
            return _resume_task(claims, payload, ti, session, on_worker=on_worker, event=event)
        if ti.state in _BEFORE_DEFERRAL:
            _store_id(claims, payload, session)
            return Outcome(kind="retry")
        if ti.state in _FAILED and _store_id(claims, payload, session):
            return Outcome(kind="stored")
        return Outcome(kind="ignored")


def complete_task(claims: CallbackClaims, result: dict[str, Any]) -> Outcome:
    """End a task with the result of its generation, as its trigger would. On an error nothing has changed."""
    with _locked_task_instance(claims) as (ti, session):
        kwargs = _trigger_kwargs(ti, session) if ti is not None and ti.state == "deferred" else None
        if kwargs is None or kwargs.get("callback_nonce") != claims.nonce:
            return Outcome(kind="ignored")
        for key, value in (("return_value", result), (OUTPUT_LINK_KEY, result.get("url") or "")):
            XComModel.set(key, value, **_instance(claims), serialize=False, session=session)
        Trigger.submit_event(ti.trigger_id, TaskSuccessEvent(), session=session)
        return Outcome(kind="resumed")


@contextmanager
def _locked_task_instance(claims: CallbackClaims) -> Iterator[tuple[Any, Any]]:
    """Lock the row, so that the second of two concurrent callbacks finds the task resumed."""
    with create_session() as session:
        query = select(TaskInstance).filter_by(**_instance(claims)).with_for_update(of=TaskInstance)
        yield _lock(session, query), session


def _instance(claims: CallbackClaims) -> dict[str, Any]:
    names = {name: getattr(claims, name) for name in ("dag_id", "run_id", "task_id")}
    return names | stored_coordinates(claims.region_id, claims.map_index)


def _lock(session: Any, query: Any) -> Any:
    """Return the row of a query, or ``None``, and lock it until the session ends."""
    dialect = session.get_bind().dialect.name
    if before := _BEFORE_LOCKING.get(dialect):
        session.connection().exec_driver_sql(before)
    try:
        return session.scalar(query)
    finally:
        if after := _AFTER_LOCKING.get(dialect):
            session.connection().exec_driver_sql(after)


def _resume_task(
    claims: CallbackClaims,
    payload: CallbackPayload,
    ti: Any,
    session: Any,
    *,
    on_worker: bool,
    event: dict[str, Any] | None,
) -> Outcome:
    kwargs = _trigger_kwargs(ti, session)
    if kwargs is None or kwargs.get("callback_nonce") != claims.nonce or not _is_relevant(payload, kwargs):
        return Outcome(kind="ignored")
    early = kwargs["deferred_at"] + default_timing().min_trigger_time - datetime.now(UTC).timestamp()
    if early > 0:
        return Outcome(kind="retry", seconds=early)
    expected = kwargs.get("generation_id")
    sufficient = expected is None or (reports_end(payload, expected) and not ends_from_trigger(kwargs))
    if not on_worker and not sufficient:
        return Outcome(kind="confirm", trigger_kwargs=kwargs)
    if payload.generation_id in (None, expected) or expected is None:
        _store_id(claims, payload, session)
    event = event or {"outcome": "callback", "generation_id": expected or payload.generation_id}
    Trigger.submit_event(ti.trigger_id, TriggerEvent(event), session=session)  # type: ignore[no-untyped-call]
    return Outcome(kind="resumed", trigger_kwargs=kwargs)


def _is_relevant(payload: CallbackPayload, kwargs: dict[str, Any]) -> bool:
    """Return whether a payload may mean the awaited event: an unknown id, or the end of a generation."""
    # The token identifies the submission, so another id counts too: in undocumented bodies it may be of an event.
    if kwargs.get("generation_id") is None or payload.status is None:
        return payload.generation_id is not None
    return payload.ended


def reports_end(payload: CallbackPayload, generation_id: str) -> bool:
    """Return whether a payload reports the end of this generation, by its id or by the token alone."""
    return payload.ended and payload.generation_id in (None, generation_id)


def ends_from_trigger(kwargs: dict[str, Any]) -> bool:
    """Return whether the task asks to end without a worker, and can: only workers write to a custom XCom backend."""
    backend = conf.get("core", "xcom_backend", fallback="")
    return bool(kwargs.get("end_from_trigger")) and backend.endswith(
        "airflow.sdk.execution_time.xcom.BaseXCom"
    )


def _trigger_kwargs(ti: Any, session: Any) -> dict[str, Any] | None:
    """Return the kwargs of a trigger of this package, and ``deferred_at``; ``None`` for any other trigger."""
    trigger = session.get(Trigger, ti.trigger_id) if ti.trigger_id is not None else None
    if trigger is None or not trigger.classpath.startswith(_TRIGGERS):
        return None
    return {**trigger.kwargs, "deferred_at": trigger.created_date.timestamp()}


def _store_id(claims: CallbackClaims, payload: CallbackPayload, session: Any) -> bool:
    """Store the id for the task; returns ``False`` without an id or a task state store (before Airflow 3.3)."""
    if payload.generation_id is None:
        return False
    try:
        from airflow._shared.state import TaskScope  # Airflow 3.3 and later
        from airflow.state import get_state_backend
    except ImportError:
        return False
    scope = TaskScope(**_instance(claims))
    backend, key = get_state_backend(), key_for(claims.nonce)
    stored = backend.get(scope, key, session=session)
    value = with_id(json.loads(stored) if stored else None, payload.generation_id)
    if value is not None:
        expires_at = datetime.now(UTC) + timedelta(days=RETENTION_DAYS)
        backend.set(scope, key, json.dumps(value), expires_at=expires_at, session=session)
    return True
