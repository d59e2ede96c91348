"""
## Four previews, a choice, the full render

Generates four cheap previews with `seedance-2.0-fast`. A user compares them on the Renders page of the run and chooses one with
*Use this one* (or in Airflow, under *Required actions*). The full render follows, with the prompt of the preview that was
chosen. *None of them* skips it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import DAG, Param, task

from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator

SHOTS = {
    "Close-up": "macro close-up, shallow depth of field",
    "Wide shot": "wide shot, still camera",
    "From above": "seen from above, slow descent",
    "Orbit": "the camera orbits slowly",
}
NONE = "None of them"

with DAG(
    dag_id="example_seedance_choose",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={"prompt": Param("A watch on velvet, light sweeps over the dial", type="string")},
    default_args={"retries": 2},
    user_defined_macros={"shots": SHOTS},
    doc_md=__doc__,
    tags=["example", "seedance"],
):
    # The label of a preview is the option that chooses it: that is how the Renders page knows.
    previews = SeedanceGenerateVideoOperator.partial(
        task_id="previews",
        model="seedance-2.0-fast",
        duration=5,
        map_index_template="{{ (shots | list)[ti.map_index] }}",
    ).expand(prompt=[f"{{{{ params.prompt }}}}, {shot}" for shot in SHOTS.values()])

    choose = HITLOperator(
        task_id="choose",
        subject="Which preview of “{{ params.prompt }}” becomes the full render?",
        options=[*SHOTS, NONE],
        response_timeout=timedelta(days=3),
    )

    @task.short_circuit
    def is_one_chosen(answer: dict[str, Any]) -> bool:
        return answer["chosen_options"] != [NONE]

    full = SeedanceGenerateVideoOperator(
        task_id="full_render",
        prompt="{{ params.prompt }}, {{ shots[ti.xcom_pull(task_ids='choose').chosen_options[0]] }}",
        model="seedance-2.0",
        duration=15,
    )

    previews >> choose >> is_one_chosen(choose.output) >> full
