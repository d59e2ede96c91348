"""
## Mapped tasks and a backfill

Generates one clip per product and day, and stores the clips. Create the pool once:

    airflow pools set seedance_renders 8 "Renders in flight over all days" --include-deferred

Then create the backfill of a range of days:

    airflow backfill create --dag-id example_seedance_backfill --from-date 2026-01-01 --to-date 2026-01-07

With `--include-deferred` the pool limits the renders in flight, because a task is deferred while it waits. A second
backfill with `--reprocess-behavior failed` submits failed renders only.
"""

from __future__ import annotations

import os
from datetime import datetime

from airflow.sdk import DAG

from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator
from airflow_provider_seedance.transfers.seedance_to_object_storage import SeedanceToObjectStorageOperator

DESTINATION = os.environ.get("SEEDANCE_EXAMPLE_DESTINATION", "file:///tmp/seedance-examples")
POOL = os.environ.get("SEEDANCE_EXAMPLE_POOL", "seedance_renders")
PRODUCTS = ("a ceramic lamp", "a leather satchel", "running shoes")

with DAG(
    dag_id="example_seedance_backfill",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=4,
    default_args={"retries": 3},
    doc_md=__doc__,
    tags=["example", "seedance", "backfill"],
):
    clips = SeedanceGenerateVideoOperator.partial(
        task_id="render",
        pool=POOL,
        map_index_template="{{ task.prompt }}",
        aspect_ratio="9:16",
    ).expand(prompt=[f"Product film of {product}, season opening of {{{{ ds }}}}" for product in PRODUCTS])

    SeedanceToObjectStorageOperator.partial(
        task_id="store",
        destination=DESTINATION + "/{{ dag.dag_id }}/{{ ds }}/",
    ).expand(generation=clips.output)
