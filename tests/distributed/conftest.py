"""One distributed Airflow, shared by all tests here, which run one after the other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from callback_recorder import CallbackRecorder
    from cluster import Cluster
    from tcp_proxy import TcpProxy

    from airflow_provider_seedance.testing import SeedanceEmulator

HERE = Path(__file__).parent

#: Real seconds of a render: long enough to be killed in, short enough for a gate.
RENDER_SECONDS = 20.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options for the length and seed of the chaos."""
    group = parser.getgroup("distributed")
    group.addoption("--chaos-seconds", type=float, default=80.0, help="how long things are killed")
    group.addoption("--chaos-seed", type=int, default=26, help="decides what is killed, and when")
    group.addoption("--chaos-renders", type=int, default=100, help="how many renders there are")
    group.addoption("--ledger", action="store_true", help="with a ledger on a PostgreSQL of its own")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this directory needs a distributed Airflow."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.distributed)


@pytest.fixture(scope="session")
def emulator() -> Iterator[SeedanceEmulator]:
    """The services. A submission takes a moment, as it does in reality."""
    pytest.importorskip("celery", reason="the extra 'distributed' is not installed")
    pytest.importorskip("psycopg2", reason="the extra 'distributed' is not installed")
    pytest.importorskip("asyncpg", reason="the extra 'distributed' is not installed")
    import backends

    from airflow_provider_seedance.testing import SeedanceEmulator

    if lacking := backends.missing():
        pytest.skip(f"a distributed Airflow cannot be started: {lacking}")
    options = {"media": False, "concurrency": 1000}
    with SeedanceEmulator(speed=10, render_seconds=10 * RENDER_SECONDS, **options) as running:
        running.fault("delay", on="submit", seconds=0.3, times=None)
        yield running


@pytest.fixture(scope="session")
def tcp_proxy(emulator: SeedanceEmulator) -> Iterator[TcpProxy]:
    """The only way from Airflow to the services."""
    from tcp_proxy import TcpProxy

    made = TcpProxy(int(emulator.url.rpartition(":")[2]))
    yield made
    made.close()


@pytest.fixture(scope="session")
def callback_recorder() -> Iterator[CallbackRecorder]:
    """Receive the services' callbacks."""
    from callback_recorder import CallbackRecorder

    with CallbackRecorder() as made:
        yield made


@pytest.fixture(scope="session")
def cluster(
    tmp_path_factory: pytest.TempPathFactory,
    emulator: SeedanceEmulator,
    tcp_proxy: TcpProxy,
    callback_recorder: CallbackRecorder,
    pytestconfig: pytest.Config,
) -> Iterator[Cluster]:
    """The shared Airflow, started."""
    from backends import Postgres
    from cluster import Cluster

    home = tmp_path_factory.mktemp("cluster")
    shutil.copytree(HERE / "dags", home / "dags")

    def connection(api: str, **extra: Any) -> str:
        fields = emulator.connection(api, **extra)
        fields["host"] = fields["host"].replace(emulator.url, tcp_proxy.url)
        return json.dumps(fields)

    made = Cluster(
        home=home,
        dags_folder=home / "dags",
        ledger=Postgres() if pytestconfig.getoption("--ledger") else None,
        connections={
            "seedance_default": connection("seedanceapi-v2"),
            "seedance_ark": connection("ark"),
            "seedance_s2a": connection("seedance2api"),
            "seedance_called": connection(
                "seedanceapi-v1",
                callback_base_url=callback_recorder.url,
                callback_secret="of the tests, and of no use",
            ),
        },
    )
    with made:
        for dag_id in ("single", "mapped", "called", "batch"):
            made.wait_parsed(dag_id, 120)
        yield made
