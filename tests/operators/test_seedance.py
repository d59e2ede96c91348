"""The operators in a Dag file: arguments, templates, mapping, serialization, default_args."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from typing import Any

import pytest
from airflow.sdk import DAG
from support import PROMPT
from versions import RETRY_POLICIES, DagSerialization, needs

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import ImageRequest, VideoRequest
from airflow_provider_seedance.operators.generation import SeedanceGenerationOperator
from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoOperator,
    SeedreamGenerateImageOperator,
)
from airflow_provider_seedance.policies.retry import SeedanceRetryPolicy
from airflow_provider_seedance.sensors.seedance import SeedanceGenerationSensor
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_3_PLUS, RetryDecision, RetryPolicy
from operators.generation_task import Task, make

TAIL = {
    "seedance_conn_id": "seedance_default",
    "deferrable": True,
    "poll_interval": None,
    "timeout": 3600,
    "use_callback": False,
    "on_uncertain_submit": "fail",
    "on_clear": "reuse",
    "cancel_on_kill": True,
    "end_from_trigger": False,
    "max_credits": None,
    "max_cost_usd": None,
    "on_budget": "fail",
    "reuse": "task",
}

OPERATORS = [SeedanceGenerateVideoOperator, SeedreamGenerateImageOperator]


class OtherPolicy(RetryPolicy):
    def evaluate(self, *arguments: Any, **more: Any) -> RetryDecision:
        return RetryDecision.default()


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_misspelt_argument_gets_a_suggestion(operator: Any) -> None:
    similar = {"resoluton": "resolution", "poll_intervall": "poll_interval", "retry": "retries"}
    for name, meant in similar.items():
        with pytest.raises(TypeError, match=rf"Invalid arguments[^?]*Did you mean '{meant}'\?"):
            operator(task_id="task", prompt=PROMPT, **{name: 1})
    with pytest.raises(TypeError, match=r"Invalid arguments[^?]*$"):
        operator(task_id="task", prompt=PROMPT, xyzzy=1)
    with pytest.raises(TypeError, match="prompt"):
        operator(task_id="task")
    with DAG("dag"), pytest.raises(TypeError, match="colour"):
        operator.partial(task_id="task", colour="blue").expand(prompt=["a"])


def signature(cls: type) -> dict[str, Any]:
    _, *parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
    assert all(one.kind is not one.POSITIONAL_OR_KEYWORD for one in parameters)
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


def test_the_tail_is_the_documented_one() -> None:
    assert signature(SeedanceGenerationOperator) == TAIL


@pytest.mark.parametrize(
    ("operator", "request_class"),
    [(SeedanceGenerateVideoOperator, VideoRequest), (SeedreamGenerateImageOperator, ImageRequest)],
)
def test_operator_and_request_have_the_same_arguments(operator: Any, request_class: Any) -> None:
    names = [name for name in signature(operator) if name not in TAIL]
    assert sorted(names) == sorted(operator.request_fields)
    assert set(names) == {field.name for field in fields(request_class)}
    assert operator.request_class is request_class
    assert all(default is None for name, default in signature(operator).items() if name != "prompt")


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_request_argument_is_a_template(operator: Any) -> None:
    assert set(operator.template_fields) == {*operator.request_fields, "seedance_conn_id", "on_clear"}
    # It is not touched when the Dag is read.
    values = {name: f"{{{{ {name} }}}}" for name in operator.template_fields}
    made = operator(task_id="task", **values)
    assert {name: getattr(made, name) for name in operator.template_fields} == values


@pytest.mark.parametrize("native", [False, True])
def test_rendered_arguments_reach_the_service(task: Task, native: bool) -> None:
    task.connect("ark", conn_id="seedance_prod")
    with DAG("dag", render_template_as_native_obj=native):
        task.op = make(
            prompt="Clip of {{ day }}",
            model="{{ model }}",
            duration="{{ seconds }}",
            seed="{{ seed }}",
            generate_audio="{{ sound }}",
            images=["https://b.example/{{ day }}.png"],
            resolution="{{ none }}",
            service_tier="{{ tier }}",
            extra_params={"execution_expires_after": 3600},
            seedance_conn_id="seedance_{{ stage }}",
            on_clear="{{ 'new' if stage == 'prod' else 'reuse' }}",
        )
    context: Any = {"day": "monday", "tier": "flex", "model": "seedance-1-5-pro-251215", "stage": "prod"}
    task.op.render_template_fields(
        {**context, "seconds": 5, "seed": "2147483647", "sound": True, "none": None}
    )
    task.defer()
    assert task.op.on_clear == "new"
    sent = dict(task.services.ledger.submissions[0].request)
    sent.pop("safety_identifier")
    assert sent == {
        "model": "seedance-1-5-pro-251215",
        "content": [
            {"type": "text", "text": "Clip of monday"},
            {
                "type": "image_url",
                "role": "first_frame",
                "image_url": {"url": "https://b.example/monday.png"},
            },
        ],
        "duration": 5,
        "seed": 2147483647,
        "generate_audio": True,
        "service_tier": "flex",
        "execution_expires_after": 3600,
    }


def test_images_from_another_tasks_result(task: Task) -> None:
    task.connect("ark", media_hosts=["127.0.0.1"])
    task.services.release()
    image = SeedreamGenerateImageOperator(task_id="still", prompt=PROMPT).execute(task.context)
    for images in (image, image["url"], [image], str(image["urls"]), json.dumps(image)):
        task.other_task().defer(images=images)
        content = task.services.ledger.submissions[-1].request["content"]
        assert content[1]["image_url"]["url"] == image["url"]
    with pytest.raises(errors.SeedanceRequestError):
        task.run(images={"generation_id": "g", "urls": []})
    assert task.submitted == 1 + 5  # the image, and the videos


@pytest.mark.parametrize("api", ["seedance2api"])
def test_image_arguments_reach_the_service(task: Task) -> None:
    task.services.release()
    arguments = {"quality": "high", "style": "ink", "resolution": "4k"}
    task.op = SeedreamGenerateImageOperator(
        task_id="task", prompt=PROMPT, num_images="2", seed="7", **arguments
    )
    assert len(task.run()["urls"]) == 2
    sent = {"prompt": PROMPT, "model": "seedream-4.5", "num_images": 2, "seed": 7, **arguments}
    assert task.services.ledger.submissions[0].request == sent


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_argument_can_be_mapped_over(operator: Any) -> None:
    with DAG("dag") as dag:
        for name in (*operator.request_fields, "seedance_conn_id", "on_clear"):
            fixed = {} if name == "prompt" else {"prompt": PROMPT}
            operator.partial(task_id=f"over_{name}", **fixed).expand(**{name: ["a", "b"]})
        operator.partial(task_id="kwargs", timeout=60).expand_kwargs([{"prompt": "a"}, {"prompt": "b"}])
    for task in dag.tasks:
        assert task.is_mapped


def test_a_mapped_task_is_the_operator_with_its_arguments() -> None:
    with DAG("dag", default_args={"seedance_conn_id": "seedance_prod"}):
        mapped = SeedanceGenerateVideoOperator.partial(task_id="task", duration=5, timeout=60).expand(
            prompt=["a", "b"]
        )
    op = mapped.unmap({"prompt": "b"})  # type: ignore[attr-defined]
    assert isinstance(op, SeedanceGenerateVideoOperator)
    assert (op.prompt, op.duration, op.timeout, op.seedance_conn_id) == ("b", 5, 60, "seedance_prod")
    if AIRFLOW_V_3_3_PLUS:
        assert isinstance(op.retry_policy, SeedanceRetryPolicy)


@pytest.mark.parametrize("operator", OPERATORS)
def test_default_args_reach_every_argument(operator: Any) -> None:
    values: dict[str, Any] = {"seedance_conn_id": "x", "model": "m", "timeout": 60, "poll_interval": 5}
    values |= {"deferrable": False, "on_clear": "new", "on_uncertain_submit": "resubmit", "max_credits": 5}
    if AIRFLOW_V_3_3_PLUS:
        values["retry_policy"] = OtherPolicy()
    with DAG("dag", default_args=values):
        op = operator(task_id="task", prompt=PROMPT)
    assert {name: getattr(op, name) for name in values} == values
    with DAG("other", default_args=values):
        assert operator(task_id="task", prompt=PROMPT, timeout=7).timeout == 7


@needs(RETRY_POLICIES)
def test_the_retry_policy_is_ours_unless_the_dag_has_another() -> None:
    assert isinstance(make().retry_policy, SeedanceRetryPolicy)
    policy = OtherPolicy()
    assert make(retry_policy=policy).retry_policy is policy


def dag_of_all_operators() -> DAG:
    with DAG("dag") as dag:
        video = make(task_id="video", prompt="{{ ds }}", images="https://b.example/a.png")
        image = SeedreamGenerateImageOperator(
            task_id="image", prompt=PROMPT, end_from_trigger=AIRFLOW_V_3_3_PLUS
        )
        image >> video
        SeedanceGenerateVideoOperator.partial(task_id="mapped").expand(prompt=video.output)
        SeedanceGenerationSensor(task_id="sensor", generation_id="{{ params.id }}")
    return dag


def test_a_dag_with_every_operator_survives_serialization() -> None:
    dag = dag_of_all_operators()
    data = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    # Airflow makes a new version of the Dag whenever its serialization changes.
    assert json.loads(json.dumps(DagSerialization.to_dict(dag_of_all_operators()))) == data
    again = DagSerialization.from_dict(data)
    assert set(again.task_dict) == {"video", "image", "mapped", "sensor"}
    for name, task in dag.task_dict.items():
        copy = again.get_task(name)
        assert copy.task_type == task.task_type
        assert tuple(copy.template_fields) == tuple(task.template_fields)
        assert "Output" in copy.extra_links
        if AIRFLOW_V_3_3_PLUS and not task.is_mapped:
            assert copy.has_retry_policy
    assert again.get_task("video").template_fields_renderers == {"extra_params": "json", "images": "json"}
    assert again.get_task("video").prompt == "{{ ds }}"
