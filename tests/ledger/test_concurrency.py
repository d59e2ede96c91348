"""Many processes on one ledger, which is empty when they start."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow_provider_seedance.ledger.account import Filter, list_submissions
from airflow_provider_seedance.ledger.configuration import read_config
from airflow_provider_seedance.ledger.database import Database

SCRIPT = Path(__file__).with_name("submit_many.py")


def run(processes: int, each: int) -> list[float]:
    """Record submissions in many processes; return the seconds that each took, but for the first of a process."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(SCRIPT), f"w{number}", str(each)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    ends = [process.communicate(timeout=900) for process in running]
    assert [process.returncode for process in running] == [0] * processes, ends[0][1][-2000:]
    return [float(word) for out, _ in ends for word in out.splitlines()[-1].split()[1:]]


def check(processes: int, each: int) -> float:
    """Run them, and return the median; every row is there."""
    seconds = run(processes, each)
    config = read_config()
    assert config is not None
    rows = list_submissions(Database(config), Filter())
    assert len({(row["run_id"], row["map_index"], row["generation_id"]) for row in rows}) == processes * each
    assert {row["state"] for row in rows} == {"submitted"}
    return statistics.median(seconds)


def test_processes_on_sqlite(ledger: Path) -> None:
    check(int(os.environ.get("LEDGER_PROCESSES", "4")), 10)


def test_processes_on_postgresql(postgres_ledger: Any) -> None:
    check(int(os.environ.get("LEDGER_PROCESSES", "4")), 10)


def test_a_submission_beside_a_local_postgresql(
    postgres_ledger: Any, record_property: Callable[[str, object], None]
) -> None:
    median = check(1, 50)
    record_property("milliseconds", median * 1000)
    print(f"median of a submission: {median * 1000:.2f} ms")  # noqa: T201
    assert median < 0.1
