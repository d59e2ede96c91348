"""The commands of the ledger, on a ledger with a few submissions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ledger.record_samples import DETAILS, ended, later, submitted
from support import Store, TaskInstance, make_context

from airflow_provider_seedance.cli import ledger_commands
from airflow_provider_seedance.generations import GenerationStatus, counted, utc_now
from airflow_provider_seedance.ledger import open_store
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import GENERATION_KEY

Run = Callable[..., tuple[Any, str]]
Command = Callable[..., Any]


@pytest.fixture
def ledger(ledger: Path) -> None:
    """One that succeeded, one that failed, one in flight, and an uncertain item of a batch."""
    records = {
        0: (GENERATION_KEY, ended(1)),
        1: (GENERATION_KEY, ended(2, status=GenerationStatus.FAILED, urls=(), credits=None, cost_usd=None)),
        2: (GENERATION_KEY, submitted(later(30, result_defaults={"credits": 20, "cost_usd": 0.1}))),
        3: ("digest.0", later(31, state=rec.RecordState.UNCERTAIN)),
    }
    for map_index, (key, record) in records.items():
        store: Any = open_store(make_context(Store(), TaskInstance(map_index=map_index)))
        store.write_intent(key, rec.replace(record, state=rec.RecordState.INTENT), DETAILS)
        store.write(key, record)


@pytest.fixture
def command(run: Run) -> Command:
    """Run a command; return its output, or its error if it exits with a code."""

    def of_ledger(*line: str, code: int = 0) -> Any:
        shown, printed = run("ledger", *line, code=code)
        return printed if code else shown

    return of_ledger


def test_spend(ledger: None, command: Command) -> None:
    (dag,) = command("spend", "--by", "dag", "--output", "json")
    assert dag == {
        "dag": "dag",
        "dag_id": "dag",
        "generations": 4,
        "credits": 14.0,
        "cost_usd": 0.07,
        "reserved_credits": 20.0,
        "reserved_cost_usd": 0.1,
    }
    today = utc_now().date()
    (day,) = command("spend", "--from", f"{today}", "--to", f"{today}", "--output", "json")
    assert (day["day"], day["generations"]) == (str(today), 4)
    assert command("spend", "--to", f"{today - timedelta(days=2)}", "--output", "json") == []
    (line,) = csv.DictReader(command("spend", "--by", "connection", "--output", "csv").splitlines())
    assert (line["connection"], line["credits"]) == ("seedance_default", "14")
    heading, line = command("spend", "--by", "task").splitlines()
    assert heading.split() == ["task", *list(dag)[2:]]
    assert line.split()[2:4] == ["14", "0.07"]


def test_amounts_are_not_rounded() -> None:
    amounts = {"cost_usd": 12345.678901, "credits": 4_000_000.0, "reserved_credits": 0.0, "none": None}
    (_, line) = ledger_commands._formatted([amounts], "csv")
    assert line == "12345.678901,4000000,0,"


def test_csv_keeps_texts_and_starts_no_formula() -> None:
    keys = ['=cmd|"/c calc"!A0', "+1", "-1", "@x", "\tx", 'a, "b"\r\nc\n\u2028ü', "a\r=b", "\n", ""]
    lines = ledger_commands._formatted([{"key": key, "credits": -1.5} for key in keys], "csv")
    found = list(csv.DictReader(io.StringIO("".join(f"{line}\n" for line in lines), newline="")))
    assert [row["key"] for row in found] == [f"'{key}" for key in keys[:5]] + keys[5:]
    assert {row["credits"] for row in found} == {"-1.5"}
    assert list(ledger_commands._formatted([], "csv")) == []


def test_a_row_of_a_table_is_one_line() -> None:
    lines = list(ledger_commands._formatted([{"key": "a\r\nb\u2028c", "cost_usd": 0.5}], "table"))
    assert lines == ["key    cost_usd", "a b c  0.5"]


def test_a_date_may_have_an_offset() -> None:
    moment = ledger_commands._age_or_date("2026-01-31T12:00:00+08:00")
    assert moment == datetime(2026, 1, 31, 4, tzinfo=UTC)


def test_a_service_without_a_list_has_that_of_the_ledger(
    ledger: None, connect: Callable[..., None], run: Run
) -> None:
    connect("seedance2api")
    rows, printed = run("list", "--output", "json")
    assert "The ledger has 3 generations of connection 'seedance_default'" in printed
    assert [row["status"] for row in rows] == ["running", "failed", "succeeded"]
    assert (rows[2]["credits"], rows[2]["task_id"], rows[2]["map_index"]) == (14.0, "task", 0)
    shown, _ = run("list", "--limit", "1")
    assert shown.count("task dag.task") == 1


def test_list(ledger: None, command: Command) -> None:
    found = command("list", "--output", "json")
    assert [row["map_index"] for row in found] == [3, 2, 1, 0]
    assert (found[3]["state"], found[3]["key"], found[3]["credits"]) == ("ended", "heron", 14.0)
    (uncertain,) = command("list", "--state", "uncertain", "--output", "json")
    assert uncertain["generation_id"] is None
    assert len(command("list", "--text", "QUARTZ", "--dag", "dag", "--since", "1h", "--output", "json")) == 4
    assert command("list", "--text", "%", "--output", "json") == []
    table = command("list", "--run", "run")
    assert "cgt-20260102030405-00001" in table
    assert "map_index  loop_index" in table


def test_resolve(ledger: None, command: Command) -> None:
    task = ("resolve", "dag", "run", "task", "--map-index", "3")
    assert "either" in command(*task, code=2)
    assert "either" in command(*task, "--key", "heron", "--generation-id", " ", code=2)
    assert "no uncertain" in command(*task, "--key", "other", "--not-billed", code=2)
    assert "no uncertain" in command(*task[:4], "--not-billed", code=2)
    command(*task, "--key", "heron", "--generation-id", " g-9")
    store = open_store(make_context(Store(), TaskInstance(map_index=3)))
    record = store.read("digest.0")
    assert record is not None
    assert (record.state, record.generation_id, record.failure) == (rec.RecordState.SUBMITTED, "g-9", None)


def test_prune_keeps_what_has_not_ended(ledger: None, command: Command) -> None:
    assert command("prune", "--older-than", "2025-12-31") == "Deleted 0 submissions.\n"
    assert command("prune", "--older-than", "0d", "--yes") == "Deleted 2 submissions.\n"
    states = [row["state"] for row in command("list", "--output", "json")]
    assert states == ["uncertain", "submitted"]


@pytest.mark.parametrize(("budget", "deleted"), [({"per": "total"}, 0), ({"per": "month"}, 2)], ids=str)
def test_prune_keeps_what_a_budget_counts(
    ledger: None, command: Command, monkeypatch: pytest.MonkeyPatch, budget: dict[str, Any], deleted: int
) -> None:
    extra = {"api": "ark", "budgets": [{"usd": 9, **budget}]}
    connection = {"conn_type": "seedance", "password": "k", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", json.dumps(connection))
    assert command("prune", "--older-than", "0d", "--yes") == f"Deleted {counted(deleted, 'submission')}.\n"


def test_export(ledger: None, command: Command) -> None:
    rows = [json.loads(line) for line in command("export").splitlines()]
    assert len(rows) == 4
    assert rows[0]["result"]["urls"] == ["https://media.example/1.mp4"]
    assert "sealed_result" not in rows[0]["record"]


def test_without_a_ledger(command: Command) -> None:
    assert "[seedance] ledger" in command("spend", code=2)


def test_an_invalid_date(ledger: None, command: Command) -> None:
    assert "not a date" in command("prune", "--older-than", "yesterday", code=2)
