"""Statements that a submission costs the ledger's database."""

from __future__ import annotations

from .discarding_task import DiscardingTask
from .sent_statements import statements


def test_a_submission_takes_four_statements_and_its_end_two(task: DiscardingTask) -> None:
    with statements("seedance_submissions") as sent:
        task.defer()
    # The record of the task, the intent, the id, and what such renders took.
    assert sent == ["SELECT", "INSERT", "UPDATE", "SELECT"]
    with statements("seedance_submissions") as sent:
        task.resume()
    assert sent == ["SELECT", "UPDATE"]
