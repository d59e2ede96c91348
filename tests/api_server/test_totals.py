"""Amounts that runs, tasks and batches have spent, by Airflow and by the ledger."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_seedance.api_server.renders import Task, renders_of
from airflow_provider_seedance.api_server.totals import Costs, batches_of, summary_of, totals_of

VIDEO = "SeedanceGenerateVideoOperator"
PLACE = ("video", -1, "")
OTHER = ("another", -1, "")


def booked(credits: float | None, cost_usd: float | None, reserved: int = 0) -> dict[str, Any]:
    """Return sums of a task instance in the ledger."""
    return {"credits": credits, "cost_usd": cost_usd, "reserved": reserved}


def task(**changes: Any) -> Task:
    result = {"generation_id": "g", "urls": [], "status": "succeeded", "credits": 28, "cost_usd": 0.14}
    values = {"operator": VIDEO, "state": "success", "try_number": 1, "xcoms": {"return_value": result}}
    return Task(task_id="video", **{**values, **changes})


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
    tasks = [task(try_number=tries)]
    expected = dict(zip(("credits", "cost_usd", "at_least"), spent, strict=True))
    totals = totals_of(renders_of(tasks, lambda path: []), tasks, ledger)
    assert (totals["credits"], totals["cost_usd"]) == (28, 0.14)
    assert totals["spent"] == expected
    assert summary_of(tasks, ledger) == {"tasks": {"success": 1}, **expected}


def test_a_cleared_task_that_waits_has_spent_what_the_ledger_says() -> None:
    waiting = task(state=None, xcoms={})
    ledger = {PLACE: booked(28, 0.14)}
    totals = totals_of(renders_of([waiting], lambda path: []), [waiting], ledger)
    assert (totals["cost_usd"], totals["spent"]["cost_usd"]) == (None, 0.14)


def test_a_batch_that_goes_on_counts_what_no_worker_has_recorded() -> None:
    items = [{"key": str(number), "generation_id": f"g{number}", "status": "running"} for number in range(2)]
    report = {"items": items, "counts": {}, "credits": 28, "cost_usd": 0.14}
    progress = [{"generation_id": "g1", "status": "succeeded", "credits": 14, "cost_usd": 0.07}]
    batch = task(
        operator="SeedanceGenerateVideoBatchOperator",
        state="deferred",
        xcoms={"seedance_report": report, "seedance_progress": progress},
    )
    (known,) = batches_of([batch], {})
    assert (known["credits"], known["cost_usd"]) == (42, 0.21)
    (beside,) = batches_of([batch], {PLACE: booked(28, 0.14, 2)})
    assert beside == known
    (recorded,) = batches_of([batch], {PLACE: booked(56, 0.28, 2)})
    assert (recorded["credits"], recorded["cost_usd"], recorded["at_least"]) == (56, 0.28, False)


def test_a_failure_that_was_not_billed_has_no_cost() -> None:
    failed = task(state="failed", xcoms={})
    assert summary_of([failed], {PLACE: booked(0, 0)})["cost_usd"] is None


def test_a_retried_task_that_hands_a_result_on_pays_nothing() -> None:
    render = task()
    tasks = [render, Task(**{**vars(render), "task_id": "next", "operator": "Python", "try_number": 3})]
    waits = [task(operator="SeedanceGenerationSensor", try_number=3)]
    for shown in (tasks, waits):
        found = totals_of(renders_of(shown, lambda path: []), shown, {})
        assert found["spent"] == {"credits": 28, "cost_usd": 0.14, "at_least": False}


def test_a_retried_transfer_pays_nothing() -> None:
    assert not summary_of([task(operator="SeedanceGenerationSensor", try_number=3)], {})["at_least"]
