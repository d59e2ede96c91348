"""The prompts of generations, read for the files that were made from them."""

from __future__ import annotations

import logging

from sqlalchemy import select

from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.ledger.configuration import LedgerConfig
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.tables import submissions

log = logging.getLogger(__name__)


def find_prompt(config: LedgerConfig, generation: Generation) -> str | None:
    """Return the prompt of a generation, or ``None`` where the ledger has none or cannot be read; never raises."""
    columns = submissions.c
    query = select(columns.prompt).where(
        columns.namespace == config.namespace,
        columns.generation_id == generation.generation_id,
        columns.api == generation.api,
    )
    try:
        with Database(config).reading() as connection:
            prompt: str | None = connection.execute(query).scalars().first()
            return prompt
    except Exception as error:
        log.warning("%s The prompt of generation %s is not read.", error, generation.generation_id)
        return None
