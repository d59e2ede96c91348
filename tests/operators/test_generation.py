"""Arguments, deferral and submission of a single generation."""

from __future__ import annotations

import json
import math
import time
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.sdk import DAG, Asset
from helpers import ALL_APIS
from support import PROMPT, SECRET, Log, TaskInstance
from versions import ENDING_FROM_TRIGGERS, UNREADABLE_EXTRA, deserialize, needs, serialize

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.operators import base
from airflow_provider_seedance.operators.seedance import (
    SeedreamGenerateImageOperator,
)
from airflow_provider_seedance.policies import retry
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger
from operators.generation_task import Task, make

# ---------------------------------------------------------------------- deferring


@pytest.mark.parametrize("api", ALL_APIS)
def test_deferral_carries_the_id_and_no_secret(task: Task) -> None:
    before = time.time()
    deferred = task.defer(timeout=1800, images="https://b.example/in.png?X-Signature=topsecret")
    generation_id = task.services.ledger.submissions[0].generation_id
    assert task.ti.pushed["generation_id"] == generation_id
    assert task.store.value["generation_id"] == generation_id
    assert task.waits_for(generation_id)
    assert before + 1800 <= deferred.trigger.deadline <= time.time() + 1800
    assert deferred.method_name == "execute_complete"
    assert deferred.kwargs["generation_id"] == generation_id
    assert deferred.kwargs["deadline"] == deferred.trigger.deadline
    # Our deadline comes before Airflow's timeout, which cannot read the render.
    assert deferred.timeout > timedelta(seconds=1800)
    path, kwargs = deferred.trigger.serialize()
    assert json.loads(json.dumps(kwargs)) == kwargs
    assert deserialize(serialize(kwargs)) == kwargs
    shown = repr((path, kwargs, deferred.kwargs, deferred.trigger))
    for secret in (PROMPT, SECRET, "topsecret", "b.example", task.services.url):
        assert secret not in shown


@pytest.fixture
def unrecorded(task: Task) -> Task:
    """Deferred task whose store accepted the intent, and then nothing more."""
    task.defer_while_ids_cannot_be_written()
    assert (task.store.value["state"], task.store.value["generation_id"]) == ("intent", None)
    return task


@pytest.mark.parametrize("ended", [True, False])
def test_id_known_only_to_the_deferral_is_recorded_on_resume(unrecorded: Task, ended: bool) -> None:
    generation_id = unrecorded.generation_id
    if ended:
        unrecorded.services.finish(generation_id)
        assert unrecorded.resume()["generation_id"] == generation_id
    else:
        unrecorded.defer_again()
    assert unrecorded.store.value["generation_id"] == generation_id
    assert unrecorded.store.value["state"] == ("ended" if ended else "submitted")
    if not ended:
        unrecorded.services.finish(generation_id)
    # A clear finds it, and pays for nothing.
    unrecorded.ti.clear()
    assert unrecorded.run()["generation_id"] == generation_id
    assert unrecorded.posts == 1


def test_an_unrecordable_id_is_delivered(unrecorded: Task, caplog: pytest.LogCaptureFixture) -> None:
    unrecorded.services.finish(unrecorded.generation_id)
    unrecorded.store.break_down("set")
    assert unrecorded.resume()["generation_id"] == unrecorded.generation_id
    assert "still cannot be recorded" in caplog.text
    # The next try finds an intent, which is uncertain, and not an unreadable record.
    assert rec.Record.from_value(unrecorded.store.value).state is rec.RecordState.INTENT


def test_unserializable_trigger_costs_nothing(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SeedanceGenerationTrigger, "serialize", Mock(side_effect=TypeError))
    with pytest.raises(TypeError):
        task.run()
    assert task.services.ledger.requests == []
    assert task.store.texts == {}


def test_failed_xcom_push_does_not_stop_the_task(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TaskInstance, "xcom_push", Mock(side_effect=ConnectionError))
    task.defer()
    assert task.submitted == 1


@pytest.mark.parametrize("api", ["ark"])
def test_synchronous_answer_does_not_defer(task: Task) -> None:
    """A trigger that fires at once may meet the end of the process that deferred."""
    task.services.release()
    task.op = SeedreamGenerateImageOperator(task_id="task", prompt=PROMPT)
    result = task.run()
    assert result["status"] == "succeeded"
    assert result["media"] == "image"
    assert task.ti.pushed["generation_id"] == result["generation_id"]


#: Some of each kind; ``tests/apis`` has all arguments of each service.
BAD = [
    ("seedanceapi-v2", {"duration": 7}, ["duration=7", "5, 10 or 15"]),
    ("ark", {"prompt": "  "}, ["prompt is empty"]),
    ("runbase", {"images": "https://10.0.0.5/a.png"}, ["not on a public host"]),
    ("ark", {"extra_params": {"x": math.nan}}, ["JSON"]),
]


def refused(task: Task, error: type[errors.SeedanceError], **arguments: Any) -> str:
    """Run a task that is refused before anything is sent or recorded; return the message."""
    with pytest.raises(error) as caught:
        task.run(**arguments)
    assert not caught.value.retry_helps
    assert task.services.ledger.requests == []
    assert task.store.texts == {}
    return caught.value.message


@pytest.mark.parametrize(("api", "arguments", "says"), BAD)
def test_invalid_arguments_cost_nothing(task: Task, arguments: dict[str, Any], says: list[str]) -> None:
    message = refused(task, errors.SeedanceRequestError, **arguments)
    assert [words for words in (*says, "othing was sent") if words not in message] == []


def test_arguments_are_validated_again_at_run_time(task: Task) -> None:
    task.op = make()
    task.op.timeout = 0
    refused(task, errors.SeedanceConfigurationError)
    message = refused(task, errors.SeedanceConfigurationError, on_clear="burn", deferrable=False)
    for words in ("on_clear is 'burn'", "'reuse' or 'new'", "othing was sent"):
        assert words in message


@pytest.mark.parametrize("extra", ["{not json", "[1]"])
def test_unreadable_extra(task: Task, monkeypatch: pytest.MonkeyPatch, extra: str) -> None:
    """Airflow 3.1 takes such a connection for missing."""
    value = {"conn_type": "seedance", "password": SECRET, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", json.dumps(value))
    error, says = AirflowNotFoundException, "seedance_default"
    if UNREADABLE_EXTRA.there:
        error, says = errors.SeedanceConfigurationError, "must be a JSON object"
    with pytest.raises(error, match=says) as caught:
        task.run()
    assert SECRET not in str(caught.value)
    assert task.services.ledger.requests == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"on_uncertain_submit": "pray"}, "on_uncertain_submit is 'pray'"),
        *(({"poll_interval": value}, f"poll_interval is {value!r}") for value in (0, "fast", math.inf)),
        *(
            ({"timeout": value}, f"timeout is {value}")
            for value in (-1, True, None, math.inf, 1e15, math.nan)
        ),
        *(({"max_credits": value}, f"max_credits is {value}") for value in (-1, math.nan)),
        ({"max_cost_usd": "1"}, "max_cost_usd is '1'"),
        ({"reuse": "all"}, "reuse is 'all'"),
        *(({"seedance_conn_id": ["a", *more]}, "seedance_conn_id is") for more in (["a"], [""], [None])),
        ({"use_callback": "yes"}, "use_callback is 'yes'"),
        ({"use_callback": True, "deferrable": False}, "use_callback needs deferrable=True"),
        ({"cancel_on_kill": object()}, "cancel_on_kill"),
        ({"end_from_trigger": "yes"}, "end_from_trigger"),
        ({"deferrable": None}, "deferrable"),
        ({"end_from_trigger": True, "do_xcom_push": False}, "end_from_trigger"),
        ({"end_from_trigger": True, "multiple_outputs": True}, "end_from_trigger"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_arguments_are_validated_when_the_dag_is_parsed(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.SeedanceConfigurationError) as caught:
        make(**arguments)
    assert says in caught.value.message
    assert "Nothing was sent" in caught.value.message


@pytest.mark.parametrize("api", ["seedance2api"])
def test_applied_defaults_are_logged(task: Task, log: Log) -> None:
    task.defer()
    lines = [line for line in log.lines if "Default applied" in line]
    for words, line in zip(("model='seedance-1.5-pro'", "duration=5"), lines, strict=True):
        assert words in line


@needs(ENDING_FROM_TRIGGERS)
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"outlets": [Asset("clip")]}, "outlets"),
        ({"on_success_callback": lambda context: None}, "on_success_callback"),
        ({"deferrable": False}, "deferrable=True"),
    ],
)
def test_end_from_trigger_is_refused_with_other_arguments(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.SeedanceConfigurationError, match=says):
        make(end_from_trigger=True, **arguments)
    assert make(end_from_trigger=True).end_from_trigger


def test_end_from_trigger_needs_airflow_3_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "AIRFLOW_V_3_3_PLUS", False)
    monkeypatch.setattr(retry, "AIRFLOW_V_3_3_PLUS", False)
    with pytest.raises(errors.SeedanceConfigurationError, match=r"needs Airflow 3\.3"):
        make(end_from_trigger=True)
    assert getattr(make(), "retry_policy", None) is None


@needs(ENDING_FROM_TRIGGERS)
@pytest.mark.parametrize("api", ["ark"])
def test_end_from_trigger_with_a_plain_dependant(task: Task) -> None:
    with DAG("dag"):
        task.op = make(end_from_trigger=True)
        task.op >> make(task_id="next", prompt="{{ ti.xcom_pull('task').url }}")
    assert task.defer().trigger.end_from_trigger
    assert task.store.value["end_from_trigger"] is True
