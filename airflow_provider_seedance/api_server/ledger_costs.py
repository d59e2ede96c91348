"""Cost of task instances in the ledger, for the totals of the Renders page and of its list."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.api_server.renders import GENERATION_OPERATORS, Place, Task
from airflow_provider_seedance.ledger import spending
from airflow_provider_seedance.ledger.configuration import LedgerConfig, read_config
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import TaskIdentity

log = logging.getLogger(__name__)

#: Time without another attempt after a failure: a database that does not respond would delay every refresh.
RETRY_INTERVAL_SECONDS = 60

_failed_at: dict[LedgerConfig, float] = {}


def read_costs(
    runs: Iterable[tuple[str, str, Iterable[Task]]],
) -> dict[tuple[str, str], dict[Place, Any]] | None:
    """
    Return the credits and the cost of the task instances of runs by Dag and run id; ``None`` without a ledger.

    :param runs: The Dag id, the run id and the task instances of each.
    :raises SeedanceLedgerError: it cannot be read.
    """
    config = read_config()
    if config is None:
        return None
    if time.monotonic() < _failed_at.get(config, -RETRY_INTERVAL_SECONDS) + RETRY_INTERVAL_SECONDS:
        raise errors.SeedanceLedgerError("The ledger could not be read a moment ago.")
    places = {
        _instance(config, dag_id, run_id, task): (dag_id, run_id, task.place)
        for dag_id, run_id, tasks in runs
        for task in tasks
        if task.operator in GENERATION_OPERATORS
    }
    try:
        sums = spending.spend_of_instances(Database(config), places)
    except errors.SeedanceLedgerError as error:
        log.warning("%s The Renders page shows what Airflow knows of the cost.", error.message)
        _failed_at[config] = time.monotonic()
        raise
    found: dict[tuple[str, str], dict[Place, Any]] = {}
    for instance, amounts in sums.items():
        dag_id, run_id, place = places[instance]
        found.setdefault((dag_id, run_id), {})[place] = amounts
    return found


def _instance(config: LedgerConfig, dag_id: str, run_id: str, task: Task) -> str:
    loop_index = -1 if task.iteration is None else task.iteration
    place = {"task_id": task.task_id, "map_index": task.map_index, "loop_index": loop_index}
    return TaskIdentity(namespace=config.namespace, dag_id=dag_id, run_id=run_id, **place).instance
