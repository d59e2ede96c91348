"""Renders in the ledger as the library of the web interface shows them: found by words, with their stored files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, and_, collate, func, or_, select, true
from sqlalchemy.sql import ColumnElement, Select

from airflow_provider_seedance.generations import iso, utc_now
from airflow_provider_seedance.ledger.account import pattern_of
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.tables import submissions
from airflow_provider_seedance.submission.records import RecordState

_COLUMNS = submissions.c

#: Age from which an intent is uncertain: no call of a service takes longer.
MAX_SUBMISSION_SECONDS = 900

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

    def query(self, dialect: str, columns: Sequence[Column[Any]]) -> Select[Any]:
        """Return the query of columns of the renders."""
        found = [
            _COLUMNS.namespace == self.namespace,
            _COLUMNS.dag_id.in_(self.dag_ids),
            _is_uncertain() if self.uncertain else _COLUMNS.state != RecordState.NOT_SUBMITTED.value,
        ]
        if self.run_id is not None:
            found.append(_COLUMNS.run_id == self.run_id)
        query, words = select(*columns), self.text.split()
        # LIKE ignores case in SQLite and MySQL.
        contained: list[ColumnElement[bool]] = [
            _COLUMNS.prompt.like(pattern_of(word), escape="/") for word in words
        ]
        if dialect == "postgresql" and words:
            # ILIKE, and the planner if there is no OFFSET, lower the prompt for each word: that is the cost of a search.
            text = collate(_COLUMNS.prompt, "C") if self.text.isascii() else _COLUMNS.prompt
            lowered = select(func.lower(text).label("prompt")).correlate(submissions).offset(0).lateral()
            query = query.select_from(submissions.join(lowered, true()))
            contained = [func.strpos(lowered.c.prompt, func.lower(word)) > 0 for word in words]
        for word, condition in zip(words, contained, strict=True):
            found.append(or_(condition, *(_COLUMNS[name] == word for name in _NAMES)))
        return query.where(*found)


def _is_uncertain() -> ColumnElement[bool]:
    lost = utc_now() - timedelta(seconds=MAX_SUBMISSION_SECONDS)
    return or_(
        _COLUMNS.state == RecordState.UNCERTAIN.value,
        and_(_COLUMNS.state == RecordState.INTENT.value, _COLUMNS.created_at < lost),
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
    keys = [_COLUMNS[name] for name in ("instance", "record_key", "number")]
    # That of the index and the primary key: in another one, MySQL reads and sorts all rows.
    order = [column.desc() for column in (_COLUMNS.created_at, _COLUMNS.dag_id, _COLUMNS.state, *keys)]
    with database.reading() as connection:
        # The keys first: SQLite finds them in an index, which is a tenth of the table.
        chosen = search.query(connection.dialect.name, keys)
        found = chosen.order_by(*order).limit(limit).offset(offset).subquery()
        query = (
            select(*(_COLUMNS[name] for name in (*_SAME, *_SOURCES)), _is_uncertain().label("uncertain"))
            .join(found, and_(*(found.c[key.name] == key for key in keys)))
            .order_by(*order)
        )
        return [_render(row) for row in connection.execute(query).mappings()]


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
