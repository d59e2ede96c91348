"""Two connections for one render: the first refuses, and the worker is killed at the second."""

from __future__ import annotations

import pytest

from .airflow_fixture import AirflowFixture, Task

pytestmark = pytest.mark.side_by_side

CONNECTIONS = ["seedanceapi_v1", "runbase"]


def _refused(airflow: AirflowFixture, retries: int, pause_at: str | None = None) -> Task:
    """A task that has not started, and that the first service will refuse."""
    arguments = {"seedance_conn_id": CONNECTIONS}
    boat = airflow.video(CONNECTIONS[0], retries=retries, arguments=arguments, pause_at=pause_at)
    boat.fault("refuse", api="seedanceapi-v1", status=402, code="INSUFFICIENT_CREDITS")
    return boat


def test_killed_at_the_second_service_no_service_is_tried_again(airflow: AirflowFixture) -> None:
    boat = _refused(airflow, 2)
    held = boat.fault("hold_reply", api="runbase")
    boat.start()
    boat.until_struck(held)
    assert (boat.record["state"], boat.record["conn_id"]) == ("intent", "runbase")
    boat.kill()
    held.release()
    boat.until("failed", try_number=2)
    boat.check("failed", posts=2, taken=1)
    boat.until_says("Connection 'seedanceapi_v1' took nothing", "Trying connection 'runbase'", try_number=1)
    boat.until_says("billed at runbase", try_number=2)


def test_killed_while_it_waits_the_retry_delivers_from_the_second_service(airflow: AirflowFixture) -> None:
    boat = _refused(airflow, 1, pause_at="id")
    boat.start()
    boat.until_taken()
    boat.until_recorded()
    boat.kill()
    boat.finish()
    boat.until("success", try_number=2)
    boat.check("success", posts=2, taken=1)
    assert boat.result["api"] == "runbase"
