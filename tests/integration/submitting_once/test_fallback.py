"""Two connections for one render: the first refuses, and the worker is killed at the second."""

from __future__ import annotations

import pytest

from .airflow_fixture import AirflowFixture

pytestmark = pytest.mark.side_by_side

CONNECTIONS = ["seedanceapi_v1", "runbase"]


def test_killed_at_the_second_service_no_service_is_tried_again(airflow: AirflowFixture) -> None:
    boat = airflow.video(CONNECTIONS[0], retries=2, arguments={"seedance_conn_id": CONNECTIONS})
    boat.fault("refuse", api="seedanceapi-v1", status=402, code="INSUFFICIENT_CREDITS")
    held = boat.fault("hold_reply", api="runbase")
    boat.start()
    boat.until_struck(held)
    assert (boat.record["state"], boat.record["conn_id"]) == ("intent", "runbase")
    boat.kill()
    held.release()
    boat.until("failed", try_number=2)
    boat.check("failed", posts=2, taken=1)
    boat.check_says("Connection 'seedanceapi_v1' took nothing", "Trying connection 'runbase'", try_number=1)
    boat.check_says("billed at runbase", try_number=2)


def test_killed_while_it_waits_the_retry_delivers_from_the_second_service(airflow: AirflowFixture) -> None:
    boat = airflow.video(
        CONNECTIONS[0], retries=1, arguments={"seedance_conn_id": CONNECTIONS}, pause_at="id"
    )
    boat.fault("refuse", api="seedanceapi-v1", status=402, code="INSUFFICIENT_CREDITS")
    boat.start()
    boat.airflow.until(lambda: boat.taken, "a submission", boat)
    boat.airflow.until(lambda: boat.record.get("generation_id"), "its id", boat)
    boat.kill()
    boat.finish()
    boat.until("success", try_number=2)
    boat.check("success", posts=2, taken=1)
    assert boat.result["api"] == "runbase"
