"""A distributed Airflow on one machine: PostgreSQL, Redis, and two of everything that may be two."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from airflow_settings import REPAIR, write_settings
from backends import Postgres, PostgresDatabase, Redis
from history import History, LedgerHistory, Place, TaskStateHistory, count_starts
from local_airflow import environment, processes
from local_airflow.api import Api
from local_airflow.installation import JOBS, Installation
from local_airflow.processes import TaskProcess

_SECOND = "api-server-2"

#: Tasks at a time on each worker.
SLOTS = 6


class Cluster(Installation):
    """
    Two schedulers, two triggerers, two Celery workers, a Dag processor and the API server.

    Each component has a directory for temporary files of its own, as if it had a machine of its own: what
    the package leaves there for other processes reaches only those of the same component.

    A second API server starts with :meth:`launch`: tasks know one address only.
    """

    def __init__(
        self,
        *,
        home: Path,
        dags_folder: Path,
        connections: Mapping[str, str],
        slots: int = SLOTS,
        ledger: Postgres | None = None,
    ) -> None:
        self.postgres, self.redis, self.ledger = Postgres(), Redis(), ledger
        port, second_port = environment.free_ports(2)
        self.second_api = Api(f"http://127.0.0.1:{second_port}", home / "passwords", admin=None)
        settings = environment.default_config(
            home=home, dags_folder=dags_folder, port=port, execution_port=port
        ) | {
            ("core", "executor"): "CeleryExecutor",
            ("core", "parallelism"): "64",
            ("core", "max_active_tasks_per_dag"): "1000",
            ("core", "max_active_runs_per_dag"): "1000",
            ("database", "sql_alchemy_conn"): f"postgresql+psycopg2{self.postgres.url}",
            ("celery", "broker_url"): self.redis.url,
            ("celery", "result_backend"): f"db+postgresql+psycopg2{self.postgres.url}",
            ("celery", "operation_timeout"): "15",
            ("celery", "worker_prefetch_multiplier"): "1",
            # What a killed worker had taken from the broker and not begun is given to another one, as often
            # as it happens.
            ("scheduler", "task_queued_timeout"): "60",
            ("scheduler", "task_queued_timeout_check_interval"): "5",
            ("scheduler", "num_stuck_in_queued_retries"): "1000",
            ("workers", "execution_api_retries"): "12",
            ("workers", "execution_api_timeout"): "20",
            ("workers", "execution_api_retry_wait_max"): "5",
            # The triggers are shared by taking few at a time.
            ("triggerer", "max_trigger_to_select_per_loop"): "5",
            # High enough that a slow machine is not taken for a dead one.
            ("scheduler", "scheduler_health_check_threshold"): "60",
            ("triggerer", "triggerer_health_check_threshold"): "20",
        }
        if ledger:
            settings["seedance", "ledger"] = "team_ledger"
            connections = {**connections, "team_ledger": f"postgres{ledger.url}"}
        # Value of the variable that marks the processes of this cluster.
        self._mark = secrets.token_hex(16)
        self._ready_from: dict[str, int] = {}
        # Unix sockets below it (of the SDK) have room for few characters.
        self._machines = Path(tempfile.mkdtemp(prefix="seedance-dist-"))
        commands = {
            "api-server": ["api-server"],
            _SECOND: ["api-server", "--port", str(second_port)],
            "dag-processor": ["dag-processor"],
        }
        for number in (1, 2):
            commands[f"scheduler-{number}"] = ["scheduler", "--skip-serve-logs"]
            commands[f"triggerer-{number}"] = ["triggerer", "--skip-serve-logs"]
            worker = ["celery", "worker", "--skip-serve-logs", "--without-mingle", "--without-gossip"]
            worker += ["--concurrency", str(slots), "--celery-hostname", f"worker-{number}@cluster"]
            commands[f"worker-{number}"] = worker
        database = PostgresDatabase(self.postgres)
        self.history: History = (
            LedgerHistory(PostgresDatabase(ledger)) if ledger else TaskStateHistory(database)
        )
        super().__init__(
            home=home,
            dags_folder=dags_folder,
            config=settings,
            connections=connections,
            env={"C_FORCE_ROOT": "1", "SEEDANCE_CLUSTER": self._mark},
            commands=commands,
            database=database,
            api=Api(f"http://127.0.0.1:{port}", home / "passwords", admin=None),
        )

    # -- life cycle ----------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """The components that always run."""
        return [name for name in self._components if name != _SECOND]

    def start(self) -> None:
        """Start everything, and wait until it works."""
        try:
            write_settings(self.home, REPAIR)
            self._guard.add(self.postgres.start())
            self._guard.add(self.redis.start())
            self._run("db", "migrate")
            if self.ledger:
                self._guard.add(self.ledger.start())
                self._run("seedance", "ledger", "list")  # makes its tables
            self.history.install()
            count_starts(self.database)
            for name in self.names:
                self.launch(name)
            self.wait_until(lambda: self._jobs() == 5, 300, "two schedulers, two triggerers, a Dag processor")
            for name in ("api-server", "worker-1", "worker-2"):
                self.wait_healthy(name)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End everything, and remove the databases."""
        super().stop()
        for backend in (self.redis, self.postgres, self.ledger):
            if backend is not None:
                backend.stop()
        shutil.rmtree(self._machines, ignore_errors=True)

    def launch(self, name: str) -> None:
        """Start a component, and do not wait."""
        with self._lock:
            component = self._components[name]
            if name.rpartition("-")[0] in JOBS or name in JOBS:
                component.jobs_before = self.database.last_job()
            size = component.log_path.stat().st_size if component.log_path.exists() else 0
            self._ready_from[name] = size
            machine = self._machines / name
            machine.mkdir(exist_ok=True)
            self._guard.add(component.start({**self.environment, "TMPDIR": str(machine)}, self.home))

    @contextlib.contextmanager
    def without(self, backend: Postgres | Redis) -> Iterator[None]:
        """Inside, the database or the broker is dead; afterwards there is a new one, on the same files."""
        with self._lock:
            self._guard.remove(backend.kill())
        yield
        with self._lock:
            self._guard.add(backend.launch())

    def dead(self) -> list[str]:
        """The components that have ended by themselves."""
        return [name for name, component in self._components.items() if component.died()]

    def runs(self, name: str) -> bool:
        """Return whether it has been started and not killed."""
        return self._components[name].process is not None

    def wait_healthy(self, name: str, timeout: float = 180.0) -> None:
        """Wait until a component works."""
        self.wait_until(lambda: self.healthy(name), timeout, f"the {name}")

    def healthy(self, name: str) -> bool:
        """Return whether a component is healthy since its start."""
        component = self._components[name]
        kind = name if name in JOBS else name.rpartition("-")[0]
        if not self.runs(name):
            return False
        if name in ("api-server", _SECOND):
            return (self.second_api if name == _SECOND else self.api).healthy()
        if kind == "worker":
            with component.log_path.open("rb") as log:
                log.seek(self._ready_from[name])
                return f"{name}@cluster ready".encode() in log.read()
        return self.database.has_job(JOBS[kind], component.jobs_before)

    def revive(self) -> list[str]:
        """Start again what has ended by itself, as the supervisor of a service does; returns what that was."""
        dead = self.dead()
        for name in dead:
            self.kill(name)
            self.launch(name)
        return dead

    def wait_whole(self, timeout: float = 180.0) -> None:
        """Wait until every component works, and start again what is dead."""
        for name in self.names:
            if not self.runs(name) or name in self.dead():
                self.kill(name)
                self.launch(name)
                self.wait_healthy(name, timeout)
        self.wait_until(lambda: self._jobs() >= 5, timeout, "a whole Airflow")
        self.wait_until(self.api.healthy, timeout, "the API server")

    # -- what runs -----------------------------------------------------------------------------------

    def task_processes(self, *names: str) -> list[TaskProcess]:
        """The task instances being executed at this moment, on these workers; without names, on all."""
        workers = [name for name in names or self.names if name.startswith("worker") and self.runs(name)]
        return [task for name in workers for task in processes.running_tasks(self.pid(name))]

    def places(self, tasks: Iterable[TaskProcess]) -> frozenset[Place]:
        """Which task instances these are."""
        sql = f"SELECT dag_id, run_id, {self.database.index_column} AS map_index FROM task_instance"
        rows = self.database.rows(f"{sql} WHERE id::text = ANY(?)", [each.ti_id for each in tasks])
        return frozenset((row["dag_id"], row["run_id"], row["map_index"]) for row in rows)

    def triggerers(self) -> dict[int, int]:
        """Return the number of triggers of each live triggerer, by the id of its job."""
        rows = self.database.rows(
            "SELECT j.id, COUNT(t.id) AS found FROM job j LEFT JOIN trigger t ON t.triggerer_id = j.id"
            " WHERE j.job_type = 'TriggererJob' AND j.state = 'running'"
            " AND j.latest_heartbeat > now() - interval '20 seconds' GROUP BY j.id"
        )
        return {row["id"]: row["found"] for row in rows}

    def temporary_files(self) -> list[Path]:
        """Return the temporary files of this package in all components."""
        return [file for file in self._machines.glob("*/*seedance*/**/*") if file.is_file()]

    def strays(self) -> list[str]:
        """Return the processes that belong to this Airflow and to none of its living components."""
        known, found = set(self.processes()), []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid in known or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if process.environ().get("SEEDANCE_CLUSTER") == self._mark:
                    found.append(f"{process.pid} {' '.join(process.cmdline())}")
        return found

    def open_files(self, name: str) -> list[int]:
        """Return the number of descriptors of each process of a component."""
        found = []
        for pid in processes.session_members([self.pid(name)]):
            with contextlib.suppress(OSError):
                found.append(len(os.listdir(f"/proc/{pid}/fd")))
        return found

    def _jobs(self) -> int:
        sql = (
            "SELECT COUNT(*) AS found FROM job WHERE state = 'running' AND job_type = ANY(?)"
            " AND latest_heartbeat > now() - interval '20 seconds'"
        )
        return int(self.database.rows(sql, list(JOBS.values()))[0]["found"])
