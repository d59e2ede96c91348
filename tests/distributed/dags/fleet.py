"""Renders of each kind: what is rendered stands in the ``conf`` of the run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoBatchOperator,
    SeedanceGenerateVideoOperator,
)

# Tasks that are killed repeatedly need many tries; permanent failures do not use them.
COMMON: dict[str, Any] = {
    "schedule": None,
    "default_args": {"retries": 60, "retry_delay": timedelta(seconds=1)},
    "max_active_runs": 1000,
    "max_active_tasks": 1000,
}

CONNECTION = "{{ dag_run.conf.get('connection', 'seedance_default') }}"


@task
def prompts(dag_run: Any = None) -> list[str]:
    found: list[str] = dag_run.conf["prompts"]
    return found


with DAG("single", **COMMON):
    SeedanceGenerateVideoOperator(
        task_id="render", prompt="{{ dag_run.conf['prompts'][0] }}", seedance_conn_id=CONNECTION
    )

with DAG("mapped", **COMMON):
    SeedanceGenerateVideoOperator.partial(task_id="render", seedance_conn_id=CONNECTION).expand(
        prompt=prompts()
    )

with DAG("called", **COMMON):
    arguments: dict[str, Any] = {"seedance_conn_id": "seedance_called", "use_callback": True}
    listed = prompts()
    SeedanceGenerateVideoOperator.partial(task_id="render", **arguments).expand(prompt=listed)
    SeedanceGenerateVideoOperator.partial(task_id="ended", end_from_trigger=True, **arguments).expand(
        prompt=listed
    )

with DAG("batch", **COMMON):
    SeedanceGenerateVideoBatchOperator(
        task_id="render",
        requests="{{ dag_run.conf['prompts'] | tojson }}",
        seedance_conn_id=CONNECTION,
        max_in_flight=15,
        on_item_failure="keep",
    )
