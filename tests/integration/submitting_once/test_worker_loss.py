"""A worker that is killed with SIGKILL: after the intent, after the POST, after the id, on resume, on the last try."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from .airflow_fixture import SERVICES, STANDS_AFTER_ID, TIMEOUT_SECONDS, AirflowFixture, Task, first_of

pytestmark = pytest.mark.side_by_side

#: Services that cannot look a submission up.
WITHOUT_LOOK_UP = [service for service in SERVICES if service != "ark"]


def _conn(service: str) -> str:
    return service.replace("-", "_")


def _killed_after_the_intent(boat: Task) -> Task:
    """The request has arrived at the service, which has not looked at it yet, and never will."""
    fault = boat.fault("delay", hold=True)
    boat.start()
    boat.until_struck(fault)
    assert boat.record["state"] == "intent"
    boat.kill()
    return boat


def _killed_after_the_post(boat: Task) -> Task:
    """The service has taken the request, and its answer is under way."""
    fault = boat.fault("hold_reply")
    boat.start()
    boat.until_struck(fault)
    assert boat.record["state"] == "intent"
    boat.kill()
    fault.release()
    return boat


# ---------------------------------------------------------------------- after the intent


@pytest.mark.parametrize("service", first_of("ark", "seedanceapi-v2"))
def test_killed_after_the_intent_a_retry_does_not_submit(airflow: AirflowFixture, service: str) -> None:
    boat = _killed_after_the_intent(airflow.video(_conn(service), retries=2))
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1, taken=0)
    boat.check_says(
        "An earlier try was about to submit",
        "Check the console of the service for it. Then clear this task: that submits anew.",
        try_number=2,
    )
    boat.clear()
    boat.airflow.until(lambda: boat.taken, "a submission", boat)
    boat.finish()
    boat.until("success", try_number=3)
    boat.check("success", posts=2, taken=1)
    boat.check_says("that was reported, and the task was cleared since: submitting anew", try_number=3)


def test_killed_after_the_intent_a_retry_submits_again_with_resubmit(
    airflow: AirflowFixture,
) -> None:
    boat = _killed_after_the_intent(
        airflow.video("seedanceapi_v1", retries=1, arguments={"on_uncertain_submit": "resubmit"})
    )
    boat.airflow.until(lambda: boat.taken, "a submission", boat)
    boat.finish()
    boat.until("success", try_number=2)
    boat.check("success", posts=2, taken=1)
    boat.check_says("on_uncertain_submit='resubmit': submitting again, which may pay twice", try_number=2)


# ---------------------------------------------------------------------- after the POST


@pytest.mark.parametrize("service", first_of(*WITHOUT_LOOK_UP))
def test_killed_after_the_post_a_retry_does_not_submit_again(airflow: AirflowFixture, service: str) -> None:
    boat = _killed_after_the_post(airflow.video(_conn(service), retries=2))
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)
    boat.check_says("it is not submitted again", try_number=2)


def test_killed_after_the_post_a_retry_finds_the_render_where_the_service_can_list(
    airflow: AirflowFixture,
) -> None:
    boat = _killed_after_the_post(airflow.video("ark", retries=1))
    boat.until_says("The submission whose reply was lost was taken: it is generation", try_number=2)
    (paid,) = boat.generations
    boat.emulator.finish(paid)
    boat.until("success", try_number=2)
    boat.check_delivered(paid)


def test_killed_after_the_post_a_retry_submits_again_with_resubmit(
    airflow: AirflowFixture,
) -> None:
    boat = _killed_after_the_post(
        airflow.video("runbase", retries=1, arguments={"on_uncertain_submit": "resubmit"})
    )
    boat.airflow.until(lambda: len(boat.taken) == 2, "a second submission", boat)
    boat.finish()
    boat.until("success", try_number=2)
    boat.check("success", posts=2)


@pytest.mark.parametrize("service", first_of("seedance2api", "ark"))
def test_killed_after_the_post_images_are_not_paid_again(airflow: AirflowFixture, service: str) -> None:
    boat = airflow.image(_conn(service), retries=2)
    fault = boat.fault("hold_reply")
    boat.start()
    boat.airflow.until(lambda: boat.taken, "a submission", boat)
    boat.finish()  # the answer is the image itself
    boat.until_struck(fault)
    boat.kill()
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)


# ---------------------------------------------------------------------- after the id


@pytest.mark.parametrize("service", first_of(*WITHOUT_LOOK_UP))
def test_killed_after_the_id_a_retry_waits_for_the_same_render(airflow: AirflowFixture, service: str) -> None:
    boat = airflow.video(_conn(service), retries=1, arguments=STANDS_AFTER_ID).start()
    paid = boat.until_recorded()
    boat.kill()
    boat.until_says("waiting for it, not submitting again", try_number=2)
    boat.finish()
    boat.until("success", try_number=2)
    boat.check_delivered(paid)


def test_killed_between_the_id_and_the_deferral(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark", retries=1, pause_at="id", later={"deferrable": True}).start()
    boat.until_paused()
    boat.kill()
    boat.until("deferred", try_number=2)
    (paid,) = boat.generations
    boat.finish()
    boat.until("success", try_number=2)
    boat.check_delivered(paid)


@pytest.mark.parametrize("how", first_of("retry", "clear"))
def test_killed_after_a_synchronous_answer_it_is_delivered_from_the_record(
    airflow: AirflowFixture, how: str
) -> None:
    boat = airflow.image("ark", retries=1 if how == "retry" else 0, pause_at="id").start()
    boat.airflow.until(lambda: boat.taken, "a submission", boat)
    boat.finish()
    boat.until_paused()
    boat.kill()
    if how == "clear":
        boat.until("failed")
        boat.clear()
    boat.until("success", try_number=2)
    boat.check("success", posts=1)
    assert boat.result["generation_id"] == boat.record["generation_id"]
    assert boat.result["generation_id"].startswith("local-")


# ---------------------------------------------------------------------- on resume


@pytest.mark.parametrize("how", first_of("clear", "retry"))
def test_killed_on_resume_the_output_is_delivered(airflow: AirflowFixture, how: str) -> None:
    boat = airflow.video("ark", retries=1 if how == "retry" else 0, pause_at="resume").start()
    paid = boat.until_deferred()
    boat.finish()
    boat.until_paused()
    boat.kill()
    if how == "clear":
        boat.until("failed")
        boat.clear()
    boat.until("success", try_number=2)
    boat.check_delivered(paid)


# ---------------------------------------------------------------------- on the last try


def test_killed_on_the_last_try_after_the_id_a_clear_delivers(airflow: AirflowFixture) -> None:
    boat = airflow.video("seedance2api", arguments=STANDS_AFTER_ID).start()
    paid = boat.until_recorded()
    boat.kill()
    boat.until("failed")
    boat.finish()
    boat.clear()
    boat.until("success", try_number=2)
    boat.check_delivered(paid)


def test_killed_on_the_last_try_after_the_post_the_first_clear_only_reports(airflow: AirflowFixture) -> None:
    """The submission has not been reported, so that a clear cannot be a decision about it."""
    boat = _killed_after_the_post(airflow.video("seedanceapi_v2"))
    boat.until("failed", try_number=1)
    boat.clear()
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)
    boat.check_says("An earlier try was about to submit", "clear this task: that submits anew", try_number=2)
    boat.clear()
    boat.airflow.until(lambda: len(boat.taken) == 2, "a second submission", boat)
    boat.finish()
    boat.until("success", try_number=3)
    boat.check("success", posts=2)


def test_killed_on_the_last_try_after_the_post_a_clear_finds_the_render(airflow: AirflowFixture) -> None:
    boat = _killed_after_the_post(airflow.video("ark"))
    boat.until("failed", try_number=1)
    (paid,) = boat.generations
    boat.finish()
    boat.clear()
    boat.until("success", try_number=2)
    boat.check_delivered(paid)


def test_two_uncertain_submissions_need_two_decisions(airflow: AirflowFixture) -> None:
    """The decision to submit again is about the submission that was reported, not about the next one."""
    boat = _killed_after_the_post(airflow.video("seedanceapi_v1", retries=1))
    boat.until("failed", try_number=2)
    fault = boat.fault("hold_reply")
    boat.clear()
    boat.until_struck(fault)
    boat.kill()
    fault.release()
    boat.until("failed", try_number=4)  # a retry of the third one: it does not submit
    boat.check("failed", posts=2)


# ---------------------------------------------------------------------- the machine, supervisor included


@pytest.mark.parametrize(
    "arguments", [STANDS_AFTER_ID, {"on_uncertain_submit": "fail"}], ids=["after the id", "after the POST"]
)
def test_a_lost_machine(airflow: AirflowFixture, arguments: dict[str, Any]) -> None:
    boat = airflow.video("seedance2api", retries=1, arguments=arguments)
    after_post = arguments is not STANDS_AFTER_ID
    fault = boat.fault("hold_reply", times=1 if after_post else 0)
    boat.start()
    if after_post:
        boat.until_struck(fault)
    else:
        boat.until_recorded()
    airflow.airflow.kill_task(boat.dag_id, boat.run_id, boat.task_id, supervisor=True)
    fault.release()
    if after_post:
        boat.until("failed", try_number=2)
        boat.check("failed", posts=1)
        return
    boat.until_says("waiting for it, not submitting again", try_number=2)
    boat.finish()
    boat.until("success", try_number=2)
    boat.check_delivered(boat.generations[0])


def test_a_suspended_machine_pays_for_nothing_when_it_resumes(airflow: AirflowFixture) -> None:
    boat = airflow.video("seedanceapi_v2", retries=1, pause_at="start").start()
    boat.until_paused()
    place = (boat.dag_id, boat.run_id, boat.task_id)
    frozen = airflow.airflow.kill_task(*place, sig=signal.SIGSTOP, supervisor=True)
    assert frozen.supervisor is not None
    boat.airflow.until(lambda: boat.taken, "a submission of the next try", boat)
    boat.go_on()
    for process in (frozen.supervisor, frozen.runner):
        process.send_signal(signal.SIGCONT)
    frozen.runner.wait(TIMEOUT_SECONDS)
    boat.finish()
    boat.until("success", try_number=2)
    boat.check_delivered(boat.generations[0])
