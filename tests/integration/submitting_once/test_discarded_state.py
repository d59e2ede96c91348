"""Clears that discard the task state (Airflow 3.4): a start from scratch, with a warning."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from versions import REGIONS, needs

from .airflow_fixture import STANDS_AFTER_ID, AirflowFixture, Task, first_of

pytestmark = [pytest.mark.side_by_side, needs(REGIONS)]

EACH_TRY = "clearing a task instance discards its task state"
AFTER_THE_CLEAR = "The task was cleared, and its task state holds no record"

#: State of the first generation at the time of the clear.
STATES: dict[str, Callable[[Task, str], object]] = {
    "running": lambda boat, paid: None,
    "succeeded": lambda boat, paid: boat.emulator.finish(paid),
    "failed": lambda boat, paid: boat.emulator.fail(paid, "The renderer broke down."),
    "expired": lambda boat, paid: boat.emulator.expire(paid),
    "cancelled": lambda boat, paid: boat.emulator.cancel_remote(paid),
    "unknown to the service": lambda boat, paid: boat.emulator.forget(paid),
    "unreadable": lambda boat, paid: boat.fault(
        "refuse", on="status", generation_id=paid, times=None, status=500
    ),
}


def _submits_anew(boat: Task) -> None:
    boat.clear(keep_task_state=False)
    boat.submit_anew()
    boat.until_says(EACH_TRY, AFTER_THE_CLEAR, "This try submits anew", try_number=2)


@pytest.mark.parametrize("state", first_of(*STATES))
def test_the_next_try_submits_anew_in_every_state_of_the_generation(
    airflow: AirflowFixture, state: str
) -> None:
    boat = airflow.video("ark_queue" if state == "cancelled" else "ark", arguments=STANDS_AFTER_ID).start()
    paid = str(boat.until_recorded())
    STATES[state](boat, paid)
    boat.kill()
    boat.until("failed")
    assert AFTER_THE_CLEAR not in boat.log(1)
    boat.until_says(EACH_TRY, try_number=1)
    _submits_anew(boat)


def test_the_next_try_submits_anew_after_an_uncertain_submission(airflow: AirflowFixture) -> None:
    boat = airflow.video("seedanceapi_v2")
    boat.fault("drop_reply", times=1)
    boat.start().until("failed")
    _submits_anew(boat)


def test_a_deferred_task_names_the_generation_that_goes_on(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark").start()
    paid = boat.until_deferred()
    boat.until_says(") starting")  # the trigger
    boat.clear(keep_task_state=False)
    boat.submit_anew()
    # A busy triggerer may kill it a minute later.
    boat.until_says(f"{paid} goes on ", "and is billed", try_number=1)


def test_the_clear_of_the_whole_run_keeps_the_record(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark").start()
    paid = boat.until_deferred()
    boat.finish()
    boat.until("success")
    boat.until_run_ended()
    airflow.airflow.clear(boat.dag_id, boat.run_id)
    boat.until("success", try_number=2)
    boat.check_delivered(paid)
    assert AFTER_THE_CLEAR not in boat.log(2)
