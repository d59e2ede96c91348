"""Stored copies of generations: the transfer writes where they are, the library of the page plays them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, update

from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.ledger.configuration import LedgerConfig
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.tables import submissions

log = logging.getLogger(__name__)


def write_stored_files(
    config: LedgerConfig,
    generations: Sequence[Generation],
    transferred: Mapping[str, Any],
    conn_id: str | None,
) -> None:
    """
    Write the files of a transfer into the rows of their generations; never raises: the files are stored all the same.

    :param transferred: Result of the transfer; that of a batch has an id for each path.
    """
    paths, hashes = transferred["paths"], transferred["sha256"]
    ids = transferred.get("generation_ids") or [transferred["generation_id"]] * len(paths)
    files: dict[str, list[dict[str, Any]]] = {}
    for generation_id, path, sha256 in zip(ids, paths, hashes, strict=True):
        files.setdefault(generation_id, []).append({"path": path, "sha256": sha256, "conn_id": conn_id})
    rows = [
        {"this_api": one.api, "this_id": one.generation_id, "stored_files": files[one.generation_id]}
        for one in generations
        if one.generation_id in files
    ]
    columns = submissions.c
    query = update(submissions).where(
        columns.namespace == config.namespace,
        columns.api == bindparam("this_api"),
        columns.generation_id == bindparam("this_id"),
    )
    try:
        if rows:
            with Database(config).transaction() as connection:
                connection.execute(query.values(stored_files=bindparam("stored_files")), rows)
    except Exception as error:
        log.warning("%s The library does not know where these files are stored.", error)
