"""
A real triggerer with thousands of deferred tasks: what ``triggerer.py`` and its integration test share.

The metadata database is a private sqlite file, and the services are a :mod:`status_server` on loopback.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from private_airflow import LocalAirflow

HERE = Path(__file__).parent
SERVICES = ("seedance2api", "runbase", "ark")

#: Signs the addresses of callbacks.
CALLBACK_SECRET = "what the addresses are signed with"

#: Message of Airflow when its event loop stood still.
BLOCKED = "blocked for"

# One task, mapped; its instances are made by fill.py.
DAG = """
from airflow.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator

with DAG("waiting", schedule=None):
    EmptyOperator.partial(task_id="task").expand(doc=["one", "two"])
"""


@dataclass(frozen=True)
class Reading:
    """
    Use of memory and CPU by the two processes of a triggerer while everything waits.

    :param runner: Memory of the process that runs the triggers, in KiB.
    :param supervisor: Memory of the process that speaks to the database, in KiB.
    :param cpu_runner: Percent of a core.
    :param cpu_supervisor: Percent of a core.
    :param blocked: Warnings that the event loop stood still.
    """

    runner: float
    supervisor: float
    cpu_runner: float
    cpu_supervisor: float
    blocked: int

    @property
    def memory(self) -> float:
        """Both processes, in KiB."""
        return self.runner + self.supervisor

    @property
    def cpu(self) -> float:
        """Both processes, in percent of a core."""
        return self.cpu_runner + self.cpu_supervisor


class Triggerer:
    """A real triggerer process."""

    def __init__(self, airflow: LocalAirflow, log: Path) -> None:
        self.log = log
        with log.open("ab") as file:
            self.process = psutil.Popen(
                [sys.executable, "-m", "airflow", "triggerer", "--skip-serve-logs"],
                env=airflow.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def runner(self) -> psutil.Process:
        """The subprocess that runs the triggers."""
        return max(self.process.children(), key=lambda child: child.memory_info().rss)

    def logged(self, words: str) -> int:
        """Return how often the log says something."""
        return self.log.read_text(errors="replace").count(words)

    def connections(self, port: int) -> int:
        """Return how many connections to the status server are open."""
        return sum(
            bool(each.raddr) and each.raddr.port == port and each.status == psutil.CONN_ESTABLISHED
            for each in self.runner.net_connections()
        )

    def settle(self) -> None:
        """Wait until the processes have stopped growing."""
        seen = 0.0
        while (now := self.runner.memory_info().rss) > seen * 1.002:
            seen = now
            time.sleep(10)

    def read(self, seconds: float) -> Reading:
        """Measure over some time of waiting."""
        both = (self.runner, self.process)
        blocked = self.logged(BLOCKED)
        before = [sum(process.cpu_times()[:2]) for process in both]
        time.sleep(seconds)
        after = [sum(process.cpu_times()[:2]) for process in both]
        shares = [100 * (late - early) / seconds for early, late in zip(before, after, strict=True)]
        return Reading(
            runner=both[0].memory_info().rss / 1024,
            supervisor=both[1].memory_info().rss / 1024,
            cpu_runner=shares[0],
            cpu_supervisor=shares[1],
            blocked=self.logged(BLOCKED) - blocked,
        )

    def stop(self, sig: int = signal.SIGTERM) -> None:
        """End both processes."""
        if sig == signal.SIGKILL:
            self.process.suspend()  # it would log the end of its child
            for child in self.process.children(recursive=True):
                child.kill()
        with contextlib.suppress(psutil.NoSuchProcess):
            self.process.send_signal(sig)
            try:
                self.process.wait(60)
            except psutil.TimeoutExpired:
                self.stop(signal.SIGKILL)


class Bench:
    """The private Airflow, the status server, and what is done with them."""

    def __init__(self, airflow: LocalAirflow, port: int) -> None:
        self.airflow, self.port = airflow, port
        self._started: list[Triggerer] = []

    def ask(self, path: str) -> dict[str, int]:
        """Speak to the status server."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}") as reply:
            return dict(json.load(reply))

    def query(self, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        """Read from or write to the metadata database."""
        with contextlib.closing(sqlite3.connect(self.airflow.database.path, timeout=60)) as connection:
            rows = connection.execute(sql, parameters).fetchall()
            connection.commit()
            return rows

    def number(self, sql: str, *parameters: object) -> int:
        """Read one number from the metadata database."""
        return int(str(self.query(sql, *parameters)[0][0]))

    def fill(self, kind: str, count: int, poll_interval: float | None = None) -> None:
        """Defer a number of task instances with one kind of trigger, and remove all others."""
        self.query("delete from task_instance")
        self.query("delete from dag_run")
        self.query("delete from trigger")
        command = [sys.executable, str(HERE / "fill.py"), kind, str(count)]
        if poll_interval is not None:
            command.append(str(poll_interval))
        done = subprocess.run(
            command, env=self.airflow.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)

    def deferred(self) -> int:
        """Return how many wait."""
        return self.number("select count(*) from task_instance where state = 'deferred'")

    def mark_failed(self, count: int) -> None:
        """Let a person mark the first task instances as failed."""
        index = "region_index" if self.airflow.database.keeps_attempts else "map_index"
        self.query(f"update task_instance set state = 'failed', trigger_id = null where {index} < ?", count)

    def lookups(self) -> int:
        """Return how often a connection was looked up."""
        path = Path(self.airflow.environment["BENCHMARK_LOOKUPS"])
        return len(path.read_bytes()) if path.exists() else 0

    def start(self, name: str, timeout: float = 900) -> Triggerer:
        """Start a triggerer and wait until it runs everything that waits."""
        since = self.number("select coalesce(max(id), 0) from job")
        triggerer = Triggerer(self.airflow, self.airflow.home / f"{name}.log")
        self._started.append(triggerer)
        wanted = self.deferred()

        def taken() -> bool:
            if triggerer.process.poll() is not None:
                raise RuntimeError(triggerer.log.read_text(errors="replace")[-3000:])
            return self.number("select count(*) from trigger where triggerer_id > ?", since) >= wanted

        wait_until(taken, timeout, f"{name} to take {wanted} triggers")
        return triggerer

    def stop(self) -> None:
        """End every triggerer that still runs."""
        for triggerer in self._started:
            if triggerer.process.poll() is None:
                triggerer.stop(signal.SIGKILL)


def wait_until(look: Callable[[], bool], timeout: float, what: str) -> float:
    """Wait for something; return the seconds it took."""
    began = time.monotonic()
    while not look():
        if time.monotonic() - began > timeout:
            raise TimeoutError(f"waited {timeout:g} s for {what}")
        time.sleep(0.25)
    return time.monotonic() - began


@contextlib.contextmanager
def bench(capacity: int, directory: Path, template: Path | None = None) -> Iterator[Bench]:
    """
    Make the database, and start the status server.

    :param capacity: Maximum triggers of the triggerer.
    :param directory: Empty; everything is written there.
    :param template: An empty metadata database, if there is one already.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Airflow keeps a log file open for each trigger that has logged something.
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 3 * capacity + 4096), most))
    (directory / "home").mkdir(exist_ok=True)
    (directory / "dags").mkdir()
    (directory / "dags" / "waiting.py").write_text(DAG)
    server = subprocess.Popen(
        [sys.executable, str(HERE / "status_server.py")], stdout=subprocess.PIPE, text=True
    )
    made = None
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        made = Bench(_airflow(capacity, directory, port, template), port)
        yield made
    finally:
        if made is not None:
            made.stop()
        server.kill()
        server.communicate()


def _airflow(capacity: int, directory: Path, port: int, template: Path | None) -> LocalAirflow:
    """Make an Airflow of which only the database is used, and the triggerers that are started beside it."""
    url = f"http://127.0.0.1:{port}"
    connections = {
        f"seedance_{api}": json.dumps(
            {
                "conn_type": "seedance",
                "host": f"{url}/{api}",
                "password": f"key-of-{api}",
                "extra": {"api": api, "callback_secret": CALLBACK_SECRET},
            }
        )
        for api in SERVICES
    }
    airflow = LocalAirflow(
        home=directory / "home",
        dags_folder=directory / "dags",
        connections={**connections, "http_status": json.dumps({"conn_type": "http", "host": url})},
        config={
            ("triggerer", "capacity"): str(capacity),
            # Triggers loaded in one loop of about a second; the default of 50, which lets several
            # triggerers share them, would make the start take minutes.
            ("triggerer", "max_trigger_to_select_per_loop"): "500",
            ("secrets", "backend"): "lookups.CountingBackend",
        },
        env={"BENCHMARK_LOOKUPS": str(directory / "lookups")},
        database_template=template,
    )
    airflow.environment["PYTHONPATH"] += f":{HERE}"
    airflow._migrate()  # what start() does before it starts anything
    done = airflow.cli("dags", "reserialize", timeout=300)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return airflow
