"""A whole task with a ledger: the re-entry table, decisions of persons, discarded task state, outages."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from operators.generation_task import Connect, fire
from versions import ENDING_FROM_TRIGGERS, needs

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.cli import main
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.ledger import database, record_end, task_state
from airflow_provider_seedance.ledger.account import render_again
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import TaskIdentity
from airflow_provider_seedance.submission import decisions
from airflow_provider_seedance.submission.submitter import Submission
from airflow_provider_seedance.version_compat import COMMAND_WORDS

from .conftest import Batches
from .discarding_task import DiscardingTask
from .record_samples import attempt, generation, intent
from .rows import configured, recorded
from .sent_statements import statements

RESOLVE = f"{' '.join(COMMAND_WORDS)} ledger resolve dag run task"

#: The last render is delivered, another one is submitted, or the task fails.
DELIVERED, ANEW = "delivered", "anew"


def leave_behind(task: DiscardingTask, situation: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Submit, and bring about a situation; returns the arguments of the next try."""
    emulator = task.emulator
    if situation.startswith("uncertain"):
        emulator.fault("drop_reply")
        monkeypatch.setattr("airflow_provider_seedance.apis.ark.Ark.can_look_up", False)
        with monkeypatch.context() as lost:
            if situation == "uncertain, not reported":
                lost.setattr(Submission, "report_uncertain", lambda *_: None)
            with pytest.raises(errors.SeedanceUncertainSubmitError):
                task.execute()
        return {}
    task.defer()
    (made,) = emulator.ledger.submissions
    bring_about: dict[str, Callable[[str], object]] = {
        "succeeded": emulator.finish,
        "failed": lambda generation_id: emulator.fail(generation_id, "GPU on fire"),
        "expired": emulator.expire,
        "cancelled": emulator.cancel_remote,
        "unknown to the service": emulator.forget,
        "unreadable": lambda _: emulator.fault("gateway_error", "status", times=3),
    }
    if situation in bring_about:
        bring_about[situation](made.generation_id)
    return {"prompt": "Another one"} if situation == "another request" else {}


@pytest.mark.parametrize(
    ("situation", "after_a_retry", "after_a_clear"),
    [
        ("running", DELIVERED, DELIVERED),
        ("succeeded", DELIVERED, DELIVERED),
        ("failed", ANEW, ANEW),
        ("expired", ANEW, ANEW),
        ("cancelled", errors.SeedanceGenerationCancelledError, ANEW),
        ("unreadable", DELIVERED, DELIVERED),
        ("unknown to the service", errors.SeedanceNotFoundError, ANEW),
        ("another request", errors.SeedanceRequestChangedError, ANEW),
        ("uncertain, not reported", errors.SeedanceUncertainSubmitError, errors.SeedanceUncertainSubmitError),
        ("uncertain", errors.SeedanceUncertainSubmitError, ANEW),
    ],
)
@pytest.mark.parametrize("again", ["retry", "clear", "run_again"])
def test_every_cell_holds(
    task: DiscardingTask,
    connect: Connect,
    situation: str,
    after_a_retry: Any,
    after_a_clear: Any,
    again: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The table of docs/submitting-and-retries.md, as Airflow keeps no state."""
    monkeypatch.setattr(task_state, "AIRFLOW_V_3_4_PLUS", again != "run_again")
    connect("ark")
    task.emulator.hold()
    arguments = leave_behind(task, situation, monkeypatch)
    expected = after_a_retry if again == "retry" else after_a_clear
    getattr(task, again)()
    task.emulator.release()
    if isinstance(expected, type):
        with pytest.raises(expected):
            task.execute(**arguments)
    else:
        assert task.execute(**arguments)["status"] == "succeeded"
    assert task.posts == (2 if expected == ANEW else 1)
    assert "Keep task state" not in caplog.text


# ---------------------------------------------------------------------- decisions of persons


@pytest.mark.parametrize("again", ["clear", "run_again"])
def test_the_decision_outlives_a_rejected_submission(task: DiscardingTask, again: str) -> None:
    task.defer(on_clear="new")
    first = task.resume(on_clear="new")  # not a clear
    assert task.posts == 1
    getattr(task, again)()
    task.emulator.fault("refuse", status=402)
    with pytest.raises(errors.SeedanceInsufficientCreditsError):
        task.execute(on_clear="new")
    task.retry()
    second = task.execute(on_clear="new")
    assert second["generation_id"] != first["generation_id"]
    task.retry()
    assert task.execute(on_clear="new") == second
    assert task.posts == 3


@pytest.mark.parametrize(
    ("again", "billed"), [("retry", True), ("clear", True), ("run_again", True), ("retry", False)]
)
def test_an_uncertain_submission_is_settled_by_a_person(
    task: DiscardingTask, again: str, billed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    task.emulator.fault("drop_reply")
    with pytest.raises(errors.SeedanceUncertainSubmitError) as caught:
        task.execute()
    assert f"`{RESOLVE} --generation-id ID`" in caught.value.message
    (made,) = task.emulator.ledger.submissions
    fate = ["--generation-id", made.generation_id] if billed else ["--not-billed"]
    main(["ledger", "resolve", "dag", "run", "task", *fate])
    assert not billed or made.generation_id in capsys.readouterr().out
    getattr(task, again)()
    assert (task.execute()["generation_id"] == made.generation_id) is billed
    assert task.posts == (1 if billed else 2)


def test_the_command_is_named_in_every_error_about_an_uncertain_submission(
    task: DiscardingTask, services: SeedanceEmulator, connect: Connect
) -> None:
    services.fault("drop_reply", times=2)
    with pytest.raises(errors.SeedanceUncertainSubmitError, match="raise the limit") as caught:
        task.execute(on_uncertain_submit="resubmit", max_credits=40)
    assert f"`{RESOLVE} --generation-id ID`" in caught.value.message
    connect("ark")
    services.fault("cut", on="list", times=3)
    task.ti.task_id = "other"
    with pytest.raises(errors.SeedanceConnectionError) as unknown:
        task.execute()
    assert f"`{RESOLVE.removesuffix('task')}other --generation-id ID`" in unknown.value.message


def decide(generation_id: str, hours: float | None = 1) -> None:
    """Let a person decide to render again within some hours, or withdraw that."""
    task = TaskIdentity(namespace="default", dag_id="dag", run_id="run", task_id="task")
    until = None if hours is None else utc_now() + timedelta(hours=hours)
    render_again(configured(), task, generation_id, until)


def test_the_next_clear_pays_once(task: DiscardingTask) -> None:
    first = task.execute()["generation_id"]
    for _ in range(2):  # a double click
        decide(first)
    task.retry()
    assert task.execute()["generation_id"] == first  # an automatic retry pays nothing
    task.clear()
    task.emulator.fault("refuse", status=402)
    with pytest.raises(errors.SeedanceInsufficientCreditsError):
        task.execute()  # keeps the decision
    task.clear()
    task.emulator.hold()
    task.defer()
    task.retry()  # attaches to the new render
    task.emulator.release()
    second = task.execute()["generation_id"]
    assert (second != first, task.posts) == (True, 3)
    with pytest.raises(errors.SeedanceRequestError, match="not the latest"):
        decide(first)  # a page that was not loaded again
    task.clear()
    assert task.execute()["generation_id"] == second
    assert task.posts == 3


@pytest.mark.parametrize("hours", [-1, None], ids=["too late", "withdrawn"])
def test_a_void_decision_pays_nothing(task: DiscardingTask, hours: float | None) -> None:
    first = task.execute()["generation_id"]
    decide(first)
    decide(first, hours)
    task.clear()
    assert task.execute()["generation_id"] == first
    assert task.posts == 1


def test_one_item_of_a_batch(connected: None, batch: Batches) -> None:
    task = batch(-1)
    first = task.run(["a", "b"])
    decide(first["succeeded"][1]["generation_id"])
    second = task.clear()
    assert task.paid == ["a", "b", "b"]
    assert second["succeeded"][0] == first["succeeded"][0]
    assert second["succeeded"][1]["generation_id"] != first["succeeded"][1]["generation_id"]
    assert task.clear() == second


# ---------------------------------------------------------------------- statements, secrets and outages


def test_without_the_ledger_nothing_is_sent(task: DiscardingTask, monkeypatch: pytest.MonkeyPatch) -> None:
    away = Mock(side_effect=ConnectionError("the server is away"))
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


def test_a_run_that_was_made_again_counts_as_cleared() -> None:
    record = decisions.Record.from_value({**intent().as_dict(), "ti_id": "a"})
    same = decisions.Attempt(**{**vars(attempt()), "ti_id": "a"})
    other = decisions.Attempt(**{**vars(attempt()), "ti_id": "b"})
    later = decisions.Attempt(**{**vars(other), "try_number": 2})
    assert [decisions.is_cleared(record, each) for each in (same, other, later)] == [False, True, False]
    assert [decisions.is_of_this_try(record, each) for each in (same, other, later)] == [True, False, False]


def test_a_submission_takes_four_statements_and_its_end_two(task: DiscardingTask) -> None:
    with statements("seedance_submissions") as sent:
        task.defer()
    # The record of the task, the intent, the id, and what such renders took.
    assert sent == ["SELECT", "INSERT", "UPDATE", "SELECT"]
    with statements("seedance_submissions") as sent:
        task.resume()
    assert sent == ["SELECT", "UPDATE"]


@pytest.mark.parametrize("fault", ["refuse", "fail"])
def test_a_failed_item_keeps_no_signature(
    services: SeedanceEmulator, connected: None, batch: Batches, ledger: Path, fault: str
) -> None:
    services.fault(fault, message="cannot read https://u:p4ss@bucket.example/a.png?X-Amz-Signature=deadbeef")
    result = batch(1).run(["a", "b"], on_item_failure="keep")
    assert "bucket.example/a.png" in result["failed"][0]["error"]
    raw = b"".join(path.read_bytes() for path in ledger.parent.glob("ledger.db*"))
    assert b"bucket.example/a.png" in raw
    assert b"deadbeef" not in raw
    assert b"p4ss" not in raw


def test_a_render_survives_the_end_of_the_database(
    services: SeedanceEmulator, connect: Connect, postgres_ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("seedanceapi-v1")
    task = DiscardingTask(services)
    send = Submission._send

    def send_and_kill(self: Submission, *arguments: Any, **options: Any) -> Any:
        outcome = send(self, *arguments, **options)
        postgres_ledger.kill()
        return outcome

    with monkeypatch.context() as dying:
        dying.setattr(Submission, "_send", send_and_kill)
        task.defer()
    with pytest.raises(errors.SeedanceLedgerError, match="team_ledger"):
        DiscardingTask(services).execute()
    assert task.posts == 1
    postgres_ledger.launch()
    result = task.resume()
    assert [row["state"] for row in recorded()] == ["ended"]
    task.retry()
    assert task.execute()["generation_id"] == result["generation_id"]
    assert task.posts == 1


def test_a_process_goes_on_after_the_end_of_its_sessions(
    postgres_ledger: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "MAX_IDLE_SECONDS", 0)
    record_end(generation(1))
    sessions = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    with postgres_ledger.connect().cursor() as cursor:
        cursor.execute(f"SELECT pg_terminate_backend(pid) {sessions}")
        assert (True,) in cursor.fetchall()
    record_end(generation(1))
    assert "is not recorded" not in caplog.text
