"""A private Airflow for the ``demo`` command: start it, run one Dag, stop it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]

import airflow_provider_seedance
from airflow_provider_seedance.emulator.json_http import open_url

START_TIMEOUT_SECONDS = 180.0
REQUEST_TIMEOUT_SECONDS = 30.0
_POLL_INTERVAL_SECONDS = 0.5
_MAX_LOG_CHARS = 3000


class DemoError(Exception):
    """The demo failed; the message says why."""


class DemoAirflow:
    """
    An Airflow of this process: all components, a new sqlite database, everything below one directory.

    :param home: An existing directory; Dag files are expected in its folder ``dags``.
    :param connections: Connection id to JSON.
    :param variables: Further environment variables of all components.
    """

    def __init__(self, *, home: Path, connections: Mapping[str, str], variables: Mapping[str, str]) -> None:
        port, execution_port, *log_ports = _free_ports(4)
        self.home = home
        self.url = f"http://127.0.0.1:{port}"
        self.environment = _environment(home, port, execution_port, log_ports) | {
            **{f"AIRFLOW_CONN_{conn_id.upper()}": value for conn_id, value in connections.items()},
            **variables,
        }
        self._execution_port = execution_port
        self._log_path = home / "airflow.log"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._token: str | None = None

    def __enter__(self) -> Self:
        try:
            if self._start("db", "migrate").wait() != 0:
                raise DemoError(f"Airflow's database could not be created:\n{self.log()}")
            self._processes.clear()
            # `airflow standalone` would do, but for its single API server: on sqlite it blocks for up to half a
            # minute when a task and another client send requests at the same time.
            self._start("api-server", "--apps", "core")
            self._start("api-server", "--apps", "execution", "--port", str(self._execution_port))
            self._start("scheduler", "--skip-serve-logs")
            self._start("dag-processor")
            self._start("triggerer", "--skip-serve-logs")
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._kill()

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self._log_path.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  (arguments without user input)
                [sys.executable, "-m", "airflow", *arguments],
                env=self.environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A session of its own identifies all its child processes, and keeps Ctrl-C away from them.
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def _kill(self) -> None:
        """
        Kill all processes.

        Not with SIGTERM: a running task would cancel its generation, and nothing of the database is kept.
        """
        sessions = {process.pid for process in self._processes}
        while members := _session_members(sessions):
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        for process in self._processes:
            process.wait()

    def wait_for_dag(self, dag_id: str) -> None:
        """Wait until the API server responds and the Dag is parsed."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            with contextlib.suppress(OSError):
                if self.request("GET", f"/dags?dag_id_pattern={quote(dag_id)}")["total_entries"]:
                    return
            ended = any(process.poll() is not None for process in self._processes)
            if ended or time.monotonic() > deadline:
                raise DemoError(f"Airflow did not start:\n{self.log()}")
            time.sleep(_POLL_INTERVAL_SECONDS)

    def trigger(self, dag_id: str) -> str:
        """Start a Dag run and return its run id."""
        run = self.request("POST", f"/dags/{quote(dag_id)}/dagRuns", {"logical_date": None})
        return str(run["dag_run_id"])

    def states(self, dag_id: str, run_id: str) -> tuple[str, dict[str, str | None]]:
        """Return the state of a Dag run and of its tasks."""
        path = _run_path(dag_id, run_id)
        tasks = self.request("GET", f"{path}/taskInstances")["task_instances"]
        return self.request("GET", path)["state"], {task["task_id"]: task["state"] for task in tasks}

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """Return the value of an XCom, or raise ``OSError`` if there is none."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{quote(task_id)}/xcomEntries/{quote(key)}"
        return self.request("GET", f"{path}?stringify=false")["value"]

    def log(self, task_id: str | None = None) -> str:
        """Return the end of the log of a task, or of the components."""
        task_logs = sorted((self.home / "logs").glob(f"**/task_id={task_id}/*.log*"))
        files = [self._log_path] if task_id is None else task_logs
        text = "\n".join(path.read_text(errors="replace") for path in files)
        return text[-_MAX_LOG_CHARS:]

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to the REST API and return the parsed response."""
        if self._token is None:
            self._token = str(self._send("GET", "/auth/token", {}, None)["access_token"])
        return self._send(method, f"/api/v2{path}", {"Authorization": f"Bearer {self._token}"}, body)

    def _send(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> Any:
        url = self.url + path
        with open_url(method, url, body, timeout=REQUEST_TIMEOUT_SECONDS, headers=headers) as response:
            return json.load(response)


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"


def _environment(home: Path, port: int, execution_port: int, log_ports: list[int]) -> dict[str, str]:
    """Return the environment of this process, without settings of another Airflow, and with the demo's."""
    of_airflow = ("AIRFLOW", "_AIRFLOW")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(of_airflow)}
    url = f"http://127.0.0.1:{port}"
    search_path = [str(Path(airflow_provider_seedance.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {
        **inherited,
        "AIRFLOW_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(part for part in search_path if part),
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{execution_port}/execution/",
        # On a busy machine the API server takes longer than the default of 5 s, and a task that it failed is retried soon.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "5",
        # The components share the file; a locked database makes them wait instead of fail.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}?timeout=30",
        "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        # Unused ports: logs are read from the files, and another Airflow may serve its own at the default ports.
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(log_ports[0]),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(log_ports[1]),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


def _session_members(sessions: set[int]) -> list[int]:
    members = []
    for pid in psutil.pids():
        # Another user's process, or one that has ended since it was listed.
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) in sessions and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                members.append(pid)
    return members


def _free_ports(count: int) -> list[int]:
    """Return distinct free ports: all are bound at the same time."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
