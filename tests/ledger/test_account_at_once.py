"""Corrections and deletions while a task writes its rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text, update

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.ledger import account
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import TaskIdentity
from airflow_provider_seedance.ledger.tables import submissions
from airflow_provider_seedance.submission.records import RecordState
from airflow_provider_seedance.submission.store import GENERATION_KEY

from .record_samples import DETAILS, NOW, same_intent, submitted
from .rows import NOON, add, row, uncertain

TASK = TaskIdentity(namespace="default", dag_id="ads", run_id="run", task_id="video", map_index=0)

#: Sessions that wait for a lock.
_WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")


@pytest.fixture
def database(postgres_ledger: Any, open_ledger: Any) -> Database:
    found: Database = open_ledger()._database
    return found


def while_a_task_writes(database: Database, values: dict[str, Any], do: Callable[[], object]) -> list[object]:
    """Do something that has to wait for a transaction of a task; return its result or error."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(do())
        except errors.SeedanceError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    with database.transaction() as connection:
        connection.execute(update(submissions).values(values))
        thread.start()
        until = time.monotonic() + 60
        while True:
            with database.reading() as other:
                if other.execute(_WAITING).scalar() or time.monotonic() > until:
                    break
            time.sleep(0.02)
    thread.join(60)
    return results


def states(database: Database) -> list[str]:
    with database.reading() as connection:
        return list(connection.execute(select(submissions.c.state)).scalars())


def test_a_submission_that_a_retry_has_found_is_not_settled(database: Database) -> None:
    add(database, [uncertain(0)])
    (error,) = while_a_task_writes(
        database,
        {"state": "submitted", "generation_id": "g-1"},
        lambda: account.resolve(database, TASK, None, None),
    )
    assert "no uncertain submission" in str(error)
    assert states(database) == ["submitted"]


def test_a_row_that_is_submitted_again_is_not_deleted(database: Database) -> None:
    add(database, [row(0, state="not_submitted", status=None)])
    (deleted,) = while_a_task_writes(
        database, {"state": "intent"}, lambda: account.prune(database, "default", NOON + timedelta(days=1))
    )
    assert (deleted, states(database)) == (0, ["intent"])


def test_a_submission_after_the_earlier_ones_were_deleted_has_a_number_of_its_own(
    ledger: Path, open_ledger: Any
) -> None:
    """A clear may submit at the moment in which its earlier rows are deleted."""
    first, second, third = (replace(same_intent(), intended_at=NOW + timedelta(seconds=n)) for n in range(3))
    for record in (first, second):
        store = open_ledger()
        store.write_intent(GENERATION_KEY, record, DETAILS)
        store.write(GENERATION_KEY, replace(submitted(record), state=RecordState.ENDED, ended_at=NOW))
    with store._database.transaction() as connection:
        connection.execute(submissions.delete().where(submissions.c.number == 1))
    open_ledger().write_intent(GENERATION_KEY, third, DETAILS)
    assert open_ledger().read(GENERATION_KEY) == third
