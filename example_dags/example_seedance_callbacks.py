"""
## Called back instead of polled for

The service calls Airflow when a clip is ready, and the task resumes at once. The connection
`seedance_callbacks` needs `callback_base_url`, where the service reaches this Airflow, and
`callback_secret`, a long random text. If a call gets lost, polls find the end all the same.
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
