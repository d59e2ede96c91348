"""Ends that no worker writes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_seedance.generations import GenerationStatus
from airflow_provider_seedance.ledger import record_end
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import LedgerEntry
from airflow_provider_seedance.submission import records as rec

from . import record_samples as samples
from .rows import NOON, add, content, row

PAYER = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": 1}

DONE = samples.generation(0, generation_id="g-0", credits=12)


def submitted(number: int, reused_from: Any = None, **changes: Any) -> dict[str, Any]:
    running = replace(DONE, status=GenerationStatus.RUNNING, urls=())
    intent = rec.replace(samples.intent(), result_defaults={"credits": 14, "reused_from": reused_from})
    record = rec.as_submitted(intent, running, NOON, synchronous=False)
    return {**row(number), **LedgerEntry("generation", record=record).columns(), **changes}


@pytest.mark.parametrize(("reused_from", "credits"), [(None, 12), (PAYER, 0)])
def test_an_end_is_written_into_the_row_that_waits_for_it(
    database: Database, caplog: pytest.LogCaptureFixture, reused_from: Any, credits: float
) -> None:
    unlike = [
        submitted(2, PAYER if reused_from is None else None),
        submitted(3, namespace="n"),
        submitted(4, api="fal"),
        submitted(5, generation_id="g-9"),
        submitted(6, state="uncertain", generation_id=None),
    ]
    add(database, [submitted(1, reused_from), *unlike])
    for status in (DONE.status, GenerationStatus.FAILED):  # it is written once
        record_end(replace(DONE, reused_from=reused_from, status=status))
        (first, *rest) = content(database, "state", "status", "credits", "result")
        assert first[:3] == ("ended", "succeeded", credits)
        assert first[3]["url"] == "https://media.example/0.mp4"
        assert "ended" not in {state for state, *_ in rest}
    assert caplog.messages == []
