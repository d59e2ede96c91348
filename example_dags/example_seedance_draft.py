"""
## Draft, approval, final

Makes a cheap draft with Seedance 2.5. A user reviews it and approves in Airflow (the task *approve* waits under *Required
actions*), then the final is made from the draft: the same clip in 1080p. A rejection skips it. Needs the
connection `seedance_ark` to `ark`.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param

from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator

with DAG(
    dag_id="example_seedance_draft",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={"prompt": Param("A watch on velvet, light sweeps over the dial", type="string")},
    default_args={"retries": 2, "seedance_conn_id": "seedance_ark"},
    doc_md=__doc__,
    tags=["example", "seedance"],
):
    draft = SeedanceGenerateVideoOperator(
        task_id="draft",
        prompt="{{ params.prompt }}",
        model="dreamina-seedance-2-5-260628",
        duration=5,
        draft=True,
    )

    approve = ApprovalOperator(
        task_id="approve",
        subject="Pay for the final of “{{ params.prompt }}”?",
        body="The draft: {{ ti.xcom_pull(task_ids='draft').url }}",
        response_timeout=timedelta(days=3),
    )

    final = SeedanceGenerateVideoOperator(
        task_id="final",
        prompt="",
        model="dreamina-seedance-2-5-260628",
        resolution="1080p",
        images={"draft_task": "{{ ti.xcom_pull(task_ids='draft').generation_id }}"},
    )

    draft >> approve >> final
