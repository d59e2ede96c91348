"""Stores of the records of submissions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_seedance.ledger.configuration import read_config
from airflow_provider_seedance.ledger.task_state import TaskStateStore

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_provider_seedance.submission.store import RecordStore


def open_store(context: Context) -> RecordStore:
    """Return the record store of a task instance: the ledger where one is configured, else Airflow's."""
    task_state = TaskStateStore(context.get("task_state_store"))
    config = read_config()
    if config is None:
        return task_state
    # SQLAlchemy is not loaded in a task without a ledger.
    from airflow_provider_seedance.ledger.database import Database
    from airflow_provider_seedance.ledger.entries import TaskIdentity
    from airflow_provider_seedance.ledger.ledger_store import LedgerStore

    return LedgerStore(Database(config), TaskIdentity.of(config.namespace, context), task_state)
