"""The services of `docs/compose/compose.yaml`, as processes with its commands and its settings."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import shlex
import urllib.request
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cryptography.fernet import Fernet
from local_airflow.api import Api, quoted
from local_airflow.environment import free_ports
from local_airflow.installation import Installation
from local_airflow.processes import Component

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


class Composition(Installation):
    """
    The services of the file, each with a home directory of its own, as a container has.

    The differences to containers: hosts are 127.0.0.1, ports are free ones, and all directories are on one disk.
    """

    def __init__(self, home: Path, postgres: Postgres, emulator: SeedanceEmulator) -> None:
        from backends import PostgresDatabase

        self.clips, self.postgres, self.emulator = home / "clips", postgres, emulator
        port, worker_logs, trigger_logs = free_ports(3)
        url = f"http://127.0.0.1:{port}"
        connection = emulator.connection(
            "seedanceapi-v1", callback_base_url=url, callback_secret="of the test"
        )
        self._variables = {
            "POSTGRES_PASSWORD": postgres.url.removeprefix("://airflow:").partition("@")[0],
            "FERNET_KEY": Fernet.generate_key().decode(),
            "JWT_SECRET": "a secret of the test, which is long enough for its use",
            "API_SECRET_KEY": "another secret of the test, also long enough for its use",
            "SEEDANCE_CONNECTION": json.dumps(connection),
        }
        self._places = {
            "api-server:8080": f"127.0.0.1:{port}",
            "--port 8080": f"--port {port}",
            "@postgres:5432": f"@127.0.0.1:{postgres.port}",
            "/opt/airflow/dags": str(home / "dags"),
            "/srv/clips": str(self.clips),
        }
        self.services = yaml.safe_load((COMPOSE / "compose.yaml").read_text(encoding="utf-8"))["services"]
        programs = {name: self.services[name]["command"] for name in self.services.keys() - {"postgres"}}
        commands = {name: shlex.split(self.resolve(command)) for name, command in programs.items()}
        assert {command[0] for command in commands.values()} == {"airflow"}
        super().__init__(
            home=home,
            dags_folder=home / "dags",
            config={},
            connections={},
            # The file leaves out ports that every container has to itself, and time for a busy machine.
            env={
                "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_logs),
                "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_logs),
                "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            },
            commands={name: command[1:] for name, command in commands.items()},
            database=PostgresDatabase(postgres, self.services["postgres"]["environment"]["POSTGRES_DB"]),
            api=Api(url, home / "api-server" / PASSWORDS, admin="admin"),
        )

    def resolve(self, value: object) -> str:
        """Return a value with its variables, and with the hosts, ports and directories of this machine."""
        text = re.sub(r"\$\{(\w+):\?\}", lambda found: self._variables[found[1]], str(value))
        for place, here in self._places.items():
            text = text.replace(place, here)
        return text

    def start(self) -> None:
        """Start each service after those that it depends on, and wait for the API server."""
        try:
            self.dags_folder.mkdir()
            (self.dags_folder / "composed.py").write_text(self.resolve(DAG))
            needed = {name: service.get("depends_on", {}) for name, service in self.services.items()}
            for name in TopologicalSorter(needed).static_order():
                conditions = {before[name]["condition"] for before in needed.values() if name in before}
                if name == "postgres":
                    assert conditions == {"service_healthy"}
                    self._start_postgres(self.services[name])
                else:
                    self._start_airflow(self._components[name], self.services[name], conditions)
            self.wait_until(self.api.healthy, TIMEOUT_SECONDS, "the API server")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all processes."""
        super().stop()
        self.postgres.stop()

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

    def _start_airflow(self, component: Component, service: Any, conditions: set[str]) -> None:
        home = self.home / component.name
        home.mkdir()
        places = {"AIRFLOW_HOME": str(home), "AIRFLOW_CONFIG": str(home / "airflow.cfg")}
        settings = {key: self.resolve(value) for key, value in service["environment"].items()}
        with open_files(service.get("ulimits", {}).get("nofile")):
            self._guard.add(component.start({**self.environment, **places, **settings}, home))
        if conditions == {"service_completed_successfully"}:
            assert component.process
            assert component.process.wait(TIMEOUT_SECONDS) == 0, component.tail()
            component.ended = True

    def page(self, path: str) -> str:
        """Return a page of this package, as a user who is logged in gets it."""
        headers = {"Authorization": f"Bearer {self.api.token()}"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.api.url}/seedance/{path}", headers=headers)
        ) as reply:
            return str(reply.read().decode())


@pytest.fixture(scope="module")
def composition(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composition]:
    for module in ("psycopg2", "asyncpg"):
        pytest.importorskip(module, reason="the extra 'distributed' is not installed")
    from backends import Postgres, find_postgres

    from airflow_provider_seedance.testing import SeedanceEmulator

    if find_postgres() is None:
        pytest.skip("PostgreSQL is not installed")
    home = tmp_path_factory.mktemp("compose")
    with SeedanceEmulator(speed=10) as emulator, Composition(home, Postgres(), emulator) as made:
        yield made


def test_renders_end_as_the_page_says(composition: Composition) -> None:
    """Two renders, one of them with a callback, are stored; the page knows their price, and the UI shows their logs."""
    assert "Password for user 'admin'" in (composition.home / "logs" / "api-server.log").read_text()
    composition.wait_parsed("composed", TIMEOUT_SECONDS)
    composition.unpause("composed")
    run_id = composition.trigger("composed")
    assert composition.wait_run("composed", run_id, TIMEOUT_SECONDS) == "success"

    generations = {each.prompt.split()[-1]: each.id for each in composition.emulator.generations}
    requests = composition.emulator.ledger.requests
    assert [entry.kind for entry in requests].count("submit") == len(generations) == 2
    calls = [(entry.generation_id, entry.status) for entry in composition.emulator.ledger.callbacks]
    assert calls == [(generations["called"], 202)]
    for name, generation_id in generations.items():
        assert (composition.clips / f"{name}.mp4").stat().st_size > 1000
        # Each service keeps its logs to itself, and hands them to the API server.
        path = f"/dags/composed/dagRuns/{quoted(run_id)}/taskInstances/{name}/logs/1"
        log = json.dumps(composition.rest("GET", path))
        assert generation_id in log

    assert "<html" in composition.page("spend")
    [row] = json.loads(composition.page("api/spend"))["rows"]
    assert (row["dag_id"], row["generations"]) == ("composed", 2)
