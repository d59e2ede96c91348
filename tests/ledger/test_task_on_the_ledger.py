"""A whole task with a ledger: retries, clears, deleted Dag runs, discarded task state, outages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from operators.generation_task import fire, make, resume
from support import Store, TaskInstance, deferral, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.cli import main
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.submission import decisions

Connect = Callable[..., None]


class Task:
    """A task instance whose task state is discarded before every entry."""

    def __init__(self, emulator: SeedanceEmulator) -> None:
        self.emulator = emulator
        self.ti = TaskInstance()
        self.next_id = 0
        self.new_try()

    def new_try(self) -> None:
        self.next_id += 1
        self.ti.id = f"ti-{self.next_id}"  # type: ignore[attr-defined]

    def retry(self) -> None:
        self.ti.retry()
        self.new_try()

    def clear(self) -> None:
        self.ti.clear()
        self.new_try()

    def run_again(self) -> None:
        """Make the deleted Dag run again."""
        self.ti.max_tries, self.ti.try_number = 2, 1
        self.new_try()

    def execute(self, **arguments: Any) -> Any:
        arguments = {"deferrable": False, "poll_interval": 0.01, **arguments}
        return make(**arguments).execute(make_context(Store(), self.ti))

    @property
    def posts(self) -> int:
        return len(self.emulator.ledger.posts())


@pytest.fixture
def task(services: SeedanceEmulator, connect: Connect, ledger: Path) -> Task:
    connect("seedanceapi-v1")
    return Task(services)


@pytest.mark.parametrize("again", ["retry", "clear", "run_again"])
def test_a_generation_is_delivered_again(task: Task, again: str) -> None:
    first = task.execute()
    getattr(task, again)()
    assert task.execute()["generation_id"] == first["generation_id"]
    assert task.posts == 1


@pytest.mark.parametrize("again", ["clear", "run_again"])
def test_another_generation_by_decision(task: Task, again: str) -> None:
    first = task.execute(on_clear="new")
    getattr(task, again)()
    assert task.execute(on_clear="new")["generation_id"] != first["generation_id"]
    assert task.posts == 2


def test_a_deferred_task_is_not_taken_for_a_cleared_one(task: Task) -> None:
    operator, context = make(poll_interval=0.01, on_clear="new"), make_context(Store(), task.ti)
    deferred = deferral(lambda: operator.execute(context))
    result = resume(operator, deferred, fire(deferred.trigger), make_context(Store(), task.ti))
    assert result["status"] == "succeeded"
    assert task.posts == 1


def test_a_generation_in_flight_is_attached_to_after_a_clear(task: Task) -> None:
    task.emulator.hold()
    deferral(lambda: task.execute(deferrable=True))
    task.clear()
    task.emulator.release()
    task.execute()
    assert task.posts == 1


@pytest.mark.parametrize("again", ["retry", "clear", "run_again"])
def test_an_uncertain_submission_is_settled_by_a_person(
    task: Task, again: str, capsys: pytest.CaptureFixture[str]
) -> None:
    task.emulator.fault("drop_reply")
    with pytest.raises(errors.SeedanceUncertainSubmitError) as caught:
        task.execute()
    command = "airflow seedance ledger resolve dag run task"
    assert f"`{command} --generation-id ID`" in caught.value.message
    (made,) = task.emulator.ledger.submissions
    main([*command.split()[2:], "--generation-id", made.generation_id])
    assert made.generation_id in capsys.readouterr().out
    getattr(task, again)()
    assert task.execute()["generation_id"] == made.generation_id
    assert task.posts == 1


def test_a_submission_that_was_not_billed_is_repeated_by_the_next_try(task: Task) -> None:
    task.emulator.fault("drop_reply")
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        task.execute()
    main(["ledger", "resolve", "dag", "run", "task", "--not-billed"])
    task.retry()
    task.execute()
    assert task.posts == 2


def test_without_the_ledger_nothing_is_sent(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(self: Database) -> Any:
        raise ConnectionError("the server is away")

    with monkeypatch.context() as outage:
        outage.setattr(Database, "_open", away)
        with pytest.raises(errors.SeedanceLedgerError, match="the server is away"):
            task.execute()
    assert task.posts == 0
    task.retry()
    task.execute()
    assert task.posts == 1


def test_an_id_that_the_ledger_does_not_take_travels_with_the_deferral(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, context = make(poll_interval=0.01), make_context(Store(), task.ti)
    begun = Database.transaction

    def away_after_the_intent(self: Database) -> Any:
        if task.posts:
            raise errors.SeedanceLedgerError("The ledger is away.")
        return begun(self)

    with monkeypatch.context() as outage:
        outage.setattr(Database, "transaction", away_after_the_intent)
        deferred = deferral(lambda: operator.execute(context))
    result = resume(operator, deferred, fire(deferred.trigger), context)
    assert result["generation_id"] == task.emulator.ledger.submissions[0].generation_id
    task.retry()
    assert task.execute()["generation_id"] == result["generation_id"]
    assert task.posts == 1


def test_a_run_that_was_made_again_counts_as_cleared() -> None:
    from .test_task_state import attempt, intent

    record = decisions.Record.from_value({**intent().as_dict(), "ti_id": "a"})
    same = decisions.Attempt(**{**vars(attempt()), "ti_id": "a"})
    other = decisions.Attempt(**{**vars(attempt()), "ti_id": "b"})
    later = decisions.Attempt(**{**vars(other), "try_number": 2})
    assert [decisions.is_cleared(record, each) for each in (same, other, later)] == [False, True, False]
    assert [decisions.is_of_this_try(record, each) for each in (same, other, later)] == [True, False, False]
