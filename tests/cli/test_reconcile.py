"""The comparison of the ledger with what the service lists."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ledger.discarding_task import DiscardingTask
from ledger.rows import configured

from airflow_provider_seedance.cli import ledger_commands
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import VideoRequest
from airflow_provider_seedance.hooks.seedance import SeedanceHook

Connect = Callable[..., None]
Run = Callable[..., tuple[Any, str]]


@pytest.fixture
def task(
    services: SeedanceEmulator, connect: Connect, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> DiscardingTask:
    """A task at a service that lists, some time after its submission."""
    connect("ark")
    monkeypatch.setattr(ledger_commands, "MAX_SUBMISSION_SECONDS", -60)
    return DiscardingTask(services)


@pytest.fixture
def compare(run: Run) -> Run:
    """Run the command; return the differences and standard error."""
    return partial(run, "ledger", "reconcile", "--output", "json")


def change(values: str) -> None:
    with configured().transaction() as connection:
        connection.exec_driver_sql(f"UPDATE seedance_submissions SET {values}")


def test_a_ledger_that_agrees(task: DiscardingTask, run: Run, compare: Run) -> None:
    task.execute()
    task.emulator.hold()
    task.ti.map_index = 1
    task.defer()
    assert compare(code=0) == ([], "")
    assert run("ledger", "reconcile") == ("The ledger and the service agree.\n", "")


def test_a_generation_that_no_task_has_submitted(task: DiscardingTask, compare: Run) -> None:
    task.execute()
    generation_id = SeedanceHook().submit(VideoRequest(prompt="A lamp")).generation_id
    (row,), _ = compare(code=1)
    assert (row["difference"], row["generation_id"]) == ("not in the ledger", generation_id)
    assert row["dag_id"] is None


@pytest.mark.parametrize(
    ("values", "difference", "recorded"),
    [
        ("state = 'submitted', status = NULL", "status", "submitted"),
        ("status = 'failed'", "status", "failed"),
        ("output_tokens = 7", "output_tokens", 7),
        ("cost_usd = 0.001", "cost_usd", 0.001),
        ("cost_usd = NULL", "cost_usd", None),
    ],
)
def test_an_end_or_a_cost_that_differs(
    task: DiscardingTask, compare: Run, values: str, difference: str, recorded: object
) -> None:
    result = task.execute()
    change(values)
    (row,), _ = compare(code=1)
    assert (row["difference"], row["ledger"]) == (difference, recorded)
    assert row["generation_id"] == result["generation_id"]
    assert (row["dag_id"], row["run_id"], row["task_id"], row["map_index"]) == ("dag", "run", "task", -1)
    expected = {"status": "succeeded", "cost_usd": result["cost_usd"]}
    assert row["service"] == expected.get(difference, result["usage"]["output_tokens"])


def test_an_end_that_the_service_does_not_report(task: DiscardingTask, compare: Run) -> None:
    task.emulator.hold()
    task.defer()
    change("state = 'ended', status = 'succeeded'")
    (row,), _ = compare(code=1)
    assert (row["difference"], row["ledger"]) == ("status", "succeeded")
    assert row["service"] in ("queued", "running")


@pytest.mark.parametrize(
    ("values", "differences"),
    [
        ("generation_id = 'gone'", [("not listed", "gone", "succeeded")]),
        ("generation_id = 'gone', status = 'cancelled'", []),
        ("generation_id = 'gone', conn_id = 'another'", []),
        ("generation_id = NULL, state = 'uncertain', status = NULL", [("uncertain", None, "uncertain")]),
    ],
)
def test_what_the_service_does_not_list(
    task: DiscardingTask, compare: Run, values: str, differences: list[tuple[Any, ...]]
) -> None:
    task.execute()
    change(values)
    (submitted, *rows), _ = compare(code=1)
    assert submitted["difference"] == "not in the ledger"
    assert [(row["difference"], row["generation_id"], row["ledger"]) for row in rows] == differences


def test_a_submission_that_may_be_under_way(
    task: DiscardingTask, compare: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    task.execute()
    change("generation_id = NULL, state = 'intent', status = NULL")
    monkeypatch.setattr(ledger_commands, "MAX_SUBMISSION_SECONDS", 900)
    assert compare(code=0) == ([], "")


def test_more_generations_than_are_read(task: DiscardingTask, compare: Run) -> None:
    for index in range(3):
        task.ti.map_index = index
        task.execute()
    rows, printed = compare("--limit", "2", code=0)
    assert rows == []
    assert "lists more than 2 generations: those before 20" in printed


def test_a_service_that_lists_nothing(connect: Connect, ledger: Path, compare: Run) -> None:
    connect("seedance2api")
    rows, printed = compare(code=2)
    assert rows == ""
    assert "does not list generations" in printed
