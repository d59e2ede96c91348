"""
## A batch in one task

Generates all clips of a day in one task instance, with at most eight in flight, writes a manifest of the results, and
stores each clip under the key of its item. A failed item is in the manifest and does not stop the others; clearing the
task pays for failed items only.

Estimate the cost before anything is sent:

    airflow seedance estimate --dag example_seedance_batch --from 2026-01-01 --to 2026-01-31

The second Dag runs when the first one has stored its clips, and gets their paths from the asset event.
"""

from __future__ import annotations

import os
from datetime import datetime

from airflow.sdk import DAG, Asset, task

from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoBatchOperator
from airflow_provider_seedance.transfers.seedance_to_object_storage import SeedanceToObjectStorageOperator

DESTINATION = os.environ.get("SEEDANCE_EXAMPLE_DESTINATION", "file:///tmp/seedance-examples")
PRODUCTS = {"lamp": "a ceramic lamp", "satchel": "a leather satchel", "shoes": "running shoes"}
CLIPS = Asset("seedance_batch_clips")

with DAG(
    dag_id="example_seedance_batch",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 3},
    doc_md=__doc__,
    tags=["example", "seedance", "batch"],
):
    batch = SeedanceGenerateVideoBatchOperator(
        task_id="render",
        requests=[
            {"key": key, "prompt": f"Product film of {product}, season opening of {{{{ ds }}}}"}
            for key, product in PRODUCTS.items()
        ],
        aspect_ratio="9:16",
        max_in_flight=8,
        on_item_failure="keep",
        manifest_path=DESTINATION + "/{{ dag.dag_id }}/{{ ds }}/manifest.jsonl",
    )

    SeedanceToObjectStorageOperator(
        task_id="store",
        generation=batch.output,
        destination=DESTINATION + "/{{ dag.dag_id }}/{{ ds }}/",
        name_template="{key}.{ext}",
        overwrite="if-changed",
        outlets=[CLIPS],
    )

with DAG(
    dag_id="example_seedance_batch_report",
    schedule=[CLIPS],
    start_date=datetime(2026, 1, 1),
    catchup=False,
    tags=["example", "seedance", "batch"],
):

    @task
    def report(triggering_asset_events=None) -> list[str]:
        """Return the paths of the stored clips, from the asset event."""
        return [path for event in triggering_asset_events[CLIPS] for path in event.extra["paths"]]

    report()
