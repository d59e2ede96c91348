"""Stored copies of generations: the transfer reads their prompts, and writes where they are; tasks reuse them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.sql import ColumnElement

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.ledger.configuration import LedgerConfig
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.tables import submissions
from airflow_provider_seedance.storage.location import StorageLocation, location_of
from airflow_provider_seedance.submission.records import Record

log = logging.getLogger(__name__)


def find_prompt(config: LedgerConfig, generation: Generation) -> str | None:
    """Return the prompt of a generation, or ``None`` where the ledger has none or cannot be read; never raises."""
    query = select(submissions.c.prompt).where(*_is(config, generation.api, generation.generation_id))
    try:
        with Database(config).reading() as connection:
            prompt: str | None = connection.execute(query).scalars().first()
            return prompt
    except Exception as error:
        log.warning("%s The prompt of generation %s is not read.", error, generation.generation_id)
        return None


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
    query = update(submissions).where(*_is(config, bindparam("this_api"), bindparam("this_id")))
    if any(one.reused_from for one in generations):
        # Another task may be copying the files that are named there.
        query = query.where(submissions.c.stored_files.is_(None))
    try:
        if rows:
            with Database(config).transaction() as connection:
                connection.execute(query.values(stored_files=bindparam("stored_files")), rows)
    except Exception as error:
        log.warning("%s The library does not know where these files are stored.", error)


def find_copy(database: Database, record: Record) -> Generation | None:
    """Return the generation of a record with the paths of its stored outputs, if all of them are there."""
    for row in _rows(database, record.fingerprint.api, str(record.generation_id)):
        if row["status"] != GenerationStatus.SUCCEEDED.value:
            continue
        generation, files = Generation.from_result(row["result"]), row["stored_files"]
        paths = tuple(file["path"] for file in files)
        try:
            found = [location_of(file["path"], file["conn_id"]).stat() for file in files]
        except errors.SeedanceError as error:
            log.warning("A stored copy of generation %s cannot be used: %s", generation.generation_id, error)
            continue
        if len(paths) == len(generation.urls) and all(found):
            frame = dict(zip(generation.urls, paths, strict=True)).get(generation.last_frame_url or "")
            copy = replace(generation, urls=paths, expires_at=None, last_frame_url=frame)
            return copy.with_defaults(record.result_defaults)
    return None


def copy_location(config: LedgerConfig, generation: Generation, index: int) -> StorageLocation | None:
    """
    Return where a stored output is, or ``None`` if the ledger does not know its path, which may be of another origin.

    :param index: Counted from 0.
    """
    paths = list(generation.urls)
    for row in _rows(Database(config), generation.api, generation.generation_id):
        if [file["path"] for file in row["stored_files"]] == paths:
            return location_of(paths[index], row["stored_files"][index]["conn_id"])
    return None


def _rows(database: Database, api: str, generation_id: str) -> Iterator[Any]:
    columns = submissions.c
    query = select(columns.status, columns.result, columns.stored_files).where(
        *_is(database.config, api, generation_id),
        columns.stored_files.is_not(None),
        columns.result.is_not(None),
    )
    with database.reading() as connection:
        yield from connection.execute(query.order_by(columns.ended_at.desc())).mappings().all()


def _is(config: LedgerConfig, api: Any, generation_id: Any) -> list[ColumnElement[bool]]:
    values = {"namespace": config.namespace, "api": api, "generation_id": generation_id}
    return [submissions.c[name] == value for name, value in values.items()]
