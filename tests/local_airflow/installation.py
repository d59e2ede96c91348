"""An Airflow on this machine, in any composition: actions through its REST API, and views of its state."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import airflow_provider_seedance
from local_airflow import environment, processes
from local_airflow.api import Api, quoted
from local_airflow.database import Database
from local_airflow.logs import task_log
from local_airflow.processes import Component, Guard

#: Type of each component's row in the table of jobs.
JOBS = {"scheduler": "SchedulerJob", "dag-processor": "DagProcessorJob", "triggerer": "TriggererJob"}

_FINAL_RUN_STATES = frozenset({"success", "failed"})
_POLL = 0.1


class LocalAirflowError(Exception):
    """The private Airflow failed to start, or one of its components ended. The message contains its log."""


class DagImportError(LocalAirflowError):
    """The Dag file cannot be imported. The message contains the stack trace."""


class Installation:
    """
    An Airflow whose components are processes that end with this one.

    Its actions go through the REST API; its state comes from the database and the log files.

    :param dags_folder: Also on the import path of all its processes.
    :param connections: The JSON of each connection.
    :param env: Further environment variables, which win over everything else.
    :param commands: The arguments of ``airflow`` for each component.
    """

    def __init__(
        self,
        *,
        home: Path,
        dags_folder: Path,
        config: environment.Config,
        connections: Mapping[str, str],
        env: Mapping[str, str],
        commands: Mapping[str, list[str]],
        database: Database,
        api: Api,
    ) -> None:
        self.home, self.dags_folder, self.config = home, dags_folder, config
        self.environment = environment.build(
            os.environ,
            home=home,
            config=config,
            connections=connections,
            python_path=[dags_folder, Path(airflow_provider_seedance.__file__).parents[1]],
            extra=env,
        )
        self.database, self.api = database, api
        self._guard = Guard()
        self._lock = threading.RLock()
        self._components = {
            name: Component(name, arguments, home / "logs" / f"{name}.log")
            for name, arguments in commands.items()
        }
        # What the database says.
        self.run_state = database.run_state
        self.task_instances = database.task_instances
        self.state_store = database.state_store
        self.xcom = database.xcom

    # -- components ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything, and wait until it works."""
        raise NotImplementedError

    def stop(self) -> None:
        """End everything; may be called again, or before the start."""
        with self._lock:
            self._kill(*self._components.values())
            self._guard.dismiss()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def pid(self, component: str) -> int:
        """Return the process id of a component, which is also its session id."""
        process = self._components[component].process
        if process is None:
            raise LocalAirflowError(f"{component} does not run")
        return process.pid

    def processes(self) -> list[int]:
        """Return the ids of all live processes of this Airflow."""
        return processes.session_members(process.pid for _, process in self._running())

    def kill(self, component: str) -> None:
        """SIGKILL a component with all its child processes, as the loss of its machine would."""
        with self._lock:
            self._kill(self._components[component])

    def cli(self, *arguments: str, timeout: float = 480.0) -> subprocess.CompletedProcess[str]:
        """Run ``airflow …`` in this Airflow and return the completed process, also of a failure."""
        return subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            start_new_session=True,
        )

    def _run(self, *arguments: str) -> None:
        done = self.cli(*arguments)
        if done.returncode != 0:
            raise LocalAirflowError(f"`airflow {' '.join(arguments)}` failed:\n{done.stdout}\n{done.stderr}")

    def _running(self) -> list[tuple[Component, subprocess.Popen[bytes]]]:
        """Return the components that were started and not killed."""
        return [(each, each.process) for each in self._components.values() if each.process is not None]

    def _kill(self, *components: Component) -> None:
        running = [(each, process) for each, process in self._running() if each in components]
        for component, process in running:
            component.ended = True
            # The leader first: it must not see its children die.
            process.kill()
        processes.end_sessions(process.pid for _, process in running)
        for component, process in running:
            process.wait()
            self._guard.remove(process.pid)
            component.process = None

    # -- actions -------------------------------------------------------------------------------------

    def rest(self, method: str, path: str, body: Any = None, query: Mapping[str, Any] | None = None) -> Any:
        """Send any request to the REST API; the path is the part behind ``/api/v2``."""
        return self.api.request(method, path, body, query)

    def trigger(
        self,
        dag_id: str,
        *,
        run_id: str | None = None,
        conf: Mapping[str, Any] | None = None,
        logical_date: datetime | None = None,
    ) -> str:
        """Start a Dag run; returns its run id."""
        body: dict[str, Any] = {"logical_date": logical_date.isoformat() if logical_date else None}
        if run_id is not None:
            body["dag_run_id"] = run_id
        if conf is not None:
            body["conf"] = dict(conf)
        return str(self.rest("POST", f"/dags/{quoted(dag_id)}/dagRuns", body)["dag_run_id"])

    def unpause(self, dag_id: str) -> None:
        """Unpause a Dag. (New Dags are not paused here.)"""
        self.rest("PATCH", f"/dags/{quoted(dag_id)}", {"is_paused": False}, {"update_mask": "is_paused"})

    def clear(
        self,
        dag_id: str,
        run_id: str,
        task_ids: Collection[str | tuple[str, int]] | None = None,
        *,
        include_downstream: bool = False,
        keep_task_state: bool = True,
    ) -> None:
        """
        Clear task instances of a run: the named ones (or ``(task_id, map_index)``), or all of them.

        :param keep_task_state: of named ones; Airflow below 3.4 and the clear of a whole run always keep it.
        """
        if task_ids is None:
            path = f"/dags/{quoted(dag_id)}/dagRuns/{quoted(run_id)}/clear"
            self.rest("POST", path, {"dry_run": False, "only_failed": False})
            return
        if isinstance(task_ids, str):
            raise TypeError("task_ids is a collection of task ids, not one of them")
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": [list(task) if isinstance(task, tuple) else task for task in task_ids],
            "only_failed": False,
            "include_downstream": include_downstream,
            **({"keep_task_state": keep_task_state} if self.database.keeps_attempts else {}),
        }
        self.rest("POST", f"/dags/{quoted(dag_id)}/clearTaskInstances", body)

    def mark(self, dag_id: str, run_id: str, task_id: str, state: str, map_index: int = -1) -> None:
        """Mark a task instance ``failed``, ``success`` or ``skipped``."""
        path = f"/dags/{quoted(dag_id)}/dagRuns/{quoted(run_id)}/taskInstances/{quoted(task_id)}"
        if map_index >= 0:
            path += f"/{map_index}"
        self.rest("PATCH", path, {"new_state": state})

    def set_run_state(self, dag_id: str, run_id: str, state: str) -> None:
        """Set a Dag run to ``failed``, ``success`` or ``queued``."""
        self.rest("PATCH", f"/dags/{quoted(dag_id)}/dagRuns/{quoted(run_id)}", {"state": state})

    # -- state ---------------------------------------------------------------------------------------

    def task_instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """Return one task instance, or an empty dict if it does not exist."""
        for row in self.task_instances(dag_id, run_id):
            if (row["task_id"], row["map_index"]) == (task_id, map_index):
                return row
        return {}

    def task_state(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str | None:
        """Return the state of a task instance; None without a state or task instance."""
        return self.task_instance(dag_id, run_id, task_id, map_index).get("state")

    def asset_events(self, **query: Any) -> list[dict[str, Any]]:
        """Return the asset events; filters as in the REST API (``source_dag_id=…``)."""
        return list(self.rest("GET", "/assets/events", query=query)["asset_events"])

    def task_log(
        self, dag_id: str, run_id: str, task_id: str, try_number: int | None = None, map_index: int = -1
    ) -> str:
        """Return the log of a task instance, including the triggerer's part: of one try, or of all."""
        return task_log(
            Path(self.config["logging", "base_log_folder"]), dag_id, run_id, task_id, try_number, map_index
        )

    # -- waiting -------------------------------------------------------------------------------------

    def wait_parsed(
        self,
        dag_id: str,
        timeout: float = 400.0,
        *,
        filename: str | None = None,
        since: datetime | None = None,
    ) -> None:
        """Wait until a Dag is parsed; raise the import error if its file has one.

        :param filename: the file in the Dags folder. Without it any file's import error is raised.
        :param since: ignore earlier parses: for a file that has been rewritten.
        """

        def look() -> bool:
            for error in self.database.import_errors():
                is_ours = filename is None or Path(str(error["filename"])).name == Path(filename).name
                if is_ours and (since is None or error["timestamp"] is None or error["timestamp"] >= since):
                    raise DagImportError(f"{error['filename']}\n{error['stacktrace']}")
            parsed = self.database.parsed_at(dag_id)
            return parsed is not None and (since is None or parsed >= since)

        self.wait_until(look, timeout, f"the Dag {dag_id}")

    def wait_run(self, dag_id: str, run_id: str, timeout: float = 600.0) -> str:
        """Wait for the end of a Dag run and return its state."""

        def look() -> bool:
            return self.run_state(dag_id, run_id) in _FINAL_RUN_STATES

        self.wait_until(look, timeout, f"the end of {dag_id} {run_id}", dag_id, run_id)
        return str(self.run_state(dag_id, run_id))

    def wait_task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        states: Collection[str],
        map_index: int = -1,
        timeout: float = 400.0,
        *,
        try_number: int | None = None,
    ) -> str:
        """Wait until a task instance is in one of the states (of that try, if given); return its state."""
        found: list[str] = []

        def look() -> bool:
            row = self.task_instance(dag_id, run_id, task_id, map_index)
            if row.get("state") in states and try_number in (None, row["try_number"]):
                found.append(row["state"])
            return bool(found)

        self.wait_until(look, timeout, f"{task_id} being {' or '.join(sorted(states))}", dag_id, run_id)
        return found[0]

    def wait_until(
        self,
        look: Callable[[], bool],
        timeout: float,
        what: str,
        dag_id: str | None = None,
        run_id: str | None = None,
    ) -> None:
        """Wait until ``look()`` is true; a `TimeoutError` names ``what``, the run's states and the logs."""
        deadline = time.monotonic() + timeout
        while not look():
            self._check()
            if time.monotonic() > deadline:
                lines = [f"timed out waiting for {what} after {timeout:g} s"]
                if dag_id is not None and run_id is not None:
                    lines.append(f"run: {self.run_state(dag_id, run_id)}, {self._states(dag_id, run_id)}")
                raise TimeoutError("\n".join([*lines, *self._report()]))
            time.sleep(_POLL)

    def _check(self) -> None:
        """Raise an error if a component has ended."""
        for component, process in self._running():
            if component.died():
                raise LocalAirflowError(
                    f"the {component.name} ended with {process.returncode}:\n{component.tail()}"
                )

    def _report(self) -> list[str]:
        """Return the ends of the component logs, for error messages."""
        return [f"--- {each.name}\n{each.tail(25)}" for each in self._components.values()]

    def _states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        return {
            row["task_id"] if row["map_index"] < 0 else f"{row['task_id']}[{row['map_index']}]": row["state"]
            for row in self.task_instances(dag_id, run_id)
        }
