"""Statements that a submission costs the ledger's database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator

from .discarding_task import DiscardingTask

Connect = Callable[..., None]

#: Read with the first transaction of a process, and not for each submission.
VERSION = "SELECT seedance_ledger_version"


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """The statements about tables of the ledger, by their first word."""
    found: list[str] = []

    def record(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "seedance_" in statement and not statement.startswith(VERSION):
            found.append(statement.split()[0])

    event.listen(Engine, "before_cursor_execute", record)
    yield found
    event.remove(Engine, "before_cursor_execute", record)


@pytest.fixture
def task(services: SeedanceEmulator, connect: Connect, ledger: Path) -> DiscardingTask:
    connect("seedanceapi-v1")
    return DiscardingTask(services)


def test_a_submission_takes_four_statements(task: DiscardingTask, statements: list[str]) -> None:
    """The record of the task, the intent, the id, and what such renders took."""
    task.defer()
    assert statements == ["SELECT", "INSERT", "UPDATE", "SELECT"]


def test_its_end_takes_two(task: DiscardingTask, statements: list[str]) -> None:
    task.defer()
    statements.clear()
    task.resume()
    assert statements == ["SELECT", "UPDATE"]
