"""Common fixtures of all integration tests: an emulator, the empty database of an Airflow, and a browser."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from renders_stage import Stage, open_browser

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

    from airflow_provider_seedance.testing import SeedanceEmulator


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Handle Ctrl-C although a shell ignores it for background processes, and so for the commands we start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def database_template(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Path of the empty database of the first Airflow, which the other ones copy, in all processes of the tests."""
    own = tmp_path_factory.getbasetemp()
    return (own if worker_id == "master" else own.parent) / "empty.db"


@pytest.fixture(scope="session")
def emulator() -> Iterator[SeedanceEmulator]:
    """Run the emulator of all services, before Airflow starts, whose connections contain its port."""
    from airflow_provider_seedance.testing import SeedanceEmulator

    with SeedanceEmulator(speed=10, concurrency=1000) as running:
        yield running


@pytest.fixture(scope="module")
def logged_in(tmp_path_factory: pytest.TempPathFactory, stage: Stage) -> Iterator[Chrome]:
    """The browser of the administrator of a module's Airflow."""
    with open_browser(tmp_path_factory.mktemp("chromium"), stage.airflow) as browser:
        yield browser


@pytest.fixture
def browser(logged_in: Chrome) -> Iterator[Chrome]:
    """The same; a page that is left open would go on drawing its videos."""
    yield logged_in
    logged_in.get("about:blank")
