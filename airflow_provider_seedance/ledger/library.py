"""Renders in the ledger as the library of the web interface shows them: found by words, with their stored files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.sql import ColumnElement, Select

from airflow_provider_seedance.generations import iso, utc_now
from airflow_provider_seedance.ledger.account import MAX_SUBMISSION_SECONDS, UNSETTLED
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.search_text import (
    INCOMPLETE,
    TOKEN_LENGTH,
    TOKENS_LENGTH,
    folded,
    tokens,
)
from airflow_provider_seedance.ledger.tables import submissions
from airflow_provider_seedance.submission.records import RecordState

_COLUMNS = submissions.c

# In the order of the index, so that a search for a frequent word ends early.
_LATEST_FIRST = [_COLUMNS[name].desc() for name in ("created_at", "state", "search_names", "search_text")]

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
    :param uncertain: Only uncertain submissions.
    """

    namespace: str
    dag_ids: Collection[str]
    run_id: str | None = None
    text: str = ""
    uncertain: bool = False

    def candidates(self, dialect: str) -> Select[Any]:
        """Return the query of what may be found, which reads an index alone: rows with incomplete texts are, too."""
        position = func.strpos if dialect == "postgresql" else func.instr
        text, names, state = _COLUMNS.search_text, _COLUMNS.search_names, _COLUMNS.state
        # First: a word leaves fewer rows than the Dags do, and takes less time.
        complete = [
            or_(
                position(text, folded(word)) > 0,
                position(func.substr(text, 1, TOKENS_LENGTH), tokens(word)) > 0,
                position(names, tokens(word)) > 0,
            )
            for word in self.text.split()
        ]
        complete.append(func.substr(text, 1, TOKEN_LENGTH).in_([tokens(dag_id) for dag_id in self.dag_ids]))
        found = [
            _COLUMNS.namespace == self.namespace,
            state.in_(UNSETTLED) if self.uncertain else state != RecordState.NOT_SUBMITTED.value,
            or_(text == INCOMPLETE, and_(*complete)),
        ]
        if self.run_id is not None:
            found.append(_COLUMNS.run_id == self.run_id)
        return select(*submissions.primary_key).where(*found).order_by(*_LATEST_FIRST)

    def finds(self, row: Any) -> bool:
        """Return whether a candidate is found."""
        prompt, names = folded(row["prompt"] or ""), [row[name] for name in _NAMES]
        found = (folded(word) in prompt or word in names for word in self.text.split())
        return row["dag_id"] in self.dag_ids and self.uncertain <= row["uncertain"] and all(found)


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
    found, start, size = list[Any](), 0, offset + limit
    with database.reading() as connection:
        while True:
            chosen = search.candidates(connection.dialect.name).limit(size).offset(start).subquery()
            query = (
                select(*(_COLUMNS[name] for name in (*_SAME, *_SOURCES)), _is_uncertain().label("uncertain"))
                .join(chosen, and_(*(chosen.c[column.name] == column for column in submissions.primary_key)))
                .order_by(*_LATEST_FIRST)
            )
            rows = connection.execute(query).mappings().all()
            found += [row for row in rows if search.finds(row)]
            if len(rows) < size or len(found) >= offset + limit:
                return [_render(row) for row in found[offset : offset + limit]]
            # Some candidates were none.
            start, size = start + size, 2 * size


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
