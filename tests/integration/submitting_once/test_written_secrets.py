"""Contents of all files of the scenarios, at the end; this file runs last."""

from __future__ import annotations

from .airflow_fixture import API_KEY, AirflowFixture


def test_no_record_expires_and_no_log_and_no_database_holds_the_api_key(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark").start()
    boat.deliver(boat.until_deferred())
    records = airflow.airflow.database.rows("SELECT run_id, expires_at FROM task_state_store")
    assert boat.run_id in {row["run_id"] for row in records}
    assert {row["expires_at"] for row in records} == {None}
    files = airflow.airflow.files()
    assert any("attempt=1.log" in path.name for path in files)
    assert [path for path, content in files.items() if API_KEY.encode() in content] == []
