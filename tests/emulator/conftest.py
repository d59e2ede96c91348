from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from emulator.vendor import VALID_SUBMITS, Vendor


@pytest.fixture
def emulator() -> Iterator[SeedanceEmulator]:
    """Run an emulator whose renders end at once, and whose files need no codec."""
    with SeedanceEmulator(media=False, render_seconds=0) as running:
        yield running


@pytest.fixture
def start() -> Iterator[Callable[..., SeedanceEmulator]]:
    """Start emulators with arguments of the test."""
    running: list[SeedanceEmulator] = []

    def start_one(**arguments: Any) -> SeedanceEmulator:
        emulator = SeedanceEmulator(**{"media": False, "render_seconds": 0, **arguments})
        emulator.start()
        running.append(emulator)
        return emulator

    yield start_one
    for emulator in running:
        emulator.stop()


@pytest.fixture(scope="session")
def http() -> Iterator[httpx.Client]:
    """One client for all tests: its TLS context takes longer to create than most tests run."""
    with httpx.Client(trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture
def vendor(http: httpx.Client) -> Callable[..., Vendor]:
    """A client of one service: ``vendor(emulator, "ark")``."""

    def make(emulator: SeedanceEmulator, api: str, key: str = "emulator-key") -> Vendor:
        return Vendor(http=http, base=emulator.base_url(api), key=key, api=api)

    return make


@pytest.fixture(params=sorted(VALID_SUBMITS))
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)
