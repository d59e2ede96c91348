"""
## A sequence of three shots

Each clip begins with the last frame of the one before, so that the three can be cut together. Needs the connection
`seedance_ark` to `ark`,
where `return_last_frame=True` adds the frame to the result.
"""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG, chain

from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator

SHOTS = (
    "A paper boat leaves a quay at dawn",
    "The boat passes under a stone bridge",
    "The boat reaches the open sea, the sun rises",
)

with DAG(
    dag_id="example_seedance_sequence",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2, "seedance_conn_id": "seedance_ark"},
    doc_md=__doc__,
    tags=["example", "seedance"],
):
    shots: list[SeedanceGenerateVideoOperator] = []
    for number, prompt in enumerate(SHOTS, 1):
        shot = SeedanceGenerateVideoOperator(
            task_id=f"shot_{number}",
            prompt=prompt,
            images=shots[-1].output if shots else None,
            duration=5,
            return_last_frame=True,
        )
        shots.append(shot)
    chain(*shots)
