"""Messages of the troubleshooting page about connections and arguments, as a task raises them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from helpers import connection, image, prepare, settings
from support import make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch.requests import read_requests
from airflow_provider_seedance.cli.connection import connection_from_environment
from airflow_provider_seedance.client.api_client import Client
from airflow_provider_seedance.client.media_client import MediaClient
from airflow_provider_seedance.decorators.seedance import seedance_video_task
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import VideoRequest
from airflow_provider_seedance.operators import base
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator
from airflow_provider_seedance.sensors.seedance import SeedanceGenerationSensor
from airflow_provider_seedance.settings import read_settings
from operators.batch_runner import Batch
from operators.generation_task import Connect, Task, make


@dataclass
class Stage:
    """The service of a producer, and what it may change."""

    services: SeedanceEmulator
    connect: Connect
    monkeypatch: pytest.MonkeyPatch
    folder: Path

    def run(self, api: str = "seedanceapi-v1", *, budget: float | None = None, **arguments: Any) -> Any:
        """Run a task, on a connection with a budget of US dollars if one is given."""
        self.connect(api, **({"budgets": [{"usd": budget, "per": "day"}]} if budget else {}))
        return Task(self.services, self.connect).run(**{"deferrable": False, "duration": 4, **arguments})

    def with_ledger(self, **arguments: Any) -> Any:
        self.monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", f"sqlite:///{self.folder}/ledger.db")
        return self.run(**arguments)

    def batch(self, *requests: Any, **arguments: Any) -> Any:
        self.connect("seedanceapi-v1")
        return Batch(self.services, self.connect).run(list(requests), **arguments)

    def without_replies(self) -> Any:
        self.services.fault("drop_reply", times=None)
        return self.run(on_uncertain_submit="resubmit", max_credits=20)  # which is less than two renders cost

    def with_mapped_result(self) -> None:
        self.monkeypatch.setattr(base, "AIRFLOW_V_3_3_PLUS", True)
        with DAG("mapped", schedule=None):
            first = make(task_id="first", end_from_trigger=True)
            SeedanceGenerateVideoOperator.partial(task_id="next").expand(prompt=first.output)
        first.validate_rendered()


def extra(**keys: Any) -> Callable[[Stage], Any]:
    return lambda _: settings(**keys)


def fields(**values: Any) -> Callable[[Stage], Any]:
    return lambda _: read_settings("x", connection(**values))


def task(**arguments: Any) -> Callable[[Stage], Any]:
    return lambda stage: stage.run(**arguments)


def sensor(**arguments: Any) -> Callable[[Stage], Any]:
    def wait(stage: Stage) -> Any:
        stage.connect("ark")
        made = SeedanceGenerationSensor(**{"task_id": "wait", "generation_id": "g", **arguments})
        return made.execute(make_context(None))

    return wait


def kept_row(_: Stage) -> None:
    (item,) = read_requests([{"promt": "A lamp"}], {}, keep=True)
    assert item.failure is not None
    raise errors.SeedanceRequestError(item.failure.error)


def decorated(_: Stage) -> None:
    with DAG("decorated", schedule=None):
        output: Any = seedance_video_task(lambda: 5, task_id="clip")()
    output.operator.request_arguments({})


#: A producer for each message, by its text on the page.
PRODUCERS: dict[str, Callable[[Stage], Any]] = {
    "Connection …: …": fields(password=None),
    "it has no API key": fields(password=None),
    "the API key in the password holds characters that no key has": fields(password="a key"),
    "the extra must be a JSON object such as …, not …": fields(extra="{'api': 'ark'}"),
    "… in the extra is …; it takes …": extra(timeout="soon"),
    "callback_signature_header in the extra needs callback_signature_secret": extra(
        callback_signature_header="x-signature"
    ),
    "…: no client can be made with its proxy": lambda _: Client(
        replace(settings(), proxy="http://proxy.example:nought")
    ),
    "…: media cannot be fetched through its proxy": lambda _: MediaClient(
        replace(settings(), proxy="http://proxy.example:nought")
    ),
    "The connection's api is …; this package knows …": lambda _: connection_from_environment(
        {"SEEDANCE_API_KEY": "k", "SEEDANCE_API": "arc"}
    ),
    "The connection's schema is …": fields(host="service.example", schema="v2"),
    "The connection's host … is not a valid address": fields(host="https://[service"),
    "The connection's host … is not an http or https URL": fields(host="ftp://service.example"),
    "The connection's host must be a plain base URL": fields(host="https://service.example?key=1"),
    "…: verify in the extra names …": lambda _: Client(settings(verify="/missing/ca.pem")),
    "The request cannot be sent to …": task(duration=1000),
    "… makes … only; nothing was sent": lambda _: prepare("seedanceapi-v1", image()),
    "The request cannot be used: …": kept_row,
    "There is no request argument …": lambda _: VideoRequest.from_arguments({"promt": "A lamp"}),
    "The … request needs a prompt": lambda _: VideoRequest.from_arguments({}),
    "An argument is of a type that no service accepts": lambda stage: stage.batch(
        {"prompt": "A lamp", "resolution": 10**5000}
    ),
    "The function of @task.seedance_video returned …": decorated,
    "…. Nothing was sent.": task(timeout=-1),
    "on_clear is …": task(on_clear="maybe"),
    "end_from_trigger cannot be used while another task is mapped over the result": Stage.with_mapped_result,
    "max_credits=… cannot be honoured": task(api="seedance2api", duration=5, max_credits=5),
    "max_cost_usd=… cannot be honoured": task(api="seedance2api", duration=5, max_cost_usd=5),
    "The request costs …, more than max_credits=… leaves": task(max_credits=1),
    "… more than max_cost_usd=… leaves": task(max_cost_usd=0.01),
    "The outcome of a submission is unknown. …": Stage.without_replies,
    "This render costs …, and would exceed the budget of …": lambda stage: stage.with_ledger(budget=0.01),
    "The budget of … cannot be kept": lambda stage: stage.with_ledger(
        api="seedance2api", duration=5, budget=1
    ),
    "Connection … has budgets, which need a ledger": task(budget=1),
    "on_budget is …": task(on_budget="maybe"),
    "on_budget='wait' needs deferrable=True": lambda stage: stage.batch(
        "A lamp", on_budget="wait", deferrable=False
    ),
    "seedance_conn_id is …; it takes the id of a connection": task(seedance_conn_id=[]),
    "generation_id is …; it must be the id of a generation": sensor(generation_id="None"),
    "media is …; it takes 'video' or 'image'": sensor(media="text"),
}


@pytest.mark.parametrize("text", PRODUCERS)
def test_a_message_is_the_one_on_the_page(
    text: str, services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(errors.SeedanceError) as caught:
        PRODUCERS[text](Stage(services, connect, monkeypatch, tmp_path))
    pattern = ".*".join(map(re.escape, text.split("…")))
    assert re.search(pattern, caught.value.message, re.DOTALL), caught.value.message
