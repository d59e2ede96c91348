"""
## Image to video

Generates an image with Seedream, uses it as the first frame of a Seedance video, stores the video, and reads the
results in a last task. The image has a connection of its own, because not every service generates images.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

from airflow.sdk import DAG, Param, task

from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoOperator,
    SeedreamGenerateImageOperator,
)
from airflow_provider_seedance.transfers.seedance_to_object_storage import SeedanceToObjectStorageOperator

DESTINATION = os.environ.get("SEEDANCE_EXAMPLE_DESTINATION", "file:///tmp/seedance-examples")

with DAG(
    dag_id="example_seedance_image_to_video",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={"subject": Param("a lighthouse on a cliff at dusk", type="string")},
    default_args={"retries": 2},
    doc_md=__doc__,
    tags=["example", "seedance", "seedream"],
):
    image = SeedreamGenerateImageOperator(
        task_id="image",
        seedance_conn_id="seedance_images",
        prompt="Oil painting of {{ params.subject }}",
    )

    video = SeedanceGenerateVideoOperator(
        task_id="video",
        prompt="The camera slowly circles {{ params.subject }}, waves move below",
        # The result of an image task is a valid input.
        images=image.output,
    )

    stored = SeedanceToObjectStorageOperator(
        task_id="store",
        generation=video.output,
        destination=DESTINATION + "/{{ dag.dag_id }}/",
    )

    @task
    def report(video: dict[str, Any], stored: dict[str, Any]) -> str:
        """Print path, size and price of the video."""
        cost = "an unpublished price" if video["cost_usd"] is None else f"${video['cost_usd']:g}"
        line = f"{stored['path']}: {stored['bytes']} bytes, {video['duration']} s, for {cost}"
        print(line)
        return line

    report(video.output, stored.output)
