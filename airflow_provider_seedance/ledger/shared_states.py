"""States that all machines share, such as the quota of a key: small JSON values, which are advice and may be lost."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.ledger.configuration import LedgerConfig
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.tables import shared_states
from airflow_provider_seedance.settings import ChangeState


def state_changer(config: LedgerConfig) -> ChangeState:
    """Return :func:`change_state` in a ledger."""
    return partial(change_state, Database(config))


def change_state(database: Database, name: str, change: Callable[[Any], Any]) -> Any:
    """
    Change a state in one transaction, and return it.

    :param name: Contains no secret.
    :param change: Called with the present state, which is empty if there is none; may be called twice.
    :raises SeedanceLedgerError: the database cannot be reached or used.
    """
    try:
        return _change(database, name, change)
    except errors.SeedanceLedgerError as error:
        if not isinstance(error.__cause__, IntegrityError):
            raise
        return _change(database, name, change)  # another process has written the first one


def _change(database: Database, name: str, change: Callable[[Any], Any]) -> Any:
    key = {"namespace": database.config.namespace, "name": name}
    this = [shared_states.c[column] == value for column, value in key.items()]
    with database.transaction() as connection:
        query = select(shared_states.c.state).where(*this).with_for_update()
        found = connection.execute(query).scalar()
        state = change(found or {})
        values = {"state": state, "updated_at": utc_now()}
        if found is not None and state != found:
            connection.execute(update(shared_states).where(*this).values(**values))
        elif found is None and state:
            connection.execute(insert(shared_states).values(**key, **values))
    return state
