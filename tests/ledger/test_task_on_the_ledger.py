"""A whole task with a ledger: retries, clears, deleted Dag runs, discarded task state, outages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from operators.generation_task import fire
from versions import ENDING_FROM_TRIGGERS, needs

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.cli import main
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.ledger import record_end
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.submission import decisions
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_2_PLUS

from .discarding_task import DiscardingTask
from .record_samples import attempt, generation, intent
from .rows import recorded

Connect = Callable[..., None]

PROGRAM = "airflow seedance" if AIRFLOW_V_3_2_PLUS else "python -m airflow_provider_seedance"
RESOLVE = f"{PROGRAM} ledger resolve dag run task"


@pytest.mark.parametrize("again", ["retry", "clear", "run_again"])
def test_a_generation_is_delivered_again(task: DiscardingTask, again: str) -> None:
    first = task.execute()
    getattr(task, again)()
    assert task.execute()["generation_id"] == first["generation_id"]
    assert task.posts == 1


@pytest.mark.parametrize("again", ["clear", "run_again"])
def test_another_generation_by_decision(task: DiscardingTask, again: str) -> None:
    first = task.execute(on_clear="new")
    getattr(task, again)()
    assert task.execute(on_clear="new")["generation_id"] != first["generation_id"]
    assert task.posts == 2


@pytest.mark.parametrize("again", ["clear", "run_again"])
def test_the_decision_outlives_a_rejected_submission(task: DiscardingTask, again: str) -> None:
    first = task.execute(on_clear="new")
    getattr(task, again)()
    task.emulator.fault("refuse", status=402)
    with pytest.raises(errors.SeedanceInsufficientCreditsError):
        task.execute(on_clear="new")
    task.retry()
    assert task.execute(on_clear="new")["generation_id"] != first["generation_id"]
    task.retry()
    task.execute(on_clear="new")
    assert task.posts == 3


def test_a_deferred_task_is_not_taken_for_a_cleared_one(task: DiscardingTask) -> None:
    task.defer(on_clear="new")
    assert task.resume()["status"] == "succeeded"
    assert task.posts == 1


def test_a_generation_in_flight_is_attached_to_after_a_clear(task: DiscardingTask) -> None:
    task.emulator.hold()
    task.defer()
    task.clear()
    task.emulator.release()
    task.execute()
    assert task.posts == 1


@pytest.mark.parametrize("again", ["retry", "clear", "run_again"])
def test_an_uncertain_submission_is_settled_by_a_person(
    task: DiscardingTask, again: str, capsys: pytest.CaptureFixture[str]
) -> None:
    task.emulator.fault("drop_reply")
    with pytest.raises(errors.SeedanceUncertainSubmitError) as caught:
        task.execute()
    assert f"`{RESOLVE} --generation-id ID`" in caught.value.message
    (made,) = task.emulator.ledger.submissions
    main(["ledger", "resolve", "dag", "run", "task", "--generation-id", made.generation_id])
    assert made.generation_id in capsys.readouterr().out
    getattr(task, again)()
    assert task.execute()["generation_id"] == made.generation_id
    assert task.posts == 1


def test_the_command_is_named_where_max_credits_rules_out_a_resubmission(task: DiscardingTask) -> None:
    task.emulator.fault("drop_reply")
    with pytest.raises(errors.SeedanceUncertainSubmitError, match="raise the limit") as caught:
        task.execute(on_uncertain_submit="resubmit", max_credits=40)
    assert f"`{RESOLVE} --generation-id ID`" in caught.value.message


def test_the_command_is_named_where_the_service_cannot_be_queried(
    services: SeedanceEmulator, connect: Connect, ledger: Path
) -> None:
    connect("ark")
    services.fault("drop_reply")
    services.fault("cut", on="list", times=3)
    with pytest.raises(errors.SeedanceConnectionError) as caught:
        DiscardingTask(services).execute()
    assert f"`{RESOLVE} --generation-id ID`" in caught.value.message


def test_of_two_uncertain_submissions_of_a_task_the_latest_is_settled_first(task: DiscardingTask) -> None:
    task.emulator.fault("drop_reply", times=None)
    for _ in range(2):
        with pytest.raises(errors.SeedanceUncertainSubmitError):
            task.execute()
        task.clear()
    first, second = task.emulator.ledger.submissions
    for made in (second, first):
        main(["ledger", "resolve", "dag", "run", "task", "--generation-id", made.generation_id])
    found = {row["number"]: row["generation_id"] for row in recorded()}
    assert found == {1: first.generation_id, 2: second.generation_id}


def test_a_submission_that_was_not_billed_is_repeated_by_the_next_try(task: DiscardingTask) -> None:
    task.emulator.fault("drop_reply")
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        task.execute()
    main(["ledger", "resolve", "dag", "run", "task", "--not-billed"])
    task.retry()
    task.execute()
    assert task.posts == 2


def test_without_the_ledger_nothing_is_sent(task: DiscardingTask, monkeypatch: pytest.MonkeyPatch) -> None:
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
    task: DiscardingTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = Database.transaction

    def away_after_the_intent(self: Database) -> Any:
        if task.posts:
            raise errors.SeedanceLedgerError("The ledger is away.")
        return begun(self)

    with monkeypatch.context() as outage:
        outage.setattr(Database, "transaction", away_after_the_intent)
        task.defer()
    result = task.resume()
    assert result["generation_id"] == task.emulator.ledger.submissions[0].generation_id
    task.retry()
    assert task.execute()["generation_id"] == result["generation_id"]
    assert task.posts == 1


@needs(ENDING_FROM_TRIGGERS)
def test_an_end_without_a_worker_is_recorded(task: DiscardingTask, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.bases.xcom import BaseXCom

    written: dict[str, Any] = {}

    async def aset(key: str, value: Any, **_: Any) -> None:
        written[key] = value

    monkeypatch.setattr(BaseXCom, "aset", aset)
    task.defer(end_from_trigger=True)
    task.deferred.trigger.task_instance = task.ti
    fire(task.deferred.trigger)
    (row,) = recorded()
    result = written["return_value"]
    assert (row["generation_id"], row["state"]) == (result["generation_id"], "ended")
    assert (row["credits"], row["cost_usd"]) == (result["credits"], result["cost_usd"])


def test_an_end_that_cannot_be_recorded_ends_the_task_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", "sqlite:////nowhere/at/all/ledger.db")
    record_end(generation(1))
    assert "is not recorded" in caplog.text


def test_a_run_that_was_made_again_counts_as_cleared() -> None:
    record = decisions.Record.from_value({**intent().as_dict(), "ti_id": "a"})
    same = decisions.Attempt(**{**vars(attempt()), "ti_id": "a"})
    other = decisions.Attempt(**{**vars(attempt()), "ti_id": "b"})
    later = decisions.Attempt(**{**vars(other), "try_number": 2})
    assert [decisions.is_cleared(record, each) for each in (same, other, later)] == [False, True, False]
    assert [decisions.is_of_this_try(record, each) for each in (same, other, later)] == [True, False, False]
