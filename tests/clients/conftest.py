"""The emulator for the services' own clients, with a key in the form of each."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator


@pytest.fixture
def emulator(
    request: pytest.FixtureRequest, start_emulator: Callable[..., SeedanceEmulator]
) -> SeedanceEmulator:
    """The emulator, whose renders end when a test says so."""
    return start_emulator(key=request.module.KEY, render_seconds=60, speed=1)
