"""The private Airflow of the integration tests: `LocalAirflow` with methods that write Dag files."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import textwrap
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_settings import PRELOAD, REPAIR, write_settings
from local_airflow import LocalAirflow
from local_airflow.processes import send


class TestAirflow(LocalAirflow):
    """A `LocalAirflow` whose Dags the tests write, and which loads this package once for all tasks."""

    __test__ = False

    def start(self, timeout: float = 480.0) -> None:
        """Start it with settings that import this package into the processes that fork."""
        write_settings(self.home, PRELOAD, REPAIR)
        super().start(timeout)

    def stop(self, grace: float = 0.0) -> None:
        """End it at once: nothing is kept of what an orderly end would write."""
        super().stop(grace)

    def connect(self, conn_id: str, connection: Mapping[str, Any]) -> None:
        """Store a connection in Airflow's database."""
        fields = {**connection, "extra": json.dumps(connection["extra"])}
        self.rest("POST", "/connections", {"connection_id": conn_id, **fields})

    def write_database(self, sql: str, *parameters: Any) -> None:
        """Change Airflow's database behind its back."""
        with contextlib.closing(sqlite3.connect(self.database.path, timeout=60)) as connection, connection:
            connection.execute(sql, parameters)

    def create_pool(self, name: str, slots: int) -> None:
        """Create a pool that counts deferred tasks."""
        pool = {"name": name, "slots": slots, "description": "for the test", "include_deferred": True}
        self.rest("POST", "/pools", pool)

    def unpause_unscheduled(self, dag_id: str) -> None:
        """Unpause a new Dag without the run of today that its schedule would begin."""
        self.write_database("UPDATE dag SET next_dagrun_create_after = NULL WHERE dag_id = ?", dag_id)
        self.unpause(dag_id)

    def write_module(self, name: str, source: str) -> Path:
        """Write ``name.py`` into the Dags folder, which every process can import from."""
        path = self.dags_folder / f"{name}.py"
        partial = path.with_suffix(".partial")
        partial.write_text(textwrap.dedent(source))
        # In one step: the Dag processor must never see half a file.
        os.replace(partial, path)
        return path

    def write_dag(self, name: str, source: str) -> Path:
        """Write a Dag file; see `wait_parsed`, or `load_dag` for both."""
        return self.write_module(name, source)

    def load_dag(self, dag_id: str, source: str, timeout: float = 400.0) -> str:
        """Write a Dag into a file of its own name, and wait until Airflow has it; returns the Dag id."""
        now = datetime.now(UTC)
        path = self.write_dag(dag_id, source)
        self.wait_parsed(dag_id, timeout, filename=path.name, since=now)
        return dag_id

    def run(
        self, dag_id: str, timeout: float = 600.0, conf: Mapping[str, Any] | None = None
    ) -> tuple[str, str]:
        """Trigger a Dag and wait for the end of the run; returns run id and state."""
        run_id = self.trigger(dag_id, conf=conf)
        return run_id, self.wait_run(dag_id, run_id, timeout)

    def files(self) -> dict[Path, bytes]:
        """Return the contents of all files in its home."""
        found: dict[Path, bytes] = {}
        for directory, _, names in os.walk(self.home):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # a temporary one of a process that goes on
                    found[Path(directory, name)] = Path(directory, name).read_bytes()
        return found

    def wait_log(self, dag_id: str, run_id: str, task_id: str, *texts: str) -> None:
        """Wait until the log of a task has these: its last lines may come after the state of the task."""

        def look() -> bool:
            log = self.task_log(dag_id, run_id, task_id)
            return all(text in log for text in texts)

        self.wait_until(look, 400, f"{texts} in the log", dag_id, run_id)

    @contextlib.contextmanager
    def halted(self, timeout: float = 400.0) -> Iterator[None]:
        """Suspend all processes of this Airflow while none of them locks the database.

        For commands that read and then write in one transaction: on sqlite they fail with
        "database is locked" when another process has written in between, and may leave half of
        what they were to do.
        """
        deadline = time.monotonic() + timeout
        while True:
            processes = self.processes()
            send(processes, signal.SIGSTOP)
            try:
                if self._is_free():
                    yield
                    return
            finally:
                send(processes, signal.SIGCONT)
            assert time.monotonic() < deadline, "the database is always locked"
            time.sleep(0.1)

    def _is_free(self) -> bool:
        with contextlib.closing(sqlite3.connect(self.database.path, timeout=0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            connection.rollback()
            return True
