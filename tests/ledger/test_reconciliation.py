"""Differences between rows of the ledger and the generations that a service lists."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.ledger import reconciliation
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import LedgerEntry
from airflow_provider_seedance.submission import records as rec

from . import record_samples as samples
from .rows import NOON, add, row, uncertain

HOUR = timedelta(hours=1)

#: The task of the rows.
TASK: dict[str, Any] = {"namespace": "default", "dag_id": "ads", "run_id": "run", "task_id": "video"}
TASK |= {"map_index": 0, "loop_index": -1, "key": "heron"}

NO_TASK = dict.fromkeys(TASK)

REUSED = {"result_defaults": {"reused_from": {"dag_id": "d"}}}


def listed(number: int = 0, **changes: Any) -> Generation:
    """Return a generation as the service lists it."""
    made = samples.generation(
        number, generation_id=f"g-{number}", created_at=NOON, usage={"output_tokens": 7}
    )
    return replace(made, **changes)


def ended(number: int = 0, **changes: Any) -> dict[str, Any]:
    """Return the row that a task has written about it."""
    record = rec.as_submitted(samples.intent(credits=14), listed(number), NOON, synchronous=True)
    columns = LedgerEntry("generation", record=record).columns()
    return {**row(number, item_key="heron"), **columns, "intended_at": NOON, **changes}


def compare(database: Database, *found: Generation, until: datetime = NOON + HOUR) -> list[Any]:
    return reconciliation.reconcile(database, "default", "seedance_default", found, NOON - HOUR, until)


def difference(name: str, recorded: object, reported: object, **task: Any) -> dict[str, Any]:
    values = {"difference": name, "generation_id": "g-0", "ledger": recorded, "service": reported}
    return {**values, **TASK, "created_at": "2026-03-10T12:00:00+00:00", **task}


@pytest.mark.parametrize(
    ("columns", "changes", "expected"),
    [
        ({}, {}, []),
        ({"status": "failed"}, {}, [("status", "failed", "succeeded")]),
        ({"credits": 5}, {}, [("credits", 5, 14)]),
        ({"cost_usd": None}, {}, [("cost_usd", None, 0.07)]),
        ({"output_tokens": 5}, {}, [("output_tokens", 5, 7)]),
        # What the service does not tell, and what follows from the request.
        ({}, {"credits": None, "cost_usd": None, "usage": None}, []),
        ({"credits": 9}, {"credits": None}, [("credits", 9, 14)]),
        ({"state": "submitted", "status": None}, {}, [("status", "submitted", "succeeded")]),
        ({"state": "submitted", "status": None}, {"status": GenerationStatus.RUNNING}, []),
        ({}, {"status": GenerationStatus.RUNNING}, [("status", "succeeded", "running")]),
        ({"state": "submitted", "record": None}, {}, []),
    ],
)
def test_a_difference(
    database: Database, columns: dict[str, Any], changes: dict[str, Any], expected: list[Any]
) -> None:
    add(database, [ended(**columns)])
    assert compare(database, listed(**changes)) == [difference(*each) for each in expected]


@pytest.mark.parametrize(
    ("created_at", "missing"),
    [
        (NOON - HOUR, True),
        (NOON - HOUR - timedelta(seconds=1), False),
        (NOON + HOUR, False),
        (None, True),
    ],
)
def test_a_generation_without_a_row(database: Database, created_at: datetime | None, missing: bool) -> None:
    add(database, [ended(1)])
    found = compare(database, listed(created_at=created_at), listed(1))
    shown = created_at and created_at.isoformat()
    expected = difference("not in the ledger", None, "succeeded", **NO_TASK, created_at=shown)
    assert found == ([expected] if missing else [])


def test_the_rows_of_other_namespaces_and_of_reuses(database: Database) -> None:
    other, reused = ended(1, namespace="n", generation_id="g-2"), ended(3, credits=0, record=REUSED)
    add(database, [ended(), other, {**reused, "generation_id": "g-0"}, ended(4, record=REUSED)])
    assert compare(database, listed(), listed(2)) == []


def test_any_number_of_generations(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciliation, "_MAX_IDS", 2)
    add(database, [ended(number) for number in range(5)])
    assert compare(database, *map(listed, range(5))) == []


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, ("not listed", "succeeded")),
        ({"state": "submitted", "status": None}, ("not listed", "submitted")),
        ({"status": "cancelled"}, None),
        ({"conn_id": "other"}, None),
        ({"namespace": "n"}, None),
        ({"media": "image"}, None),
        ({"intended_at": NOON - HOUR}, ("not listed", "succeeded")),
        ({"intended_at": NOON - HOUR - timedelta(seconds=1)}, None),
        ({"intended_at": NOON + HOUR}, None),
        ({"state": "not_submitted"}, None),
    ],
    ids=str,
)
def test_a_row_that_is_not_listed(
    database: Database, columns: dict[str, Any], expected: tuple[str, str] | None
) -> None:
    add(database, [ended(**columns)])
    created_at = columns.get("intended_at", NOON).isoformat()
    shown = [difference(*expected, None, created_at=created_at)] if expected else []
    assert compare(database) == shown


@pytest.mark.parametrize("state", ["intent", "uncertain"])
def test_a_submission_of_unknown_fate(database: Database, state: str) -> None:
    image = uncertain(0, state=state, media="image", item_key="heron", intended_at=NOON - HOUR / 2)
    video = uncertain(1, state=state)
    add(database, [video, image])
    first, second = compare(database)
    shown = {"generation_id": None, "created_at": "2026-03-10T11:30:00+00:00"}
    assert first == difference("uncertain", state, None, **shown)
    assert (second["difference"], second["map_index"], second["key"]) == ("uncertain", 1, None)
