"""History of the tasks' state stores and of their starts, which the final state does not show."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backends import PostgresDatabase

from airflow_provider_seedance.ledger.packing import unpack
from airflow_provider_seedance.ledger.task_state import STATE_KEY
from airflow_provider_seedance.submission.records import Record, RecordState

#: Dag, run, and map index of a task instance.
Place = tuple[str, str, int]

#: ``{index}`` is the name of the map index in Airflow's own tables.
_INSTALL = """
CREATE TABLE tests_history (
    number BIGSERIAL, at TIMESTAMPTZ DEFAULT clock_timestamp(),
    dag_id TEXT, run_id TEXT, map_index INTEGER, key TEXT, value TEXT
);
CREATE FUNCTION tests_remember() RETURNS trigger AS $$
BEGIN
    INSERT INTO tests_history (dag_id, run_id, map_index, key, value)
    VALUES (NEW.dag_id, NEW.run_id, NEW.{index}, NEW.key, NEW.value);
    RETURN NEW;
END $$ LANGUAGE plpgsql;
CREATE TRIGGER tests_remember AFTER INSERT OR UPDATE ON task_state_store
    FOR EACH ROW EXECUTE FUNCTION tests_remember();
CREATE TABLE tests_starts (dag_id TEXT, run_id TEXT, task_id TEXT, map_index INTEGER);
CREATE FUNCTION tests_count() RETURNS trigger AS $$
BEGIN
    INSERT INTO tests_starts VALUES (NEW.dag_id, NEW.run_id, NEW.task_id, NEW.{index});
    RETURN NEW;
END $$ LANGUAGE plpgsql;
CREATE TRIGGER tests_count AFTER UPDATE ON task_instance
    FOR EACH ROW WHEN (NEW.state = 'running' AND OLD.state IS DISTINCT FROM 'running')
    EXECUTE FUNCTION tests_count();
"""


@dataclass(frozen=True)
class Doubt:
    """
    A submission that was given up as uncertain.

    :param place: Of the task instance.
    :param intended_at: When the intent was recorded, in seconds since 1970.
    :param recorded_at: When it was recorded as uncertain.
    :param same_try: Whether the try that sent it has seen that itself; otherwise that try came to an end.
    """

    place: Place
    intended_at: float
    recorded_at: float
    same_try: bool


def install(database: PostgresDatabase) -> None:
    """Have PostgreSQL remember, from now on."""
    database.write(_INSTALL.format(index=database.index_column))


def starts(database: PostgresDatabase, run_id: str) -> Counter[tuple[str, int]]:
    """Return the number of starts of each task of a run, by task id and map index."""
    rows = database.rows("SELECT task_id, map_index FROM tests_starts WHERE run_id = ?", run_id)
    return Counter((row["task_id"], row["map_index"]) for row in rows)


def was_recorded(database: PostgresDatabase, generation_id: str) -> bool:
    """Return whether any task has ever recorded this id."""
    rows = database.rows("SELECT key, value FROM tests_history")
    records = (record for row in rows for _, record in _records(row["key"], json.loads(row["value"])))
    return any(record.generation_id == generation_id for record in records)


def doubts(database: PostgresDatabase) -> list[Doubt]:
    """Return every submission that was reported as uncertain, in the order of the reports."""
    intents: dict[tuple[Place, str], Record] = {}
    found = []
    for row in database.rows("SELECT * FROM tests_history ORDER BY number"):
        place = (row["dag_id"], row["run_id"], row["map_index"])
        for name, record in _records(row["key"], json.loads(row["value"])):
            if record.state is RecordState.INTENT:
                intents[place, name] = record
            elif (intent := intents.pop((place, name), None)) and record.state is RecordState.UNCERTAIN:
                assert intent.intended_at is not None
                found.append(
                    Doubt(
                        place=place,
                        intended_at=intent.intended_at.timestamp(),
                        recorded_at=datetime.fromisoformat(row["at"]).timestamp(),
                        same_try=record.try_number == intent.try_number,
                    )
                )
    return found


def _records(key: str, value: Any) -> Iterator[tuple[str, Record]]:
    if key.startswith(STATE_KEY):
        for name, record in unpack(value).items():
            if record is not None:
                yield name, record
