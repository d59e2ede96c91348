"""The list of runs with renders, on a real schema in memory."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_seedance.api_server import known_dags, runs
from airflow_provider_seedance.api_server.runs import RunList, RunSearch
from airflow_provider_seedance.generations import utc_now
from api_server.metadata_database import NOW, STORE, VIDEO, MetadataDatabase
from api_server.render_samples import result

ENDED = {"state": "success", "start_date": NOW, "end_date": NOW}


def read(metadata: MetadataDatabase, listed: RunList | None = None) -> list[dict[str, Any]]:
    return (listed or RunList()).read(metadata.session, {"d"}, RunSearch(), 10)


def paid(credits: float | None, cost_usd: float | None = None) -> dict[str, Any]:
    return {"return_value": result(credits=credits, cost_usd=cost_usd)}


def test_the_latest_runs_with_renders(metadata: MetadataDatabase) -> None:
    metadata.run(run_id="old", run_after=NOW.replace(hour=1), state="success")
    metadata.run(run_id="new", run_after=NOW.replace(hour=2))
    metadata.run(run_id="without")
    metadata.run(dag_id="hidden")
    for run_id in ("old", "new"):
        metadata.task("video", VIDEO, run_id=run_id, map_index=0)
        metadata.task("video", VIDEO, run_id=run_id, map_index=1, state=None)
    metadata.task("store", STORE, run_id="without")
    metadata.task("video", VIDEO, dag_id="hidden")
    listed = RunList()
    assert listed.dag_ids(metadata.session) == {"d", "hidden"}
    found = read(metadata, listed)
    assert [run["run_id"] for run in found] == ["new", "old"]
    assert all(run["tasks"] == {"success": 1, "none": 1} for run in found)
    assert [run["run_id"] for run in listed.read(metadata.session, {"d"}, RunSearch(), 1)] == ["new"]
    assert listed.read(metadata.session, set(), RunSearch(), 10) == []


@pytest.mark.parametrize(
    ("search", "found"),
    [
        (RunSearch(text="ADS"), ["ads"]),
        (RunSearch(text="manual 2"), ["d"]),
        (RunSearch(text="nothing"), []),
        (RunSearch(text="_anual"), []),  # not a wildcard
        (RunSearch(since=NOW), ["d"]),
        (RunSearch(until=NOW), ["ads"]),
        (RunSearch(text="manual", since=NOW - timedelta(days=1)), ["d", "ads"]),
    ],
)
def test_search(metadata: MetadataDatabase, search: RunSearch, found: list[str]) -> None:
    for dag_id, run_id, after in (("ads", "manual__1", NOW - timedelta(hours=1)), ("d", "manual__2", NOW)):
        metadata.run(dag_id, run_id, run_after=after)
        metadata.task("video", VIDEO, dag_id=dag_id, run_id=run_id)
    listed = RunList().read(metadata.session, {"ads", "d"}, search, 10)
    assert [run["dag_id"] for run in listed] == found


def test_spending(metadata: MetadataDatabase) -> None:
    metadata.run()
    metadata.task("video", VIDEO, map_index=0, xcoms=paid(10, 0.5))
    metadata.task("video", VIDEO, map_index=1, xcoms={"return_value": '{"credits": 1, "generation_id": "x"}'})
    # A generation that failed, a batch that goes on, and what an earlier try of a running task returned.
    batch = "SeedanceGenerateVideoBatchOperator"
    failed, in_flight = {"credits": 2, "cost_usd": 0.25}, {"credits": 4, "items": []}
    metadata.task("failed", VIDEO, state="failed", xcoms={"seedance_report": failed})
    metadata.task("batch", batch, state="deferred", xcoms={"seedance_report": in_flight})
    metadata.task("again", VIDEO, state="running", xcoms=paid(100, 100))
    # Paid for by another task, or by no task.
    metadata.task("sensor", "SeedanceGenerationSensor", xcoms=paid(1000, 1000))
    dry_run = {"return_value": {"estimate": {}, "credits": 1000, "cost_usd": 1000}}
    metadata.task("dry", batch, xcoms=dry_run)
    metadata.task("mine", "Mine", custom_operator_name="@task.seedance_video", xcoms=paid(8, 0))
    metadata.run(run_id="waiting")
    metadata.task("video", VIDEO, run_id="waiting", state=None)
    spent = {run["run_id"]: (run["credits"], run["cost_usd"]) for run in read(metadata)}
    assert spent == {"r/1": (25, 0.75), "waiting": (None, None)}


def test_a_run_that_has_ended_is_read_once(metadata: MetadataDatabase) -> None:
    metadata.run(run_id="ended", **ENDED)
    metadata.run(run_id="running")
    for run_id in ("ended", "running"):
        metadata.task("video", VIDEO, run_id=run_id, xcoms=paid(1))
    listed = RunList()
    first = read(metadata, listed)
    metadata.sent.clear()
    assert read(metadata, listed) == first
    _, (_, places) = metadata.sent
    assert "running" in places
    assert "ended" not in places


def test_a_run_that_has_just_ended_is_read_again(metadata: MetadataDatabase) -> None:
    metadata.run(**{**ENDED, "end_date": utc_now()})
    metadata.task("video", VIDEO, xcoms=paid(1))
    listed = RunList()
    read(metadata, listed)
    metadata.task("late", VIDEO, xcoms=paid(2))
    (run,) = read(metadata, listed)
    assert run["credits"] == 3


def test_the_memory_is_bounded(metadata: MetadataDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MAX_SUMMARIES", 2)
    for number in range(4):
        metadata.run(run_id=f"r{number}", **ENDED)
        metadata.task("video", VIDEO, run_id=f"r{number}")
    listed = RunList()
    assert len(read(metadata, listed)) == 4
    assert len(listed._ended) == 2


def test_only_new_task_instances_are_read_for_new_dags(
    metadata: MetadataDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = RunList()
    metadata.run()
    metadata.task("video", VIDEO)
    assert listed.dag_ids(metadata.session) == {"d"}
    metadata.run(dag_id="new")
    metadata.task("video", VIDEO, dag_id="new")
    assert listed.dag_ids(metadata.session) == {"d", "new"}
    # A Dag whose task instances are older than the last look is not read again.
    monkeypatch.setattr(known_dags, "utc_now", lambda: utc_now() + timedelta(days=1))
    listed.dag_ids(metadata.session)
    metadata.run(dag_id="unseen")
    metadata.task("video", VIDEO, dag_id="unseen")
    assert listed.dag_ids(metadata.session) == {"d", "new"}
