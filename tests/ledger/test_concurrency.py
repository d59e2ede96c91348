"""Many processes on one ledger, which is empty when they start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from airflow_provider_seedance.ledger.account import Filter, list_submissions
from airflow_provider_seedance.ledger.configuration import read_config
from airflow_provider_seedance.ledger.database import Database

SCRIPT = Path(__file__).with_name("submit_many.py")


def check(processes: int, each: int) -> None:
    """Record submissions in many processes; every row is there."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), str(processes), str(each)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    config = read_config()
    assert config is not None
    rows = list_submissions(Database(config), Filter())
    assert len({(row["run_id"], row["map_index"], row["generation_id"]) for row in rows}) == processes * each
    assert {row["state"] for row in rows} == {"submitted"}


def test_processes_on_sqlite(new_ledger: Path) -> None:
    check(16, 5)


def test_processes_on_postgresql(postgres_ledger: Any) -> None:
    check(64, 10)


def test_processes_on_mysql(mysql_ledger: Any) -> None:
    check(16, 5)
