"""
## A campaign in one task

All clips of a day in one task instance, at most eight of them in flight, with a manifest of what came out,
stored under the names of their items. What fails is in the manifest and stops nothing else; running the
task again pays only for that.

What it would cost, before anything is sent:

    airflow seedance estimate --dag example_seedance_batch --from 2026-01-01 --to 2026-01-31

The second Dag runs whenever the first one has stored its clips, and is told where they are.
"""

from __future__ import annotations

import os
from datetime import datetime

from airflow.sdk import DAG, Asset, task

from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoBatchOperator
from airflow_provider_seedance.transfers.seedance_to_object_storage import SeedanceToObjectStorageOperator

DESTINATION = os.environ.get("SEEDANCE_EXAMPLE_DESTINATION", "file:///tmp/seedance-examples")
PRODUCTS = {"lamp": "a ceramic lamp", "satchel": "a leather satchel", "shoes": "running shoes"}
CLIPS = Asset("seedance_campaign_clips")

with DAG(
    dag_id="example_seedance_batch",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 3},
    doc_md=__doc__,
    tags=["example", "seedance", "batch"],
):
    campaign = SeedanceGenerateVideoBatchOperator(
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
        generation=campaign.output,
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
        """Tell what was stored, from what the event of the asset says."""
        return [path for event in triggering_asset_events[CLIPS] for path in event.extra["paths"]]

    report()
