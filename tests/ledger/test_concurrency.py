"""Many processes on one ledger, which is empty when they start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_seedance.ledger.account import Filter, list_submissions
from airflow_provider_seedance.ledger.configuration import read_config
from airflow_provider_seedance.ledger.database import Database

HERE = Path(__file__).parent


def run(script: str, processes: int, each: int) -> str:
    """Run a script in many processes; return what it prints."""
    root = str(HERE.parents[1])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / script), str(processes), str(each)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def rows_of_the_ledger() -> list[dict[str, Any]]:
    config = read_config()
    assert config is not None
    return list_submissions(Database(config), Filter())


def check(processes: int, each: int) -> None:
    """Record submissions in many processes; every row is there."""
    run("submit_many.py", processes, each)
    rows = rows_of_the_ledger()
    assert len({(row["run_id"], row["map_index"], row["generation_id"]) for row in rows}) == processes * each
    assert {row["state"] for row in rows} == {"submitted"}


def test_processes_on_sqlite(new_ledger: Path) -> None:
    check(16, 5)


def test_processes_on_postgresql(postgres_ledger: Any) -> None:
    check(64, 10)


def test_processes_on_mysql(mysql_ledger: Any) -> None:
    check(16, 5)


@pytest.mark.parametrize(
    ("database", "processes"), [("ledger", 6), ("postgres_ledger", 12), ("mysql_ledger", 6)]
)
def test_processes_that_make_the_same_requests_pay_once(
    request: pytest.FixtureRequest, database: str, processes: int
) -> None:
    request.getfixturevalue(database)
    # The first submission was rejected, the second one failed, the third one succeeded.
    *_, last = run("reuse_many.py", processes, 6).splitlines()  # after the log of the migrations
    assert json.loads(last) == [2, 2, 1, 2, 2, 1]
    paid = [row for row in rows_of_the_ledger() if row["status"] == "succeeded" and row["credits"]]
    assert [row["credits"] for row in paid] == [14] * 6
    states = {(row["state"], row["status"]) for row in rows_of_the_ledger()}
    assert states == {("ended", "succeeded"), ("ended", "failed")}
