"""Comparison of the ledger with the generations that a service lists."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_, select

from airflow_provider_seedance.generations import Generation, GenerationStatus, iso, utc_now
from airflow_provider_seedance.ledger.account import UNSETTLED
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import LedgerEntry, public_result
from airflow_provider_seedance.ledger.tables import submissions
from airflow_provider_seedance.submission.records import RecordState, as_ended

_COLUMNS = submissions.c

#: Columns that follow from what the service reports.
_COMPARED = ("status", "credits", "cost_usd", "output_tokens")

#: Columns of the task that submitted, in the result.
_TASK = ("namespace", "dag_id", "run_id", "task_id", "map_index", "loop_index")

#: Time for which a service lists its generations (ark).
MAX_LISTED_AGE = timedelta(days=7)

#: Ids in one query.
_MAX_IDS = 500


def reconcile(
    database: Database,
    namespace: str,
    conn_id: str,
    listed: Sequence[Generation],
    since: datetime,
    until: datetime,
) -> list[dict[str, Any]]:
    """
    Return the differences between the ledger and the list of the service, as JSON values.

    :param listed: The generations of the account, at least those between two times.
    :param until: The second of these times; a later submission may be under way.
    """
    rows = _rows_of(database, [generation.generation_id for generation in listed])
    found: list[dict[str, Any]] = []
    for generation in listed:
        row = rows.get(generation.generation_id)
        if row is not None:
            found += _differences(row, generation)
        elif since <= (generation.created_at or since) < until:
            found.append(_difference("not in the ledger", None, generation, None, generation.status.value))
    submitted = _submitted_between(database, namespace, conn_id, since, until)
    return [*found, *_not_listed(submitted, rows.keys())]


def _rows_of(database: Database, ids: Sequence[str]) -> dict[str, Any]:
    """Return the rows of generations by their ids: those of the tasks that paid, in every namespace."""
    found: dict[str, Any] = {}
    with database.reading() as connection:
        for start in range(0, len(ids), _MAX_IDS):
            query = select(submissions).where(_COLUMNS.generation_id.in_(ids[start : start + _MAX_IDS]))
            for row in connection.execute(query).mappings():
                if not _is_reused(row):
                    found[row["generation_id"]] = row
    return found


def _differences(row: Any, generation: Generation) -> Iterator[dict[str, Any]]:
    record = LedgerEntry.of_row(row).record
    if record is None or not generation.status.terminal:
        if row["state"] == RecordState.ENDED.value:
            yield _difference("status", row, generation, row["status"], generation.status.value)
        return
    if row["state"] != RecordState.ENDED.value:
        yield _difference("status", row, generation, row["state"], generation.status.value)
        return
    known = generation.with_defaults(record.result_defaults)
    unreported = replace(record, reported_credits=None, reported_cost_usd=None, result=None)
    ended = as_ended(unreported, known, utc_now())
    expected = LedgerEntry(row["record_key"], record=ended, result=public_result(known.result())).columns()
    for name in _COMPARED:
        if expected[name] is not None and expected[name] != row[name]:
            yield _difference(name, row, generation, row[name], expected[name])


def _submitted_between(
    database: Database, namespace: str, conn_id: str, since: datetime, until: datetime
) -> Sequence[Any]:
    """Return the rows of a connection that the service should list, or whose fate is unknown."""
    unsettled = _COLUMNS.state.in_(UNSETTLED)
    query = select(submissions).where(
        _COLUMNS.namespace == namespace,
        _COLUMNS.conn_id == conn_id,
        _COLUMNS.intended_at >= since,
        _COLUMNS.intended_at < until,
        # Services list videos only.
        or_(unsettled, _COLUMNS.media == "video"),
        _COLUMNS.state != RecordState.NOT_SUBMITTED.value,
    )
    with database.reading() as connection:
        rows = connection.execute(query.order_by(_COLUMNS.intended_at)).mappings().all()
    return [row for row in rows if not _is_reused(row)]


def _is_reused(row: Any) -> bool:
    """Return whether another task has paid for the generation."""
    return bool(((row["record"] or {}).get("result_defaults") or {}).get("reused_from"))


def _not_listed(rows: Iterable[Any], listed: Collection[str]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if row["generation_id"] is None:
            yield _difference("uncertain", row, None, row["state"], None)
        # A service forgets what was cancelled.
        elif row["generation_id"] not in listed and row["status"] != GenerationStatus.CANCELLED.value:
            yield _difference("not listed", row, None, row["status"] or row["state"], None)


def _difference(
    name: str, row: Any, generation: Generation | None, recorded: object, reported: object
) -> dict[str, Any]:
    task = {column: row[column] if row is not None else None for column in _TASK}
    created_at = generation.created_at if generation else row["intended_at"]
    return {
        "difference": name,
        "generation_id": generation.generation_id if generation else row["generation_id"],
        "ledger": recorded,
        "service": reported,
        **task,
        "key": row["item_key"] if row is not None else None,
        "created_at": iso(created_at),
    }
