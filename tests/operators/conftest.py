"""Fixtures of the operator tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers import set_submission_timing
from support import Log

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.ledger import task_state
from airflow_provider_seedance.operators.base import SeedanceOperator
from operators.batch_runner import Batch
from operators.generation_task import Connect, Task, Tries


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()
    monkeypatch.setattr(SeedanceOperator, "log", log, raising=False)
    return log


@pytest.fixture
def api() -> str:
    """Service of the connection; a test that names another overrides it."""
    return "seedanceapi-v2"


@pytest.fixture
def task(services: SeedanceEmulator, connect: Connect, api: str) -> Task:
    connect(api)
    return Task(services, connect)


@pytest.fixture
def forgetful(task: Task) -> Task:
    """Task on an Airflow without a task state store."""
    task.without_store()
    return task


@pytest.fixture
def batch(services: SeedanceEmulator, connect: Connect, api: str) -> Batch:
    connect(api)
    return Batch(services, connect)


@pytest.fixture(params=["task", "batch"])
def either(request: pytest.FixtureRequest) -> Tries:
    """A task that makes a single generation, and a batch of one."""
    tries: Tries = request.getfixturevalue(request.param)
    return tries


@pytest.fixture
def nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every result out of the state store, for its size."""
    monkeypatch.setattr(task_state, "MAX_VALUE_BYTES", 1)


@pytest.fixture
def callback_timed_out(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: set_submission_timing(monkeypatch, callback_timeout=0.0)


@pytest.fixture(params=["task state", "ledger", "no store"])
def kept(request: pytest.FixtureRequest) -> str:
    """The place of the records of the task, or of the batch."""
    place: str = request.param
    if place == "ledger":
        request.getfixturevalue("ledger")
    elif place == "no store":
        tries: Tries = request.getfixturevalue("task" if "task" in request.fixturenames else "batch")
        tries.without_store()
    return place
