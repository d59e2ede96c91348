"""Renders in the ledger as the library of the web interface shows them: found by words, with their stored files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, func, or_, select, union
from sqlalchemy.sql import ColumnElement, Select, Subquery

from airflow_provider_seedance.generations import iso, utc_now
from airflow_provider_seedance.ledger.account import MAX_SUBMISSION_SECONDS, UNSETTLED
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.search_text import INCOMPLETE, TOKEN_LENGTH, folded, token
from airflow_provider_seedance.ledger.tables import submissions
from airflow_provider_seedance.submission.records import RecordState

_COLUMNS = submissions.c

# The order of an index, so that a search for what is frequent ends early.
_BY_STATE = ("created_at", "dag_id", "state")
_BY_TEXT = ("created_at", "search_model", "search_text")

#: Columns that a word of a search may be; the prompt contains it.
_NAMES = ("generation_id", "dag_id", "model", "item_key")

#: Columns that tell a row from all others of its namespace.
KEY = ("dag_id", "run_id", "task_id", "map_index", "loop_index", "record_key", "number")

#: Columns that are shown as they are, and those that the others are made from.
_SAME = (
    *(*KEY, "generation_id", "api", "model", "media", "prompt"),
    *("duration", "resolution", "credits", "cost_usd", "output_tokens"),
)
_SOURCES = (
    *("item_key", "state", "status", "created_at", "intended_at", "submitted_at", "ended_at"),
    *("result", "record", "stored_files"),
)


@dataclass(frozen=True, kw_only=True)
class Search:
    """
    Selection of renders.

    :param dag_ids: Dags that the user may read.
    :param text: Words. Each is in the prompt, or is the generation id, the Dag id, the model or the item key.
    """

    namespace: str
    dag_ids: Collection[str]
    run_id: str | None = None
    text: str = ""
    uncertain: bool = False

    def candidates(self, dialect: str, size: int) -> Subquery:
        """Return the latest rows that may be found, which an index alone decides."""
        words = self.text.replace("\0", "").split()
        run = [] if self.run_id is None else [_COLUMNS.run_id == self.run_id]
        found = [_COLUMNS.namespace == self.namespace, *run]
        if self.uncertain or not words:
            state = _COLUMNS.state
            found.append(state.in_(UNSETTLED) if self.uncertain else state != RecordState.NOT_SUBMITTED.value)
            return _latest(_BY_STATE, size, *found, _COLUMNS.dag_id.in_(self.dag_ids)).subquery()
        position = func.strpos if dialect == "postgresql" else func.instr
        text, names = _COLUMNS.search_text, func.substr(_COLUMNS.search_text, 1, 2 * TOKEN_LENGTH)
        # First: a word leaves fewer rows than the Dags do, and takes less time.
        complete = [
            or_(position(text, folded(word)) > 0, position(names, name) > 0, _COLUMNS.search_model == name)
            for word, name in ((word, token(word)) for word in words)
        ]
        complete.append(func.substr(text, 1, TOKEN_LENGTH).in_([token(dag_id) for dag_id in self.dag_ids]))
        by_text = _latest(_BY_TEXT, size, *found, or_(text == INCOMPLETE, and_(*complete))).subquery()
        # Databases read the index of the ids: no other one has this order, or these namespaces.
        found = [_COLUMNS.generation_id.in_(words), _COLUMNS.namespace.concat("") == self.namespace, *run]
        by_id = _latest(_BY_TEXT, size, *found).order_by(None).limit(None)
        return union(select(by_text), by_id).subquery()

    def finds(self, row: Any) -> bool:
        """Return whether a candidate is found."""
        prompt, names = folded(row["prompt"] or ""), [row[name] for name in _NAMES]
        found = (folded(word) in prompt or word in names for word in self.text.split())
        sent = row["state"] != RecordState.NOT_SUBMITTED.value
        return sent and row["dag_id"] in self.dag_ids and self.uncertain <= row["uncertain"] and all(found)


def _latest(order: Sequence[str], size: int, *found: ColumnElement[bool]) -> Select[Any]:
    """Return the query of the keys and the order of the latest rows."""
    columns = [*submissions.primary_key, *(_COLUMNS[name] for name in order)]
    query = select(*columns).where(*found).order_by(*(_COLUMNS[name].desc() for name in order))
    return query.limit(size)


def _is_uncertain() -> ColumnElement[bool]:
    lost = utc_now() - timedelta(seconds=MAX_SUBMISSION_SECONDS)
    return or_(
        _COLUMNS.state == RecordState.UNCERTAIN.value,
        and_(_COLUMNS.state == RecordState.INTENT.value, _COLUMNS.intended_at < lost),
    )


def dag_ids(database: Database, namespace: str, since: datetime | None = None) -> set[str]:
    """Return the Dags that have submitted something, since a time."""
    query = select(_COLUMNS.dag_id).where(_COLUMNS.namespace == namespace).distinct()
    if since is not None:
        query = query.where(_COLUMNS.created_at >= since)
    with database.reading() as connection:
        return set(connection.execute(query).scalars())


def find_renders(database: Database, search: Search, *, limit: int, offset: int = 0) -> list[dict[str, Any]]:
    """Return the latest renders, as JSON values."""
    size = offset + limit
    with database.reading() as connection:
        while True:
            # All at once: rows of one time have no order that a second query would repeat.
            chosen = search.candidates(connection.dialect.name, size)
            query = (
                select(*(_COLUMNS[name] for name in (*_SAME, *_SOURCES)), _is_uncertain().label("uncertain"))
                .join(chosen, and_(*(chosen.c[column.name] == column for column in submissions.primary_key)))
                .order_by(*(column.desc() for column in list(chosen.c)[len(submissions.primary_key) :]))
                .limit(size)
            )
            rows = connection.execute(query).mappings().all()
            found = [row for row in rows if search.finds(row)]
            if len(rows) < size or len(found) >= offset + limit:
                return [_render(row) for row in found[offset : offset + limit]]
            # Some candidates were none.
            size *= 3


def _render(row: Any) -> dict[str, Any]:
    result, record = row["result"] or {}, row["record"] or {}
    return {
        **{name: row[name] for name in _SAME},
        "key": row["item_key"],
        "state": _state(row),
        "error": (record.get("failure") or {}).get("error"),
        "started_at": iso(row["submitted_at"] or row["intended_at"] or row["created_at"]),
        "ended_at": iso(row["ended_at"]) if row["ended_at"] else None,
        # Links that were signed work only with their signatures, which are not here.
        "urls": result.get("urls") or [] if record.get("result_is_complete") else [],
        "expires_at": result.get("expires_at"),
        "stored_files": [file["path"] for file in row["stored_files"] or []],
    }


def _state(row: Any) -> str:
    if row["uncertain"]:
        return "uncertain"
    if row["state"] == RecordState.ENDED.value:
        return str(row["status"] or "failed")
    return "running" if row["state"] == RecordState.SUBMITTED.value else "queued"


def stored_file(
    database: Database, namespace: str, dag_id: str, generation_id: str, index: int
) -> dict[str, Any] | None:
    """Return the path, the hash and the connection of a stored file, or ``None``."""
    query = select(_COLUMNS.stored_files).where(
        _COLUMNS.namespace == namespace,
        _COLUMNS.dag_id == dag_id,
        _COLUMNS.generation_id == generation_id,
        _COLUMNS.stored_files.is_not(None),
    )
    with database.reading() as connection:
        files = connection.execute(query.limit(1)).scalar() or []
    return files[index] if index < len(files) else None
