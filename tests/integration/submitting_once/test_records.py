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


#: Contents of a task state that are no record of this version.
UNREADABLE: dict[str, Callable[[dict[str, Any]], str]] = {
    "a newer version": lambda record: _value({**record, "version": VERSION + 1}),
    "another form": lambda record: _value({"version": VERSION, "job": record["generation_id"]}),
    "without id": lambda record: _value({**record, "generation_id": None}),
    "a text": lambda record: json.dumps("done"),
    "an empty object": lambda record: "{}",
}


@pytest.mark.parametrize("how", first_of("retry", "clear"))
@pytest.mark.parametrize("content", first_of(*UNREADABLE))
def test_an_unreadable_record_fails_the_task(airflow: AirflowFixture, content: str, how: str) -> None:
    boat = _left_behind(airflow, 2 if how == "retry" else 0, on_clear="new", on_uncertain_submit="resubmit")
    written = UNREADABLE[content](boat.record)
    _write(boat, written)
    boat.enter_again(how)
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)
    boat.until_says("The records of this task's earlier submissions", "othing was submitted", try_number=2)
    assert boat.store[STATE_KEY] == json.loads(written)


@pytest.mark.parametrize("how", first_of("retry", "clear"))
def test_a_record_that_cannot_be_read_fails_the_task_until_it_can(airflow: AirflowFixture, how: str) -> None:
    """The API server answers with an error for it, which another try may not see."""
    boat = _left_behind(airflow, 1 if how == "retry" else 0, on_clear="new")
    record = _value(boat.record)
    _write(boat, "{ not JSON")
    boat.enter_again(how)
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)
    boat.until_says("Airflow's task state store could not be read", try_number=2)
    _write(boat, record)
    boat.clear()
    boat.until_says("waiting for it, not submitting again", try_number=3)
    boat.deliver(boat.generations[0], try_number=3)


def test_nothing_is_submitted_without_a_record_of_the_intent(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark")
    _refuse_to_store(boat, '"intent"')
    boat.start()
    boat.until("failed")
    boat.check("failed", posts=0)
    boat.until_says(
        "Airflow's task state store could not be written",
        "Without a record of the intent nothing is submitted",
    )


def test_an_id_that_cannot_be_written_is_waited_for_all_the_same(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark")
    _refuse_to_store(boat, '"submitted"')
    boat.start()
    boat.until("deferred")
    (paid,) = boat.generations
    boat.until_says(
        f"Generation {paid} was submitted and is billed, but its id could not be recorded",
        "If this task fails now, a retry cannot find it.",
    )
    assert " error Generation" in boat.log()
    boat.deliver(paid)


def _left_behind(airflow: AirflowFixture, retries: int, **arguments: Any) -> Task:
    boat = airflow.video("ark", retries=retries, arguments={**STANDS_AFTER_ID, **arguments}).start()
    boat.until_recorded()
    return boat


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
