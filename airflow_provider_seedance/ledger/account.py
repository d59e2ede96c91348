"""Queries about the ledger as an account: submissions, their cost, and corrections by a person."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, bindparam, delete, func, or_, select, true, update
from sqlalchemy.sql import ColumnElement

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import GenerationStatus, iso, read_time, utc_now
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import TaskIdentity
from airflow_provider_seedance.ledger.tables import shared_states, submissions
from airflow_provider_seedance.submission.records import RecordState

log = logging.getLogger(__name__)

_COLUMNS = submissions.c

#: Age from which an intent is uncertain: no call of a service takes longer.
MAX_SUBMISSION_SECONDS = 900

#: States in which it is unknown whether the service accepted the submission.
UNSETTLED = (RecordState.INTENT.value, RecordState.UNCERTAIN.value)

#: Number of the latest generations of a kind from which the polls of the next one are planned.
MAX_DURATIONS = 30

_NOT_LISTED = (
    *("instance", "namespace", "record", "result", "item_key", "search_model", "search_text"),
    *("ti_id", "reuse_key", "fingerprint", "kind"),
)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """
    Selection of submissions.

    :param namespace: ``None`` for all.
    :param dag_ids: Dags; ``None`` for all.
    :param accepted: Only submissions whose generation id is known.
    :param text: Part of the prompt or of the generation id.
    """

    namespace: str | None = None
    dag_ids: Collection[str] | None = None
    state: str | None = None
    dag_id: str | None = None
    run_id: str | None = None
    conn_id: str | None = None
    accepted: bool = False
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the conditions of the query."""
        found: list[ColumnElement[bool]] = [
            _COLUMNS[name] == value
            for name in ("namespace", "state", "dag_id", "run_id", "conn_id")
            if (value := getattr(self, name)) is not None
        ]
        if self.dag_ids is not None:
            found.append(_COLUMNS.dag_id.in_(self.dag_ids))
        if self.accepted:
            found.append(_COLUMNS.generation_id.is_not(None))
        if self.since:
            found.append(_COLUMNS.created_at >= self.since)
        if self.until:
            found.append(_COLUMNS.created_at < self.until)
        if self.text:
            # The database lowers both: SQLite knows ASCII letters only, and would not find an "Ü" that Python lowered.
            pattern = func.lower(pattern_of(self.text))
            texts = (_COLUMNS.prompt, _COLUMNS.generation_id)
            found.append(or_(*(func.lower(text).like(pattern, escape="/") for text in texts)))
        return found


def pattern_of(text: str) -> str:
    """Return the pattern of LIKE, with the escape character ``/``, for texts that contain this one."""
    return f"%{text.replace('/', '//').replace('%', '/%').replace('_', '/_')}%"


def list_submissions(database: Database, chosen: Filter, limit: int | None = None) -> list[dict[str, Any]]:
    """Return the latest submissions as JSON values."""
    columns = [column for column in _COLUMNS if column.name not in _NOT_LISTED]
    query = (
        select(*columns, _COLUMNS.item_key.label("key"))
        .where(*chosen.conditions())
        .order_by(_COLUMNS.created_at.desc(), _COLUMNS.number.desc())
        .limit(limit)
    )
    with database.reading() as connection:
        return [_json(row) for row in connection.execute(query).mappings()]


def export(database: Database, chosen: Filter) -> Iterator[dict[str, Any]]:
    """Return whole rows as JSON values, oldest first; links that were encrypted are left out."""
    # What a search compares is made from the others, and is binary in MySQL.
    columns = [column for column in _COLUMNS if not column.name.startswith("search_")]
    query = select(*columns).where(*chosen.conditions()).order_by(_COLUMNS.created_at)
    with database.reading() as connection:
        for row in connection.execute(query).mappings():
            value = _json(row)
            (value["record"] or {}).pop("sealed_result", None)
            yield value


def resolve(database: Database, task: TaskIdentity, key: str | None, generation_id: str | None) -> None:
    """
    Settle the uncertain submission of a task, for its next try.

    :param key: Item key or record key, for an item of a batch.
    :param generation_id: The generation that the submission came to; ``None`` if nothing was billed.
    :raises SeedanceRequestError: there is none, there are several, or it is being sent.
    """
    query = (
        select(submissions)
        .where(_COLUMNS.instance == task.instance, _COLUMNS.state.in_(UNSETTLED))
        .order_by(_COLUMNS.number)
        .with_for_update()  # a retry may have found the generation at this moment
    )
    if key is not None:
        query = query.where(or_(_COLUMNS.item_key == key, _COLUMNS.record_key == key))
    with database.transaction() as connection:
        # Of several submissions of a key, the latest one is that of the next try.
        rows = list({row["record_key"]: row for row in connection.execute(query).mappings()}.values())
        if len(rows) != 1:
            keys = ", ".join(str(row["item_key"] or row["record_key"]) for row in rows)
            why = f"several of them; choose one with --key: {keys}" if rows else "no uncertain submission"
            raise errors.SeedanceRequestError(
                f"Task {task.task_id!r} of run {task.run_id!r} of Dag {task.dag_id!r} has {why}."
            )
        row = rows[0]
        until = (row["intended_at"] or row["created_at"]) + timedelta(seconds=MAX_SUBMISSION_SECONDS)
        if row["state"] == RecordState.INTENT.value and until > utc_now():
            # The next try would pay beside the process that is sending it.
            raise errors.SeedanceRequestError(
                f"Task {task.task_id!r} of run {task.run_id!r} of Dag {task.dag_id!r} may be submitting at this moment. Settle "
                f"it after {iso(until)}, or as soon as a try has failed because it is uncertain. Nothing was recorded."
            )
        state = RecordState.SUBMITTED if generation_id else RecordState.NOT_SUBMITTED
        connection.execute(
            update(submissions)
            .where(*(_COLUMNS[name] == row[name] for name in ("instance", "record_key", "number")))
            .values(
                state=state.value,
                generation_id=generation_id,
                record={**(row["record"] or {}), "failure": None},
            )
        )


def render_again(database: Database, task: TaskIdentity, generation_id: str, until: datetime | None) -> None:
    """
    Record the decision that a clear of the task pays for another generation in place of this one.

    :param until: Time until which the decision holds; ``None`` withdraws it.
    :raises SeedanceRequestError: it is not the latest generation of its request, or did not succeed.
    """
    sent = (_COLUMNS.instance == task.instance, _COLUMNS.state != RecordState.NOT_SUBMITTED.value)
    key = select(_COLUMNS.record_key).where(*sent, _COLUMNS.generation_id == generation_id)
    latest = (
        select(submissions)
        .where(*sent, _COLUMNS.record_key == key.limit(1).scalar_subquery())
        .order_by(_COLUMNS.number.desc())
        .limit(1)
    )
    with database.transaction() as connection:
        row = connection.execute(latest).mappings().first()
        if not row or (row["generation_id"], row["status"]) != (generation_id, GenerationStatus.SUCCEEDED):
            raise errors.SeedanceRequestError(
                f"Generation {generation_id} is not the latest one of its request, or did not succeed."
            )
        decision = until and iso(until)
        connection.execute(
            update(submissions)
            .where(*(_COLUMNS[name] == row[name] for name in ("instance", "record_key", "number")))
            .values(record={**row["record"], "render_again_until": decision})
        )


def connection_ids(database: Database, namespace: str) -> list[str]:
    """Return the connections that submissions are billed to."""
    query = select(_COLUMNS.conn_id).where(_COLUMNS.namespace == namespace, _COLUMNS.conn_id.is_not(None))
    with database.reading() as connection:
        return list(connection.execute(query.distinct()).scalars())


_DURATIONS = (
    select(_COLUMNS.submitted_at, _COLUMNS.ended_at, _COLUMNS.result)
    .where(
        *(_COLUMNS[name] == bindparam(name) for name in ("kind", "namespace", "base_url")),
        _COLUMNS.status == GenerationStatus.SUCCEEDED.value,
        _COLUMNS.submitted_at.is_not(None),
        _COLUMNS.ended_at.is_not(None),
    )
    .order_by(_COLUMNS.created_at.desc())
    .limit(MAX_DURATIONS)
)


def known_durations(
    database: Database, namespace: str, base_url: str, kinds: Iterable[str]
) -> dict[str, list[float]]:
    """Return the seconds that the latest generations of kinds took at a service, oldest first; never raises."""
    values = {"namespace": namespace, "base_url": base_url}
    try:
        with database.reading() as connection:
            return {
                kind: _seconds(connection.execute(_DURATIONS, {**values, "kind": kind})) for kind in kinds
            }
    except errors.SeedanceLedgerError as error:
        log.warning("%s The polls are planned without the durations of earlier renders.", error.message)
        return {}


def _seconds(rows: Iterable[Any]) -> list[float]:
    # The service's own time is better: the end is read later.
    ends = [(read_time((row.result or {}).get("completed_at")) or row.ended_at, row) for row in rows]
    found = [round((end - row.submitted_at).total_seconds(), 1) for end, row in reversed(ends)]
    return [seconds for seconds in found if seconds > 0]


def kind_of_generation(database: Database, namespace: str, generation_id: str) -> str | None:
    """Return the kind of a generation by its request, or ``None``."""
    query = select(_COLUMNS.kind).where(
        _COLUMNS.generation_id == generation_id, _COLUMNS.namespace == namespace
    )
    with database.reading() as connection:
        return connection.execute(query.limit(1)).scalar()


def prune(
    database: Database,
    namespace: str,
    before: datetime,
    counted_since: Mapping[str, datetime | None] | None = None,
) -> int:
    """
    Delete what tasks submitted that have ended before a time; returns the number of rows. Unused shared states go, too.

    :param counted_since: Start of the longest budget period of each connection, which is kept; ``None`` for a budget
        in total.
    """
    intended_at = func.coalesce(_COLUMNS.intended_at, _COLUMNS.created_at)
    going = _COLUMNS.state.not_in([RecordState.ENDED.value, RecordState.NOT_SUBMITTED.value])
    kept = [
        going,
        func.coalesce(_COLUMNS.ended_at, _COLUMNS.created_at) >= before,
        *(
            and_(_COLUMNS.conn_id == conn_id, true() if since is None else intended_at >= since)
            for conn_id, since in (counted_since or {}).items()
        ),
    ]
    # A task is kept as a whole: its other rows count its submissions, and an item without a row is submitted again.
    going_on = (
        select(_COLUMNS.instance).where(_COLUMNS.namespace == namespace, or_(*kept)).distinct().subquery()
    )
    # MySQL takes the deleted table in a subquery of a subquery only. A task may submit again after the subquery was read.
    condition = (
        _COLUMNS.namespace == namespace,
        ~going,
        ~select(going_on).where(going_on.c.instance == _COLUMNS.instance).exists(),
    )
    unused = (shared_states.c.namespace == namespace, shared_states.c.updated_at < before)
    with database.transaction() as connection:
        connection.execute(delete(shared_states).where(*unused))
        return int(connection.execute(delete(submissions).where(*condition)).rowcount)


def _json(row: Any) -> dict[str, Any]:
    return {name: iso(value) if isinstance(value, datetime) else value for name, value in row.items()}
