"""
## When the first service is out of credits

Two connections, in order. The second one renders only what the first one certainly did not take: it is out of credits, over
its budget, cannot be reached, or cannot make the request. After a lost reply the second one is never tried, because the first
may be billed.
"""

from __future__ import annotations

import os
from datetime import datetime

from airflow.sdk import DAG

from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoBatchOperator,
    SeedanceGenerateVideoOperator,
)
from airflow_provider_seedance.transfers.seedance_to_object_storage import SeedanceToObjectStorageOperator

CONNECTIONS = ["seedance_primary", "seedance_fallback"]

#: Any object storage that Airflow supports: s3://, gs://, abfs://, file:// …
DESTINATION = os.environ.get("SEEDANCE_EXAMPLE_DESTINATION", "file:///tmp/seedance-examples")

with DAG(
    "example_seedance_fallback",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2},
    doc_md=__doc__,
    tags=["example", "seedance"],
):
    # The model is in the extra of each connection, because the services name it differently. The duration is one that
    # both take.
    clip = SeedanceGenerateVideoOperator(
        task_id="render",
        prompt="A paper lantern rises over a lake",
        duration=8,
        seedance_conn_id=CONNECTIONS,
    )
    # Each item of a batch goes its own way.
    SeedanceGenerateVideoBatchOperator(
        task_id="render_many",
        requests=["A paper lantern in the rain", "A paper lantern at dawn"],
        duration=8,
        seedance_conn_id=CONNECTIONS,
    )
    # The result names the service, and the transfer uses its connection.
    SeedanceToObjectStorageOperator(
        task_id="store",
        generation=clip.output,
        destination=DESTINATION + "/{{ dag.dag_id }}/{{ run_id | replace(':', '-') }}.mp4",
        seedance_conn_id=CONNECTIONS,
    )
