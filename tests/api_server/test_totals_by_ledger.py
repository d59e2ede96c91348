"""The cost of runs by the ledger: of all tries, clears and items, with one query."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any

import pytest
from ledger.rows import add, row, uncertain
from ledger.sent_statements import statements

from airflow_provider_seedance.api_server import totals
from airflow_provider_seedance.api_server.renders import Task
from airflow_provider_seedance.api_server.runs import RunList, RunSearch
from airflow_provider_seedance.ledger import account, spending
from airflow_provider_seedance.ledger.configuration import LedgerConfig
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import TaskIdentity
from api_server.metadata_database import NOW, VIDEO, MetadataDatabase

ENDED = {"state": "success", "start_date": NOW, "end_date": NOW}
BATCH = "SeedanceGenerateVideoBatchOperator"


@pytest.fixture
def ledger(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.setattr(totals, "_unreadable_until", {})
    return Database(LedgerConfig(location=f"sqlite:///{ledger}"))


def take(number: int, **changes: Any) -> dict[str, Any]:
    """A row of a run of Dag `d`; `number` is that of the submission."""
    return {**row(-1, **{"dag_id": "d", "run_id": "r", **changes}), "number": number}


def task(task_id: str = "video", **changes: Any) -> Task:
    return Task(**{"task_id": task_id, "operator": VIDEO, "state": "success", **changes})


def result(cost_usd: float) -> dict[str, Any]:
    return {"return_value": {"generation_id": "g", "urls": [], "credits": 12, "cost_usd": cost_usd}}


def test_all_submissions_of_a_task_instance(ledger: Database) -> None:
    here = {"dag_id": "d", "run_id": "r"}
    takes = [take(number, credits=None) for number in (1, 2)]
    items = [row(-1, **here, task_id="batch", record_key=key, item_key=key) for key in "ab"]
    failed = take(3, status="failed", cost_usd=0.01, credits=None)
    unknown = uncertain(-1, **here, task_id="lost")
    elsewhere = [
        row(0, **here),
        row(-1, **here, namespace="other"),
        row(-1, **here, task_id="loop", loop_index=2),
    ]
    amounts: dict[str, Any] = {"credits": None, "cost_usd": None}
    unsent = row(-1, **here, task_id="batch", record_key="c", state="not_submitted", **amounts)
    own = row(-1, **here, task_id="own")
    add(ledger, [*takes, *items, failed, unknown, *elsewhere, unsent, own, row(-1, dag_id="d", run_id="x")])
    passes = task("loop", region=f"{'a' * 32}.2", iteration=2)
    tasks = [
        task(),
        task("batch", operator=BATCH),
        task("lost"),
        task("new"),
        passes,
        task("own", operator="OwnVideoOperator"),
        task("store", operator="Store"),
    ]
    costs = totals.read_costs({("d", "r"): tasks, ("d", "empty"): [task()]})
    assert costs is not None
    assert costs["d", "empty"] == {}
    found = {
        place: (row["credits"], pytest.approx(row["cost_usd"]), row["reserved"])
        for place, row in costs["d", "r"].items()
    }
    assert found == {
        ("video", -1, ""): (None, 0.15, 0),
        ("batch", -1, ""): (24, 0.14, 0),
        ("lost", -1, ""): (0, 0, 1),
        ("own", -1, ""): (12, 0.07, 0),
        passes.place: (12, 0.07, 0),
    }


def test_without_a_ledger() -> None:
    assert totals.read_costs({("d", "r"): [task()]}) is None


def test_many_task_instances(ledger: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spending, "MAX_INSTANCES", 2)
    add(ledger, [row(number) for number in range(5)])
    costs = totals.read_costs({("ads", "run"): [task(map_index=index) for index in range(7)]})
    assert costs is not None
    assert len(costs["ads", "run"]) == 5


def test_the_list_shows_all_that_a_run_has_paid(metadata: MetadataDatabase, ledger: Database) -> None:
    metadata.run(dag_id="d", run_id="r", **ENDED)
    metadata.task("video", VIDEO, run_id="r", try_number=3, xcoms=result(0.07))
    add(ledger, [take(1), take(2)])
    (run,) = RunList().read(metadata.session, {"d"}, RunSearch(), 10)
    assert (run["credits"], run["cost_usd"], run["at_least"]) == (24, 0.14, False)


def test_the_list_follows_the_ledger_until_all_submissions_have_ended(
    metadata: MetadataDatabase, ledger: Database
) -> None:
    metadata.run(dag_id="d", run_id="r", **ENDED)
    metadata.task("video", VIDEO, run_id="r", try_number=2, xcoms=result(0.07))
    add(ledger, [take(1), {**uncertain(-1, dag_id="d", run_id="r"), "number": 2}])
    listed = RunList()

    def shown() -> tuple[float, bool]:
        (run,) = listed.read(metadata.session, {"d"}, RunSearch(), 10)
        return run["cost_usd"], run["at_least"]

    assert shown() == (0.07, True)
    found = TaskIdentity(namespace="default", dag_id="d", run_id="r", task_id="video")
    account.resolve(ledger, found, None, None)
    assert shown() == (0.07, False)


def test_the_list_says_what_it_does_not_know(metadata: MetadataDatabase) -> None:
    for number, tries in enumerate((1, 2)):
        metadata.run(run_id=f"r{number}", **ENDED)
        metadata.task("video", VIDEO, run_id=f"r{number}", try_number=tries, xcoms=result(0.07))
    metadata.run(run_id="cleared")
    metadata.task("video", VIDEO, run_id="cleared", state=None, try_number=1)
    metadata.run(run_id="waiting")
    metadata.task("video", VIDEO, run_id="waiting", state=None, try_number=0)
    found = {run["run_id"]: run for run in RunList().read(metadata.session, {"d"}, RunSearch(), 10)}
    assert {run_id: run["at_least"] for run_id, run in found.items()} == {
        "r0": False,
        "r1": True,
        "cleared": True,
        "waiting": False,
    }
    assert found["r1"]["cost_usd"] == 0.07


def test_a_list_of_any_length_needs_the_same_queries(metadata: MetadataDatabase, ledger: Database) -> None:
    counts = []
    totals.read_costs({("d", "r"): [task()]})  # makes the tables
    for runs in (1, 30):
        for number in range(runs):
            metadata.run(run_id=f"{runs}-{number}", **ENDED)
            for index in range(3):
                metadata.task("video", VIDEO, run_id=f"{runs}-{number}", map_index=index)
        listed = RunList()
        with statements("FROM seedance_submissions") as first, statements() as all_of_first:
            assert len(listed.read(metadata.session, {"d"}, RunSearch(), 100)) >= runs
        # Of runs that have ended, a refresh reads neither the task instances nor the ledger again.
        with statements() as again:
            listed.read(metadata.session, {"d"}, RunSearch(), 100)
        counts.append((len(first), len(all_of_first), len(again)))
    assert counts == [(1, 3, 1)] * 2


def test_a_ledger_that_does_not_respond_delays_no_other_reader(
    metadata: MetadataDatabase, ledger: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, responds, held = RunList(), Event(), list[tuple[bool, bool]]()

    def hang(*_: Any) -> dict[str, Any]:
        held.append((listed._lock.locked(), metadata.session.in_transaction()))
        responds.wait()
        return {}

    monkeypatch.setattr(totals, "spend_of_instances", hang)
    monkeypatch.setattr(totals, "READ_TIMEOUT_SECONDS", 0.01)
    metadata.run(dag_id="d", run_id="r", **ENDED)
    metadata.task("video", VIDEO, run_id="r", try_number=2, xcoms=result(0.07))
    try:
        for _ in range(2):
            (run,) = listed.read(metadata.session, {"d"}, RunSearch(), 10)
            assert (run["cost_usd"], run["at_least"]) == (0.07, True)
    finally:
        responds.set()
    assert held == [(False, False)]  # the second time, it was not read


def test_a_ledger_that_fails_is_read_again_later(
    metadata: MetadataDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger: Database
) -> None:
    folder = tmp_path / "later"
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", f"sqlite:///{folder}/ledger.db")
    metadata.run(dag_id="d", run_id="r", **ENDED)
    metadata.task("video", VIDEO, run_id="r", try_number=2, xcoms=result(0.07))
    listed = RunList()
    (run,) = listed.read(metadata.session, {"d"}, RunSearch(), 10)
    assert (run["cost_usd"], run["at_least"]) == (0.07, True)
    folder.mkdir()
    assert totals.read_costs({("d", "r"): [task()]}) is None
    totals._unreadable_until.clear()
    add(
        Database(LedgerConfig(location=f"sqlite:///{folder}/ledger.db")),
        [take(1), take(2)],
    )
    # What was shown without the ledger is not kept.
    (run,) = listed.read(metadata.session, {"d"}, RunSearch(), 10)
    assert (run["cost_usd"], run["at_least"]) == (0.14, False)
