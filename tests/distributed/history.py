"""History of records and of task starts, which the final state does not show: triggers of PostgreSQL note it."""

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
from airflow_provider_seedance.submission.records import RecordState

#: Dag, run, and map index of a task instance.
Place = tuple[str, str, int]

#: Name of a submission, and of its record the state, the try, the generation, and the time of its intent.
_Written = tuple[str, RecordState, int | None, str | None, datetime | None]

# ``{index}`` is the name of the map index in Airflow's own tables.
_STARTS = """
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

_HISTORY = """
CREATE TABLE tests_history (number BIGSERIAL, at TIMESTAMPTZ DEFAULT clock_timestamp(), {columns});
CREATE FUNCTION tests_remember() RETURNS trigger AS $$
BEGIN
    INSERT INTO tests_history ({names}) VALUES ({values});
    RETURN NEW;
END $$ LANGUAGE plpgsql;
CREATE TRIGGER tests_remember AFTER INSERT OR UPDATE ON {table}
    FOR EACH ROW EXECUTE FUNCTION tests_remember();
"""


@dataclass(frozen=True)
class Entry:
    """
    A record as it was written.

    :param name: Of the submission: a task instance that is cleared, and a batch, have several.
    :param at: Time at which it was written, in seconds since 1970; ``intended_at``, when its intent was.
    """

    place: Place
    name: str
    state: RecordState
    try_number: int | None
    generation_id: str | None
    at: float
    intended_at: float | None


@dataclass(frozen=True)
class Doubt:
    """
    A submission that was given up as uncertain.

    :param place: Of the task instance.
    :param intended_at: Time of the intent, in seconds since 1970.
    :param recorded_at: Time at which it was recorded as uncertain.
    :param same_try: Whether the try that sent it has seen that itself; otherwise that try came to an end.
    """

    place: Place
    intended_at: float
    recorded_at: float
    same_try: bool


class History:
    """
    Records as they were written, which PostgreSQL remembers.

    :param columns: The type of each column that is remembered; ``sources`` are other names of them in the table.
    """

    def __init__(
        self, database: PostgresDatabase, table: str, columns: dict[str, str], **sources: str
    ) -> None:
        self.database, self._table, self._sources = database, table, sources
        self._columns = {"dag_id": "TEXT", "run_id": "TEXT", "map_index": "INTEGER", **columns}

    def install(self) -> None:
        """Have PostgreSQL remember, from now on; the table has to exist."""
        sql = _HISTORY.format(
            table=self._table,
            columns=", ".join(f"{name} {kind}" for name, kind in self._columns.items()),
            names=", ".join(self._columns),
            values=", ".join(f"NEW.{self._sources.get(name, name)}" for name in self._columns),
        )
        self.database.write(sql)

    def entries(self) -> Iterator[Entry]:
        """Return what was written, the oldest first."""
        for row in self.database.rows("SELECT * FROM tests_history ORDER BY number"):
            place = (row["dag_id"], row["run_id"], row["map_index"])
            at = datetime.fromisoformat(row["at"]).timestamp()
            for name, state, try_number, generation_id, intended in self._read(row):
                intended_at = intended.timestamp() if intended else None
                yield Entry(place, name, state, try_number, generation_id, at, intended_at)

    def _read(self, row: dict[str, Any]) -> Iterator[_Written]:
        raise NotImplementedError


class TaskStateHistory(History):
    """Records in Airflow's task state store."""

    def __init__(self, database: PostgresDatabase) -> None:
        columns = {"key": "TEXT", "value": "TEXT"}
        super().__init__(database, "task_state_store", columns, map_index=database.index_column)

    def _read(self, row: dict[str, Any]) -> Iterator[_Written]:
        if row["key"].startswith(STATE_KEY):
            for name, record in unpack(json.loads(row["value"])).items():
                if record is not None:
                    yield name, record.state, record.try_number, record.generation_id, record.intended_at


class LedgerHistory(History):
    """Records in a ledger."""

    def __init__(self, database: PostgresDatabase) -> None:
        columns = {"record_key": "TEXT", "state": "TEXT", "try_number": "INTEGER", "generation_id": "TEXT"}
        columns |= {"submission": "INTEGER", "intended_at": "TIMESTAMPTZ"}
        super().__init__(database, "seedance_submissions", columns, submission="number")

    def _read(self, row: dict[str, Any]) -> Iterator[_Written]:
        name = f"{row['record_key']} {row['submission']}"
        intended_at = row["intended_at"] and datetime.fromisoformat(row["intended_at"])
        yield name, RecordState(row["state"]), row["try_number"], row["generation_id"], intended_at


def count_starts(database: PostgresDatabase) -> None:
    """Have PostgreSQL count the starts of tasks, from now on."""
    database.write(_STARTS.format(index=database.index_column))


def starts(database: PostgresDatabase, run_id: str) -> Counter[tuple[str, int]]:
    """Return the number of starts of each task of a run, by task id and map index."""
    rows = database.rows("SELECT task_id, map_index FROM tests_starts WHERE run_id = ?", run_id)
    return Counter((row["task_id"], row["map_index"]) for row in rows)


def last(history: History, place: Place) -> Entry | None:
    """Return the last record of a task instance with one generation."""
    return next((entry for entry in reversed(list(history.entries())) if entry.place == place), None)


def was_recorded(history: History, generation_id: str) -> bool:
    """Return whether any task has ever recorded this id."""
    return any(entry.generation_id == generation_id for entry in history.entries())


def doubts(history: History) -> list[Doubt]:
    """Return every submission that was reported as uncertain, in the order of the reports."""
    intents: dict[tuple[Place, str], Entry] = {}
    found = []
    for entry in history.entries():
        key = (entry.place, entry.name)
        if entry.state is RecordState.INTENT:
            intents[key] = entry
        elif (intent := intents.pop(key, None)) and entry.state is RecordState.UNCERTAIN:
            assert intent.intended_at is not None
            same_try = entry.try_number == intent.try_number
            found.append(Doubt(entry.place, intent.intended_at, entry.at, same_try))
    return found
