"""Tries on Airflow 3.4, where a clear of the task instance discards its task state unless the user keeps it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.ledger import task_state
from operators import batch_runner
from operators.generation_task import Path

Connect = Callable[..., None]
Warned = Callable[[], tuple[int, int]]


@pytest.fixture(autouse=True)
def airflow_3_4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_state, "AIRFLOW_V_3_4_PLUS", True)


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Warned:
    """Count the warnings of what a clear discards, and of what it has discarded, since the last count."""
    caplog.set_level(logging.WARNING)

    def count() -> tuple[int, int]:
        lines = [line.message for line in caplog.records]
        caplog.clear()
        return sum("Keep task state" in line for line in lines), sum(
            "holds no record" in line for line in lines
        )

    return count


def test_a_generation_warns_once_per_try(
    services: SeedanceEmulator, connect: Connect, path: Path, warned: Warned
) -> None:
    connect("ark")
    path.ti.max_tries = 0
    path.deferred()
    assert warned() == (1, 0)
    path.ti.clear(retries=0)  # and keeps the task state
    path.direct()
    assert warned() == (1, 0)
    assert len(services.ledger.submissions) == 1


def test_a_generation_whose_record_was_discarded_is_submitted_anew(
    services: SeedanceEmulator, connect: Connect, path: Path, warned: Warned
) -> None:
    connect("ark")
    path.ti.max_tries = 0
    path.begin()
    warned()
    path.store.texts.clear()
    path.ti.clear(retries=0)
    path.deferred()
    assert warned() == (1, 1)
    assert len(services.ledger.submissions) == 2


def test_a_batch_warns_once_per_try(services: SeedanceEmulator, connect: Connect, warned: Warned) -> None:
    connect("ark")
    runner = batch_runner.Runner()
    runner.ti.max_tries = 0
    requests = [{"prompt": f"clip {number}"} for number in range(3)]
    runner.run(batch_runner.make(requests, max_in_flight=1))
    assert runner.entries > 1
    assert warned() == (1, 0)
    runner.store.texts.clear()
    runner.ti.clear(retries=0)
    runner.run(batch_runner.make(requests))
    assert warned() == (1, 1)
    assert len(services.ledger.submissions) == 6
