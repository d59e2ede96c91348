"""
## Render and upload

The URL of a render expires; the upload task stores the file permanently. If the upload fails, only the upload is
repeated: clearing or reprocessing the run reuses the finished render and pays nothing.
"""

from __future__ import annotations

import os
from datetime import datetime

from airflow.sdk import DAG, Param

from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator
from airflow_provider_seedance.transfers.seedance_to_object_storage import SeedanceToObjectStorageOperator

#: Any object storage that Airflow supports: s3://, gs://, abfs://, file:// …
DESTINATION = os.environ.get("SEEDANCE_EXAMPLE_DESTINATION", "file:///tmp/seedance-examples")

with DAG(
    dag_id="example_seedance_upload",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={"prompt": Param("A paper boat sails down a rainy street, cinematic", type="string")},
    default_args={"retries": 2},
    doc_md=__doc__,
    tags=["example", "seedance"],
):
    render = SeedanceGenerateVideoOperator(task_id="render", prompt="{{ params.prompt }}")

    SeedanceToObjectStorageOperator(
        task_id="upload",
        generation=render.output,
        destination=DESTINATION + "/{{ dag.dag_id }}/{{ run_id | replace(':', '-') }}.mp4",
    )
