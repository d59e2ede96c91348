"""
## Render, judge, change the prompt, again

A task loop (Airflow 3.4 and later; older versions skip this Dag). Each pass renders a video and judges it; while
details are missing, the next pass renders an improved prompt, at most three times. Each pass pays for one render: a
retry or a clear of a pass continues with the generation of that pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from airflow.sdk import dag, task, task_group

from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator

PROMPT = "A paper boat in the rain"
DETAILS = ("at dusk", "the camera follows it")


@task_group
def refine() -> None:
    @task
    def write_prompt(*, loop: Any) -> str:
        if loop.index == 0:
            return PROMPT
        return f"{loop.previous['prompt']}, {loop.previous['missing'][0]}"

    @task
    def judge(prompt: str, render: dict[str, Any]) -> dict[str, Any]:
        # Ask a vision model here: it gets render["url"], and names what it does not see.
        missing = [detail for detail in DETAILS if detail not in prompt]
        return {"prompt": prompt, "missing": missing, "url": render["url"]}

    prompt = write_prompt()
    render = SeedanceGenerateVideoOperator(task_id="render", prompt=prompt, duration=5, retries=2)
    judge(prompt, render.output)


def accepted(*, loop: Any) -> bool:
    return not loop.result["missing"]


@task
def report(verdicts: Sequence[dict[str, Any]]) -> str:
    # A task outside the loop receives the values of all passes.
    return f"{len(verdicts)} renders, accepted: {verdicts[-1]['url']}"


@dag(schedule=None, start_date=datetime(2026, 1, 1), doc_md=__doc__, tags=["example", "seedance"])
def example_seedance_refine() -> None:
    refinement = refine.loop(max_iterations=3, until=accepted)
    report(refinement.dag.get_task("refine.judge").output)


if hasattr(refine, "loop"):
    example_seedance_refine()
