"""
## Daily generation

Generates one clip a day from a templated prompt. The task holds no worker while the service renders. A retry, a lost
worker or a cleared task does not pay for the same day twice.
"""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG

from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator

with DAG(
    dag_id="example_seedance_daily",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2},
    doc_md=__doc__,
    tags=["example", "seedance"],
):
    SeedanceGenerateVideoOperator(
        task_id="generate",
        prompt="A calm sunrise over a harbour, the sign reads {{ dag_run.run_after | ds }}",
        aspect_ratio="16:9",
    )
