"""Fixtures of the submission tests."""

from __future__ import annotations

import pytest

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from submission.entry import Task


@pytest.fixture
def api() -> str:
    """Service of the task; a test that names another overrides it."""
    return "runbase"


@pytest.fixture
def task(services: SeedanceEmulator, api: str) -> Task:
    return Task(services, api)
