"""Direct queries of a private Airflow's database: faster than the REST API, and independent of it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow_provider_seedance.version_compat import AIRFLOW_V_3_4_PLUS

_TASK_INSTANCES = """
    SELECT ti.id, ti.task_id, ti.map_index, ti.state, ti.try_number, ti.max_tries, ti.start_date,
           ti.end_date, ti.pid, ti.trigger_id, ti.next_method, ti.updated_at,
           r.rendered_fields
    FROM {task_instance} ti
    LEFT JOIN {rendered}
    WHERE ti.dag_id = ? AND ti.run_id = ?
    ORDER BY ti.task_id, ti.map_index
"""

# Airflow 3.4 keeps every attempt as a row, with its own XComs and rendered fields; a mapped task instance is an
# index in a region.
_LATEST_ATTEMPTS = "(SELECT *, region_index AS map_index FROM task_instance WHERE working_set)"
_OF_ATTEMPT = {
    "task_instance": _LATEST_ATTEMPTS,
    "rendered": "rtif_v2 r ON r.task_instance_id = ti.id",
    "xcom": f"xcom_v2 x JOIN {_LATEST_ATTEMPTS} ti ON ti.id = x.task_instance_id",
    "index": "region_index",
}
_BEFORE_3_4 = {
    "task_instance": "task_instance",
    "rendered": "rendered_task_instance_fields r ON r.dag_id = ti.dag_id AND r.run_id = ti.run_id"
    " AND r.task_id = ti.task_id AND r.map_index = ti.map_index",
    "xcom": "xcom ti",
    "index": "map_index",
}


#: The tables of this version of Airflow, as parts of queries.
_SCHEMA = _OF_ATTEMPT if AIRFLOW_V_3_4_PLUS else _BEFORE_3_4


class Database:
    """Read-only queries of the sqlite file."""

    #: Whether every attempt is a row of its own.
    keeps_attempts = AIRFLOW_V_3_4_PLUS
    #: The name of the map index in the tables of task instances and of their state.
    index_column = _SCHEMA["index"]

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        """Return the rows of any query as dictionaries."""
        # as_uri() escapes the characters of a path that a URI does not allow.
        uri = f"{self.path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=120)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql, parameters)]

    def run_state(self, dag_id: str, run_id: str) -> str | None:
        """Return the state of a Dag run, or None if it does not exist."""
        found = self.rows("SELECT state FROM dag_run WHERE dag_id = ? AND run_id = ?", dag_id, run_id)
        return found[0]["state"] if found else None

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run, ordered by task id and map index, with their rendered fields."""
        found = self.rows(_TASK_INSTANCES.format(**_SCHEMA), dag_id, run_id)
        for row in found:
            row["id"] = str(uuid.UUID(row["id"]))
            row["rendered_fields"] = _parsed(row["rendered_fields"])
            for name in ("start_date", "end_date", "updated_at"):
                row[name] = moment(row[name])
        return found

    def task_instance_names(self) -> Mapping[str, dict[str, Any]]:
        """Return the unfinished task instances by id."""
        found = self.rows(
            "SELECT id, dag_id, run_id, task_id, map_index, try_number"
            f" FROM {_SCHEMA['task_instance']} WHERE state NOT IN ('success', 'skipped') OR state IS NULL"
        )
        return {str(uuid.UUID(row.pop("id"))): row for row in found}

    def state_store(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """Return the content of a task instance's state store (Airflow 3.3 and later)."""
        found = self.rows(
            "SELECT s.key, s.value FROM task_state_store s WHERE s.dag_id = ? AND s.run_id = ?"
            f" AND s.task_id = ? AND s.{self.index_column} = ?",
            *(dag_id, run_id, task_id, map_index),
        )
        return {row["key"]: _parsed(row["value"]) for row in found}

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1
    ) -> Any:
        """Return an XCom's value as a downstream task gets it, as far as JSON can represent it."""
        found = self.rows(
            f"SELECT value FROM {_SCHEMA['xcom']} WHERE dag_id = ? AND run_id = ? AND task_id = ?"
            " AND map_index = ? AND key = ?",
            *(dag_id, run_id, task_id, map_index, key),
        )
        if not found:
            return None
        # sqlite gives the column numeric affinity: a number's JSON text comes back as the number.
        value = found[0]["value"]
        return native(json.loads(value) if isinstance(value, str) else value)

    def last_job(self) -> int:
        """Return the largest id in the job table."""
        return int(self.rows("SELECT COALESCE(MAX(id), 0) AS id FROM job")[0]["id"])

    def has_job(self, job_type: str, after: int) -> bool:
        """Return whether a job of this type runs that was started after the given one."""
        return bool(
            self.rows(
                "SELECT 1 FROM job WHERE job_type = ? AND id > ? AND state = 'running'"
                " AND latest_heartbeat IS NOT NULL",
                job_type,
                after,
            )
        )

    def parsed_at(self, dag_id: str) -> datetime | None:
        """Return when the Dag was last parsed; None if it is unknown or no longer in its file."""
        found = self.rows(
            "SELECT last_parsed_time FROM dag WHERE dag_id = ? AND NOT is_stale"
            " AND EXISTS (SELECT 1 FROM serialized_dag s WHERE s.dag_id = dag.dag_id)",
            dag_id,
        )
        return moment(found[0]["last_parsed_time"]) if found else None

    def import_errors(self) -> list[dict[str, Any]]:
        """Return file name, time and stack trace of every Dag file that cannot be imported."""
        found = self.rows("SELECT filename, timestamp, stacktrace FROM import_error")
        for row in found:
            row["timestamp"] = moment(row["timestamp"])
        return found


def moment(text: str | None) -> datetime | None:
    """Parse a time of the database, which stores UTC without an offset."""
    return None if text is None else datetime.fromisoformat(f"{text.split('+')[0]}+00:00")


def native(value: Any) -> Any:
    """Unwrap Python's own collections in Airflow's serialized form."""
    if isinstance(value, dict):
        if str(value.get("__classname__", "")).startswith("builtins."):
            return native(value.get("__data__"))
        return {name: native(item) for name, item in value.items()}
    if isinstance(value, list):
        return [native(item) for item in value]
    return value


def _parsed(text: Any) -> Any:
    """Parse text that is JSON; return anything else unchanged."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
