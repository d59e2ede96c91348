"""
Totals of runs, tasks and batches: pure functions of their task instances, and of their cost in the ledger.

Airflow keeps the results of the latest tries only. The ledger has every submission: of all tries, clears and items.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from airflow_provider_seedance.api_server.renders import (
    GENERATION_OPERATORS,
    SENSORS,
    STATES,
    TRANSFER_OPERATORS,
    UNITS,
    Place,
    Task,
    is_batch_result,
    mapping_of,
)
from airflow_provider_seedance.api_server.xcom_values import number_of, sum_of, text_of

#: Credits and cost of task instances in the ledger; ``None`` without one.
LedgerCosts = Mapping[Place, Mapping[str, Any]] | None


def summary_of(tasks: Sequence[Task], ledger: LedgerCosts) -> dict[str, Any]:
    """Return the tasks of a run by state, and what they have spent."""
    results = {
        task.place: task.result if isinstance(task.result, Mapping) else task.report
        for task in tasks
        if task.operator in GENERATION_OPERATORS
    }
    spent = {
        place: [result] for place, result in results.items() if "estimate" not in result
    }  # not of a dry run
    return {"tasks": Counter(task.state or "none" for task in tasks), **_spent(spent, tasks, ledger)}


def totals_of(
    renders: Sequence[Mapping[str, Any]], tasks: Sequence[Task] = (), ledger: LedgerCosts = None
) -> dict[str, Any]:
    """
    Return the totals: renders by state, seconds of video, cost, and the number without a price.

    Those of delivered renders, beside what was spent in all: a generation that failed, or that another take has
    replaced, may be billed.
    """
    counts = Counter(render["state"] for render in renders)
    done = [render for render in renders if render["state"] == "succeeded"]
    known = defaultdict(list)
    for render in renders:
        known[render["task_id"], render["map_index"], render["region"]].append(render)
    return {
        "total": len(renders),
        "states": {state: counts[state] for state in STATES if counts[state]},
        **{unit: sum_of(done, unit) for unit in UNITS},
        "spent": _spent(known, tasks, ledger),
        "unpriced": sum(render["credits"] is None and render["cost_usd"] is None for render in done),
        "seconds": sum_of([render for render in done if render["media"] == "video"], "duration"),
        "stored": sum(bool(render["files"]) for render in renders),
    }


def batches_of(tasks: Iterable[Task], ledger: LedgerCosts = None) -> list[dict[str, Any]]:
    """Return the state of each batch that has no result: counts, cost, estimated end, and its error."""
    return [
        {
            "task_id": task.task_id,
            "map_index": task.map_index,
            "counts": _counts(task),
            **_spent({task.place: [task.report, *task.ended_since.values()]}, [task], ledger),
            "ends_at": text_of(task.report.get("ends_at")) if task.shown_state == "running" else None,
            "error": task.error,
        }
        for task in tasks
        if isinstance(task.report.get("items"), list) and not is_batch_result(task.result)
    ]


def _counts(task: Task) -> dict[str, float | None]:
    ended = task.ended_since.values()
    succeeded = sum(item.get("status") == "succeeded" for item in ended)
    since = {"succeeded": succeeded, "failed": len(ended) - succeeded, "in_flight": -len(ended)}
    counts = {name: number_of(count) for name, count in mapping_of(task.report.get("counts")).items()}
    return {name: None if count is None else count + since.get(name, 0) for name, count in counts.items()}


def _spent(
    known: Mapping[Place, Sequence[Mapping[str, Any]]], tasks: Iterable[Task], ledger: LedgerCosts
) -> dict[str, Any]:
    """
    Return the credits and the cost of task instances, and whether earlier tries that nobody knows may have paid.

    Both sources may lack a part: Airflow the earlier tries, the ledger what it has pruned, or has not read yet.

    :param known: What Airflow knows, by task instance.
    """
    recorded = ledger or {}
    mine = {task.place: task for task in tasks if task.operator not in SENSORS | TRANSFER_OPERATORS}
    spent = []
    for place in {**known, **{place: () for place in mine if place in recorded}}:
        since = mine[place].ended_since.values() if place in mine else ()
        sources = [known.get(place, ()), [recorded.get(place, {}), *since]]
        amounts = {
            unit: [amount for found in sources if (amount := sum_of(found, unit)) is not None]
            for unit in UNITS
        }
        spent.append({unit: max(amounts[unit], default=None) for unit in UNITS})
    unknown = (task.has_earlier_tries and task.place not in recorded for task in mine.values())
    return {**{unit: sum_of(spent, unit) for unit in UNITS}, "at_least": any(unknown)}
