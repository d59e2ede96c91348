"""Arguments, deferral and submission of a single generation."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException, AirflowTaskTimeout, TaskDeferred
from airflow.sdk import DAG, Asset
from helpers import ALL_APIS
from support import PROMPT, SECRET, Log, Store, TaskInstance, deferral, make_context
from versions import ENDING_FROM_TRIGGERS, UNREADABLE_EXTRA, deserialize, needs, serialize

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.operators import base
from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoOperator,
    SeedreamGenerateImageOperator,
)
from airflow_provider_seedance.policies import retry
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger
from operators.generation_task import Connect, below_3_3, make, resume

# ---------------------------------------------------------------------- deferring


@pytest.mark.parametrize("api", ALL_APIS)
def test_deferral_carries_the_id(services: SeedanceEmulator, connect: Connect, api: str) -> None:
    connect(api)
    services.hold()
    store, ti = Store(), TaskInstance()
    before = time.time()
    deferred = deferral(lambda: make(timeout=1800).execute(make_context(store, ti)))
    generation_id = services.ledger.submissions[0].generation_id
    assert ti.pushed["generation_id"] == generation_id
    assert store.value["generation_id"] == generation_id
    assert isinstance(deferred.trigger, SeedanceGenerationTrigger)
    assert deferred.trigger.generation_id == generation_id
    assert before + 1800 <= deferred.trigger.deadline <= time.time() + 1800
    assert deferred.method_name == "execute_complete"
    assert deferred.kwargs is not None
    assert deferred.kwargs["generation_id"] == generation_id
    assert deferred.kwargs["deadline"] == deferred.trigger.deadline
    # Our deadline comes before Airflow's timeout, which cannot read the render.
    assert isinstance(deferred.timeout, timedelta)
    assert deferred.timeout > timedelta(seconds=1800)


def deferred_without_a_recorded_id(services: SeedanceEmulator, store: Store) -> TaskDeferred:
    """Defer a task whose store took the intent, and then nothing more."""

    def away_once_it_was_sent(what: str) -> None:
        if what == "set" and services.ledger.submissions:
            raise ConnectionError("the API server is away")

    store.before = away_once_it_was_sent
    deferred = deferral(lambda: make().execute(make_context(store)))
    store.before = lambda what: None
    assert (store.value["state"], store.value["generation_id"]) == ("intent", None)
    return deferred


@pytest.mark.parametrize("ended", [True, False])
def test_id_known_only_to_the_deferral_is_recorded_on_resume(
    services: SeedanceEmulator, connect: Connect, ended: bool
) -> None:
    connect("seedanceapi-v2")
    services.hold()
    store, ti = Store(), TaskInstance()
    deferred = deferred_without_a_recorded_id(services, store)
    generation_id = services.ledger.submissions[0].generation_id
    if ended:
        services.finish(generation_id)
        assert resume(make(), deferred, None, make_context(store, ti))["generation_id"] == generation_id
    else:
        deferral(lambda: resume(make(), deferred, None, make_context(store, ti)))
    assert store.value["generation_id"] == generation_id
    assert store.value["state"] == ("ended" if ended else "submitted")
    if not ended:
        services.finish(generation_id)
    # A clear finds it, and pays for nothing.
    ti.clear()
    again = make()
    try:
        result = again.execute(make_context(store, ti))
    except TaskDeferred as waiting:
        result = resume(again, waiting, None, make_context(store, ti))
    assert result["generation_id"] == generation_id
    assert len(services.ledger.posts()) == 1


def test_unrecordable_id_does_not_stop_the_delivery(
    services: SeedanceEmulator, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    connect("seedanceapi-v2")
    services.hold()
    store = Store()
    deferred = deferred_without_a_recorded_id(services, store)
    generation_id = services.ledger.submissions[0].generation_id
    services.finish(generation_id)
    store.break_down("set")
    assert resume(make(), deferred, None, make_context(store))["generation_id"] == generation_id
    assert "still cannot be recorded" in caplog.text
    # The next try finds an intent, which is uncertain, and not an unreadable record.
    assert rec.Record.from_value(store.value).state is rec.RecordState.INTENT


@pytest.mark.parametrize("api", ALL_APIS)
def test_deferral_contains_no_secret(services: SeedanceEmulator, connect: Connect, api: str) -> None:
    connect(api)
    services.hold()
    images = "https://b.example/in.png?X-Signature=topsecret"
    deferred = deferral(lambda: make(images=images).execute(make_context(Store())))
    path, kwargs = deferred.trigger.serialize()
    assert json.loads(json.dumps(kwargs)) == kwargs
    assert deserialize(serialize(kwargs)) == kwargs
    shown = repr((path, kwargs, deferred.kwargs, deferred.trigger))
    for secret in (PROMPT, SECRET, "topsecret", "b.example", services.url):
        assert secret not in shown


def test_unserializable_trigger_fails_before_the_submission(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("ark")

    def fail(self: Any) -> Any:
        raise TypeError("not serializable")

    monkeypatch.setattr(SeedanceGenerationTrigger, "serialize", fail)
    store = Store()
    with pytest.raises(TypeError):
        make().execute(make_context(store))
    assert services.ledger.requests == []
    assert store.texts == {}


def test_failed_xcom_push_does_not_stop_the_task(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("ark")
    services.hold()

    def fail(self: Any, key: str, value: Any) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(TaskInstance, "xcom_push", fail)
    deferral(lambda: make().execute(make_context(Store())))
    assert len(services.ledger.submissions) == 1


def test_synchronous_answer_does_not_defer(services: SeedanceEmulator, connect: Connect) -> None:
    """A trigger that fires at once may meet the end of the process that deferred."""
    connect("ark")
    store, ti = Store(), TaskInstance()
    op = SeedreamGenerateImageOperator(task_id="task", prompt=PROMPT)
    result = op.execute(make_context(store, ti))
    assert result["status"] == "succeeded"
    assert result["media"] == "image"
    assert ti.pushed["generation_id"] == result["generation_id"]


# ---------------------------------------------------------------------- invalid arguments

BAD = [
    # argument the service does not take
    ("seedanceapi-v2", {"fps": 24}, errors.SeedanceRequestError, ["fps=24", "seedanceapi-v2", "takes"]),
    ("runbase", {"seed": 1}, errors.SeedanceRequestError, ["seed=1", "runbase"]),
    ("seedance2api", {"generate_audio": True}, errors.SeedanceRequestError, ["generate_audio=True"]),
    ("seedanceapi-v1", {"model": "x"}, errors.SeedanceRequestError, ["model='x'"]),
    # value it does not take
    ("seedanceapi-v2", {"duration": 7}, errors.SeedanceRequestError, ["duration=7", "5, 10 or 15"]),
    ("seedanceapi-v1", {"duration": "5"}, errors.SeedanceRequestError, ["duration=5", "4, 8 or 12"]),
    ("seedance2api", {"duration": 31}, errors.SeedanceRequestError, ["duration=31", "from 5 to 30"]),
    ("ark", {"resolution": "8k"}, errors.SeedanceRequestError, ["resolution='8k'"]),
    ("runbase", {"aspect_ratio": "2:1"}, errors.SeedanceRequestError, ["aspect_ratio='2:1'"]),
    ("ark", {"generate_audio": "maybe"}, errors.SeedanceRequestError, ["generate_audio='maybe'"]),
    ("ark", {"seed": "dice"}, errors.SeedanceRequestError, ["seed='dice'"]),
    # prompts
    ("seedance2api", {"prompt": "x" * 301}, errors.SeedanceRequestError, ["301 characters", "300"]),
    ("seedanceapi-v2", {"prompt": "é" * 2001}, errors.SeedanceRequestError, ["2001 characters", "2000"]),
    ("ark", {"prompt": "  "}, errors.SeedanceRequestError, ["prompt is empty"]),
    ("ark", {"prompt": 5}, errors.SeedanceRequestError, ["prompt must be text"]),
    # images
    (
        "seedanceapi-v2",
        {"images": [f"https://b.example/{n}.png" for n in range(5)]},
        errors.SeedanceRequestError,
        ["5 images were given", "at most 4"],
    ),
    ("seedance2api", {"images": ["https://b.example/a.png"] * 2}, errors.SeedanceRequestError, ["2 images"]),
    ("runbase", {"images": "http://b.example/a.png"}, errors.SeedanceRequestError, ["not an https URL"]),
    ("runbase", {"images": "https://10.0.0.5/a.png"}, errors.SeedanceRequestError, ["not on a public host"]),
    ("runbase", {"images": "s3://bucket/a.png"}, errors.SeedanceRequestError, ["not an https URL"]),
    ("ark", {"images": [{"url": "https://b.example/a.png", "role": "x"}]}, errors.SeedanceRequestError, ["role 'x'"]),
    ("ark", {"extra_params": "text"}, errors.SeedanceRequestError, ["extra_params must be a dict"]),
    ("ark", {"extra_params": {"x": float("nan")}}, errors.SeedanceRequestError, ["JSON"]),
    # rendered operator arguments
    ("ark", {"on_clear": "burn"}, errors.SeedanceConfigurationError, ["on_clear is 'burn'", "'reuse' or 'new'"]),
]  # fmt: skip


@pytest.mark.parametrize(("api", "arguments", "error", "says"), BAD)
@pytest.mark.parametrize("deferrable", [True, False])
def test_invalid_arguments_are_refused_before_anything_is_sent(
    services: SeedanceEmulator,
    connect: Connect,
    api: str,
    arguments: dict[str, Any],
    error: type[errors.SeedanceError],
    says: list[str],
    deferrable: bool,
) -> None:
    connect(api)
    store = Store()
    with pytest.raises(error) as caught:
        make(**arguments, deferrable=deferrable).execute(make_context(store))
    for words in (*says, "othing was sent"):
        assert words in caught.value.message
    assert not caught.value.retry_helps
    assert services.ledger.requests == []
    assert store.texts == {}


@pytest.mark.parametrize("api", ["seedanceapi-v1", "seedanceapi-v2", "runbase"])
def test_image_operator_needs_a_service_with_images(
    services: SeedanceEmulator, connect: Connect, api: str
) -> None:
    connect(api)
    with pytest.raises(errors.SeedanceRequestError, match="makes videos only"):
        SeedreamGenerateImageOperator(task_id="task", prompt=PROMPT).execute(make_context(Store()))
    assert services.ledger.requests == []


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"conn_type": "seedance", "extra": {"api": "ark"}}, ["has no API key", "password"]),
        ({"conn_type": "seedance", "password": SECRET, "extra": {"api": "sora"}}, ["'sora'", "runbase"]),
        pytest.param(
            {"conn_type": "seedance", "password": SECRET, "extra": "{not json"},
            ["must be a JSON object"],
            marks=needs(UNREADABLE_EXTRA),
        ),
        pytest.param(
            {"conn_type": "seedance", "password": SECRET, "extra": "[1]"},
            ["must be a JSON object"],
            marks=needs(UNREADABLE_EXTRA),
        ),
        ({"conn_type": "seedance", "password": SECRET, "extra": {"timeout": "soon"}}, ["timeout", "'soon'"]),
        ({"conn_type": "seedance", "password": SECRET, "host": "ftp://x"}, ["not an http or https URL"]),
        ({"conn_type": "seedance", "password": "a b", "extra": {}}, ["characters that no key has"]),
    ],
)
def test_malformed_connection(
    monkeypatch: pytest.MonkeyPatch, value: dict[str, Any], says: list[str]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", json.dumps(value))
    store = Store()
    with pytest.raises(errors.SeedanceConfigurationError) as caught:
        make().execute(make_context(store))
    for words in says:
        assert words in caught.value.message
    assert "onnection" in caught.value.message
    assert SECRET not in caught.value.message
    assert not caught.value.retry_helps
    assert store.texts == {}


@pytest.mark.skipif(UNREADABLE_EXTRA.there, reason="this Airflow hands such a connection out")
@pytest.mark.parametrize("extra", ["{not json", "[1]"])
def test_unreadable_extra_is_a_missing_connection_on_3_1(
    services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch, extra: str
) -> None:
    value = {"conn_type": "seedance", "password": SECRET, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", json.dumps(value))
    with pytest.raises(AirflowNotFoundException) as caught:
        make().execute(make_context(None))
    assert SECRET not in str(caught.value)
    assert services.ledger.requests == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"on_uncertain_submit": "pray"}, "on_uncertain_submit is 'pray'"),
        ({"poll_interval": 0}, "poll_interval is 0"),
        ({"poll_interval": "fast"}, "poll_interval is 'fast'"),
        ({"timeout": -1}, "timeout is -1"),
        ({"timeout": True}, "timeout is True"),
        ({"timeout": None}, "timeout is None"),
        ({"max_credits": -1}, "max_credits is -1"),
        ({"use_callback": "yes"}, "use_callback is 'yes'"),
        ({"use_callback": True, "deferrable": False}, "use_callback needs deferrable=True"),
    ],
)
def test_arguments_are_validated_when_the_dag_is_parsed(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.SeedanceConfigurationError) as caught:
        make(**arguments)
    assert says in caught.value.message
    assert "Nothing was sent" in caught.value.message


def test_arguments_are_validated_again_at_run_time(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    op = make()
    op.timeout = 0
    with pytest.raises(errors.SeedanceConfigurationError):
        op.execute(make_context(Store()))
    assert services.ledger.requests == []


@pytest.mark.parametrize(
    ("api", "named"),
    [
        ("seedanceapi-v2", ["model='seedance-2.0' (default of seedanceapi-v2)"]),
        ("runbase", ["model='bytedance/seedance-1.5-pro'"]),
        ("seedance2api", ["model='seedance-1.5-pro'", "duration=5"]),
        ("ark", ["model='dreamina-seedance-2-0-260128'"]),
    ],
)
def test_applied_defaults_are_logged(
    services: SeedanceEmulator, connect: Connect, log: Log, api: str, named: list[str]
) -> None:
    connect(api)
    services.hold()
    deferral(lambda: make().execute(make_context(Store())))
    lines = [line for line in log.lines if "Default applied" in line]
    assert len(lines) == len(named)
    for words, line in zip(named, lines, strict=True):
        assert words in line


def test_only_given_arguments_are_sent(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v1")
    services.hold()
    deferral(lambda: make().execute(make_context(Store())))
    assert services.ledger.submissions[0].request == {"prompt": PROMPT}


# ---------------------------------------------------------------------- max_credits


@pytest.mark.parametrize(("most", "sent"), [(14, 1), (14.0, 1), (1000, 1), (13.9, 0), (0, 0)])
def test_max_credits(services: SeedanceEmulator, connect: Connect, most: float, sent: int) -> None:
    connect("seedanceapi-v1")
    services.hold()
    op = make(max_credits=most, duration=4, resolution="720p")
    if sent:
        deferral(lambda: op.execute(make_context(Store())))
    else:
        with pytest.raises(errors.SeedanceRequestError) as caught:
            op.execute(make_context(Store()))
        assert "costs 14 credits" in caught.value.message
        assert f"max_credits={most:g}" in caught.value.message
    assert len(services.ledger.posts()) == sent


@pytest.mark.parametrize("api", ["seedance2api", "seedanceapi-v2", "runbase", "ark"])
def test_max_credits_is_refused_where_no_price_is_published(
    services: SeedanceEmulator, connect: Connect, api: str
) -> None:
    connect(api)
    with pytest.raises(errors.SeedanceConfigurationError) as caught:
        make(max_credits=100).execute(make_context(Store()))
    assert api in caught.value.message
    assert "publishes no price at all" in caught.value.message
    assert services.ledger.requests == []


def test_max_credits_without_a_price_for_the_request(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v1")
    with pytest.raises(errors.SeedanceConfigurationError, match="no price for this request"):
        make(max_credits=100, extra_params={"duration": "99"}).execute(make_context(Store()))
    assert services.ledger.requests == []


# ---------------------------------------------------------------------- end_from_trigger


@needs(ENDING_FROM_TRIGGERS)
def test_end_from_trigger_is_refused_with_incompatible_arguments() -> None:
    for arguments, says in (
        ({"outlets": [Asset("clip")]}, "outlets"),
        ({"on_success_callback": lambda context: None}, "on_success_callback"),
        ({"deferrable": False}, "deferrable=True"),
    ):
        with pytest.raises(errors.SeedanceConfigurationError, match=says):
            make(end_from_trigger=True, **arguments)  # type: ignore[arg-type]
    assert make(end_from_trigger=True).end_from_trigger


def test_end_from_trigger_needs_airflow_3_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "AIRFLOW_V_3_3_PLUS", False)
    monkeypatch.setattr(retry, "AIRFLOW_V_3_3_PLUS", False)
    with pytest.raises(errors.SeedanceConfigurationError, match=r"needs Airflow 3\.3"):
        make(end_from_trigger=True)
    assert getattr(make(), "retry_policy", None) is None


@needs(ENDING_FROM_TRIGGERS)
def test_end_from_trigger_is_refused_with_mapping_over_the_result(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("ark")
    with DAG("dag"):
        op = make(end_from_trigger=True)
        SeedanceGenerateVideoOperator.partial(task_id="next").expand(prompt=op.output)
    with pytest.raises(errors.SeedanceConfigurationError, match="mapped over the result"):
        op.execute(make_context(Store()))
    assert services.ledger.requests == []


@needs(ENDING_FROM_TRIGGERS)
def test_end_from_trigger_with_a_plain_dependant(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    services.hold()
    with DAG("dag"):
        op = make(end_from_trigger=True)
        op >> make(task_id="next", prompt="{{ ti.xcom_pull('task').url }}")
    store = Store()
    deferred = deferral(lambda: op.execute(make_context(store)))
    assert deferred.trigger.end_from_trigger
    assert store.value["end_from_trigger"] is True


# ---------------------------------------------------------------------- arguments that would fail later


@pytest.mark.parametrize(
    "arguments",
    [
        {"timeout": float("inf")},
        {"timeout": 1e15},
        {"timeout": float("nan")},
        {"poll_interval": float("inf")},
        {"cancel_on_kill": object()},
        {"end_from_trigger": "yes"},
        {"deferrable": None},
        {"max_credits": float("nan")},
        {"end_from_trigger": True, "do_xcom_push": False},
        {"end_from_trigger": True, "multiple_outputs": True},
    ],
    ids=lambda arguments: "-".join(arguments),
)
def test_arguments_that_cannot_be_deferred_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(errors.SeedanceConfigurationError, match=next(iter(arguments))):
        make(**arguments)


def test_below_3_3_task_timeout_after_the_submission_is_final(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("runbase")
    services.hold()
    op = make(deferrable=False, poll_interval=0.05)

    def timeout(*_: Any, **__: Any) -> Any:
        raise AirflowTaskTimeout("execution_timeout")

    monkeypatch.setattr("airflow_provider_seedance.hooks.seedance.SeedanceHook.wait_for_end", timeout)
    with pytest.raises(errors.SeedanceUnrecordedError) as caught:
        op.execute(below_3_3(make_context(None)))
    assert caught.value.generation_id == services.ledger.submissions[0].generation_id
    with pytest.raises(AirflowTaskTimeout):
        op.execute(make_context(Store()))


def test_below_3_3_connection_deleted_while_deferred_is_final(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", raising=False)
    with pytest.raises(errors.SeedanceUnrecordedError, match="gen-1"):
        make().execute_complete(below_3_3(make_context(None)), None, "gen-1", {}, time.time())


def test_submission_is_not_deferred_without_end(
    services: SeedanceEmulator, connect: Connect, log: Log
) -> None:
    connect("runbase")
    services.fault("rate_limit", times=None, retry_after=3600)
    first = deferral(lambda: make().execute(make_context(Store())))
    assert first.kwargs is not None
    assert first.kwargs["refusals"] == 1
    second = deferral(lambda: make().resume_submit(make_context(Store()), None, **first.kwargs))
    assert second.kwargs == {"refusals": 2, "since": first.kwargs["since"]}
    long_ago = time.time() - base.MAX_QUOTA_WAIT_SECONDS
    with pytest.raises(errors.SeedanceRateLimitError):
        make().resume_submit(make_context(Store()), None, refusals=9, since=long_ago)
    assert services.ledger.submissions == []
