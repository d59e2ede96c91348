"""A record that cannot be read is not an empty one, and without a record of the intent nothing is submitted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_seedance.ledger.task_state import STATE_KEY
from airflow_provider_seedance.submission.records import VERSION
from airflow_provider_seedance.submission.store import GENERATION_KEY

from .airflow_fixture import STANDS_AFTER_ID, AirflowFixture, Task, first_of

pytestmark = pytest.mark.side_by_side


def _write(boat: Task, text: str) -> None:
    boat.airflow.airflow.write_database(
        "UPDATE task_state_store SET value = ? WHERE run_id = ? AND task_id = ? AND key = ?",
        text,
        boat.run_id,
        boat.task_id,
        STATE_KEY,
    )


def _value(record: dict[str, Any]) -> str:
    return json.dumps({"groups": 1, "records": {GENERATION_KEY: record}})


def _newer(boat: Task) -> str:
    return _value({**boat.record, "version": VERSION + 1})


def _another_form(boat: Task) -> str:
    return _value({"version": VERSION, "job": boat.record["generation_id"]})


def _without_id(boat: Task) -> str:
    return _value({**boat.record, "generation_id": None})


def _a_text(boat: Task) -> str:
    return json.dumps("done")


def _an_empty_object(boat: Task) -> str:
    return "{}"


@pytest.mark.parametrize("how", first_of("retry", "clear"))
@pytest.mark.parametrize("content", first_of(_newer, _another_form, _without_id, _a_text, _an_empty_object))
def test_an_unreadable_record_fails_the_task(
    airflow: AirflowFixture, content: Callable[[Task], str], how: str
) -> None:
    boat = _left_behind(airflow, 2 if how == "retry" else 0, on_clear="new", on_uncertain_submit="resubmit")
    written = content(boat)
    _write(boat, written)
    _enter_again(boat, how)
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)
    boat.check_says("The records of this task's earlier submissions", "othing was submitted", try_number=2)
    assert boat.store[STATE_KEY] == json.loads(written)


@pytest.mark.parametrize("how", first_of("retry", "clear"))
def test_a_record_that_cannot_be_read_fails_the_task_until_it_can(airflow: AirflowFixture, how: str) -> None:
    """The API server answers with an error for it, which another try may not see."""
    boat = _left_behind(airflow, 1 if how == "retry" else 0, on_clear="new")
    record = _value(boat.record)
    _write(boat, "{ not JSON")
    _enter_again(boat, how)
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)
    boat.check_says("Airflow's task state store could not be read", try_number=2)
    _write(boat, record)
    boat.clear()
    boat.until_says("waiting for it, not submitting again", try_number=3)
    boat.finish()
    boat.until("success", try_number=3)
    boat.check_delivered(boat.generations[0])


def test_nothing_is_submitted_without_a_record_of_the_intent(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark")
    _refuse_to_store(boat, '"intent"')
    boat.start()
    boat.until("failed")
    boat.check("failed", posts=0)
    boat.check_says(
        "Airflow's task state store could not be written",
        "Without a record of the intent nothing is submitted",
    )


def test_an_id_that_cannot_be_written_is_waited_for_all_the_same(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark")
    _refuse_to_store(boat, '"submitted"')
    boat.start()
    boat.until("deferred")
    (paid,) = boat.generations
    boat.check_says(
        f"Generation {paid} was submitted and is billed, but its id could not be recorded",
        "If this task fails now, a retry cannot find it.",
    )
    assert " error Generation" in boat.log()
    boat.finish()
    boat.until("success")
    boat.check_delivered(paid)


def test_a_record_never_expires(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark").start()
    boat.until_deferred()
    rows = airflow.airflow.database.rows(
        "SELECT expires_at FROM task_state_store WHERE run_id = ?", boat.run_id
    )
    assert [row["expires_at"] for row in rows] == [None]
    boat.finish()
    boat.until("success")


def _left_behind(airflow: AirflowFixture, retries: int, **arguments: Any) -> Task:
    boat = airflow.video("ark", retries=retries, arguments={**STANDS_AFTER_ID, **arguments}).start()
    boat.until_recorded()
    return boat


def _enter_again(boat: Task, how: str) -> None:
    boat.kill()
    if how == "clear":
        boat.until("failed")
        boat.clear()


def _refuse_to_store(boat: Task, state: str) -> None:
    """Let the database refuse this task's records of one state; its requests are known by their prompt."""
    name = f"refuse_{boat.word.strip('.').replace('No. ', '')}"
    for event in ("INSERT", "UPDATE"):
        boat.airflow.airflow.write_database(
            f"CREATE TRIGGER {name}_{event} BEFORE {event} ON task_state_store"
            f" WHEN NEW.value LIKE '%\"state\": {state}%' AND EXISTS (SELECT 1 FROM dag_run r"
            f" WHERE r.run_id = NEW.run_id AND r.dag_id = NEW.dag_id AND r.conf LIKE '%{boat.word}%')"
            " BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
