"""Tries on Airflow 3.4, where a clear of the task instance discards its task state unless the user keeps it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from airflow_provider_seedance.ledger import task_state
from operators.batch_runner import Batch
from operators.generation_task import Task, fire

Warned = Callable[[], tuple[int, int]]


@pytest.fixture(autouse=True)
def airflow_3_4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_state, "AIRFLOW_V_3_4_PLUS", True)


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Warned:
    """Count the warnings of what a clear discards, and of what it has discarded, since the last count."""
    caplog.set_level(logging.WARNING)

    def count() -> tuple[int, int]:
        discards, discarded = (
            sum(words in line for line in caplog.messages) for words in ("Keep task state", "holds no record")
        )
        caplog.clear()
        return discards, discarded

    return count


def deliver(task: Task) -> None:
    task.resume(fire(task.defer_and_finish().trigger))


def test_a_generation_warns_once_per_try_and_is_submitted_again_if_its_record_was_discarded(
    task: Task, warned: Warned
) -> None:
    task.ti.max_tries = 0
    deliver(task)
    assert warned() == (1, 0)
    task.ti.clear(retries=0)  # and keeps the task state
    task.run(deferrable=False)
    assert warned() == (1, 0)
    assert task.submitted == 1
    task.store.texts.clear()
    task.ti.clear(retries=0)
    task.services.hold()
    deliver(task)
    assert warned() == (1, 1)
    assert task.submitted == 2


def test_a_batch_warns_once_per_try(batch: Batch, warned: Warned) -> None:
    batch.ti.max_tries = 0
    requests = [{"prompt": f"clip {number}"} for number in range(3)]
    batch.run(requests, max_in_flight=1)
    assert batch.entries > 1
    assert warned() == (1, 0)
    batch.store.texts.clear()
    batch.ti.clear(retries=0)
    batch.run(requests)
    assert warned() == (1, 1)
    assert len(batch.paid) == 6
