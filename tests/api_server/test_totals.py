"""Amounts that runs, tasks and batches have spent, by Airflow and by the ledger."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any

import pytest
from ledger.rows import add, configured, row, uncertain
from ledger.sent_statements import statements

from airflow_provider_seedance.api_server import totals
from airflow_provider_seedance.api_server.runs import RunList, RunSearch
from airflow_provider_seedance.api_server.totals import Costs, batches_of, summary_of, totals_of
from airflow_provider_seedance.ledger import account, spending
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import TaskIdentity
from api_server.metadata_database import NOW, VIDEO, MetadataDatabase
from api_server.render_samples import batch, result, shown, video

PLACE = ("video", -1, "")
OTHER = ("another", -1, "")
SENSOR = "SeedanceGenerationSensor"
ENDED = {"state": "success", "start_date": NOW, "end_date": NOW}


def booked(credits: float | None, cost_usd: float | None, reserved: int = 0) -> dict[str, Any]:
    """Return sums of a task instance in the ledger."""
    return {"credits": credits, "cost_usd": cost_usd, "reserved": reserved}


@pytest.mark.parametrize(
    ("tries", "ledger", "spent"),
    [
        (1, {}, (28, 0.14, False)),
        (2, {}, (28, 0.14, True)),  # the ledger does not know the task
        (2, {PLACE: booked(112, 0.56)}, (112, 0.56, False)),
        (2, {PLACE: booked(None, 0.56)}, (28, 0.56, False)),
        (2, {PLACE: booked(None, None)}, (28, 0.14, False)),  # the earlier try sent nothing
        (1, {PLACE: booked(0, 0.07)}, (0, 0.07, False)),  # corrected after the result was written
        (1, {PLACE: booked(14, 0.07, 1)}, (28, 0.14, True)),  # the outcome of a take is unknown
        (1, {OTHER: booked(1, 1)}, (28, 0.14, False)),
    ],
)
def test_what_was_spent_in_all(tries: int, ledger: Costs, spent: tuple[Any, ...]) -> None:
    tasks = [video(returned=result(), try_number=tries)]
    expected = dict(zip(("credits", "cost_usd", "at_least"), spent, strict=True))
    found = totals_of(shown(*tasks), tasks, ledger)
    assert (found["credits"], found["cost_usd"]) == (28, 0.14)
    assert found["spent"] == expected
    assert summary_of(tasks, ledger) == {"tasks": {"success": 1}, **expected}


def test_a_cleared_task_that_waits_has_spent_what_the_ledger_says() -> None:
    waiting = video(None, try_number=1)
    found = totals_of(shown(waiting), [waiting], {PLACE: booked(28, 0.14)})
    assert (found["cost_usd"], found["spent"]["cost_usd"]) == (None, 0.14)


def test_a_batch_that_goes_on_counts_what_no_worker_has_recorded() -> None:
    items = [{"key": str(number), "generation_id": f"g{number}", "status": "running"} for number in range(2)]
    report = {"items": items, "counts": {}, "credits": 28, "cost_usd": 0.14}
    progress = [{"generation_id": "g1", "status": "succeeded", "credits": 14, "cost_usd": 0.07}]
    task = batch(state="deferred", xcoms={"seedance_report": report, "seedance_progress": progress})
    (known,) = batches_of([task], {})
    assert (known["credits"], known["cost_usd"]) == (42, 0.21)
    (beside,) = batches_of([task], {task.place: booked(28, 0.14, 2)})
    assert beside == known
    (recorded,) = batches_of([task], {task.place: booked(56, 0.28, 2)})
    assert (recorded["credits"], recorded["cost_usd"], recorded["at_least"]) == (56, 0.28, False)


def test_a_failure_that_was_not_billed_has_no_cost() -> None:
    assert summary_of([video("failed", try_number=1)], {PLACE: booked(0, 0)})["cost_usd"] is None


def test_retried_tasks_that_hand_a_result_on_pay_nothing() -> None:
    sensor, other = (
        video(task_id="next", returned=result(), operator=operator, try_number=3)
        for operator in (SENSOR, "Python")
    )
    for tasks in ([video(returned=result(), try_number=1), other], [sensor]):
        spent = totals_of(shown(*tasks), tasks, {})["spent"]
        assert spent == {"credits": 28, "cost_usd": 0.14, "at_least": False}
    assert not summary_of([sensor], {})["at_least"]


# ---------------------------------------------------------------------- by the ledger


def take(number: int, **changes: Any) -> dict[str, Any]:
    """Return a row of a run of Dag `d`; `number` is that of the submission."""
    return {**row(-1, **{"dag_id": "d", "run_id": "r", **changes}), "number": number}


def add_run(metadata: MetadataDatabase, run_id: str = "r", **task: Any) -> None:
    """Add a run that has ended, with a task."""
    metadata.run(run_id=run_id, **ENDED)
    metadata.task("video", VIDEO, run_id=run_id, **{"xcoms": {"return_value": result(cost_usd=0.07)}, **task})


def read(metadata: MetadataDatabase, runs: RunList | None = None) -> dict[str, tuple[float | None, bool]]:
    """Return the cost of each run in the list, and whether it is a minimum."""
    found = (runs or RunList()).read(metadata.session, {"d"}, RunSearch(), 100)
    return {run["run_id"]: (run["cost_usd"], run["at_least"]) for run in found}


def test_all_submissions_of_a_task_instance(ledger_database: Database) -> None:
    here = {"dag_id": "d", "run_id": "r"}
    takes = [take(number, credits=None) for number in (1, 2)]
    items = [row(-1, **here, task_id="batch", record_key=key, item_key=key) for key in "ab"]
    failed = take(3, status="failed", cost_usd=0.01, credits=None)
    unknown = uncertain(-1, **here, task_id="lost")
    elsewhere = [
        row(0, **here),
        row(-1, **here, namespace="other"),
        row(-1, **here, task_id="loop", loop_index=2),
        row(-1, dag_id="d", run_id="x"),
    ]
    amounts: dict[str, Any] = {"credits": None, "cost_usd": None}
    unsent = row(-1, **here, task_id="batch", record_key="c", state="not_submitted", **amounts)
    own = row(-1, **here, task_id="own")
    add(ledger_database, [*takes, *items, failed, unknown, *elsewhere, unsent, own])
    passes = video(task_id="loop", region=f"{'a' * 32}.2", iteration=2)
    tasks = [
        video(),
        batch(),
        video(task_id="lost"),
        video(task_id="new"),
        passes,
        video(task_id="own", operator="OwnVideoOperator"),
        video(task_id="store", operator="Store"),
    ]
    costs = totals.read_costs({("d", "r"): tasks, ("d", "empty"): [video()]})
    assert costs is not None
    assert costs["d", "empty"] == {}
    found = {
        place: (row["credits"], pytest.approx(row["cost_usd"]), row["reserved"])
        for place, row in costs["d", "r"].items()
    }
    assert found == {
        PLACE: (None, 0.15, 0),
        ("batch", -1, ""): (24, 0.14, 0),
        ("lost", -1, ""): (0, 0, 1),
        ("own", -1, ""): (12, 0.07, 0),
        passes.place: (12, 0.07, 0),
    }


def test_without_a_ledger() -> None:
    assert totals.read_costs({("d", "r"): [video()]}) is None


def test_many_task_instances(ledger_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spending, "MAX_INSTANCES", 2)
    add(ledger_database, [row(number) for number in range(5)])
    costs = totals.read_costs({("ads", "run"): [video(map_index=index) for index in range(7)]})
    assert costs is not None
    assert len(costs["ads", "run"]) == 5


def test_the_list_shows_all_that_a_run_has_paid(
    metadata: MetadataDatabase, ledger_database: Database
) -> None:
    add_run(metadata, try_number=3)
    add(ledger_database, [take(1), take(2)])
    assert read(metadata) == {"r": (0.14, False)}


def test_the_list_follows_the_ledger_until_all_submissions_have_ended(
    metadata: MetadataDatabase, ledger_database: Database
) -> None:
    add_run(metadata, try_number=2)
    add(ledger_database, [take(1), {**uncertain(-1, dag_id="d", run_id="r"), "number": 2}])
    runs = RunList()
    assert read(metadata, runs) == {"r": (0.07, True)}
    task = TaskIdentity(namespace="default", dag_id="d", run_id="r", task_id="video")
    account.resolve(ledger_database, task, None, None)
    assert read(metadata, runs) == {"r": (0.07, False)}


def test_the_list_says_what_it_does_not_know(metadata: MetadataDatabase) -> None:
    add_run(metadata, "once", try_number=1)
    add_run(metadata, "twice", try_number=2)
    add_run(metadata, "cleared", state=None, try_number=1, xcoms={})
    add_run(metadata, "waiting", state=None, try_number=0, xcoms={})
    assert read(metadata) == {
        "once": (0.07, False),
        "twice": (0.07, True),
        "cleared": (None, True),
        "waiting": (None, False),
    }


def test_a_list_of_any_length_needs_the_same_queries(
    metadata: MetadataDatabase, ledger_database: Database
) -> None:
    counts = []
    totals.read_costs({("d", "r"): [video()]})  # makes the tables
    for length in (1, 30):
        for number in range(length):
            metadata.run(run_id=f"{length}-{number}", **ENDED)
            for index in range(3):
                metadata.task("video", VIDEO, run_id=f"{length}-{number}", map_index=index)
        runs = RunList()
        with statements("FROM seedance_submissions") as first, statements() as all_of_first:
            assert len(read(metadata, runs)) >= length
        # Of runs that have ended, a refresh reads neither the task instances nor the ledger again.
        with statements() as again:
            read(metadata, runs)
        counts.append((len(first), len(all_of_first), len(again)))
    assert counts == [(1, 3, 1)] * 2


def test_a_ledger_that_does_not_respond_delays_no_other_reader(
    metadata: MetadataDatabase, ledger_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, begun, responds, held = RunList(), Event(), Event(), list[tuple[bool, bool]]()
    submit = totals._threads.submit

    def hang(*_: Any) -> dict[str, Any]:
        held.append((runs._lock.locked(), metadata.session.in_transaction()))
        begun.set()
        responds.wait()
        return {}

    def begin(*call: Any) -> Any:
        reading = submit(*call)
        begun.wait()  # before the short timeout begins, however slow the machine is
        return reading

    monkeypatch.setattr(totals._threads, "submit", begin)
    monkeypatch.setattr(totals, "spend_of_instances", hang)
    monkeypatch.setattr(totals, "READ_TIMEOUT_SECONDS", 0.01)
    add_run(metadata, try_number=2)
    try:
        for _ in range(2):
            assert read(metadata, runs) == {"r": (0.07, True)}
    finally:
        responds.set()
    assert held == [(False, False)]  # the second time, it was not read


def test_a_ledger_that_fails_is_read_again_later(
    metadata: MetadataDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger_database: Database
) -> None:
    folder = tmp_path / "later"
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", f"sqlite:///{folder}/ledger.db")
    add_run(metadata, try_number=2)
    runs = RunList()
    assert read(metadata, runs) == {"r": (0.07, True)}
    folder.mkdir()
    assert totals.read_costs({("d", "r"): [video()]}) is None
    totals._unreadable_until.clear()
    add(configured(), [take(1), take(2)])
    # What was shown without the ledger is not kept.
    assert read(metadata, runs) == {"r": (0.14, False)}
