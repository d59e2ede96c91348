"""Statements that a submission costs the ledger's database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import sent_statements
from .discarding_task import DiscardingTask


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """The statements about the submissions, by their first word."""
    with sent_statements.statements("seedance_submissions") as sent:
        yield sent


def test_a_submission_takes_four_statements(task: DiscardingTask, statements: list[str]) -> None:
    """The record of the task, the intent, the id, and what such renders took."""
    task.defer()
    assert statements == ["SELECT", "INSERT", "UPDATE", "SELECT"]


def test_its_end_takes_two(task: DiscardingTask, statements: list[str]) -> None:
    task.defer()
    statements.clear()
    task.resume()
    assert statements == ["SELECT", "UPDATE"]
