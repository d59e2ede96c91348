"""A worker that is killed with SIGKILL: after the intent, after the POST, after the id, on resume, on the last try."""

from __future__ import annotations

import signal

import pytest

from .airflow_fixture import SERVICES, STANDS_AFTER_ID, TIMEOUT_SECONDS, AirflowFixture, conn, first_of

pytestmark = pytest.mark.side_by_side

#: Services that cannot look a submission up.
WITHOUT_LOOK_UP = [service for service in SERVICES if service != "ark"]


# ---------------------------------------------------------------------- after the intent


@pytest.mark.parametrize("service", first_of("ark", "seedanceapi-v2"))
def test_killed_after_the_intent_a_retry_does_not_submit(airflow: AirflowFixture, service: str) -> None:
    boat = airflow.video(conn(service), retries=2).kill_after_post(answers=False)
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1, taken=0)
    boat.until_says(
        "An earlier try was about to submit",
        "Check the console of the service for it. Then clear this task: that submits anew.",
        try_number=2,
    )
    boat.clear()
    boat.submit_anew(try_number=3, taken=1)
    boat.until_says("that was reported, and the task was cleared since: submitting anew", try_number=3)


def test_killed_after_the_intent_a_retry_submits_again_with_resubmit(airflow: AirflowFixture) -> None:
    boat = airflow.video("seedanceapi_v1", retries=1, arguments={"on_uncertain_submit": "resubmit"})
    boat.kill_after_post(answers=False)
    boat.submit_anew(taken=1)
    boat.until_says("on_uncertain_submit='resubmit': submitting again, which may pay twice", try_number=2)


# ---------------------------------------------------------------------- after the POST


@pytest.mark.variant
@pytest.mark.parametrize("service", WITHOUT_LOOK_UP)
def test_killed_after_the_post_a_retry_does_not_submit_again(airflow: AirflowFixture, service: str) -> None:
    boat = airflow.video(conn(service), retries=2).kill_after_post()
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)
    boat.until_says("it is not submitted again", try_number=2)


def test_killed_after_the_post_a_retry_finds_the_render_where_the_service_can_list(
    airflow: AirflowFixture,
) -> None:
    boat = airflow.video("ark", retries=1).kill_after_post()
    boat.until_says("The submission whose reply was lost was taken: it is generation", try_number=2)
    boat.deliver(boat.generations[0], try_number=2)


def test_killed_after_the_post_a_retry_submits_again_with_resubmit(airflow: AirflowFixture) -> None:
    boat = airflow.video("runbase", retries=1, arguments={"on_uncertain_submit": "resubmit"})
    boat.kill_after_post().submit_anew()


@pytest.mark.parametrize("service", first_of("seedance2api", "ark"))
def test_killed_after_the_post_images_are_not_paid_again(airflow: AirflowFixture, service: str) -> None:
    boat = airflow.image(conn(service), retries=2)
    fault = boat.fault("hold_reply")
    boat.start()
    boat.until_taken()
    boat.finish()  # the answer is the image itself
    boat.until_struck(fault)
    boat.kill()
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)


# ---------------------------------------------------------------------- after the id


@pytest.mark.variant
@pytest.mark.parametrize("service", WITHOUT_LOOK_UP)
def test_killed_after_the_id_a_retry_waits_for_the_same_render(airflow: AirflowFixture, service: str) -> None:
    boat = airflow.video(conn(service), retries=1, arguments=STANDS_AFTER_ID).start()
    paid = boat.until_recorded()
    boat.kill()
    boat.until_says("waiting for it, not submitting again", try_number=2)
    boat.deliver(paid, try_number=2)


def test_killed_between_the_id_and_the_deferral(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark", retries=1, pause_at="id", later={"deferrable": True}).start()
    boat.until_paused()
    boat.kill()
    boat.until("deferred", try_number=2)
    boat.deliver(boat.generations[0], try_number=2)


@pytest.mark.parametrize("how", first_of("retry", "clear"))
def test_killed_after_a_synchronous_answer_it_is_delivered_from_the_record(
    airflow: AirflowFixture, how: str
) -> None:
    boat = airflow.image("ark", retries=1 if how == "retry" else 0, pause_at="id").start()
    boat.until_taken()
    boat.finish()
    boat.until_paused()
    boat.enter_again(how)
    boat.until("success", try_number=2)
    boat.check("success", posts=1)
    assert boat.result["generation_id"] == boat.record["generation_id"]
    assert boat.result["generation_id"].startswith("local-")


# ---------------------------------------------------------------------- on resume, on the last try


@pytest.mark.parametrize("how", first_of("clear", "retry"))
def test_killed_on_resume_the_output_is_delivered(airflow: AirflowFixture, how: str) -> None:
    boat = airflow.video("ark", retries=1 if how == "retry" else 0, pause_at="resume").start()
    paid = boat.until_deferred()
    boat.finish()
    boat.until_paused()
    boat.enter_again(how)
    boat.until("success", try_number=2)
    boat.check_delivered(paid)


def test_killed_on_the_last_try_after_the_id_a_clear_delivers(airflow: AirflowFixture) -> None:
    boat = airflow.video("seedance2api", arguments=STANDS_AFTER_ID).start()
    paid = boat.until_recorded()
    boat.finish()
    boat.enter_again("clear")
    boat.until("success", try_number=2)
    boat.check_delivered(paid)


def test_killed_on_the_last_try_after_the_post_the_first_clear_only_reports(airflow: AirflowFixture) -> None:
    """The submission has not been reported, so that a clear cannot be a decision about it."""
    boat = airflow.video("seedanceapi_v2").kill_after_post()
    boat.until("failed", try_number=1)
    boat.clear()
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)
    boat.until_says("An earlier try was about to submit", "clear this task: that submits anew", try_number=2)
    boat.clear()
    boat.submit_anew(try_number=3)


def test_killed_on_the_last_try_after_the_post_a_clear_finds_the_render(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark").kill_after_post()
    boat.until("failed", try_number=1)
    boat.clear()
    boat.deliver(boat.generations[0], try_number=2)


def test_two_uncertain_submissions_need_two_decisions(airflow: AirflowFixture) -> None:
    """The decision to submit again is about the submission that was reported, not about the next one."""
    boat = airflow.video("seedanceapi_v1", retries=1).kill_after_post()
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)
    boat.until_says("it is not submitted again", try_number=2)
    fault = boat.fault("hold_reply")
    boat.clear()
    boat.until_struck(fault)
    boat.kill()
    fault.release()
    boat.until("failed", try_number=4)  # a retry of the third one: it does not submit
    boat.check("failed", posts=2)


# ---------------------------------------------------------------------- the machine, supervisor included

#: Airflow waits for heartbeats of what is lost.
AIRFLOW_WAITS = pytest.mark.side_by_side(long=True)


@AIRFLOW_WAITS
def test_a_machine_is_lost_after_the_id(airflow: AirflowFixture) -> None:
    boat = airflow.video("seedance2api", retries=1, arguments=STANDS_AFTER_ID).start()
    paid = boat.until_recorded()
    boat.kill(supervisor=True)
    boat.until_says("waiting for it, not submitting again", try_number=2)
    boat.deliver(paid, try_number=2)


@AIRFLOW_WAITS
def test_a_machine_is_lost_after_the_post(airflow: AirflowFixture) -> None:
    boat = airflow.video("seedance2api", retries=1).kill_after_post(supervisor=True)
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)


@AIRFLOW_WAITS
def test_a_suspended_machine_pays_for_nothing_when_it_resumes(airflow: AirflowFixture) -> None:
    boat = airflow.video("seedanceapi_v2", retries=1, pause_at="start").start()
    boat.until_paused()
    frozen = boat.kill(sig=signal.SIGSTOP, supervisor=True)
    assert frozen.supervisor is not None
    boat.until_taken()
    boat.go_on()
    for process in (frozen.supervisor, frozen.runner):
        process.send_signal(signal.SIGCONT)
    frozen.runner.wait(TIMEOUT_SECONDS)
    boat.deliver(boat.generations[0], try_number=2)
