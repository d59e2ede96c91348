"""Replies that tell nothing, and replies that tell: which submissions are repeated, and which never."""

from __future__ import annotations

from typing import Any

import pytest

from .airflow_fixture import SERVICES, AirflowFixture, Task, conn, first_of

pytestmark = pytest.mark.side_by_side

#: Fault of the reply (or the request), and whether the service took the submission.
UNCERTAIN: dict[str, tuple[str, dict[str, Any], bool]] = {
    "reply lost": ("drop_reply", {}, True),
    "reset before it was taken": ("cut", {}, False),
    "body cut": ("cut_body", {}, True),
    "502 after it was taken": ("gateway_error", {"status": 502, "accept": True}, True),
    "502 of a gateway": ("gateway_error", {"status": 502}, False),
    "503 of a gateway": ("gateway_error", {"status": 503}, False),
    "524 of the edge": ("gateway_error", {"status": 524, "accept": True}, True),
    "500 of the service": ("refuse", {"status": 500, "message": "out of order"}, False),
    "redirect": ("redirect", {}, False),
    "408": ("refuse", {"status": 408, "message": "too slow"}, False),
    "409": ("refuse", {"status": 409, "message": "already there"}, False),
    "425": ("refuse", {"status": 425, "message": "too early"}, False),
    "200 that is not JSON": ("rubbish", {}, True),
    "200 without an id": ("rubbish", {"body": {"status": "ok"}}, True),
}


#: Played always; the other mishaps are variants, and so is a lost reply of the other services.
ALWAYS = {
    ("seedance2api", "reply lost"),
    ("seedanceapi-v2", "502 after it was taken"),
    ("runbase", "redirect"),
}


def _each_service() -> list[Any]:
    """Every service with a lost reply, and every other mishap with one of them."""
    pairs = [(service, "reply lost") for service in SERVICES if service != "ark"]
    further = [name for name in UNCERTAIN if name != "reply lost"]
    pairs += [(SERVICES[number % 4], name) for number, name in enumerate(further)]
    return [
        pytest.param(*pair, id=" - ".join(pair), marks=() if pair in ALWAYS else pytest.mark.variant)
        for pair in pairs
    ]


def _started(boat: Task, mishap: str) -> Task:
    kind, options, _ = UNCERTAIN[mishap]
    boat.fault(kind, **options)
    return boat.start()


@pytest.mark.parametrize(("service", "mishap"), _each_service())
def test_an_uncertain_submission_fails_for_good(airflow: AirflowFixture, service: str, mishap: str) -> None:
    boat = _started(airflow.video(conn(service), retries=1), mishap)
    boat.until("failed")
    assert boat.tries == 1  # its retry would not help
    assert boat.record["state"] == "uncertain"
    boat.check("failed", posts=1, taken=int(UNCERTAIN[mishap][2]))
    boat.until_says(
        "The submission was sent and its fate is unknown",
        f"One generation may have been billed at {service}",
        "Check the console of the service for it. Then clear this task: that submits anew.",
    )


@pytest.mark.parametrize("service", first_of("runbase", "seedance2api"))
def test_the_clear_after_the_report_submits_again(airflow: AirflowFixture, service: str) -> None:
    boat = _started(airflow.video(conn(service), retries=1), "reply lost")
    boat.until("failed")
    boat.clear()
    boat.submit_anew()
    boat.until_says(
        "that was reported, and the task was cleared since: submitting anew",
        "If the earlier submission was taken, it is billed too",
        try_number=2,
    )


@pytest.mark.parametrize("service", first_of(*SERVICES[:4]))
def test_an_uncertain_submission_is_repeated_with_resubmit(airflow: AirflowFixture, service: str) -> None:
    boat = airflow.video(conn(service), arguments={"on_uncertain_submit": "resubmit"})
    _started(boat, "reply lost")
    boat.until_deferred()
    boat.finish()
    boat.until("success")
    boat.check("success", posts=2)
    assert boat.tries == 1
    boat.until_says("on_uncertain_submit='resubmit': submitting again, which may pay twice")


def test_resubmit_allows_no_third_submission(airflow: AirflowFixture) -> None:
    boat = airflow.video("seedanceapi_v2", arguments={"on_uncertain_submit": "resubmit"})
    boat.fault("drop_reply", times=2)
    boat.start()
    boat.until("failed")
    boat.check("failed", posts=2)


# ---------------------------------------------------------------------- ark: looked up


@pytest.mark.parametrize("mishap", first_of("reply lost", "502 after it was taken", "200 that is not JSON"))
@pytest.mark.parametrize("on_uncertain_submit", first_of("fail", "resubmit"))
def test_a_lost_reply_is_resolved_where_the_service_can_list(
    airflow: AirflowFixture, mishap: str, on_uncertain_submit: str
) -> None:
    boat = airflow.video("ark", arguments={"on_uncertain_submit": on_uncertain_submit})
    _started(boat, mishap)
    paid = boat.until_deferred()
    boat.deliver(paid)
    boat.until_says(f"The submission whose reply was lost was taken: it is generation {paid}")


def test_a_submission_that_is_not_found_stays_uncertain(airflow: AirflowFixture) -> None:
    boat = _started(airflow.video("ark", retries=1), "reset before it was taken")
    boat.until("failed")
    boat.check("failed", posts=1, taken=0)
    assert boat.tries == 1
    boat.clear()
    boat.submit_anew(taken=1)


def test_only_the_own_correlation_value_is_adopted(airflow: AirflowFixture) -> None:
    """Two tasks ask for the same; the render of the one is not the lost render of the other."""
    other = airflow.video("ark").start()
    other.until_deferred()
    boat = airflow.video("ark", prompt="A paper boat in the rain")
    _started(boat, "reset before it was taken")
    boat.until("failed")
    boat.check("failed", posts=1, taken=0)
    other.finish()
    other.until("success")
    other.check("success", posts=1)


@pytest.mark.parametrize("service", first_of("ark", "seedance2api"))
def test_images_cannot_be_looked_up(airflow: AirflowFixture, service: str) -> None:
    boat = airflow.image(conn(service), retries=1)
    boat.fault("drop_reply")
    boat.start()
    boat.until_taken()
    boat.finish()
    boat.until("failed")
    boat.check("failed", posts=1)
    assert boat.tries == 1


# ---------------------------------------------------------------------- not uncertain


def test_an_unreachable_service_has_accepted_nothing(airflow: AirflowFixture) -> None:
    boat = airflow.video(
        "unreachable", retries=1, later={"seedance_conn_id": "ark", "deferrable": True}
    ).start()
    boat.until("deferred", try_number=2)
    boat.finish()
    boat.until("success", try_number=2)
    boat.check("success", posts=1)


def test_a_503_of_the_service_itself_is_repeated_within_the_try(airflow: AirflowFixture) -> None:
    boat = airflow.video("seedanceapi_v2")
    boat.fault("refuse", status=503, message="busy", times=2)
    boat.start()
    boat.until_deferred()
    boat.finish()
    boat.until("success")
    boat.check("success", posts=3, taken=1)
    assert boat.tries == 1


@pytest.mark.parametrize("status", first_of(402, 400, 401, 403, 404))
def test_a_refused_submission_is_not_repeated_and_not_uncertain(airflow: AirflowFixture, status: int) -> None:
    boat = airflow.video("ark", retries=1)
    boat.fault("refuse", status=status, message="not like this")
    boat.start()
    boat.until("failed")
    assert boat.tries == 1
    boat.check("failed", posts=1, taken=0)
    assert boat.record["state"] == "not_submitted"
    boat.clear()
    boat.submit_anew(taken=1)
