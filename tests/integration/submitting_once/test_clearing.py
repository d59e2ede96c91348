"""Clears: after success with both ``on_clear``, of the whole run, while deferred, while running."""

from __future__ import annotations

import pytest

from .airflow_fixture import NEVER, STANDS_AFTER_ID, TIMEOUT_SECONDS, AirflowFixture, Task, first_of

pytestmark = pytest.mark.side_by_side


#: Another take for the second clear.
EVERY_OTHER = {"on_clear": "{{ 'new' if ti.try_number == 3 else 'reuse' }}"}


def _succeeded(boat: Task) -> str:
    boat.start()
    boat.until_taken()
    boat.finish()
    boat.until("success")
    return str(boat.record["generation_id"])


def _is_delivered_again(boat: Task, paid: str) -> None:
    """A clear costs one status request."""
    read = len(boat.requests("status"))
    boat.clear()
    boat.until("success", try_number=2)
    boat.check_delivered(paid)
    assert len(boat.requests("status")) == read + 1
    boat.until_says(
        "delivering it, nothing is paid",
        "on_clear='new' or a changed request would make another take",
        try_number=2,
    )


# ---------------------------------------------------------------------- after success


@pytest.mark.variant
@pytest.mark.parametrize("conn_id", ["ark", "seedance2api", "seedanceapi_v1", "runbase"])
def test_cleared_after_success_the_output_is_delivered_again(airflow: AirflowFixture, conn_id: str) -> None:
    boat = airflow.video(conn_id)
    _is_delivered_again(boat, _succeeded(boat))


def test_on_clear_is_a_template(airflow: AirflowFixture) -> None:
    boat = airflow.video("seedanceapi_v2", arguments=EVERY_OTHER)
    _is_delivered_again(boat, _succeeded(boat))
    boat.clear()
    boat.submit_anew(try_number=3)
    boat.until_says("on_clear='reuse' would deliver the old one", try_number=3)


def test_a_result_of_end_from_trigger_is_delivered_again(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark", arguments={"end_from_trigger": True}, later={"deferrable": True})
    paid = _succeeded(boat)
    boat.check_delivered(paid)
    boat.clear()
    boat.until("success", try_number=2)
    boat.check_delivered(paid)


@pytest.mark.parametrize("conn_id", first_of("seedance2api", "ark"))
def test_images_are_delivered_again_and_generated_again(airflow: AirflowFixture, conn_id: str) -> None:
    boat = airflow.image(conn_id, arguments=EVERY_OTHER)
    paid = _succeeded(boat)
    requests = boat.emulator.ledger.count("any", generation_id=paid)
    boat.clear()
    boat.until("success", try_number=2)
    boat.check("success", posts=1)
    assert boat.result["generation_id"] == paid
    assert boat.emulator.ledger.count("any", generation_id=paid) == requests  # it stands in the record
    boat.clear()
    boat.submit_anew(try_number=3)
    assert boat.result["generation_id"] != paid


def test_a_whole_run_that_is_cleared_does_not_pay_again(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark", dag_id="chain")
    paid = _succeeded(boat)
    assert airflow.airflow.wait_run(boat.dag_id, boat.run_id, TIMEOUT_SECONDS) == "failed"  # the upload
    airflow.airflow.clear(boat.dag_id, boat.run_id)
    boat.until("success", try_number=2)
    assert airflow.airflow.wait_run(boat.dag_id, boat.run_id, TIMEOUT_SECONDS) == "success"
    boat.check_delivered(paid)
    assert airflow.airflow.xcom(boat.dag_id, boat.run_id, "upload") == paid


# ---------------------------------------------------------------------- after a failure that was seen


@pytest.mark.parametrize("how", first_of("retry", "clear"))
def test_a_render_that_failed_is_submitted_again(airflow: AirflowFixture, how: str) -> None:
    boat = airflow.video("seedanceapi_v1", retries=1 if how == "retry" else 0).start()
    first = boat.until_deferred()
    boat.emulator.fail(first, "The renderer broke down.")
    if how == "clear":
        boat.until("failed")
        boat.clear()
    boat.submit_anew()
    boat.until_says(f"Generation {first} ended as failed: submitting anew", try_number=2)


def test_a_render_that_a_user_cancelled_is_submitted_again_only_by_a_clear(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark_queue", retries=2).start()
    boat.emulator.cancel_remote(boat.until_deferred())
    boat.until("failed")
    assert boat.tries == 1
    boat.check("failed", posts=1)
    boat.clear()
    boat.submit_anew()


# ---------------------------------------------------------------------- after the deadline


def test_after_the_deadline_a_clear_delivers_what_ended_later(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark", arguments={"timeout": 8}).start()
    boat.until("failed")  # a slow worker may meet the deadline itself
    (paid,) = boat.generations
    boat.check("failed", posts=1)
    boat.until_says(f"Generation {paid} did not end within 8 s", "The render goes on and is billed")
    boat.finish()
    boat.clear()
    boat.until("success", try_number=2)
    boat.check_delivered(paid)


def test_after_the_deadline_a_retry_waits_for_the_same_render(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark_queue", retries=1, arguments={"timeout": 8}, later={"timeout": 3600}).start()
    boat.until_says("waiting for it, not submitting again", try_number=2)
    boat.deliver(boat.generations[0], try_number=2)


def test_after_the_deadline_on_a_worker_a_retry_waits_for_the_same_render(airflow: AirflowFixture) -> None:
    boat = airflow.video(
        "seedance2api", retries=1, arguments={"deferrable": False, "timeout": 2}, later={"timeout": 3600}
    ).start()
    boat.until_says("waiting for it, not submitting again", try_number=2)
    boat.deliver(boat.generations[0], try_number=2)
    boat.until_says("did not end within 2 s", "a retry waits for the same one and does not submit again")


# ---------------------------------------------------------------------- while it goes on


@pytest.mark.variant
@pytest.mark.parametrize("conn_id", ["ark_queue", "ark"])
@pytest.mark.parametrize("on_clear", ["reuse", "new"])
def test_cleared_while_deferred_the_render_goes_on_under_the_new_try(
    airflow: AirflowFixture, conn_id: str, on_clear: str
) -> None:
    boat = airflow.video(
        conn_id, arguments={"on_clear": on_clear, "poll_interval": NEVER}, later={"deferrable": True}
    ).start()
    paid = boat.until_deferred()
    boat.until_says("starting")  # the trigger
    boat.clear()
    boat.until_says("waiting for it, not submitting again", try_number=2)
    boat.until("deferred", try_number=2)
    boat.deliver(paid, try_number=2)


def test_repeated_clears_while_deferred(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark_queue", arguments={"poll_interval": NEVER}, later={"deferrable": True}).start()
    paid = boat.until_deferred()
    boat.until_says("starting")  # the trigger
    for attempt in (2, 3, 4):
        boat.clear()
        boat.until_says("waiting for it, not submitting again", try_number=attempt)
        boat.until("deferred", try_number=attempt)
    boat.deliver(paid, try_number=4)


@pytest.mark.parametrize("conn_id", first_of("ark_queue", "seedance2api"))
def test_cleared_while_a_worker_waits_the_render_goes_on_under_the_new_try(
    airflow: AirflowFixture, conn_id: str
) -> None:
    boat = airflow.video(conn_id, arguments=STANDS_AFTER_ID).start()
    paid = boat.until_recorded()
    boat.clear()
    boat.until_says("waiting for it, not submitting again", try_number=2)
    boat.deliver(paid, try_number=2)


# ---------------------------------------------------------------------- a clear counts once


def test_a_retry_after_a_clear_does_not_make_yet_another_take(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark", retries=1, later={**STANDS_AFTER_ID, "on_clear": "new"})
    _succeeded(boat)
    boat.clear()
    boat.until_taken(2)
    boat.until_recorded()
    boat.finish()
    boat.kill()
    boat.until("success", try_number=3)
    boat.check("success", posts=2)
    assert boat.result["generation_id"] == boat.generations[1]


def test_a_retry_after_a_clear_that_found_the_render_under_way_delivers_it(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark", retries=1, arguments={"on_clear": "new"}, later=STANDS_AFTER_ID).start()
    paid = boat.until_deferred()
    boat.clear()
    boat.until_says("waiting for it, not submitting again", try_number=2)
    boat.finish()
    boat.kill()
    boat.until("success", try_number=3)
    boat.check_delivered(paid)
