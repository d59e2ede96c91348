"""Fixtures of the operator tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers import set_timing
from support import Log, Store

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.operators.base import SeedanceOperator
from airflow_provider_seedance.submission import lookup
from operators.callback_task import CALLED, Connect, Task
from operators.generation_task import Path


@pytest.fixture(autouse=True)
def _fire_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    set_timing(monkeypatch, min_trigger_time=0.0)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """Log of the operator."""
    log = Log()
    monkeypatch.setattr(SeedanceOperator, "log", log, raising=False)
    return log


@pytest.fixture
def path(services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch) -> Path:
    return Path(services, monkeypatch)


@pytest.fixture
def held(services: SeedanceEmulator) -> SeedanceEmulator:
    services.hold()
    return services


@pytest.fixture
def task(held: SeedanceEmulator, connect: Connect) -> Task:
    """Task whose submission is accepted and whose reply is lost."""
    connect("seedanceapi-v1", **CALLED)
    held.fault("drop_reply")
    return Task(held, Store())


@pytest.fixture
def callback_timed_out(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(lookup, "CALLBACK_TIMEOUT_SECONDS", 0.0)
