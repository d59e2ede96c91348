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
def test_a_misspelt_argument_gets_a_suggestion(operator: type) -> None:
    for name, similar in (
        ("resoluton", "resolution"),
        ("poll_intervall", "poll_interval"),
        ("retry", "retries"),
    ):
        with pytest.raises(TypeError, match=rf"Invalid arguments[^?]*Did you mean '{similar}'\?"):
            operator(task_id="task", prompt=PROMPT, **{name: 1})
    with pytest.raises(TypeError, match=r"Invalid arguments[^?]*$"):
        operator(task_id="task", prompt=PROMPT, xyzzy=1)


def signature(cls: type) -> dict[str, Any]:
    parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
    assert all(
        parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.name == "self"
        for parameter in parameters
    )
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY
    }


# ---------------------------------------------------------------------- arguments


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


@pytest.mark.parametrize("operator", OPERATORS)
def test_templates_are_not_touched_when_the_dag_is_read(operator: Any) -> None:
    values = {name: f"{{{{ {name} }}}}" for name in operator.template_fields}
    made = operator(task_id="task", **values)
    assert {name: getattr(made, name) for name in operator.template_fields} == values


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_prompt_is_required(operator: Any) -> None:
    with pytest.raises(TypeError, match="prompt"):
        operator(task_id="task")


# ---------------------------------------------------------------------- templates


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
    task.op.render_template_fields(
        {
            "day": "monday",
            "tier": "flex",
            "model": "seedance-1-5-pro-251215",
            "seconds": 5,
            "seed": "2147483647",
            "sound": True,
            "none": None,
            "stage": "prod",
        }  # type: ignore[typeddict-unknown-key]
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
                "image_url": {"url": "https://b.example/monday.png"},
                "role": "first_frame",
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
        Task(task.services, task.connect).defer(images=images)
        content = task.services.ledger.submissions[-1].request["content"]
        assert content[1]["image_url"]["url"] == image["url"]


@pytest.mark.parametrize("api", ["ark"])
def test_a_result_without_outputs_is_not_an_input(task: Task) -> None:
    with pytest.raises(errors.SeedanceRequestError):
        task.run(images={"generation_id": "g", "urls": []})
    assert task.services.ledger.requests == []


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


# ---------------------------------------------------------------------- mapping


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


def test_a_wrong_argument_of_a_mapped_task_is_found_when_the_dag_is_read() -> None:
    with DAG("dag"), pytest.raises(TypeError, match="colour"):
        SeedanceGenerateVideoOperator.partial(task_id="task", colour="blue").expand(prompt=["a"])


# ---------------------------------------------------------------------- default_args and the retry policy


@pytest.mark.parametrize("operator", OPERATORS)
def test_default_args_reach_every_argument(operator: Any) -> None:
    values: dict[str, Any] = {
        "seedance_conn_id": "x",
        "timeout": 60,
        "deferrable": False,
        "poll_interval": 5,
        "on_clear": "new",
        "on_uncertain_submit": "resubmit",
        "cancel_on_kill": False,
        "max_credits": 5,
        "model": "m",
    }
    if AIRFLOW_V_3_3_PLUS:
        values["retry_policy"] = OtherPolicy()
    with DAG("dag", default_args=values):
        op = operator(task_id="task", prompt=PROMPT)
    assert {name: getattr(op, name) for name in values} == values
    with DAG("other", default_args=values):
        assert operator(task_id="task", prompt=PROMPT, timeout=7).timeout == 7


@needs(RETRY_POLICIES)
def test_the_retry_policy_is_ours_unless_the_dag_has_another() -> None:
    assert isinstance(
        SeedanceGenerateVideoOperator(task_id="a", prompt=PROMPT).retry_policy, SeedanceRetryPolicy
    )
    policy = OtherPolicy()
    op = SeedanceGenerateVideoOperator(task_id="b", prompt=PROMPT, retry_policy=policy)
    assert op.retry_policy is policy


# ---------------------------------------------------------------------- serialization


def test_a_dag_with_every_operator_survives_serialization() -> None:
    with DAG("dag") as dag:
        video = SeedanceGenerateVideoOperator(
            task_id="video", prompt="{{ ds }}", images="https://b.example/a.png"
        )
        image = SeedreamGenerateImageOperator(
            task_id="image", prompt=PROMPT, end_from_trigger=AIRFLOW_V_3_3_PLUS
        )
        image >> video
        SeedanceGenerateVideoOperator.partial(task_id="mapped").expand(prompt=video.output)
        SeedanceGenerationSensor(task_id="sensor", generation_id="{{ params.id }}")
    data = json.loads(json.dumps(DagSerialization.to_dict(dag)))
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


def test_serialization_is_stable() -> None:
    """Airflow makes a new version of the Dag whenever its serialization changes."""

    def serialized() -> str:
        with DAG("dag") as dag:
            SeedanceGenerateVideoOperator(task_id="video", prompt=PROMPT)
        return json.dumps(DagSerialization.to_dict(dag), sort_keys=True)

    assert serialized() == serialized()
