"""Processes on one ledger, which is empty when they start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_seedance.apis.rate_limits import RateLimit
from airflow_provider_seedance.ledger import shared_state_changer
from airflow_provider_seedance.polling import shared_quota
from airflow_provider_seedance.polling.quota import POLICY

from .conftest import admitted_by_budget
from .rows import recorded

FORKED = Path(__file__).parent / "forked.py"

#: A process that reserves a request.
RESERVE = """
import sys
from airflow_provider_seedance.ledger import shared_state_changer
from airflow_provider_seedance.polling.shared_quota import SharedQuota
identity = ("https://vendor.example/v1", "digest-of-a-key")
print(SharedQuota(identity, shared_state_changer()).reserve(float(sys.argv[1])))
"""


def run(*arguments: Any, **environment: str) -> str:
    """Run Python with these arguments; return what it prints."""
    root = str(FORKED.parents[2])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path]), **environment},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize(
    ("database", "processes"), [("new_ledger", 16), ("postgres_ledger", 64), ("mysql_ledger", 16)]
)
def test_processes_record_every_submission(
    request: pytest.FixtureRequest, database: str, processes: int
) -> None:
    request.getfixturevalue(database)
    run(FORKED, "submit", processes, 3)
    rows = recorded()
    assert len({(row["run_id"], row["map_index"], row["generation_id"]) for row in rows}) == processes * 3
    assert {row["state"] for row in rows} == {"submitted"}


@pytest.mark.parametrize(
    ("database", "processes"), [("ledger", 6), ("postgres_ledger", 12), ("mysql_ledger", 6)]
)
def test_processes_that_make_the_same_requests_pay_once(
    request: pytest.FixtureRequest, database: str, processes: int
) -> None:
    request.getfixturevalue(database)
    # The first submission was rejected, the second one failed, the third one succeeded.
    *_, last = run(FORKED, "reuse", processes, 6).splitlines()  # after the log of the migrations
    assert json.loads(last) == [2, 2, 1, 2, 2, 1]
    paid = [row for row in recorded() if row["status"] == "succeeded" and row["credits"]]
    assert [row["credits"] for row in paid] == [14] * 6
    states = {(row["state"], row["status"]) for row in recorded()}
    assert states == {("ended", "succeeded"), ("ended", "failed")}


def test_processes_of_two_machines_share_a_quota(
    any_ledger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_quota, "directory", lambda: tmp_path / "a")
    now = float(int(time.time()))
    quota = shared_quota.SharedQuota(("https://vendor.example/v1", "digest-of-a-key"), shared_state_changer())
    quota.learn(RateLimit(limit=10, remaining=0, reset_at=datetime.fromtimestamp(now + 600, UTC)), now)
    quota.exchange(now)
    (tmp_path / "b").mkdir()
    shown = run("-c", RESERVE, now, TMPDIR=str(tmp_path / "b"))
    assert float(shown.splitlines()[-1]) == 600 + POLICY.reset_margin


def test_two_hundred_submitters_use_up_a_budget_and_never_exceed_it(any_ledger: Any) -> None:
    assert admitted_by_budget(200, price=7, limit=1000) == 1000 // 7
