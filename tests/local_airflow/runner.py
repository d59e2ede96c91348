"""`LocalAirflow`: start a private Airflow, act on it, and stop it without leaving anything behind."""

from __future__ import annotations

import fcntl
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from local_airflow import environment, processes
from local_airflow.api import Api
from local_airflow.database import Database
from local_airflow.installation import JOBS, Installation, LocalAirflowError
from local_airflow.processes import Component, TaskProcess

_API_SERVERS = ("api-server", "execution-api")


class LocalAirflow(Installation):
    """A private Airflow: scheduler with LocalExecutor, Dag processor, triggerer, API server, sqlite.

    It writes below ``home`` only; component logs are ``home/logs/<component>.log``. It prints nothing. All its
    processes end with `stop`, and also when this process is killed.

    :param home: an empty or missing directory, or that of an earlier `LocalAirflow` to continue.
    :param dags_folder: also on the import path of every process, so that triggers can be imported from it.
    :param connections: connection id to its JSON.
    :param env: further environment variables; they win over everything else.
    :param config: further settings, as ``{(section, key): value}``.
    :param api_server: whether to start an API server; tasks cannot run without one.
    :param database_template: file that keeps the migrated, empty database for the next `LocalAirflow` of the
        same Airflow version; created if it does not exist.
    """

    def __init__(
        self,
        *,
        home: Path,
        dags_folder: Path,
        connections: Mapping[str, str],
        env: Mapping[str, str] | None = None,
        config: Mapping[tuple[str, str], str] | None = None,
        api_server: bool = True,
        database_template: Path | None = None,
    ) -> None:
        home = home.absolute()
        port, execution_port, worker_logs, trigger_logs = environment.free_ports(4)
        self._execution_port = execution_port
        self.url = f"http://127.0.0.1:{port}"
        settings = environment.default_config(
            home=home, dags_folder=dags_folder.absolute(), port=port, execution_port=execution_port
        ) | {
            # Unused ports: logs are read from the files.
            ("logging", "worker_log_server_port"): str(worker_logs),
            ("logging", "trigger_log_server_port"): str(trigger_logs),
            **(config or {}),
        }
        self._template = database_template
        commands = {
            "scheduler": ["scheduler", "--skip-serve-logs"],
            "dag-processor": ["dag-processor"],
            "triggerer": ["triggerer", "--skip-serve-logs"],
        }
        if api_server:
            # Two processes: on sqlite, one API server cannot serve a user and a task at the same time. It
            # writes its audit log on its event loop and blocks on a lock whose holder waits for the event
            # loop, until the lock timeout (half a minute).
            commands = {
                "api-server": ["api-server", "--apps", "core"],
                "execution-api": ["api-server", "--apps", "execution", "--port", str(execution_port)],
                **commands,
            }
        passwords = home / "simple_auth_manager_passwords.json.generated"
        super().__init__(
            home=home,
            dags_folder=dags_folder.absolute(),
            config=settings,
            connections=connections,
            env=env or {},
            commands=commands,
            database=Database(home / "airflow.db"),
            api=Api(self.url, passwords, admin=_admin_user(settings)),
        )

    # -- life cycle ----------------------------------------------------------------------------------

    def start(self, timeout: float = 480.0) -> None:
        """Create the database, start the processes, and wait until all of them are healthy."""
        try:
            self.dags_folder.mkdir(parents=True, exist_ok=True)
            self._migrate()
            for component in self._components.values():
                self._launch(component)
            for name in self._components:
                self._wait_healthy(name, timeout)
        except BaseException:
            # Ctrl-C during the start must not leave processes behind either.
            self.stop()
            raise

    def stop(self, grace: float = 5.0) -> None:
        """End all processes, including running tasks; may be called again, or before the start.

        :param grace: seconds until components that handle SIGTERM are killed. A scheduler waits for its
            running tasks without limit.
        """
        with self._lock:
            running = self._running()
            try:
                for component, process in running:
                    component.ended = True
                    process.terminate()
                deadline = time.monotonic() + grace
                while time.monotonic() < deadline and any(
                    # An API server needs seconds to end after its last request, and has no state to lose.
                    component.name not in _API_SERVERS and process.poll() is None
                    for component, process in running
                ):
                    time.sleep(0.05)
            finally:
                # Also when Ctrl-C interrupts the wait.
                super().stop()

    def restart(self, component: str, timeout: float = 480.0) -> None:
        """Restart a component and wait until it is healthy."""
        with self._lock:
            which = self._components[component]
            if which.process is not None:
                which.ended = True
                which.process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    which.process.wait(timeout=5)
                self._kill(which)
            self._launch(which)
        self._wait_healthy(component, timeout)

    # -- task processes ------------------------------------------------------------------------------

    def task_processes(self) -> list[TaskProcess]:
        """Return the task instances that are being executed, with their processes."""
        running = processes.running_tasks(self.pid("scheduler"))
        names = self.database.task_instance_names() if running else {}
        return [replace(task, **names.get(task.ti_id, {})) for task in running]

    def task_process(
        self, dag_id: str, run_id: str, task_id: str, map_index: int = -1, timeout: float = 400.0
    ) -> TaskProcess:
        """Wait until a task instance is being executed and return its processes."""
        wanted = (dag_id, run_id, task_id, map_index)
        found: list[TaskProcess] = []

        def look() -> bool:
            found[:] = [
                task
                for task in self.task_processes()
                if (task.dag_id, task.run_id, task.task_id, task.map_index) == wanted
            ]
            return bool(found)

        self.wait_until(look, timeout, f"a process that runs {wanted}", dag_id, run_id)
        return found[0]

    def kill_task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        map_index: int = -1,
        sig: int = signal.SIGKILL,
        *,
        supervisor: bool = False,
        timeout: float = 400.0,
    ) -> TaskProcess:
        """Wait for the process that executes a task instance, and kill it.

        The process may not have reached the operator yet: to kill it at a certain point, wait for a sign of
        that point first. Never kill an idle worker of the LocalExecutor: one of them holds the lock of
        the task queue, and the executor would block.

        :param supervisor: kill its supervisor first, so that no process reports the death, as after the loss of
            a worker machine. Airflow notices after ``task_instance_heartbeat_timeout``.
        """
        task = self.task_process(dag_id, run_id, task_id, map_index, timeout)
        if supervisor:
            if task.supervisor is None:
                raise LocalAirflowError(f"the supervisor of {task} has ended")
            task.supervisor.send_signal(sig)
        task.runner.send_signal(sig)
        return task

    # -- inside --------------------------------------------------------------------------------------

    def _migrate(self) -> None:
        path = self.database.path
        self.home.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return
        if self._template is None:
            self._create_database()
            return
        with self._template.with_suffix(".lock").open("w") as lock:
            # Of processes that start at the same time, one creates it and the others wait.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._template.exists():
                self._create_database()
                # sqlite's own backup includes the write-ahead log.
                partial = self._template.with_suffix(".partial")
                with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(partial)) as target:
                    source.backup(target)
                partial.replace(self._template)
                return
        shutil.copyfile(self._template, path)

    def _create_database(self) -> None:
        self._run("db", "migrate")
        # SQLite gives a new row the id of the last one, if that was deleted, and the triggerer takes a new trigger for
        # the deleted one: it does not call `on_kill`.
        with closing(sqlite3.connect(self.database.path)) as connection, connection:
            (table,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'trigger'").fetchone()
            table = re.sub(r",\s*CONSTRAINT \w+ PRIMARY KEY \(id\)", "", table)
            table = table.replace("id INTEGER NOT NULL", "id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL", 1)
            assert "AUTOINCREMENT" in table
            connection.execute("DROP TABLE trigger")
            connection.execute(table)

    def _launch(self, component: Component) -> None:
        component.jobs_before = self.database.last_job()
        self._guard.add(component.start(self.environment, self.home))

    def _wait_healthy(self, name: str, timeout: float) -> None:
        component = self._components[name]

        def look() -> bool:
            if name == "api-server":
                return self.api.healthy()
            if name == "execution-api":
                return _listens(self._execution_port)
            return self.database.has_job(JOBS[name], component.jobs_before)

        self.wait_until(look, timeout, f"the {name}")


def _admin_user(config: environment.Config) -> str | None:
    if config["core", "simple_auth_manager_all_admins"].lower() == "true":
        return None
    users = config.get(("core", "simple_auth_manager_users"), "admin:admin").split(",")
    return next(user.split(":")[0].strip() for user in users if user.split(":")[1].strip() == "admin")


def _listens(port: int) -> bool:
    """Return whether a process listens on a port of this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
