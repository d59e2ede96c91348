"""Rows of a ledger for tests of its queries, written without a submission."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert

from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.ledger import account
from airflow_provider_seedance.ledger.configuration import read_config
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import TaskIdentity
from airflow_provider_seedance.ledger.search_text import prompt_text, token
from airflow_provider_seedance.ledger.tables import submissions

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def row(number: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a row of a render that succeeded."""
    identity: dict[str, Any] = {
        "namespace": "default",
        "dag_id": "ads",
        "run_id": "run",
        "task_id": "video",
        "map_index": number,
    }
    identity |= {name: changes.pop(name) for name in [*identity, "loop_index"] if name in changes}
    url = f"https://media.example/{number}.mp4"
    values: dict[str, Any] = {
        **TaskIdentity(**identity).columns(),
        "record_key": "generation",
        "number": 1,
        "state": "ended",
        "status": "succeeded",
        **dict.fromkeys(("created_at", "intended_at", "submitted_at", "ended_at"), NOON),
        "generation_id": f"g-{number}",
        "api": "ark",
        "conn_id": "seedance_default",
        "media": "video",
        "model": "seedance-1-5-pro",
        "duration": 5,
        "resolution": "720p",
        "prompt": f"A heron, {number}",
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


def uncertain(number: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a row of a submission whose fate is unknown."""
    unknown = ("generation_id", "status", "credits", "cost_usd", "ended_at", "result")
    return row(number, **{"state": "uncertain", **dict.fromkeys(unknown), **changes})


def add(database: Database, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows."""
    with database.transaction() as connection:
        connection.execute(insert(submissions), list(rows))


def configured() -> Database:
    """Return the configured ledger."""
    config = read_config()
    assert config is not None
    return Database(config)


def recorded() -> list[dict[str, Any]]:
    """Return the submissions of the configured ledger."""
    return account.list_submissions(configured(), account.Filter())


def generation(generation_id: str) -> Generation:
    return Generation(
        generation_id=generation_id, api="ark", media="video", status=GenerationStatus.SUCCEEDED
    )
