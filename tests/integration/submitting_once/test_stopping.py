"""Tasks that users end: cancelled remotely where that is safe, reported otherwise, never by mistake."""

from __future__ import annotations

import pytest

from .airflow_fixture import NEVER, STANDS_AFTER_ID, AirflowFixture, Task, first_of

pytestmark = pytest.mark.side_by_side


def _waiting(airflow: AirflowFixture, conn_id: str, **options: object) -> tuple[Task, str]:
    """A deferred task whose trigger is at work."""
    boat = airflow.video(conn_id, **options).start()
    paid = boat.until_deferred()
    boat.until_says("starting")
    return boat, paid


def _is_cancelled(boat: Task, paid: str, state: str) -> None:
    boat.mark(state)
    boat.until_remote("cancelled")
    boat.until_says(f"generation {paid} was queued and is cancelled; it is not billed")
    boat.until(state)
    assert (boat.posts, boat.cancels) == (1, 1)
    assert boat.taken[0].billed == 0


@pytest.mark.variant
@pytest.mark.parametrize("state", ["failed", "success", "skipped"])
def test_a_queued_render_of_a_marked_task_is_cancelled_once(airflow: AirflowFixture, state: str) -> None:
    _is_cancelled(*_waiting(airflow, "ark_queue"), state)


def _goes_on(boat: Task, paid: str) -> None:
    boat.mark("failed")
    boat.until_says("offers no way to cancel", f"generation {paid} goes on", "and is billed")
    boat.check("failed", posts=1)
    assert boat.emulator.generation(paid).status == "running"


def test_marked_failed_while_rendering_it_goes_on(airflow: AirflowFixture) -> None:
    boat, paid = _waiting(airflow, "ark")
    boat.until_remote("running")
    boat.mark("failed")
    boat.until_says(f"ark cancels only what is queued, and it is running: generation {paid} goes on")
    boat.check("failed", posts=1)


@pytest.mark.variant
@pytest.mark.parametrize("conn_id", ["runbase", "seedance2api", "seedanceapi_v1", "seedanceapi_v2"])
def test_marked_failed_where_nothing_can_be_cancelled_the_log_says_so(
    airflow: AirflowFixture, conn_id: str
) -> None:
    boat, paid = _waiting(airflow, conn_id)
    _goes_on(boat, paid)


def test_marked_failed_after_the_render_ended_nothing_is_deleted(airflow: AirflowFixture) -> None:
    """At ark the call that cancels a queued task deletes a finished one, and its output with it."""
    boat, paid = _waiting(airflow, "ark", arguments={"poll_interval": NEVER})
    boat.finish()
    boat.mark("failed")
    boat.until_says(f"generation {paid} has already ended: succeeded")
    boat.check("failed", posts=1)
    boat.clear()
    boat.until("success", try_number=2)
    boat.check_delivered(paid)


def test_cancel_on_kill_false_leaves_the_render_alone(airflow: AirflowFixture) -> None:
    boat, _ = _waiting(airflow, "ark_queue", arguments={"cancel_on_kill": False})
    boat.mark("failed")
    boat.until_says("Trigger cancelled by user action")
    boat.airflow.until(lambda: boat.row["trigger_id"] is None, "the end of the trigger", boat)
    boat.check("failed", posts=1)
    boat.until_remote("queued")


def test_a_run_set_to_failed_cancels_what_is_queued(airflow: AirflowFixture) -> None:
    boat, _ = _waiting(airflow, "ark_queue")
    airflow.airflow.set_run_state(boat.dag_id, boat.run_id, "failed")
    boat.until_remote("cancelled")
    boat.until("failed", "skipped")
    assert (boat.posts, boat.cancels) == (1, 1)


def test_marked_failed_while_a_worker_waits_what_is_queued_is_cancelled(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark_queue", arguments=STANDS_AFTER_ID).start()
    boat.until_recorded()
    boat.mark("failed")
    boat.until_remote("cancelled")
    boat.until("failed")
    assert (boat.posts, boat.cancels) == (1, 1)


@pytest.mark.parametrize("conn_id", first_of("ark", "seedance2api"))
def test_marked_failed_while_a_worker_waits_what_cannot_be_cancelled_goes_on(
    airflow: AirflowFixture, conn_id: str
) -> None:
    boat = airflow.video(conn_id, arguments=STANDS_AFTER_ID).start()
    paid = boat.until_recorded()
    boat.until_remote("running")
    boat.mark("failed")
    boat.until_says(f"generation {paid} goes on", "is billed")
    boat.check("failed", posts=1)


# ---------------------------------------------------------------------- and cleared afterwards


def test_marked_failed_and_cleared_a_cancelled_render_is_submitted_again(airflow: AirflowFixture) -> None:
    boat, paid = _waiting(airflow, "ark_queue")
    _is_cancelled(boat, paid, "failed")
    boat.clear()
    boat.submit_anew(cancels=1)


def test_marked_failed_and_cleared_a_render_that_went_on_is_waited_for(airflow: AirflowFixture) -> None:
    boat, paid = _waiting(airflow, "runbase")
    _goes_on(boat, paid)
    boat.clear()
    boat.until_says("waiting for it, not submitting again", try_number=2)
    boat.deliver(paid, try_number=2)


def test_marked_success_and_cleared_the_render_is_delivered(airflow: AirflowFixture) -> None:
    boat, paid = _waiting(airflow, "seedanceapi_v2")
    boat.mark("success")
    boat.until_says("offers no way to cancel")
    boat.finish()
    boat.clear()
    boat.until("success", try_number=2)
    boat.check_delivered(paid)


# ---------------------------------------------------------------------- dagrun_timeout


@pytest.mark.parametrize("conn_id", first_of("ark_queue", "ark"))
def test_dagrun_timeout_skips_the_task_and_pays_nothing_twice(airflow: AirflowFixture, conn_id: str) -> None:
    boat, paid = _waiting(airflow, conn_id, dag_id="limited", later={"deferrable": True})
    boat.until_remote("queued" if conn_id == "ark_queue" else "running")
    airflow.airflow.write_database(
        "UPDATE dag_run SET start_date = '2020-01-01 00:00:00.000000' WHERE run_id = ?", boat.run_id
    )
    boat.until("skipped")
    boat.airflow.until(lambda: boat.row["trigger_id"] is None, "the end of the trigger", boat)
    assert airflow.airflow.run_state(boat.dag_id, boat.run_id) == "failed"
    if conn_id == "ark_queue":
        boat.until_remote("cancelled")
        assert (boat.posts, boat.cancels) == (1, 1)
        return
    boat.until_says(f"generation {paid} goes on")
    assert (boat.posts, boat.cancels) == (1, 0)
    airflow.airflow.clear(boat.dag_id, boat.run_id)
    boat.until("deferred", try_number=2)
    boat.deliver(paid, try_number=2)
