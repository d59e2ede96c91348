"""Secrets in the files that all scenarios have written; this file runs last."""

from __future__ import annotations

from .airflow_fixture import API_KEY, AirflowFixture


def test_no_log_and_no_database_holds_the_api_key(airflow: AirflowFixture) -> None:
    boat = airflow.video("ark").start()
    boat.until_deferred()
    boat.finish()
    boat.until("success")
    files = [path for path in airflow.airflow.home.rglob("*") if path.is_file()]
    assert any("attempt=1.log" in path.name for path in files)
    assert [path for path in files if API_KEY.encode() in path.read_bytes()] == []
