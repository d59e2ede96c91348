"""Stores of the records of submissions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_seedance.ledger.task_state import TaskStateStore

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_provider_seedance.submission.store import RecordStore


def open_store(context: Context) -> RecordStore:
    """Return the record store of a task instance."""
    return TaskStateStore(context.get("task_state_store"))
