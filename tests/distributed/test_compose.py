"""The services of `docs/compose/compose.yaml`, as processes with its commands and its settings."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shlex
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cryptography.fernet import Fernet
from local_airflow import processes
from local_airflow.api import Api, quoted
from local_airflow.environment import build
from local_airflow.processes import Component, Guard

import airflow_provider_seedance

if TYPE_CHECKING:
    from backends import Postgres

    from airflow_provider_seedance.testing import SeedanceEmulator

pytestmark = pytest.mark.variant

ROOT = Path(airflow_provider_seedance.__file__).parents[1]
COMPOSE = ROOT / "docs" / "compose"
PASSWORDS = "simple_auth_manager_passwords.json.generated"
TIMEOUT_SECONDS = 480.0

DAG = """
from datetime import timedelta

from airflow.sdk import DAG
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator
from airflow_provider_seedance.transfers.seedance_to_object_storage import SeedanceToObjectStorageOperator

with DAG("composed", schedule=None, default_args={"retries": 5, "retry_delay": timedelta(seconds=2)}):
    for name, use_callback in (("polled", False), ("called", True)):
        render = SeedanceGenerateVideoOperator(
            task_id=name, prompt=f"A boat, {name}", duration=4, resolution="480p", use_callback=use_callback
        )
        SeedanceToObjectStorageOperator(
            task_id=f"store_{name}", generation=render.output, destination=f"file:///srv/clips/{name}.mp4"
        )
"""


@contextlib.contextmanager
def open_files(limit: int | None) -> Iterator[None]:
    """Let processes that start inside open as many files, as far as this machine permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Composition:
    """
    The services of the file, each with a home directory of its own, as a container has.

    The differences to containers: hosts are 127.0.0.1, ports are free ones, and all directories are on one disk.
    """

    def __init__(self, home: Path, postgres: Postgres, emulator: SeedanceEmulator) -> None:
        from backends import free_port

        self.home, self.clips = home, home / "clips"
        self.postgres, self.emulator = postgres, emulator
        port, worker_logs, trigger_logs = free_port(), free_port(), free_port()
        self.api = Api(f"http://127.0.0.1:{port}", home / "api-server" / PASSWORDS, admin="admin")
        self._variables = {
            "POSTGRES_PASSWORD": postgres.url.removeprefix("://airflow:").partition("@")[0],
            "FERNET_KEY": Fernet.generate_key().decode(),
            "JWT_SECRET": "a secret of the test, which is long enough for its use",
            "API_SECRET_KEY": "another secret of the test, also long enough for its use",
            "SEEDANCE_CONNECTION": json.dumps(
                emulator.connection(
                    "seedanceapi-v1", callback_base_url=self.api.url, callback_secret="of the test"
                )
            ),
        }
        self._places = {
            "api-server:8080": f"127.0.0.1:{port}",
            "--port 8080": f"--port {port}",
            "@postgres:5432": f"@127.0.0.1:{postgres.port}",
            "/opt/airflow/dags": str(home / "dags"),
            "/srv/clips": str(self.clips),
        }
        #: Settings that the file leaves out: ports that every container has to itself, and time for a busy machine.
        self._own = {
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_logs),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_logs),
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        }
        self.services = yaml.safe_load((COMPOSE / "compose.yaml").read_text(encoding="utf-8"))["services"]
        self.components: dict[str, Component] = {}
        self._guard = Guard()

    def resolve(self, value: object) -> str:
        """Return a value with its variables, and with the hosts, ports and directories of this machine."""
        text = re.sub(r"\$\{(\w+):\?\}", lambda found: self._variables[found[1]], str(value))
        for place, here in self._places.items():
            text = text.replace(place, here)
        return text

    def start(self) -> None:
        """Start each service after those that it depends on."""
        (self.home / "dags").mkdir()
        (self.home / "dags" / "composed.py").write_text(self.resolve(DAG))
        needed = {name: service.get("depends_on", {}) for name, service in self.services.items()}
        for name in TopologicalSorter(needed).static_order():
            conditions = {before[name]["condition"] for before in needed.values() if name in before}
            if name == "postgres":
                assert conditions == {"service_healthy"}
                self._start_postgres(self.services[name])
            else:
                self._start_airflow(name, self.services[name])
            if conditions == {"service_completed_successfully"}:
                component = self.components[name]
                assert component.process
                assert component.process.wait(TIMEOUT_SECONDS) == 0, component.tail()

    def _start_postgres(self, service: Any) -> None:
        self._guard.add(self.postgres.start())
        # It has answered to this user, which is what the health check asks.
        assert service["healthcheck"]["test"] == ["CMD", "pg_isready", "-U", "airflow"]
        assert service["environment"]["POSTGRES_USER"] == "airflow"
        scripts = [volume.partition(":")[0] for volume in service["volumes"] if "initdb" in volume]
        with contextlib.closing(self.postgres.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {service['environment']['POSTGRES_DB']}")
            for script in scripts:
                cursor.execute((COMPOSE / script).read_text(encoding="utf-8"))

    def _start_airflow(self, name: str, service: Any) -> None:
        program, *arguments = shlex.split(self.resolve(service["command"]))
        assert program == "airflow"
        home = self.home / name
        home.mkdir()
        settings = {key: self.resolve(value) for key, value in service["environment"].items()}
        environment = build(
            os.environ,
            home=home,
            config={},
            connections={},
            python_path=[ROOT],
            extra={**self._own, **settings},
        )
        component = self.components[name] = Component(name, arguments, self.home / f"{name}.log")
        with open_files(service.get("ulimits", {}).get("nofile")):
            self._guard.add(component.start(sys.executable, environment, home))

    def stop(self) -> None:
        """End all processes."""
        started = [each.process for each in self.components.values() if each.process]
        processes.end_sessions([process.pid for process in started])
        for process in started:
            process.wait()
        self.postgres.stop()
        self._guard.dismiss()

    def wait(self, look: Callable[[], Any], what: str) -> Any:
        """Wait for a result that is true, and return it."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):  # a busy machine
                if found := look():
                    return found
            assert time.monotonic() < deadline, f"no {what}\n{self.log()}"
            time.sleep(0.5)

    def run(self, dag_id: str) -> str:
        """Run a Dag to its end, and return the path of the run in the REST API."""
        self.wait(
            lambda: any(dag["dag_id"] == dag_id for dag in self.api.request("GET", "/dags")["dags"]), "Dag"
        )
        self.api.request("PATCH", f"/dags/{dag_id}", {"is_paused": False}, {"update_mask": "is_paused"})
        run_id = self.api.request("POST", f"/dags/{dag_id}/dagRuns", {"logical_date": None})["dag_run_id"]
        path = f"/dags/{dag_id}/dagRuns/{quoted(run_id)}"

        def ended() -> str | None:
            state = self.api.request("GET", path)["state"]
            return state if state in ("success", "failed") else None

        assert self.wait(ended, "end of the run") == "success", self.log()
        return path

    def page(self, path: str) -> str:
        """Return a page of this package, as a user who is logged in gets it."""
        headers = {"Authorization": f"Bearer {self.api.token()}"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.api.url}/seedance/{path}", headers=headers)
        ) as reply:
            return str(reply.read().decode())

    def log(self) -> str:
        """Return the ends of all logs."""
        return "\n".join(f"--- {each.name}\n{each.tail(25)}" for each in self.components.values())


@pytest.fixture(scope="module")
def composition(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composition]:
    for module in ("psycopg2", "asyncpg"):
        pytest.importorskip(module, reason="the extra 'distributed' is not installed")
    from backends import Postgres, find_postgres

    from airflow_provider_seedance.testing import SeedanceEmulator

    if find_postgres() is None:
        pytest.skip("PostgreSQL is not installed")
    with SeedanceEmulator(speed=10) as emulator:
        made = Composition(tmp_path_factory.mktemp("compose"), Postgres(), emulator)
        try:
            made.start()
            made.wait(made.api.healthy, "API server")
            yield made
        finally:
            made.stop()


def test_renders_end_as_the_page_says(composition: Composition) -> None:
    """Two renders, one of them with a callback, are stored; the page knows their price, and the UI shows their logs."""
    assert "Password for user 'admin'" in composition.components["api-server"].log_path.read_text()
    run = composition.run("composed")

    generations = {each.prompt.split()[-1]: each.id for each in composition.emulator.generations}
    requests = composition.emulator.ledger.requests
    assert [entry.kind for entry in requests].count("submit") == len(generations) == 2
    calls = [(entry.generation_id, entry.status) for entry in composition.emulator.ledger.callbacks]
    assert calls == [(generations["called"], 202)]
    for name, generation_id in generations.items():
        assert (composition.clips / f"{name}.mp4").stat().st_size > 1000
        # Each service keeps its logs to itself, and hands them to the API server.
        log = json.dumps(composition.api.request("GET", f"{run}/taskInstances/{name}/logs/1"))
        assert generation_id in log

    assert "<html" in composition.page("spend")
    [row] = json.loads(composition.page("api/spend"))["rows"]
    assert (row["dag_id"], row["generations"]) == ("composed", 2)
