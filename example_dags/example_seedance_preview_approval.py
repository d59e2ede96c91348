"""
## Preview, approval, full render

Generates two cheap previews with `seedance-2.0-fast`. A user reviews them and approves in Airflow (the task *approve*
waits under *Required actions*), then the full render is submitted. A rejection skips it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param

from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator

with DAG(
    dag_id="example_seedance_preview_approval",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={"prompt": Param("A watch on velvet, light sweeps over the dial", type="string")},
    default_args={"retries": 2},
    doc_md=__doc__,
    tags=["example", "seedance"],
):
    previews = SeedanceGenerateVideoOperator.partial(
        task_id="previews",
        model="seedance-2.0-fast",
        duration=5,
    ).expand(prompt=["{{ params.prompt }}, close-up", "{{ params.prompt }}, wide shot"])

    approve = ApprovalOperator(
        task_id="approve",
        subject="Pay for the full render of “{{ params.prompt }}”?",
        body="The previews:\n\n"
        "{% for preview in ti.xcom_pull(task_ids='previews') %}* [preview {{ loop.index }}]({{ preview.url }})\n"
        "{% endfor %}",
        response_timeout=timedelta(days=3),
    )

    full = SeedanceGenerateVideoOperator(
        task_id="full_render",
        prompt="{{ params.prompt }}",
        model="seedance-2.0",
        duration=15,
    )

    previews >> approve >> full
