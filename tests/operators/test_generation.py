"""What the operators share: entering, deferring, resuming, delivering, and what happens below Airflow 3.3."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException, AirflowTaskTimeout, TaskDeferred
from airflow.sdk import DAG, Asset
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
from helpers import ALL_APIS
from support import PROMPT, SECRET, Log, Store, TaskInstance, deferral, make_context, on_loop
from versions import ENDING_FROM_TRIGGERS, UNREADABLE_EXTRA, deserialize, needs, require, serialize

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.operators import base
from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoOperator,
    SeedreamGenerateImageOperator,
)
from airflow_provider_seedance.policies import retry
from airflow_provider_seedance.polling import shared_quota
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.triggers import seedance as triggers
from airflow_provider_seedance.triggers.cancellation import cancel_abandoned
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger, SeedanceQuotaTrigger
from airflow_provider_seedance.version_compat import TaskDeferralError, TaskDeferralTimeout

Connect = Callable[..., None]


@pytest.fixture(autouse=True)
def _no_race_to_mind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "EARLIEST", 0.0)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """What the operator logs."""
    log = Log()
    monkeypatch.setattr(SeedanceGenerateVideoOperator, "log", log, raising=False)
    return log


def make(**arguments: Any) -> SeedanceGenerateVideoOperator:
    return SeedanceGenerateVideoOperator(**{"task_id": "task", "prompt": PROMPT, **arguments})


def below_3_3(context: Any) -> Any:
    context.pop("task_state_store", None)
    return context


def failed_by_airflow(op: Any, context: Any, error: str) -> Any:
    return op.resume_execution(
        TRIGGER_FAIL_REPR, {"error": error, "traceback": ["Traceback", "boom"]}, context
    )


def fire(trigger: SeedanceGenerationTrigger) -> Any:
    """Run a trigger to its event, and the event through Airflow's hands."""

    async def first() -> Any:
        async for event in trigger.run():
            return event
        raise AssertionError("no event")

    return json.loads(json.dumps(on_loop(first()).payload))


def resume(op: Any, deferred: TaskDeferred, event: Any, context: Any) -> Any:
    return op.resume_execution(deferred.method_name, {**(deferred.kwargs or {}), "event": event}, context)


# ---------------------------------------------------------------------- deferring


@pytest.mark.parametrize("api", ALL_APIS)
def test_it_defers_with_the_id_in_hand(services: SeedanceEmulator, connect: Connect, api: str) -> None:
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
    # Airflow's own timeout knows nothing of the render, so ours comes first.
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
def test_an_id_that_only_the_deferral_knew_is_recorded_as_soon_as_the_store_is_back(
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


def test_an_id_that_still_cannot_be_recorded_is_delivered_all_the_same(
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
    # The next try finds an intent, which is uncertain, and no record that nobody can read.
    assert rec.Record.from_value(store.value).state is rec.RecordState.INTENT


@pytest.mark.parametrize("api", ALL_APIS)
def test_nothing_secret_is_deferred_with(services: SeedanceEmulator, connect: Connect, api: str) -> None:
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


def test_a_trigger_that_cannot_be_stored_fails_before_money_is_spent(
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


def test_an_xcom_that_cannot_be_pushed_does_not_stop_the_task(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("ark")
    services.hold()

    def fail(self: Any, key: str, value: Any) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(TaskInstance, "xcom_push", fail)
    deferral(lambda: make().execute(make_context(Store())))
    assert len(services.ledger.submissions) == 1


def test_an_end_that_is_known_at_once_is_not_deferred_for(
    services: SeedanceEmulator, connect: Connect
) -> None:
    """A trigger that fires at once may meet the end of the process that deferred."""
    connect("ark")
    store, ti = Store(), TaskInstance()
    op = SeedreamGenerateImageOperator(task_id="task", prompt=PROMPT)
    result = op.execute(make_context(store, ti))
    assert result["status"] == "succeeded"
    assert result["media"] == "image"
    assert ti.pushed["generation_id"] == result["generation_id"]


# ---------------------------------------------------------------------- bad input: nothing is sent

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
def test_bad_input_is_refused_before_anything_is_sent(
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
def test_services_without_images_refuse_them(services: SeedanceEmulator, connect: Connect, api: str) -> None:
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
            ["not valid JSON"],
            marks=needs(UNREADABLE_EXTRA),
        ),
        pytest.param(
            {"conn_type": "seedance", "password": SECRET, "extra": "[1]"},
            ["must be a JSON object"],
            marks=needs(UNREADABLE_EXTRA),
        ),
        ({"conn_type": "seedance", "password": SECRET, "extra": {"timeout": "soon"}}, ["timeout", "'soon'"]),
        ({"conn_type": "seedance", "password": SECRET, "host": "ftp://x"}, ["not an http or https URL"]),
        ({"conn_type": "seedance", "password": "a b", "extra": {}}, ["characters no key has"]),
    ],
)
def test_a_malformed_connection(
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
def test_an_unreadable_extra_is_a_missing_connection_to_3_1(
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
def test_arguments_are_judged_when_the_dag_is_read(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.SeedanceConfigurationError) as caught:
        make(**arguments)
    assert says in caught.value.message
    assert "Nothing was sent" in caught.value.message


def test_arguments_that_were_changed_since_are_judged_again(
    services: SeedanceEmulator, connect: Connect
) -> None:
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
def test_every_default_is_named_in_the_log(
    services: SeedanceEmulator, connect: Connect, log: Log, api: str, named: list[str]
) -> None:
    connect(api)
    services.hold()
    deferral(lambda: make().execute(make_context(Store())))
    lines = [line for line in log.lines if "Default applied" in line]
    assert len(lines) == len(named)
    for words, line in zip(named, lines, strict=True):
        assert words in line


def test_nothing_else_is_sent_unasked(services: SeedanceEmulator, connect: Connect) -> None:
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


def test_max_credits_where_no_row_fits(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v1")
    with pytest.raises(errors.SeedanceConfigurationError, match="no price for this request"):
        make(max_credits=100, extra_params={"duration": "99"}).execute(make_context(Store()))
    assert services.ledger.requests == []


# ---------------------------------------------------------------------- end_from_trigger


@needs(ENDING_FROM_TRIGGERS)
def test_end_from_trigger_is_refused_with_what_it_would_break() -> None:
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
def test_end_from_trigger_is_refused_where_a_task_is_mapped_over_the_result(
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


# ---------------------------------------------------------------------- the same result from every path


class Path:
    """One way for a generation to come to its end and the result to its task."""

    def __init__(self, emulator: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
        self.emulator = emulator
        self.monkeypatch = monkeypatch
        self.store, self.ti = Store(), TaskInstance()
        self.context = make_context(self.store, self.ti)
        self.operator: Any = None

    def begin(self, **arguments: Any) -> TaskDeferred:
        self.emulator.hold()
        self.operator = make(poll_interval=0.01, **arguments)
        deferred = deferral(lambda: self.operator.execute(self.context))
        self.emulator.finish(self.emulator.ledger.submissions[-1].generation_id)
        return deferred

    def direct(self) -> Any:
        self.emulator.release()
        return make(poll_interval=0.01, deferrable=False).execute(self.context)

    def deferred(self) -> Any:
        deferred = self.begin()
        return resume(self.operator, deferred, fire(deferred.trigger), self.context)

    def asked(self) -> Any:
        deferred = self.begin()
        return resume(self.operator, deferred, None, self.context)

    def reattached(self) -> Any:
        self.begin()
        self.ti.retry()
        return make().execute(self.context)

    def cleared(self) -> Any:
        self.begin()
        self.ti.clear()
        return make().execute(self.context)

    def timed_out_by_airflow(self) -> Any:
        self.begin()
        return failed_by_airflow(self.operator, self.context, TriggerFailureReason.TRIGGER_TIMEOUT)

    def broken_trigger(self) -> Any:
        self.begin()
        return failed_by_airflow(self.operator, self.context, TriggerFailureReason.TRIGGER_FAILURE)

    def below_3_3(self) -> Any:
        below_3_3(self.context)
        return self.deferred()

    def broken_below_3_3(self) -> Any:
        below_3_3(self.context)
        return self.broken_trigger()

    def ended_by_trigger(self) -> Any:
        require(ENDING_FROM_TRIGGERS)
        from airflow.sdk.bases.xcom import BaseXCom

        written: dict[str, Any] = {}

        async def aset(key: str, value: Any, **which: Any) -> None:
            written[key] = json.loads(json.dumps(value))

        self.monkeypatch.setattr(BaseXCom, "aset", aset)
        deferred = self.begin(end_from_trigger=True)
        deferred.trigger.task_instance = self.ti
        fire(deferred.trigger)
        return written["return_value"]


PATHS = [name for name in vars(Path) if not name.startswith("_") and name != "begin"]
PATHS.remove("broken_below_3_3")  # what the request told of the result went with the trigger
ANYTHING = {"generation_id", "created_at", "completed_at", "expires_at", "url", "urls"}


@pytest.fixture
def path(services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    return Path(services, monkeypatch)  # type: ignore[return-value]


@pytest.mark.parametrize("api", ALL_APIS)
@pytest.mark.parametrize("name", PATHS)
def test_the_same_result_from_every_path(path: Path, connect: Connect, api: str, name: str) -> None:
    connect(api)
    expected = Path(path.emulator, path.monkeypatch).direct()
    result = getattr(path, name)()
    assert list(result) == [
        "generation_id",
        "api",
        "media",
        "status",
        "model",
        "url",
        "urls",
        "duration",
        "resolution",
        "credits",
        "cost_usd",
        "created_at",
        "completed_at",
        "expires_at",
    ]
    for key in set(result) - ANYTHING:
        assert result[key] == expected[key], key
    for key in ANYTHING - {"generation_id", "url", "urls"}:
        assert (result[key] is None) == (expected[key] is None), key
    assert result["generation_id"] == path.emulator.ledger.submissions[-1].generation_id
    assert result["urls"]
    assert result["url"] == result["urls"][0]
    assert json.loads(json.dumps(result)) == result
    assert len(path.emulator.ledger.submissions) == 2


def test_a_broken_trigger_below_3_3_costs_nobody_a_finished_render(path: Path, connect: Connect) -> None:
    """The id is in XCom, and nowhere else."""
    connect("seedance2api")
    result = path.broken_below_3_3()
    assert result["status"] == "succeeded"
    assert result["urls"]
    assert len(path.emulator.ledger.submissions) == 1


@pytest.mark.parametrize("name", [name for name in PATHS if "below" not in name and "by_trigger" not in name])
def test_how_it_ended_is_recorded(path: Path, connect: Connect, name: str) -> None:
    connect("seedanceapi-v2")
    getattr(path, name)()
    record = rec.Record.from_value(path.store.value)
    assert (record.state, record.status) == (rec.RecordState.ENDED, "succeeded")


def test_an_event_of_its_own_trigger_costs_no_request(path: Path, connect: Connect) -> None:
    connect("seedanceapi-v2")
    path.deferred()
    assert len(path.emulator.ledger.requests) == 2  # the submission and one status


@pytest.mark.parametrize(
    "event",
    [
        None,
        "done",
        {},
        {"generation_id": "other", "outcome": "ended"},
        {"outcome": "deadline"},
        {"status": "success", "result": {"url": "https://evil.example/x.mp4"}},
    ],
)
def test_any_other_event_is_checked_with_the_service(path: Path, connect: Connect, event: Any) -> None:
    connect("seedanceapi-v2")
    deferred = path.begin()
    result = resume(path.operator, deferred, event, path.context)
    assert result["status"] == "succeeded"
    assert result["url"].startswith(path.emulator.url)
    assert path.emulator.ledger.count("status") == 1


def test_the_end_of_another_generation_is_not_taken(path: Path, connect: Connect) -> None:
    connect("seedanceapi-v2")
    deferred = path.begin()
    event = fire(deferred.trigger)
    other = json.loads(json.dumps(event).replace(event["generation_id"], "task-other"))
    result = resume(path.operator, deferred, other, path.context)
    assert result["generation_id"] == event["generation_id"]


# ---------------------------------------------------------------------- resumed without an end


def test_resumed_early_it_waits_on(services: SeedanceEmulator, connect: Connect) -> None:
    connect("runbase")
    services.hold()
    context = make_context(Store())
    op = make()
    first = deferral(lambda: op.execute(context))
    again = deferral(lambda: resume(op, first, None, context))
    assert again.trigger.generation_id == first.trigger.generation_id
    assert again.trigger.deadline == first.trigger.deadline
    assert again.kwargs == first.kwargs
    assert len(services.ledger.posts()) == 1


def test_resumed_early_while_the_service_is_away_it_waits_on(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("runbase")
    services.hold()
    context = make_context(Store())
    op = make()
    first = deferral(lambda: op.execute(context))
    services.fault("gateway_error", on="status", times=None)
    assert (
        deferral(lambda: resume(op, first, None, context)).trigger.generation_id
        == first.trigger.generation_id
    )


@pytest.mark.parametrize("readable", [True, False])
def test_out_of_patience(services: SeedanceEmulator, connect: Connect, readable: bool) -> None:
    connect("runbase")
    services.hold()
    context = make_context(Store())
    op = make()
    deferred = deferral(lambda: op.execute(context))
    deferred.kwargs["deadline"] = time.time() - 1  # type: ignore[index]
    if not readable:
        services.fault("gateway_error", on="status", times=None)
    with pytest.raises(errors.SeedanceTimeoutError) as caught:
        resume(op, deferred, {"generation_id": "x", "outcome": "deadline"}, context)
    assert deferred.trigger.generation_id in caught.value.message
    assert "goes on and is billed" in caught.value.message
    assert "does not submit again" in caught.value.message
    assert caught.value.retry_helps
    assert services.ledger.count("status") >= 1  # one last look


def test_a_deadline_passes_on_a_finished_render(path: Path, connect: Connect) -> None:
    connect("runbase")
    deferred = path.begin()
    deferred.kwargs["deadline"] = time.time() - 1  # type: ignore[index]
    event = {"generation_id": deferred.trigger.generation_id, "outcome": "deadline"}
    assert resume(path.operator, deferred, event, path.context)["status"] == "succeeded"


def test_a_generation_the_service_no_longer_knows(path: Path, connect: Connect) -> None:
    connect("runbase")
    deferred = path.begin()
    path.emulator.forget(deferred.trigger.generation_id)
    with pytest.raises(errors.SeedanceNotFoundError):
        resume(path.operator, deferred, {"outcome": "unknown"}, path.context)


def test_a_broken_trigger_whose_render_goes_on(services: SeedanceEmulator, connect: Connect) -> None:
    connect("runbase")
    services.hold()
    context = make_context(Store())
    op = make()
    generation_id = deferral(lambda: op.execute(context)).trigger.generation_id
    with pytest.raises(errors.SeedanceServerError) as caught:
        failed_by_airflow(op, context, TriggerFailureReason.TRIGGER_FAILURE)
    assert caught.value.retry_helps
    assert caught.value.generation_id == generation_id
    assert "does not submit" in caught.value.message
    with pytest.raises(errors.SeedanceTimeoutError):
        failed_by_airflow(op, context, TriggerFailureReason.TRIGGER_TIMEOUT)


@pytest.mark.parametrize("reason", list(TriggerFailureReason))
def test_a_broken_quota_wait_has_no_generation(reason: str, connect: Connect) -> None:
    with pytest.raises((TaskDeferralTimeout, TaskDeferralError)):
        failed_by_airflow(make(), make_context(Store()), reason)


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("reason", list(TriggerFailureReason))
def test_broken_quota_wait_before_any_record_submits(
    services: SeedanceEmulator, connect: Connect, reason: str, store: bool
) -> None:
    connect("seedance2api")
    services.hold()
    services.set_rate_limit(1, 3600)
    deferral(lambda: make().execute(make_context(Store())))
    op, context = make(), make_context(Store() if store else None)
    assert isinstance(deferral(lambda: op.execute(context)).trigger, SeedanceQuotaTrigger)
    assert len(services.ledger.posts()) == 1
    services.set_rate_limit(None)
    shutil.rmtree(shared_quota.directory())
    again = deferral(lambda: failed_by_airflow(op, context, reason))
    assert isinstance(again.trigger, SeedanceGenerationTrigger)
    assert len(services.ledger.submissions) == 2


@pytest.mark.parametrize("reason", list(TriggerFailureReason))
@pytest.mark.parametrize("change", [{"prompt": "Something else"}, {"on_clear": "new"}], ids=str)
def test_a_broken_quota_wait_for_another_render_does_not_deliver_the_old_one(
    path: Path, connect: Connect, reason: str, change: dict[str, str]
) -> None:
    connect("seedanceapi-v1")
    old = path.deferred()["generation_id"]
    path.ti.clear()
    op = make(**change)
    path.emulator.fault("rate_limit", on="submit", retry_after=1800)
    deferred = deferral(lambda: op.execute(path.context))
    assert isinstance(deferred.trigger, SeedanceQuotaTrigger)
    assert path.store.value["generation_id"] == old
    again = deferral(lambda: failed_by_airflow(op, path.context, reason))
    new = path.emulator.ledger.submissions[-1].generation_id
    assert again.trigger.generation_id == new != old
    assert len(path.emulator.ledger.submissions) == 2


@pytest.mark.parametrize("reason", list(TriggerFailureReason))
def test_a_quota_wait_that_breaks_is_not_begun_again_without_end(
    services: SeedanceEmulator, connect: Connect, reason: str
) -> None:
    connect("seedanceapi-v1")
    op, context = make(), make_context(Store())
    services.fault("rate_limit", on="submit", times=None, retry_after=1800)
    deferred = deferral(lambda: op.execute(context))
    # Nothing of ours ends later than Airflow's own word.
    assert deferred.timeout is not None
    assert base.MAX_QUOTA_WAIT_SECONDS < deferred.timeout.total_seconds() < base.MAX_QUOTA_WAIT_SECONDS + 3600
    with pytest.raises(errors.SeedanceRateLimitError):
        failed_by_airflow(op, context, reason)
    assert services.ledger.submissions == []


def test_a_trigger_that_always_breaks_does_not_renew_the_patience(path: Path, connect: Connect) -> None:
    connect("runbase")
    path.begin()
    path.emulator.fault("rate_limit", on="status", times=None)
    assert deferral(lambda: broken(path)).timeout is not None
    path.store.change(submitted_at="2026-01-01T00:00:00+00:00")
    with pytest.raises(errors.SeedanceServerError, match="does not submit"):
        broken(path)
    assert len(path.emulator.ledger.submissions) == 1


def broken(path: Path) -> Any:
    return failed_by_airflow(path.operator, path.context, TriggerFailureReason.TRIGGER_FAILURE)


def test_a_resume_with_an_unreadable_store_delivers_all_the_same(path: Path, connect: Connect) -> None:
    connect("runbase")
    deferred = path.begin()
    path.store.break_down("get", "set")
    assert resume(path.operator, deferred, None, path.context)["status"] == "succeeded"


def test_a_resume_with_a_damaged_record_delivers_all_the_same(path: Path, connect: Connect) -> None:
    connect("runbase")
    deferred = path.begin()
    path.store.change(version=99)
    assert resume(path.operator, deferred, None, path.context)["status"] == "succeeded"
    assert path.store.value["version"] == 99


def test_a_record_of_another_generation_is_left_alone(path: Path, connect: Connect) -> None:
    connect("runbase")
    deferred = path.begin()
    path.store.change(generation_id="newer")
    assert resume(path.operator, deferred, None, path.context)["generation_id"] != "newer"
    assert path.store.value["generation_id"] == "newer"
    assert path.store.value["state"] == "submitted"


def test_a_resume_that_knows_of_no_generation(connect: Connect) -> None:
    with pytest.raises(errors.SeedanceRecordError, match="names a generation"):
        make().execute_complete(make_context(Store()))


# ---------------------------------------------------------------------- ends that are failures


@pytest.mark.parametrize("deferred", [True, False])
@pytest.mark.parametrize(
    ("message", "code", "error"),
    [
        ("out of memory", "InternalError", errors.SeedanceGenerationFailedError),
        ("no", "OutputVideoSensitiveContentDetected", errors.SeedanceModerationError),
    ],
)
def test_a_render_that_failed(
    services: SeedanceEmulator,
    connect: Connect,
    deferred: bool,
    message: str,
    code: str,
    error: type[errors.SeedanceError],
) -> None:
    connect("ark")
    services.fault("fail", message=message, code=code)
    store = Store()
    context = make_context(store)
    op = make(poll_interval=0.01, deferrable=deferred)

    def to_the_end() -> None:
        if deferred:
            wait = deferral(lambda: op.execute(context))
            resume(op, wait, fire(wait.trigger), context)
        else:
            op.execute(context)

    with pytest.raises(error) as caught:
        to_the_end()
    generation_id = services.ledger.submissions[0].generation_id
    assert type(caught.value) is error
    assert (caught.value.generation_id, caught.value.vendor_code) == (generation_id, code)
    assert generation_id in caught.value.message
    assert message in caught.value.message
    assert store.value["status"] == "failed"


def test_a_synchronous_wait_runs_out_of_patience(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    services.hold()
    store, ti = Store(), TaskInstance()
    op = make(poll_interval=0.01, deferrable=False, timeout=0.05)
    with pytest.raises(errors.SeedanceTimeoutError):
        op.execute(make_context(store, ti))
    services.release()
    ti.retry()
    assert make(deferrable=False).execute(make_context(store, ti))["status"] == "succeeded"
    assert len(services.ledger.posts()) == 1


# ---------------------------------------------------------------------- quota


def test_a_long_quota_is_deferred_for_and_then_submitted(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedance2api")
    services.hold()
    services.fault("rate_limit", retry_after=1800)
    store = Store()
    context = make_context(store)
    op = make()
    before = time.time()
    deferred = deferral(lambda: op.execute(context))
    assert isinstance(deferred.trigger, SeedanceQuotaTrigger)
    assert before + 1700 < deferred.trigger.moment < time.time() + 1900
    assert deferred.method_name == "resume_submit"
    assert "generation_id" not in context["ti"].pushed
    again = deferral(lambda: resume(op, deferred, {"moment": 1}, context))
    assert isinstance(again.trigger, SeedanceGenerationTrigger)
    assert len(services.ledger.submissions) == 1


def test_a_quota_that_another_task_used_up_costs_no_refused_request(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedance2api")
    services.set_rate_limit(1, 3600)
    services.hold()
    deferral(lambda: make().execute(make_context(Store())))
    op, store = make(), Store()
    context = make_context(store)
    deferred = deferral(lambda: op.execute(context))
    assert isinstance(deferred.trigger, SeedanceQuotaTrigger)
    assert deferred.trigger.seedance_conn_id == "seedance_default"
    assert time.time() + 3500 < deferred.trigger.moment < time.time() + 3700
    assert len(services.ledger.posts()) == 1
    assert store.states == []  # nothing was sent, so there is nothing to remember
    # Let through by the triggerer it submits, whatever was noted before.
    services.set_rate_limit(None)
    again = deferral(lambda: resume(op, deferred, {"moment": 1}, context))
    assert isinstance(again.trigger, SeedanceGenerationTrigger)
    assert len(services.ledger.submissions) == 2


def test_the_trigger_knows_when_the_render_was_submitted(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("ark")
    services.hold()
    store, ti = Store(), TaskInstance()
    before = time.time()
    op = make()
    deferred = deferral(lambda: op.execute(make_context(store, ti)))
    submitted_at = deferred.trigger.submitted_at
    assert before <= submitted_at <= time.time()
    ti.clear()
    again = deferral(lambda: op.execute(make_context(store, ti)))
    assert again.trigger.submitted_at == pytest.approx(submitted_at, abs=0.001)


def test_a_synchronous_task_leaves_a_long_quota_to_its_retry(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedance2api")
    services.fault("rate_limit", retry_after=1800)
    with pytest.raises(errors.SeedanceRateLimitError) as caught:
        make(deferrable=False).execute(make_context(Store()))
    assert caught.value.retry_after == pytest.approx(1800, abs=30)


# ---------------------------------------------------------------------- below Airflow 3.3


@pytest.mark.parametrize(("on_uncertain", "final"), [("fail", True), ("resubmit", False)])
@pytest.mark.parametrize("case", ["failed", "deadline", "broken trigger", "timeout"])
def test_below_3_3_what_fails_after_the_submission_is_final(
    services: SeedanceEmulator, connect: Connect, case: str, on_uncertain: str, final: bool
) -> None:
    connect("ark")
    services.hold()
    context = make_context(None)
    op = make(on_uncertain_submit=on_uncertain)
    deferred = deferral(lambda: op.execute(context))
    generation_id = deferred.trigger.generation_id

    def to_the_end() -> None:
        if case == "failed":
            services.fail(generation_id, "no")
            resume(op, deferred, None, context)
        elif case == "deadline":
            deferred.kwargs["deadline"] = 1.0  # type: ignore[index]
            resume(op, deferred, None, context)
        elif case == "broken trigger":
            failed_by_airflow(op, context, TriggerFailureReason.TRIGGER_FAILURE)
        else:
            failed_by_airflow(op, context, TriggerFailureReason.TRIGGER_TIMEOUT)

    with pytest.raises(errors.SeedanceError) as caught:
        to_the_end()
    assert isinstance(caught.value, errors.SeedanceUnrecordedError) == final
    assert caught.value.retry_helps is not final
    assert caught.value.generation_id == generation_id
    assert generation_id in caught.value.message
    if final:
        assert "not retried" in caught.value.message


def test_below_3_3_a_synchronous_wait_that_fails_is_final(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("ark")
    services.hold()
    with pytest.raises(errors.SeedanceUnrecordedError) as caught:
        make(deferrable=False, poll_interval=0.01, timeout=0.05).execute(make_context(None))
    assert caught.value.generation_id == services.ledger.submissions[0].generation_id
    assert isinstance(caught.value.__cause__, errors.SeedanceTimeoutError)


def test_below_3_3_what_fails_before_the_submission_is_retried(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("ark")
    services.stop()
    with pytest.raises(errors.SeedanceConnectionError) as caught:
        make().execute(make_context(None))
    assert caught.value.retry_helps


def test_below_3_3_every_submission_is_warned_about(
    services: SeedanceEmulator, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    connect("ark")
    services.hold()
    deferral(lambda: make().execute(make_context(None)))
    assert "no task state store" in caplog.text


# ---------------------------------------------------------------------- killed while waiting on a worker


def wait_for(op: Any, context: Any, generation_id: str) -> None:
    hook = SeedanceHook("seedance_default")
    op.cancel_abandoned = partial(cancel_abandoned, hook, context["ti"], [generation_id], "video", op.log)


def wait_in_thread(op: Any, context: Any) -> threading.Thread:
    def run() -> None:
        with pytest.raises(errors.SeedanceGenerationCancelledError):
            op.execute(context)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("state", "cancelled"),
    [("failed", True), ("success", True), ("skipped", True), ("removed", True)]
    + [(state, False) for state in ("running", "restarting", "up_for_retry", "queued", None)],
)
def test_on_kill_cancels_only_what_nobody_goes_on_with(
    services: SeedanceEmulator, connect: Connect, state: str | None, cancelled: bool
) -> None:
    connect("ark")
    services.hold()
    op, context = make(deferrable=False), make_context(Store())
    generation_id = deferral(lambda: make().execute(context)).trigger.generation_id
    context["ti"].state = state
    wait_for(op, context, generation_id)
    op.on_kill()
    assert services.generation(generation_id).status == ("cancelled" if cancelled else "queued")
    assert len(services.ledger.deletions) == int(cancelled)


def test_on_kill_while_it_waits(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    services.hold()
    op, context = make(deferrable=False, poll_interval=0.01), make_context(Store())
    thread = wait_in_thread(op, context)
    while not services.ledger.count("status"):
        thread.join(0.01)
    context["ti"].state = "failed"
    op.on_kill()
    thread.join(10)
    assert [deletion.effect for deletion in services.ledger.deletions] == ["cancelled"]


def test_on_kill_has_nothing_to_do(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    services.hold()
    op, context = make(deferrable=False, cancel_on_kill=False), make_context(Store())
    context["ti"].state = "failed"
    make().on_kill()
    wait_for(op, context, "some-id")
    op.on_kill()
    assert services.ledger.requests == []


def test_on_kill_never_raises(services: SeedanceEmulator, connect: Connect, log: Log) -> None:
    connect("ark")
    op, context = make(deferrable=False), make_context(Store())
    context["ti"] = object()
    wait_for(op, context, "some-id")
    op.on_kill()
    assert services.ledger.requests == []
    assert "was not cancelled, it goes on and is billed" in log.lines[-1]


# ---------------------------------------------------------------------- arguments that would fail after the POST


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
def test_arguments_that_could_not_be_deferred_with_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(errors.SeedanceConfigurationError, match=next(iter(arguments))):
        make(**arguments)


def test_below_3_3_a_failure_of_any_kind_after_the_submission_is_final(
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


def test_below_3_3_a_connection_that_vanished_while_deferred_is_final(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", raising=False)
    with pytest.raises(errors.SeedanceUnrecordedError, match="gen-1"):
        make().execute_complete(below_3_3(make_context(None)), None, "gen-1", {}, time.time())


def test_a_submission_is_not_put_off_for_ever(services: SeedanceEmulator, connect: Connect, log: Log) -> None:
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
