"""Calls of a service on PostgreSQL, at two API servers at once: each render ends once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import history
import pytest
from callback_recorder import CallbackRecorder
from cluster import Cluster

from airflow_provider_seedance.testing import SeedanceEmulator

TIMEOUT_SECONDS = 300.0

#: Each is rendered twice: ended by a worker, and without one.
PROMPTS = [f"a boat that calls, {number}" for number in range(10)]

#: More than are worked on at a time in both API servers.
HELD = 5


@pytest.fixture
def servers(cluster: Cluster) -> Iterator[list[str]]:
    """The addresses of two API servers."""
    cluster.launch("api-server-2")
    cluster.wait_healthy("api-server-2")
    yield [cluster.api.url, cluster.second_api.url]
    cluster.kill("api-server-2")


def waiting(cluster: Cluster, run_id: str) -> int:
    """Return the number of deferred tasks that can be resumed at once."""
    sql = (
        "SELECT COUNT(*) AS found FROM task_instance t JOIN trigger g ON g.id = t.trigger_id"
        " WHERE t.run_id = ? AND t.state = 'deferred' AND g.created_date < now() - interval '6 seconds'"
    )
    return int(cluster.database.rows(sql, run_id)[0]["found"])


def test_two_api_servers_resume_each_render_once(
    cluster: Cluster, emulator: SeedanceEmulator, callback_recorder: CallbackRecorder, servers: list[str]
) -> None:
    renders = 2 * len(PROMPTS)
    before = len(emulator.ledger.requests)
    emulator.hold()
    try:
        run_id = cluster.trigger("called", conf={"prompts": PROMPTS})
        cluster.wait_until(lambda: waiting(cluster, run_id) == renders, TIMEOUT_SECONDS, "deferred tasks")
        polled = len(emulator.ledger.requests)
    finally:
        emulator.release()
    for generation in emulator.generations:
        if generation.prompt in PROMPTS:
            emulator.finish(generation.id)
    cluster.wait_until(lambda: len(callback_recorder.calls) == renders, TIMEOUT_SECONDS, "calls")

    held = [cluster.task_instance("called", run_id, "render", index)["id"] for index in range(HELD)]
    with closing(cluster.postgres.connect()) as holder, holder.cursor() as cursor:
        # A lock on some rows does not delay other callbacks for long.
        holder.autocommit = False
        cursor.execute("SELECT 1 FROM task_instance WHERE id::text = ANY(%s) FOR UPDATE", (held,))
        began = time.monotonic()
        assert set(callback_recorder.deliver(servers, times=2)) == {202}
        cluster.wait_until(
            lambda: done(cluster, run_id) == renders - HELD, TIMEOUT_SECONDS, "the remaining tasks to end"
        )
        seconds = time.monotonic() - began
        holder.rollback()
    assert cluster.wait_run("called", run_id, TIMEOUT_SECONDS) == "success"
    print(f"{renders - HELD} renders ended {seconds:.1f} s after {4 * renders} calls at two API servers")

    expected = {("render", index): 2 for index in range(len(PROMPTS))}
    expected |= {("ended", index): 1 for index in range(len(PROMPTS))}
    starts = history.starts(cluster.database, run_id)
    assert {place: starts[place] for place in expected} == expected
    requests = emulator.ledger.requests[before:]
    assert [entry.kind for entry in requests].count("submit") == renders
    # Each server may ask once about a render that ends without a worker.
    polls = [entry for entry in requests[polled - before :] if entry.kind in ("status", "result", "list")]
    assert len(polls) <= 3 * renders
    # Their triggers were deleted, which must not cancel anything.
    cluster.wait_until(
        lambda: not cluster.database.rows("SELECT id FROM trigger"), TIMEOUT_SECONDS, "triggers to be gone"
    )
    assert not [entry for entry in emulator.ledger.requests if entry.kind == "cancel"]
    sold = {entry.generation_id: entry.prompt for entry in emulator.ledger.submissions}
    for task_id, index in expected:
        result = cluster.xcom("called", run_id, task_id, map_index=index)
        assert sold.pop(result["generation_id"]) == PROMPTS[index]
        assert result["urls"]
    assert "deadlock detected" not in cluster.postgres.log


def done(cluster: Cluster, run_id: str) -> int:
    """Return the number of successful renders."""
    rows = cluster.task_instances("called", run_id)
    return sum(row["state"] == "success" for row in rows if row["task_id"] in ("render", "ended"))
