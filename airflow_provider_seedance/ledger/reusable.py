"""Generations in the ledger that another task can reuse, read in the transaction that writes its intent."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import and_, exists, or_, select, true
from sqlalchemy.engine import Connection

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import GenerationStatus, utc_now
from airflow_provider_seedance.ledger.account import MAX_SUBMISSION_SECONDS
from airflow_provider_seedance.ledger.entries import LedgerEntry, TaskIdentity
from airflow_provider_seedance.ledger.reservations import lock
from airflow_provider_seedance.ledger.tables import submissions
from airflow_provider_seedance.submission.records import Record, RecordState
from airflow_provider_seedance.submission.store import ReuseSearch

_COLUMNS = submissions.c

#: Prices of the connection, which do not apply to what another task has paid for.
_RATES = ("usd_per_credit", "usd_per_million_tokens", "usd_per_image", "fixed_usd")

#: Generations that are read in vain before only recent ones are considered: older ones are gone, too.
MAX_UNUSABLE = 3

#: Delay after which another task has sent its submission, and recorded the id.
RETRY_SECONDS = 15.0


def find_reusable(
    connection: Connection, task: TaskIdentity, record_key: str, search: ReuseSearch | None
) -> Record | None:
    """
    Return the record of a generation of the same request by another task, at one of the connections, if there is one.

    Transactions that look for the same request wait for each other, so that one of them submits.

    :raises SeedanceRateLimitError: another task is submitting it at this moment.
    """
    if search is None or not search.intents:
        return None
    for key in sorted(search.intents):  # in one order, so that none waits for the other
        lock(connection, f"{task.namespace} {key}")
    row = _source(connection, task, record_key, search)
    if row is None:
        return None
    intent = search.intents[row["reuse_key"]]
    payer = {name: row[name] for name in ("dag_id", "run_id", "task_id", "map_index")}
    if row["generation_id"] is None:
        raise errors.SeedanceRateLimitError(
            f"Task {payer['task_id']!r} of run {payer['run_id']!r} of Dag {payer['dag_id']!r} is submitting the same "
            "request.",
            retry_after=RETRY_SECONDS,
        )
    source = LedgerEntry.of_row(row).record
    return replace(
        intent,
        state=RecordState.SUBMITTED,
        generation_id=row["generation_id"],
        submitted_at=row["submitted_at"] or utc_now(),
        correlation=None,
        callback_nonce=None,
        # The service does not have that of a synchronous image.
        result=source.result if source else None,
        result_defaults={
            **{name: value for name, value in intent.result_defaults.items() if name not in _RATES},
            "credits": 0.0,
            "cost_usd": 0.0,
            "reused_from": payer,
        },
    )


def _source(connection: Connection, task: TaskIdentity, record_key: str, search: ReuseSearch) -> Any:
    """Return the latest row that can be reused: one that has succeeded, or is in flight."""
    recent = _COLUMNS.intended_at >= utc_now() - timedelta(seconds=MAX_SUBMISSION_SECONDS)
    own = submissions.alias()
    query = select(submissions).where(
        _COLUMNS.reuse_key.in_(list(search.intents)),
        _COLUMNS.namespace == task.namespace,
        _COLUMNS.instance != task.instance,
        or_(
            and_(
                _COLUMNS.state == RecordState.ENDED.value, _COLUMNS.status == GenerationStatus.SUCCEEDED.value
            ),
            _COLUMNS.state == RecordState.SUBMITTED.value,
            # The worker of an older one was lost.
            and_(_COLUMNS.state == RecordState.INTENT.value, recent),
        ),
        true() if len(search.unusable_ids) < MAX_UNUSABLE else recent,
        or_(_COLUMNS.generation_id.is_(None), _COLUMNS.generation_id.not_in(search.unusable_ids)),
        # Items of one batch are takes of their own.
        ~exists().where(
            own.c.instance == task.instance,
            own.c.record_key != record_key,
            own.c.generation_id == _COLUMNS.generation_id,
        ),
    )
    if search.scope == "dag":
        query = query.where(_COLUMNS.dag_id == task.dag_id)
    # Ended rows come first (their state is the first by name), and those without an id last.
    query = query.order_by(_COLUMNS.generation_id.is_(None), _COLUMNS.state, _COLUMNS.intended_at.desc())
    return connection.execute(query.limit(1)).mappings().first()
