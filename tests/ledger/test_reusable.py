"""The row whose generation another task reuses."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.ledger.account import MAX_SUBMISSION_SECONDS
from airflow_provider_seedance.ledger.entries import LedgerEntry, TaskIdentity
from airflow_provider_seedance.ledger.reusable import RETRY_SECONDS, find_reusable
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import ReuseSearch

from . import record_samples as samples
from .rows import NOON, add, configured, row

pytestmark = pytest.mark.usefixtures("ledger")

TASK = TaskIdentity(namespace="default", dag_id="ads", run_id="run", task_id="video", map_index=9)

MINE = rec.replace(
    samples.intent(credits=14, usd_per_credit=0.1, usd_per_million_tokens=1, fixed_usd=2, model="m"),
    callback_nonce="n",
    conn_id="mine",
)

#: Ages of submissions.
RECENT = timedelta(seconds=MAX_SUBMISSION_SECONDS - 60)
OLD = timedelta(seconds=MAX_SUBMISSION_SECONDS + 60)

IN_FLIGHT = {"state": "submitted", "status": None}
LOST = {"state": "intent", "status": None, "generation_id": None}


def paid(number: int = 0, age: timedelta = OLD, **changes: Any) -> dict[str, Any]:
    """Return the row of a task that has paid."""
    made = samples.generation(number, generation_id=f"g-{number}", urls=("https://m.example/a.png",))
    record = rec.as_submitted(samples.intent(), made, NOON, synchronous=True)
    columns = LedgerEntry("generation", record=record).columns()
    return {**row(number), **columns, "intended_at": utc_now() - age, "reuse_key": "k", **changes}


def find(rows: list[dict[str, Any]], *, scope: Any = "any", unusable: Any = (), key: str = "a.0") -> Any:
    add(configured(), rows)
    search = ReuseSearch(scope=scope, intents={"k": MINE, "z": MINE}, unusable_ids=frozenset(unusable))
    with configured().transaction() as connection:
        return find_reusable(connection, TASK, key, search)


def test_the_record_of_a_reuse() -> None:
    found = find([paid()])
    assert found == rec.replace(
        MINE,
        state=rec.RecordState.SUBMITTED,
        generation_id="g-0",
        submitted_at=NOON,
        correlation=None,
        callback_nonce=None,
        result=samples.generation(0, generation_id="g-0", urls=("https://m.example/a.png",)).result(),
        result_defaults={
            "model": "m",
            "credits": 0.0,
            "cost_usd": 0.0,
            "reused_from": {"dag_id": "ads", "run_id": "run", "task_id": "video", "map_index": 0},
        },
    )


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"reuse_key": "z"}, True),
        ({"reuse_key": "other"}, False),
        ({"namespace": "n"}, False),
        ({"instance": TASK.instance}, False),
        ({"status": "failed"}, False),
        (IN_FLIGHT, True),
        ({**IN_FLIGHT, "state": "uncertain"}, False),
        ({"state": "not_submitted"}, False),
        (LOST, False),
        ({"dag_id": "films"}, True),
    ],
    ids=str,
)
def test_what_is_reused(changes: dict[str, Any], found: bool) -> None:
    assert bool(find([paid(**changes)])) is found


def test_another_task_that_submits_now() -> None:
    with pytest.raises(errors.SeedanceRateLimitError) as caught:
        find([paid(age=RECENT, **LOST)])
    assert caught.value.message == "Task 'video' of run 'run' of Dag 'ads' is submitting the same request."
    assert caught.value.retry_after == RETRY_SECONDS


@pytest.mark.parametrize(
    ("first", "second"),
    [({}, {**IN_FLIGHT, "age": RECENT}), ({"age": RECENT}, {}), (IN_FLIGHT, {**LOST, "age": RECENT})],
    ids=["succeeded", "latest", "with an id"],
)
def test_which_of_several_is_reused(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert find([paid(2, **second), paid(1, **first), paid(3, **second)]).generation_id == "g-1"


@pytest.mark.parametrize(
    ("count", "age", "found"), [(0, OLD, "g-0"), (1, OLD, "g-1"), (3, OLD, None), (3, RECENT, "g-3")]
)
def test_generations_that_are_gone_are_passed_over(count: int, age: timedelta, found: str | None) -> None:
    rows = [paid(number, age + timedelta(seconds=number)) for number in range(5)]
    reused = find(rows, unusable=[f"g-{number}" for number in range(count)])
    assert (reused.generation_id if reused else None) == found


@pytest.mark.parametrize(("key", "found"), [("a.0", "g-0"), ("b.0", None)])
def test_items_of_a_batch_reuse_different_generations(key: str, found: str | None) -> None:
    mine = {**paid(9, record_key="a.0", reuse_key=None), "generation_id": "g-0"}
    assert mine["instance"] == TASK.instance
    reused = find([paid(0), mine], key=key)
    assert (reused.generation_id if reused else None) == found


def test_without_a_search_nothing_is_read() -> None:
    connection: Any = None
    for search in (None, ReuseSearch(scope="any", intents={})):
        assert find_reusable(connection, TASK, "a.0", search) is None
