"""Stores of the records of submissions. SQLAlchemy is loaded only where a ledger is configured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_seedance.ledger.configuration import read_config
from airflow_provider_seedance.ledger.task_state import TaskStateStore

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_provider_seedance.generations import Generation
    from airflow_provider_seedance.settings import ChangeState
    from airflow_provider_seedance.storage.location import StorageLocation
    from airflow_provider_seedance.submission.store import RecordStore


def open_store(context: Context) -> RecordStore:
    """Return the record store of a task instance: the ledger where one is configured, else Airflow's."""
    task_state = TaskStateStore(context.get("task_state_store"))
    config = read_config()
    if config is None:
        return task_state
    from airflow_provider_seedance.ledger.ledger_store import LedgerStore

    return LedgerStore.open(config, context, task_state)


def shared_state_changer() -> ChangeState | None:
    """Return the function that changes a state in the ledger, or ``None`` where none is configured."""
    config = read_config()
    if config is None:
        return None
    from airflow_provider_seedance.ledger.shared_states import state_changer

    return state_changer(config)


def read_prompt(generation: Generation) -> str | None:
    """Return the prompt of a generation, or ``None`` where no ledger has it; never raises."""
    config = read_config()
    if config is None:
        return None
    from airflow_provider_seedance.ledger.stored_files import find_prompt

    return find_prompt(config, generation)


def record_end(generation: Generation) -> None:
    """Record the end of a generation that no worker delivers, where a ledger is configured; never raises."""
    config = read_config()
    if config is not None:
        from airflow_provider_seedance.ledger.ends import write_end

        write_end(config, generation)


def record_stored_files(
    generations: Sequence[Generation], transferred: Mapping[str, Any], conn_id: str | None
) -> None:
    """
    Record where the files of generations are stored, where a ledger is configured; never raises.

    :param transferred: Result of the transfer.
    :param conn_id: Connection of the object storage.
    """
    config = read_config()
    if config is not None:
        from airflow_provider_seedance.ledger.stored_files import write_stored_files

        write_stored_files(config, generations, transferred, conn_id)


def stored_copy(generation: Generation, index: int) -> StorageLocation | None:
    """
    Return where an output of a reused generation is stored, or ``None`` if the ledger does not know its path.

    :param index: Counted from 0.
    :raises SeedanceLedgerError: the ledger cannot be read.
    """
    config = read_config()
    if config is None or generation.urls[index].startswith(("http://", "https://", "data:")):
        return None
    from airflow_provider_seedance.ledger.stored_files import copy_location

    return copy_location(config, generation, index)
