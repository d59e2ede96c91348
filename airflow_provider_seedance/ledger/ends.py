"""Ends of generations that no worker delivers: the triggerer and the API server write them."""

from __future__ import annotations

import logging

from sqlalchemy import select, update

from airflow_provider_seedance.generations import Generation, utc_now
from airflow_provider_seedance.ledger.configuration import LedgerConfig
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import LedgerEntry, public_result
from airflow_provider_seedance.ledger.tables import submissions
from airflow_provider_seedance.submission.records import RecordState, as_ended

log = logging.getLogger(__name__)

_COLUMNS = submissions.c


def write_end(config: LedgerConfig, generation: Generation) -> None:
    """Write how a generation has ended; never raises: the task ends all the same."""
    found = select(submissions).where(
        _COLUMNS.namespace == config.namespace,
        _COLUMNS.generation_id == generation.generation_id,
        _COLUMNS.api == generation.api,
        _COLUMNS.state == RecordState.SUBMITTED.value,
    )
    try:
        with Database(config).transaction() as connection:
            for row in connection.execute(found).mappings().all():
                entry = LedgerEntry.of_row(row)
                assert entry.record is not None
                if bool(entry.record.reused_from) != bool(generation.reused_from):
                    continue  # the cost is that of another task
                entry.record = as_ended(entry.record, generation, utc_now())
                entry.result = public_result(generation.result())
                this = [_COLUMNS[name] == row[name] for name in ("instance", "record_key", "number")]
                connection.execute(update(submissions).where(*this).values(**entry.columns()))
    except Exception as error:
        log.warning("%s The end of generation %s is not recorded.", error, generation.generation_id)
