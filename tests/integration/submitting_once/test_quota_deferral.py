"""A refusal that needs a long wait: a deferrable task waits without a worker, a synchronous one is retried."""

from __future__ import annotations

import itertools

import pytest
from versions import RESCHEDULING

from .airflow_fixture import AirflowFixture, Task, first_of

pytestmark = pytest.mark.side_by_side

#: Longer than a worker waits for (10 s), and not longer than a test needs.
LONG = 12


def _waited(boat: Task) -> None:
    """Each submission came when the service took requests again, and not before."""
    posts = [post.at for post in boat.emulator.ledger.posts(prompt=f"{boat.word} {boat.prompt}")]
    assert all(later - earlier >= LONG for earlier, later in itertools.pairwise(posts)), posts


@pytest.mark.parametrize("conn_id", first_of("seedance2api", "ark"))
def test_a_deferrable_task_defers_and_submits_then(airflow: AirflowFixture, conn_id: str) -> None:
    boat = airflow.video(conn_id)
    fault = boat.fault("rate_limit", retry_after=LONG, times=2)
    boat.start()
    # A slow machine may see only the second deferral.
    boat.airflow.until(lambda: boat.row.get("next_method") == "resume_submit", "the deferral", boat)
    boat.until_says("Nothing was submitted and nothing is billed; the task defers for")
    boat.until_struck(fault, 2)  # a second refusal defers again
    boat.submit_anew(try_number=1, posts=3, taken=1)
    assert boat.tries == 1
    _waited(boat)


def test_a_synchronous_task_runs_again_when_the_service_takes_requests_again(airflow: AirflowFixture) -> None:
    """Airflow 3.4 uses no retry for it."""
    boat = airflow.video("ark", retries=int(not RESCHEDULING.there), arguments={"deferrable": False})
    boat.fault("rate_limit", retry_after=LONG)
    boat.start()
    boat.airflow.until(lambda: boat.record.get("state") == "not_submitted", "the refusal on record", boat)
    boat.submit_anew(try_number=1 if RESCHEDULING.there else 2, taken=1)
    _waited(boat)


@pytest.mark.skipif(RESCHEDULING.there, reason="the task is rescheduled")
def test_a_synchronous_task_without_retries_fails_and_has_paid_nothing(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark", arguments={"deferrable": False})
    boat.fault("rate_limit", retry_after=LONG)
    boat.start()
    boat.until("failed")
    boat.check("failed", posts=1, taken=0)
    assert boat.record["state"] == "not_submitted"


def test_a_short_wait_is_waited_on_the_worker(airflow: AirflowFixture) -> None:
    boat = airflow.video("seedanceapi_v1")
    boat.fault("rate_limit", retry_after=1)
    boat.start()
    boat.until_deferred()
    assert boat.row["next_method"] == "execute_complete"
    boat.submit_anew(try_number=1, taken=1)


def test_marked_failed_while_it_waits_for_quota_nothing_is_ever_submitted(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark")
    boat.fault("rate_limit", retry_after=3600)
    boat.start()
    boat.until("deferred")
    boat.mark("failed")
    boat.until("failed")
    boat.airflow.until(lambda: boat.row["trigger_id"] is None, "the end of the trigger", boat)
    boat.check("failed", posts=1, taken=0)


def test_cleared_while_it_waits_for_quota_it_submits_once(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark", later={"deferrable": True})
    boat.fault("rate_limit", retry_after=LONG)
    boat.start()
    boat.until("deferred")
    boat.clear()
    boat.until("deferred", try_number=2)
    boat.submit_anew(taken=1)


def test_killed_after_the_post_that_followed_the_wait_a_retry_does_not_submit_again(
    airflow: AirflowFixture,
) -> None:
    boat = airflow.video("seedanceapi_v1", retries=1)
    boat.fault("rate_limit", retry_after=LONG)
    fault = boat.fault("hold_reply")
    boat.start()
    boat.until_struck(fault)
    boat.kill()
    fault.release()
    boat.until("failed", try_number=2)
    boat.check("failed", posts=2, taken=1)
    boat.until_says("An earlier try was about to submit", try_number=2)


def test_a_quota_that_is_used_up_by_polls_fails_no_task(airflow: AirflowFixture) -> None:
    boat = airflow.video("seedanceapi_v2")
    fault = boat.fault("rate_limit", on="status", retry_after=1, times=3)
    boat.start()
    paid = boat.until_deferred()
    boat.until_struck(fault, 3)
    boat.deliver(paid)
