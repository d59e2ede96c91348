"""Cleaning the database must not affect a render in progress."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import accounts
import history
import pytest
from cluster import Cluster

from airflow_provider_seedance.submission.records import RecordState
from airflow_provider_seedance.testing import SeedanceEmulator

TIMEOUT_SECONDS = 300.0
LONG_AGO = timedelta(days=60)
KEPT = timedelta(days=30)


def test_a_running_render_survives_every_clean_up(cluster: Cluster, emulator: SeedanceEmulator) -> None:
    if cluster.ledger:
        pytest.skip("the records are in the ledger, which these commands do not clean")
    old = accounts.start(cluster, "single", ["a boat of long ago"])
    assert cluster.wait_run(old.dag_id, old.run_id, TIMEOUT_SECONDS) == "success"
    emulator.hold()
    try:
        runs = [
            accounts.start(cluster, "single", ["a boat that is still at sea"]),
            accounts.start(cluster, "batch", ["a boat and", "another boat"]),
        ]
        for run in runs:
            cluster.wait_task(run.dag_id, run.run_id, "render", ["deferred"], timeout=TIMEOUT_SECONDS)
        make_old(cluster, old)
        # Also if the record is older than the retention of the store.
        for table in ("task_state_store",):
            assert cluster.database.write(f"UPDATE {table} SET updated_at = ?", datetime.now(UTC) - LONG_AGO)

        before = (datetime.now(UTC) - KEPT).isoformat()
        for command in (
            ("db", "clean", "--clean-before-timestamp", before, "--skip-archive", "--yes"),
            ("state-store", "clean"),
        ):
            done = cluster.cli(*command)
            assert done.returncode == 0, done.stdout + done.stderr

        assert cluster.run_state(old.dag_id, old.run_id) is None
        for run in runs:
            assert cluster.task_state(run.dag_id, run.run_id, "render") == "deferred"
        single = runs[0]
        record = history.last(cluster.history, (single.dag_id, single.run_id, -1))
        assert record
        assert record.state is RecordState.SUBMITTED
        # The next try finds what the one before had paid for.
        for run in runs:
            cluster.clear(run.dag_id, run.run_id, ["render"])
    finally:
        emulator.release()
    for run in runs:
        assert cluster.wait_run(run.dag_id, run.run_id, TIMEOUT_SECONDS) == "success"
    sums = accounts.settle(cluster, emulator, runs)
    assert sums.duplicates == []
    assert len(sums.delivered) == 3


def make_old(cluster: Cluster, run: accounts.Run) -> None:
    """Let a run have happened long ago."""
    then = datetime.now(UTC) - LONG_AGO
    where = "WHERE dag_id = ? AND run_id = ?"
    for table in ("dag_run", "task_instance"):
        sql = f"UPDATE {table} SET start_date = ?, end_date = ? {where}"
        assert cluster.database.write(sql, then, then, run.dag_id, run.run_id)
