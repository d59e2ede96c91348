"""Ends that no worker writes: in the rows of the generation, and in no unlike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from airflow_provider_seedance.generations import GenerationStatus
from airflow_provider_seedance.ledger import record_end
from airflow_provider_seedance.ledger.entries import LedgerEntry
from airflow_provider_seedance.ledger.tables import submissions
from airflow_provider_seedance.submission import records as rec

from . import record_samples as samples
from .rows import NOON, add, configured, row

PAYER = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": 1}

DONE = samples.generation(0, generation_id="g-0", credits=12)


def submitted(number: int, reused_from: Any = None, **changes: Any) -> dict[str, Any]:
    running = replace(DONE, status=GenerationStatus.RUNNING, urls=())
    intent = rec.replace(samples.intent(), result_defaults={"credits": 14, "reused_from": reused_from})
    record = rec.as_submitted(intent, running, NOON, synchronous=False)
    return {**row(number), **LedgerEntry("generation", record=record).columns(), **changes}


def ended(ledger: Path) -> dict[int, Any]:
    """Return the status, the credits and the link of the rows that have ended."""
    with configured().reading() as connection:
        rows = connection.execute(select(submissions).where(submissions.c.state == "ended")).mappings().all()
    return {
        one["map_index"]: (one["status"], one["credits"], (one["result"] or {}).get("url")) for one in rows
    }


@pytest.mark.parametrize(("reused_from", "number", "credits"), [(None, 0, 12), (PAYER, 1, 0)])
def test_an_end_is_written_into_the_row_that_waits_for_it(
    ledger: Path, caplog: pytest.LogCaptureFixture, reused_from: Any, number: int, credits: float
) -> None:
    unlike = [
        submitted(2, namespace="n"),
        submitted(3, api="fal"),
        submitted(4, generation_id="g-9"),
        submitted(5, state="uncertain", generation_id=None),
    ]
    add(configured(), [submitted(0), submitted(1, PAYER), *unlike])
    record_end(replace(DONE, reused_from=reused_from))
    url = "https://media.example/0.mp4"
    assert ended(ledger) == {number: ("succeeded", credits, url)}
    # It is written once.
    record_end(replace(DONE, reused_from=reused_from, status=GenerationStatus.FAILED))
    assert ended(ledger) == {number: ("succeeded", credits, url)}
    assert caplog.messages == []
