"""Rows of a ledger for tests of its queries, written without a submission."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, select

from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.ledger import account
from airflow_provider_seedance.ledger.configuration import read_config
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import TaskIdentity
from airflow_provider_seedance.ledger.search_text import prompt_text, token
from airflow_provider_seedance.ledger.tables import submissions

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def row(index: int = 0, /, **changes: Any) -> dict[str, Any]:
    """Return a row of a render that succeeded, with this map index."""
    identity: dict[str, Any] = {
        "namespace": "default",
        "dag_id": "ads",
        "run_id": "run",
        "task_id": "video",
        "map_index": index,
    }
    identity |= {name: changes.pop(name) for name in [*identity, "loop_index"] if name in changes}
    url = f"https://media.example/{index}.mp4"
    values: dict[str, Any] = {
        **TaskIdentity(**identity).columns(),
        "record_key": "generation",
        "number": 1,
        "state": "ended",
        "status": "succeeded",
        **dict.fromkeys(("created_at", "intended_at", "submitted_at", "ended_at"), NOON),
        "generation_id": f"g-{index}",
        "api": "ark",
        "conn_id": "seedance_default",
        "media": "video",
        "model": "seedance-1-5-pro",
        "duration": 5,
        "resolution": "720p",
        "prompt": f"A heron, {index}",
        "estimated_credits": 14,
        "estimated_cost_usd": 0.1,
        "credits": 12,
        "cost_usd": 0.07,
        "item_key": None,
        "stored_files": None,
        "fingerprint": "f" * 32,
        "result": {"url": url, "urls": [url], "expires_at": None},
        "record": {"result_is_complete": True},
    }
    values |= changes
    texts = {
        "search_model": token(values["model"]),
        "search_text": prompt_text(
            identity["namespace"], identity["dag_id"], values["item_key"], values["prompt"]
        ),
    }
    return {**texts, **values}


def uncertain(index: int = 0, /, **changes: Any) -> dict[str, Any]:
    """Return a row of a submission whose fate is unknown."""
    unknown = ("generation_id", "status", "credits", "cost_usd", "ended_at", "result")
    return row(index, **{"state": "uncertain", **dict.fromkeys(unknown), **changes})


def add(database: Database, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows."""
    with database.transaction() as connection:
        connection.execute(insert(submissions), list(rows))


def configured() -> Database:
    """Return the configured ledger."""
    config = read_config()
    assert config is not None
    return Database(config)


def content(database: Database, *names: str) -> list[Any]:
    """Return columns of all rows, by their map index and number."""
    query = select(*(submissions.c[name] for name in names))
    with database.reading() as connection:
        found = connection.execute(query.order_by(submissions.c.map_index, submissions.c.number)).all()
    return [tuple(each) for each in found]


def recorded() -> list[dict[str, Any]]:
    """Return the submissions of the configured ledger."""
    return account.list_submissions(configured(), account.Filter())


def generation(generation_id: str, status: str = "succeeded") -> Generation:
    return Generation(generation_id=generation_id, api="ark", media="video", status=GenerationStatus(status))
