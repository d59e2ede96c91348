"""``@task.seedance_video`` in a Dag."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk import DAG, task
from operators.generation_task import Connect
from support import PROMPT, Store, deferral, make_context
from versions import DagSerialization

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.decorators.seedance import seedance_video_task
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator


def operator(function: Callable[..., Any], **arguments: Any) -> Any:
    with DAG("dag"):
        return seedance_video_task(function, task_id="clip", **arguments)().operator


def run(op: Any, services: SeedanceEmulator, **context: Any) -> dict[str, Any]:
    """Run up to the deferral, and return the submitted body."""
    whole = {**make_context(Store()), **context}
    deferral(lambda: op.execute(whole))
    return dict(services.ledger.submissions[-1].request)


@pytest.fixture(autouse=True)
def _held(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    services.hold()


@pytest.mark.parametrize(("returned", "duration"), [(PROMPT, 5), ({"prompt": PROMPT, "duration": "10"}, 10)])
def test_a_function_returns_a_prompt_or_dict(
    services: SeedanceEmulator, returned: Any, duration: int
) -> None:
    op = operator(lambda: returned, duration=5, aspect_ratio="9:16")
    assert isinstance(op, SeedanceGenerateVideoOperator)
    sent = {"prompt": PROMPT, "model": "seedance-2.0", "duration": duration, "aspect_ratio": "9:16"}
    assert run(op, services) == sent


def test_arguments_and_context_reach_the_function(services: SeedanceEmulator) -> None:
    def prompt(animal: str, *, ds: str) -> str:
        return f"{animal} on {ds}"

    with DAG("dag"):
        op = seedance_video_task(prompt)("A heron", ds="2026-02-07").operator
    assert run(op, services)["prompt"] == "A heron on 2026-02-07"

    op = operator(lambda ds=None: f"Clip of {ds}")
    assert run(op, services, ds="2026-02-08")["prompt"] == "Clip of 2026-02-08"


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        *((value, rf"{type(value).__name__}[\s\S]*Nothing was sent") for value in (None, 5, ["a"], b"text")),
        ({"duration": 5}, "needs a prompt"),
        ({"prompt": "x", "colour": 1}, "no request argument colour"),
        ("", "empty"),
    ],
)
def test_an_invalid_return_value_is_refused(services: SeedanceEmulator, returned: Any, message: str) -> None:
    with pytest.raises(errors.SeedanceRequestError, match=message):
        operator(lambda: returned).execute(make_context(Store()))
    assert services.ledger.requests == []


def test_a_function_that_fails_submits_nothing(services: SeedanceEmulator) -> None:
    with pytest.raises(ZeroDivisionError):
        operator(lambda: 1 / 0).execute(make_context(Store()))
    assert services.ledger.requests == []


def test_a_function_that_returns_another_prompt_does_not_pay_twice(services: SeedanceEmulator) -> None:
    prompts = iter(["first", "second"])
    op = operator(lambda: next(prompts))
    context = make_context(Store())
    deferral(lambda: op.execute(context))
    context["ti"].retry()
    with pytest.raises(errors.SeedanceRequestChangedError, match="prompt"):
        op.execute(context)
    assert len(services.ledger.posts()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"), [({"prompt": "other"}, "takes no prompt"), ({"colour": "blue"}, "colour")]
)
def test_an_invalid_argument_is_refused_in_the_dag_file(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        operator(lambda: PROMPT, **arguments)


def test_the_decorator_is_registered_with_airflow(services: SeedanceEmulator) -> None:
    with DAG("dag", default_args={"seedance_conn_id": "seedance_default"}) as dag:

        @task.seedance_video(duration=5, on_clear="new", timeout=60)
        def clip(day: str) -> dict[str, Any]:
            return {"prompt": f"Clip of {day}"}

        first = clip("monday")
        clip.override(task_id="mapped").expand(day=["tuesday", "wednesday"])
    op = first.operator
    assert (op.on_clear, op.timeout, op.duration, op.multiple_outputs) == ("new", 60, 5, False)
    assert run(op, services)["prompt"] == "Clip of monday"
    again = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    assert set(again.task_dict) == {"clip", "mapped"}
    assert again.get_task("clip")._operator_name == "@task.seedance_video"


def test_its_arguments_except_the_prompt_are_templates() -> None:
    fields = set(operator(lambda: PROMPT).template_fields)
    assert {"op_args", "op_kwargs", "duration", "images", "on_clear", "seedance_conn_id"} <= fields
    assert "prompt" not in fields
