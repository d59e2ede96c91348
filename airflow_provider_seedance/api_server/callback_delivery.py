"""
What a callback does to a task: the one file that knows Airflow's internals for it.

Runs in the API server and uses its models as the triggerer, the scheduler and the API server itself do
(Airflow 3.1 to 3.3). Where something of that is missing or refuses, the polls of the triggerer finish the
job. Airflow's models are imported late: plugins are loaded by every process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from airflow_provider_seedance.callbacks.inbox import RETENTION_DAYS, key_for, with_id
from airflow_provider_seedance.callbacks.payload import CallbackPayload
from airflow_provider_seedance.callbacks.tokens import CallbackClaims

#: No task resumes sooner, in seconds after its deferral: the scheduler could take the end of the deferring
#: process for its own, and fail the task.
EARLIEST = 5.0

#: Seconds for which a row that somebody holds is waited for, on PostgreSQL. All callbacks share few slots.
LONGEST_LOCK = 3

#: Seconds until somebody who is about to defer is looked for again.
SOON = 3.0

_TRIGGERS = "airflow_provider_seedance.triggers."

#: States in which a task is on its way to the deferral that the callback is for.
_BEFORE = ("running", "queued", "scheduled", "restarting")

#: States of a task that has ended, and whose next try or clear may want to know what was told.
_FAILED = ("failed", "up_for_retry", "up_for_reschedule", None)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """
    What became of a callback.

    :param kind: ``resumed``; ``later``, to be tried again in ``seconds``; ``finish``, the task is to be ended
        by :func:`finish` with what the service tells; ``ask``, nothing was told but an id, or it is not the
        one we know, and the service is to be asked whether *our* render has ended; ``kept`` for whoever comes
        next; ``ignored``.
    :param waits: With ``finish`` and ``ask``: the kwargs of the trigger that waits.
    """

    kind: Literal["resumed", "later", "finish", "ask", "kept", "ignored"]
    seconds: float = 0.0
    waits: dict[str, Any] = field(default_factory=dict)


def look_up(conn_id: str) -> Any:
    """Return an Airflow connection; ``None`` if there is none by this id, or one of another type."""
    from airflow.models.connection import Connection
    from airflow.providers.common.compat.sdk import AirflowNotFoundException

    try:
        connection = Connection.get_connection_from_secrets(conn_id)
    except AirflowNotFoundException:
        return None
    return connection if connection.conn_type == "seedance" else None


def deliver(
    ticket: CallbackClaims,
    hint: CallbackPayload,
    *,
    on_worker: bool = False,
    event: dict[str, Any] | None = None,
) -> Outcome:
    """
    Resume the task that a callback is for, or keep what it told.

    Duplicates, replays, callbacks for an older submission, for a cleared or a finished task change nothing.

    :param on_worker: Whether to resume on a worker, whatever the task says.
    :param event: What the worker is told, where the service was asked already.
    :raises Exception: the database failed; nothing was changed.
    """
    with _task_instance(ticket) as (ti, session):
        if ti is None:
            return Outcome(kind="ignored")
        if ti.state == "deferred":
            return _wake(ticket, hint, ti, session, on_worker=on_worker, event=event)
        if ti.state in _BEFORE:
            _keep(ticket, hint, session)
            return Outcome(kind="later", seconds=SOON)
        if ti.state in _FAILED and _keep(ticket, hint, session):
            return Outcome(kind="kept")
        return Outcome(kind="ignored")


def finish(ticket: CallbackClaims, result: dict[str, Any]) -> bool:
    """
    End a task with the result of its render, as its trigger would have; whether it was still there.

    :raises Exception: the database failed; nothing was changed.
    """
    from airflow.models.trigger import Trigger
    from airflow.models.xcom import XComModel
    from airflow.triggers.base import TaskSuccessEvent

    with _task_instance(ticket) as (ti, session):
        if ti is None or ti.state != "deferred":
            return False
        if (_waits(ti, session) or {}).get("callback_nonce") != ticket.nonce:
            return False
        for key, value in (("return_value", result), ("_link_SeedanceOutputLink", result.get("url") or "")):
            XComModel.set(
                key,
                value,
                dag_id=ticket.dag_id,
                run_id=ticket.run_id,
                task_id=ticket.task_id,
                map_index=ticket.map_index,
                serialize=False,
                session=session,
            )
        Trigger.submit_event(ti.trigger_id, TaskSuccessEvent(), session=session)
        return True


@contextmanager
def _task_instance(ticket: CallbackClaims) -> Iterator[tuple[Any, Any]]:
    """Hold the task instance, so that of two callbacks at once one finds it resumed."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        _prepare(session)
        names = ("dag_id", "run_id", "task_id", "map_index")
        chosen = (getattr(TaskInstance, name) == getattr(ticket, name) for name in names)
        query = select(TaskInstance).where(*chosen).with_for_update(of=TaskInstance)
        yield session.scalar(query), session


def _prepare(session: Any) -> None:
    """
    Say how rows are held, which databases differ in.

    sqlite knows no locks on rows: nobody may write between our reading and our writing, or two callbacks at
    once could both find the task waiting, and the second would set it back to scheduled while it runs already.
    PostgreSQL waits for a lock without end, and with it would all other callbacks.
    """
    dialect = session.get_bind().dialect.name
    if dialect == "sqlite":
        session.connection().exec_driver_sql("BEGIN IMMEDIATE")
    elif dialect == "postgresql":
        session.connection().exec_driver_sql(f"SET LOCAL lock_timeout = '{LONGEST_LOCK}s'")


def _wake(
    ticket: CallbackClaims,
    hint: CallbackPayload,
    ti: Any,
    session: Any,
    *,
    on_worker: bool,
    event: dict[str, Any] | None,
) -> Outcome:
    from airflow.models.trigger import Trigger
    from airflow.triggers.base import TriggerEvent

    waits = _waits(ti, session)
    if waits is None or waits.get("callback_nonce") != ticket.nonce or not _tells(hint, waits):
        return Outcome(kind="ignored")
    if (early := waits["since"] + EARLIEST - datetime.now(UTC).timestamp()) > 0:
        return Outcome(kind="later", seconds=early)
    expected = waits.get("generation_id")
    another = expected is not None and hint.generation_id not in (None, expected)
    if not on_worker and expected is not None:
        if hint.status is None or another:
            return Outcome(kind="ask", waits=waits)
        if ends_from_trigger(waits):
            return Outcome(kind="finish", waits=waits)
    if not another:
        _keep(ticket, hint, session)
    payload = event or {
        "outcome": "callback",
        "generation_id": expected or hint.generation_id,
    }
    Trigger.submit_event(ti.trigger_id, TriggerEvent(payload), session=session)  # type: ignore[no-untyped-call]
    return Outcome(kind="resumed")


def _tells(hint: CallbackPayload, waits: dict[str, Any]) -> bool:
    """
    Whether a hint may be about what is waited for: an id that is not known yet, or the end of a render.

    The address tells which submission it is about, so an id that is not ours counts, too: the bodies of some
    services are documented nowhere, and what looks like the id of a render may be that of an event.
    """
    if waits.get("generation_id") is None or hint.status is None:
        return hint.generation_id is not None
    return hint.ended


def ends_from_trigger(waits: dict[str, Any]) -> bool:
    """Whether a task can be ended without a worker, and its author wants that."""
    return bool(waits.get("end_from_trigger")) and _plain_xcom()


def _waits(ti: Any, session: Any) -> dict[str, Any] | None:
    """Return what a trigger of ours waits for, and since when; ``None`` for any other."""
    from airflow.models.trigger import Trigger

    trigger = session.get(Trigger, ti.trigger_id) if ti.trigger_id is not None else None
    if trigger is None or not trigger.classpath.startswith(_TRIGGERS):
        return None
    return {**trigger.kwargs, "since": trigger.created_date.timestamp()}


def _keep(ticket: CallbackClaims, hint: CallbackPayload, session: Any) -> bool:
    """Put what was told where the task finds it, if this Airflow has such a place (3.3 and later)."""
    if hint.generation_id is None:
        return False
    try:
        from airflow._shared.state import TaskScope
        from airflow.state import get_state_backend
    except ImportError:
        return False
    scope = TaskScope(
        dag_id=ticket.dag_id, run_id=ticket.run_id, task_id=ticket.task_id, map_index=ticket.map_index
    )
    backend, key = get_state_backend(), key_for(ticket.nonce)
    stored = backend.get(scope, key, session=session)
    kept = with_id(json.loads(stored) if stored else None, hint.generation_id)
    if kept is not None:
        until = datetime.now(UTC) + timedelta(days=RETENTION_DAYS)
        backend.set(scope, key, json.dumps(kept), expires_at=until, session=session)
    return True


def _plain_xcom() -> bool:
    """Whether XCom is kept in Airflow's own database; any other place only a worker can write to."""
    from airflow.configuration import conf

    return bool(
        conf.get("core", "xcom_backend", fallback="").endswith("airflow.sdk.execution_time.xcom.BaseXCom")
    )
