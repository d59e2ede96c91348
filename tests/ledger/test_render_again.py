"""Another render by decision of a person: the next try after a clear pays for it, once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from operators import batch_runner

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.ledger.account import render_again
from airflow_provider_seedance.ledger.entries import TaskIdentity

from .discarding_task import DiscardingTask
from .rows import configured

Connect = Callable[..., None]

TASK = TaskIdentity(namespace="default", dag_id="dag", run_id="run", task_id="task")


def decide(generation_id: str, hours: float | None = 1) -> None:
    until = None if hours is None else utc_now() + timedelta(hours=hours)
    render_again(configured(), TASK, generation_id, until)


def test_the_next_clear_pays_once(task: DiscardingTask) -> None:
    first = task.execute()["generation_id"]
    for _ in range(2):  # a double click
        decide(first)
    task.retry()
    assert task.execute()["generation_id"] == first  # an automatic retry pays nothing
    task.clear()
    second = task.execute()["generation_id"]
    assert (second != first, task.posts) == (True, 2)
    with pytest.raises(errors.SeedanceRequestError, match="not the latest"):
        decide(first)  # a page that was not loaded again
    task.clear()
    assert task.execute()["generation_id"] == second
    assert task.posts == 2


def test_a_retry_of_the_new_try_attaches_to_its_render(task: DiscardingTask) -> None:
    decide(task.execute()["generation_id"])
    task.clear()
    task.emulator.hold()
    task.defer()
    task.retry()
    task.emulator.release()
    task.execute()
    assert task.posts == 2


def test_a_rejected_submission_keeps_the_decision(task: DiscardingTask) -> None:
    first = task.execute()["generation_id"]
    decide(first)
    task.clear()
    task.emulator.fault("refuse", status=402)
    with pytest.raises(errors.SeedanceInsufficientCreditsError):
        task.execute()
    task.clear()
    assert task.execute()["generation_id"] != first


@pytest.mark.parametrize("hours", [-1, None], ids=["too late", "withdrawn"])
def test_a_void_decision_pays_nothing(task: DiscardingTask, hours: float | None) -> None:
    first = task.execute()["generation_id"]
    decide(first)
    decide(first, hours)
    task.clear()
    assert task.execute()["generation_id"] == first
    assert task.posts == 1


def test_only_a_render_that_succeeded(task: DiscardingTask) -> None:
    task.emulator.hold()
    task.defer()
    (submission,) = task.emulator.ledger.submissions
    for generation_id in (submission.generation_id, "unknown"):
        with pytest.raises(errors.SeedanceRequestError):
            decide(generation_id)


def test_one_item_of_a_batch(services: SeedanceEmulator, connect: Connect, ledger: Path) -> None:
    connect("seedanceapi-v1")
    batch = batch_runner.Batch(services, connect)
    first = batch.run(["a", "b"])
    decide(first["succeeded"][1]["generation_id"])
    second = batch.clear()
    assert batch.paid == ["a", "b", "b"]
    assert second["succeeded"][0] == first["succeeded"][0]
    assert second["succeeded"][1]["generation_id"] != first["succeeded"][1]["generation_id"]
    assert batch.clear() == second
