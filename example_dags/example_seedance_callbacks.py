"""
## Callbacks instead of polling

The service sends a callback to Airflow when a clip is ready, and the task resumes at once. The connection
`seedance_callbacks` needs `callback_base_url`, the address of this Airflow for the service, and `callback_secret`, a
long random text. Infrequent polls find the end if a callback gets lost.
"""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG

from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator

with DAG(
    dag_id="example_seedance_callbacks",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2},
    doc_md=__doc__,
    tags=["example", "seedance"],
):
    SeedanceGenerateVideoOperator.partial(
        task_id="render",
        seedance_conn_id="seedance_callbacks",
        use_callback=True,
    ).expand(
        prompt=[
            "A paper lantern rises over a rice field at dusk",
            "Rain on a tin roof, a cat watches from the window",
        ]
    )
