"""One real Airflow and one emulator of the services, shared by all integration tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import CONNECTIONS, TestAirflow

if TYPE_CHECKING:
    from airflow_provider_seedance.testing import SeedanceEmulator

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this directory is an integration test."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Handle Ctrl-C although a shell ignores it for background processes, and so for the commands we start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def database_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the empty database of the first Airflow, which the other ones copy."""
    return tmp_path_factory.mktemp("database") / "empty.db"


@pytest.fixture(scope="session")
def emulator() -> Iterator[SeedanceEmulator]:
    """Run the emulator of all services, before Airflow starts, whose connections contain its port."""
    from airflow_provider_seedance.testing import SeedanceEmulator

    with SeedanceEmulator(speed=10) as running:
        yield running


@pytest.fixture(scope="session")
def airflow(
    tmp_path_factory: pytest.TempPathFactory, database_template: Path, emulator: SeedanceEmulator
) -> Iterator[TestAirflow]:
    """The shared Airflow, started. Leave it as you found it: restart what you kill."""
    home = tmp_path_factory.mktemp("airflow")
    with TestAirflow(
        home=home,
        dags_folder=home / "dags",
        connections={name: emulator.connection_json(api) for name, api in CONNECTIONS.items()},
        database_template=database_template,
    ) as running:
        yield running
