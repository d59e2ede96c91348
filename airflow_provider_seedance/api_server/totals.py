"""
Totals of runs, tasks and batches.

Airflow keeps the results of the latest tries only. The ledger has every submission: of all tries, clears and items.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import starmap
from typing import Any

from airflow_provider_seedance.api_server import renders as pages
from airflow_provider_seedance.api_server.renders import GENERATION_OPERATORS, UNITS, Place, Task
from airflow_provider_seedance.api_server.xcom_values import number_of, sum_of, text_of
from airflow_provider_seedance.exceptions import SeedanceLedgerError
from airflow_provider_seedance.ledger.configuration import LedgerConfig, read_config
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import TaskIdentity
from airflow_provider_seedance.ledger.spending import spend_of_instances

log = logging.getLogger(__name__)

#: Time without another attempt after a failure: a database that does not respond would delay every refresh.
RETRY_INTERVAL_SECONDS = 60

#: Time for the ledger, which is read in threads of its own: a slow one must not take those that serve heartbeats.
READ_TIMEOUT_SECONDS = 10.0
_threads = ThreadPoolExecutor(4, thread_name_prefix="seedance-totals")

_unreadable_until: dict[LedgerConfig, float] = {}

#: Dag id and run id, and what :func:`spend_of_instances` returns of task instances.
RunKey = tuple[str, str]
Costs = Mapping[Place, Mapping[str, Any]]


def read_costs(runs: Mapping[RunKey, Iterable[Task]]) -> dict[RunKey, dict[Place, Any]] | None:
    """Return the credits and the cost of the tasks of runs; ``None`` without a ledger that can be read."""
    config = read_config()
    if config is None or time.monotonic() < _unreadable_until.get(config, 0.0):
        return None
    free = pages.SENSORS | pages.TRANSFER_OPERATORS
    places = {
        TaskIdentity(
            namespace=config.namespace,
            dag_id=run[0],
            run_id=run[1],
            task_id=task.task_id,
            map_index=task.map_index,
            loop_index=-1 if task.iteration is None else task.iteration,
        ).instance: (run, task.place)
        for run, tasks in runs.items()
        for task in tasks
        if task.operator not in free
    }
    found: dict[RunKey, dict[Place, Any]] = {run: {} for run in runs}
    reading = _threads.submit(spend_of_instances, Database(config), list(places))
    try:
        for instance, costs in reading.result(READ_TIMEOUT_SECONDS).items():
            run, place = places[instance]
            found[run][place] = costs
    except (SeedanceLedgerError, TimeoutError) as error:
        reading.cancel()
        why = getattr(error, "message", "The ledger does not respond.")
        log.warning("%s The Renders page shows what Airflow knows of the cost.", why)
        _unreadable_until[config] = time.monotonic() + RETRY_INTERVAL_SECONDS
        return None
    return found


def summary_of(tasks: Sequence[Task], costs: Costs) -> dict[str, Any]:
    """Return the tasks of a run by state, and what they have spent."""
    known = defaultdict(list)
    for task in tasks:
        result = task.result if isinstance(task.result, Mapping) else task.report
        if task.operator in GENERATION_OPERATORS and "estimate" not in result:  # not of a dry run
            known[task.place].append(result)
    return {"tasks": Counter(task.state or "none" for task in tasks), **_spent(known, tasks, costs)}


def totals_of(renders: Sequence[Mapping[str, Any]], tasks: Sequence[Task], costs: Costs) -> dict[str, Any]:
    """Return the totals of delivered renders, and what was spent in all: what failed, or was replaced, may be billed."""
    counts = Counter(render["state"] for render in renders)
    done = [render for render in renders if render["state"] == "succeeded"]
    known = defaultdict(list)
    for render in renders:
        known[render["task_id"], render["map_index"], render["region"]].append(render)
    return {
        "total": len(renders),
        "states": {state: counts[state] for state in pages.STATES if counts[state]},
        **{unit: sum_of(done, unit) for unit in UNITS},
        "spent": _spent(known, tasks, costs),
        "unpriced": sum(render["credits"] is None and render["cost_usd"] is None for render in done),
        "seconds": sum_of([render for render in done if render["media"] == "video"], "duration"),
        "stored": sum(bool(render["files"]) for render in renders),
    }


def batches_of(tasks: Iterable[Task], costs: Costs) -> list[dict[str, Any]]:
    """Return the state of each batch that has no result: counts, cost, estimated end, and its error."""
    return [
        {
            "task_id": task.task_id,
            "map_index": task.map_index,
            "counts": _counts(task),
            **_spent({task.place: [task.report, *task.ended_since.values()]}, [task], costs),
            "ends_at": text_of(task.report.get("ends_at")) if task.shown_state == "running" else None,
            "error": task.error,
        }
        for task in tasks
        if isinstance(task.report.get("items"), list) and not pages.is_batch_result(task.result)
    ]


def _counts(task: Task) -> dict[str, float | None]:
    ended = task.ended_since.values()
    succeeded = sum(item.get("status") == "succeeded" for item in ended)
    since = {"succeeded": succeeded, "failed": len(ended) - succeeded, "in_flight": -len(ended)}
    counts = {name: number_of(count) for name, count in pages.mapping_of(task.report.get("counts")).items()}
    return {name: None if count is None else count + since.get(name, 0) for name, count in counts.items()}


def _spent(
    known: Mapping[Place, Sequence[Mapping[str, Any]]], tasks: Iterable[Task], costs: Costs
) -> dict[str, Any]:
    """
    Return the credits and the cost of tasks, and whether these are minima: what no source knows may have been billed.

    :param known: Results that Airflow has, by task instance: it lacks the earlier tries, and the ledger the latest ends.
    """
    own = known.keys() | costs.keys()
    paying = {
        task.place: task for task in tasks if task.place in own or task.operator in GENERATION_OPERATORS
    }

    def spent(place: Place, unit: str) -> float | None:
        row, by_airflow = costs.get(place, {}), sum_of(known.get(place, ()), unit)
        by_ledger = number_of(row.get(unit))
        if by_ledger is None or row["reserved"]:
            return max((n for n in (by_ledger or None, by_airflow) if n is not None), default=None)
        return by_ledger if by_ledger or by_airflow else by_airflow  # of a failure that costs nothing, none

    def may_be_more(place: Place, task: Task) -> bool:
        if place in costs:
            return bool(costs[place]["reserved"]) and task.shown_state in pages.TERMINAL_STATES
        return task.operator not in pages.SENSORS and task.try_number > (0 if task.state is None else 1)

    sums = {unit: sum_of([{unit: spent(place, unit)} for place in {*known, *paying}], unit) for unit in UNITS}
    return {**sums, "at_least": any(starmap(may_be_more, paying.items()))}
