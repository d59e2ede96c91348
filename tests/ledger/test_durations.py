"""Durations of earlier renders: what the ledger knows of them, and who is given them."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import read_time
from airflow_provider_seedance.ledger import account
from airflow_provider_seedance.polling import hub
from airflow_provider_seedance.polling.duration_model import kind_of
from airflow_provider_seedance.triggers.seedance import SeedanceBatchTrigger

from .conftest import Batches
from .discarding_task import DiscardingTask
from .rows import NOON, add, configured, row

ADDRESS = "https://ark.example"
KIND, OTHER = kind_of("video", {"duration": 5}), kind_of("video", {"duration": 9})


def render(number: int, seconds: float, **changes: Any) -> dict[str, Any]:
    made_at = NOON + timedelta(minutes=number)
    times = {"created_at": made_at, "submitted_at": made_at, "ended_at": made_at + timedelta(seconds=seconds)}
    return row(number, **{"base_url": ADDRESS, "kind": KIND, **times, **changes})


def durations(*kinds: str, namespace: str = "default", base_url: str = ADDRESS) -> dict[str, list[float]]:
    return account.known_durations(configured(), namespace, base_url, kinds)


def test_the_latest_durations_of_a_kind(any_ledger: Any) -> None:
    rows = [render(number, 100.04 + number) for number in range(account.MAX_DURATIONS + 5)]
    reported = {**row()["result"], "completed_at": (NOON + timedelta(minutes=90, seconds=7)).isoformat()}
    rows += [
        render(90, 900, result=reported),
        render(91, 900, kind=OTHER),
        render(92, 900, status="failed"),
        render(93, 900, submitted_at=None),
        render(94, 900, base_url="https://other.example"),
        render(95, -1),
    ]
    add(configured(), rows)
    found = durations(KIND, OTHER, "none")
    assert found == {KIND: [*(107.0 + number for number in range(28)), 7.0], OTHER: [900.0], "none": []}
    assert durations(KIND, namespace="other") == {KIND: []}


def test_the_kind_of_a_render_that_is_not_known_costs_no_search(ledger: Path) -> None:
    query = "EXPLAIN QUERY PLAN SELECT 1 FROM seedance_submissions WHERE kind = 'k' AND status = 's' ORDER BY created_at"
    with configured().reading() as connection:
        plan = str(connection.exec_driver_sql(query).all())
    assert "seedance_submissions_kind (kind=? AND status=?)" in plan
    assert "TEMP B-TREE" not in plan


def taught(seconds: float = 240.0) -> None:
    """Let the renders of the ledger have taken some time, an hour ago."""
    with configured().transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE seedance_submissions SET submitted_at = datetime('now', '-3600 seconds'), "
            f"ended_at = datetime('now', '-{3600 - seconds} seconds'), result = NULL"
        )


def test_a_trigger_and_a_worker_are_given_the_durations_of_earlier_renders(
    task: DiscardingTask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    task.defer()
    assert task.deferred.trigger.durations == []
    task.resume()
    assert "expected to end" not in caplog.text
    taught()
    caplog.clear()
    task.ti.map_index = 7
    before = time.time()
    task.defer()
    _, kwargs = json.loads(json.dumps(task.deferred.trigger.serialize()))
    assert kwargs["durations"] == [240.0]
    assert "The render is expected to end at about 20" in caplog.text
    end = read_time(task.ti.pushed["seedance_ends_at"])
    assert end is not None
    assert before + 150 < end.timestamp() < time.time() + 300
    taught_kinds: list[Any] = []
    monkeypatch.setattr(hub._durations, "teach", lambda kind, durations: taught_kinds.append(durations))
    task.ti.map_index = 8
    task.execute()
    assert taught_kinds == [(240.0,)]


def test_a_ledger_that_is_away_costs_no_render(
    task: DiscardingTask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    away = errors.SeedanceLedgerError("The ledger is away.")
    monkeypatch.setattr(account, "_seconds", Mock(side_effect=away))
    task.defer()
    assert task.deferred.trigger.durations == []
    message = "The ledger is away. The polls are planned without the durations of earlier renders."
    assert message in caplog.messages
    assert task.resume()["status"] == "succeeded"


def test_the_trigger_of_a_batch_is_given_those_of_each_kind(connected: None, batch: Batches) -> None:
    sizes = {"a": "480p", "b": "720p", "c": "480p"}
    requests = [{"prompt": name, "resolution": size} for name, size in sizes.items()]
    batch(1).run(requests)
    taught()
    trigger = batch(2).defer(requests).trigger
    assert isinstance(trigger, SeedanceBatchTrigger)
    assert sorted(trigger.durations["seedance_default"].values()) == [[240.0], [240.0, 240.0]]
    assert [len(wait.durations) for _, wait in trigger.pending] == [2, 1, 2]
