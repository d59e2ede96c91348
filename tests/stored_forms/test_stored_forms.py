"""Tasks that an earlier release deferred continue under this one: no stored name may be dropped or renamed."""

from __future__ import annotations

import inspect
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import payload_of
from versions import deserialize

from airflow_provider_seedance import __version__
from airflow_provider_seedance.batch.manifest import read_result
from airflow_provider_seedance.callbacks import inbox
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.ledger.packing import unpack
from airflow_provider_seedance.storage.jsonl import parse_lines
from airflow_provider_seedance.submission.records import Record
from airflow_provider_seedance.triggers import seedance as triggers
from airflow_provider_seedance.triggers.events import read_batch_event, read_event

from . import samples

RELEASES: dict[str, Any] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(Path(__file__).parent.glob("*.json"))
}
DEFERRALS = [
    pytest.param({**form, "connection": json.dumps(forms["connection"])}, id=f"{name} of {release}")
    for release, forms in RELEASES.items()
    for name, form in forms["deferrals"].items()
]


@pytest.fixture(scope="module")
def present(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Forms that the present code stores."""
    return samples.collect(tmp_path_factory.mktemp("samples"))


def missing_names(stored: Any, now: Any, path: str = "") -> Iterator[str]:
    """Return the paths of the names in a stored value that the present value does not have."""
    if isinstance(stored, dict) and isinstance(now, dict):
        for name, value in stored.items():
            if name in now:
                yield from missing_names(value, now[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}"
    elif isinstance(stored, list) and isinstance(now, list):
        for number, (value, other) in enumerate(zip(stored, now, strict=False)):
            yield from missing_names(value, other, f"{path}[{number}]")


def check_trigger(form: dict[str, Any]) -> None:
    """Make the trigger as a triggerer does, and compare what it serializes."""
    kwargs: Any = deserialize(form["kwargs"])
    classpath, now = pkgutil.resolve_name(form["classpath"])(**kwargs).serialize()
    assert classpath == form["classpath"]
    assert {name: now.get(name) for name in kwargs} == kwargs


@pytest.mark.parametrize("form", DEFERRALS)
def test_the_trigger_still_waits(form: dict[str, Any], services: SeedanceEmulator) -> None:
    """Only the ids, the interval and the moments that have passed differ from what is stored."""
    services.hold()
    with samples.connected(services):
        render = samples.Task("video", prompt="A gull")
        render.defer()
        services.release()
        kwargs: Any = deserialize(form["trigger"]["kwargs"])
        if "poll_interval" in kwargs:
            kwargs["poll_interval"] = 0.01
        _, running = render.deferred.trigger.serialize()
        if "generations" in kwargs:
            columns = {name: values[:1] for name, values in kwargs["generations"].items()}
            columns |= {name: [running[name]] for name in ("generation_id", "deadline")}
            kwargs |= {"generations": columns, "min_ended": 1, "submit_not_before": None}
        elif "generation_id" in kwargs:
            kwargs |= {"generation_id": running["generation_id"], "deadline": running["deadline"]}
        else:
            kwargs |= {name: 0.0 for name in ("not_before", "deadline") if name in kwargs}
        event = payload_of(pkgutil.resolve_name(form["trigger"]["classpath"])(**kwargs))
    assert event.get("outcome", "quota") in ("ended", "many", "no_callback", "quota")


@pytest.mark.parametrize("form", DEFERRALS)
def test_every_name_is_read(form: dict[str, Any]) -> None:
    """The trigger is made again, the resume method takes its kwargs, and event and records are read."""
    check_trigger(form["trigger"])
    method = getattr(samples.OPERATORS[form["operator"]], form["method"])
    event = form["event"]
    inspect.signature(method).bind(object(), context={}, event=event, **form["kwargs"])
    if event.get("outcome") == "ended":
        assert read_event(event, event["generation_id"])
    elif event.get("outcome") == "many":
        assert len(read_batch_event(event).ended) == len(event["ended"])
    for value in stored_records(form):
        check_records(value)


def test_a_dropped_trigger_argument_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dropped(triggers.SeedanceCallbackTrigger):
        def __init__(self, *, deadline: float) -> None:
            super().__init__(deadline=deadline, callback_nonce="n")

    form = {
        "classpath": f"{triggers.__name__}.SeedanceCallbackTrigger",
        "kwargs": {"deadline": 1.0, "callback_nonce": "n"},
    }
    check_trigger(form)
    monkeypatch.setattr(triggers, "SeedanceCallbackTrigger", Dropped)
    with pytest.raises(TypeError, match="callback_nonce"):
        check_trigger(form)


@pytest.mark.parametrize(
    "form", [param for param in DEFERRALS if param.values[0]["method"] == "execute_complete"]
)
def test_the_task_delivers_from_the_stored_event(
    form: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No request is needed, and nothing listens at the stored base URL."""
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", form["connection"])
    arguments = form["arguments"]
    if "manifest_path" in arguments:
        arguments = {**arguments, "manifest_path": str(tmp_path / "manifest.jsonl")}
    task = samples.Task(form["operator"], stored=form["task_state"] is not None, **arguments)
    if task.store:
        task.store.texts = {key: json.dumps(value) for key, value in form["task_state"].items()}
    method, kwargs = form["method"], {**deserialize(form["kwargs"]), "event": form["event"]}
    result = task.operator().resume_execution(method, kwargs, task.context())
    if form["operator"] == "batch":
        ended = len(form["event"]["ended"])
        assert result["counts"]["succeeded"] == ended
        assert result["counts"]["total"] == len(arguments["requests"])
    else:
        delivered = getattr(result, "xcom_value", result)
        assert {name: delivered[name] for name in form["event"]["result"]} == form["event"]["result"]


def stored_records(value: Any) -> Iterator[dict[str, Any]]:
    """Return the values that hold records: in the task state store, and in the kwargs of the deferral."""
    if isinstance(value, dict):
        if isinstance(value.get("records"), dict) or "packed" in value:
            yield value
        elif "fingerprint" in value:
            yield {"records": {"deferred": value}}
        else:
            yield from stored_records(list(value.values()))
    elif isinstance(value, list):
        for inner in value:
            yield from stored_records(inner)


def check_records(value: dict[str, Any]) -> None:
    """Read records, and compare them with what they would be stored as now."""
    records = unpack(value)
    assert records
    for key, stored in value.get("records", {}).items():
        if stored is not None:
            record = records[key]
            assert record
            assert list(missing_names(stored, record.as_dict())) == []


def test_a_dropped_name_of_a_record_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    form = RELEASES["1.0.0"]["deferrals"]["video"]
    as_dict = Record.as_dict

    def without_id(record: Record) -> dict[str, Any]:
        return {name: value for name, value in as_dict(record).items() if name != "generation_id"}

    monkeypatch.setattr(Record, "as_dict", without_id)
    with pytest.raises(AssertionError, match="generation_id"):
        check_records(next(stored_records(form)))


def test_ids_from_callbacks_are_read() -> None:
    for forms in RELEASES.values():
        for key, value in forms["callbacks"].items():
            assert key == inbox.key_for("nonce")
            assert inbox.read_ids(value) == ["gen-1", "gen-2"]


def test_manifest_lines_are_read() -> None:
    for forms in RELEASES.values():
        lines = parse_lines("\n".join(forms["manifest"]).encode(), "manifest.jsonl")
        for line in lines:
            if line["status"] == "succeeded":
                result = read_result(line)
                assert result
                beside = {name: line.get(name) for name in ("key", "request")}
                assert list(missing_names(line, {**result.result(), **beside})) == []
            else:
                assert {"key", "generation_id", "error", "kind"} <= line.keys()


def lost_names(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the names in stored deferrals that others of the same kinds do not have."""
    return [
        f"{part} of {name}: {missing}"
        for name, form in stored.items()
        for part in ("trigger", "kwargs", "event", "xcom")
        for missing in missing_names(form[part], now[name][part])
    ]


def test_this_release_stores_every_frozen_name(present: Any) -> None:
    """Records of a batch are keyed by request and base URL, so their keys differ."""
    for forms in RELEASES.values():
        assert lost_names(forms["deferrals"], present["deferrals"]) == []
        for name, form in forms["deferrals"].items():
            now = present["deferrals"][name]
            assert now["trigger"]["classpath"] == form["trigger"]["classpath"]
            assert now["method"] == form["method"]
            assert (form["task_state"] or {}).keys() <= (now["task_state"] or {}).keys()
        stored, now = ([json.loads(line) for line in values["manifest"]] for values in (forms, present))
        assert list(missing_names(stored, now)) == []


def test_a_new_name_is_frozen_with_its_release(present: Any) -> None:
    """``python tests/stored_forms/freeze.py`` writes the form of the release that is being made."""
    if __version__ not in RELEASES:
        pytest.skip(f"{__version__} is not frozen yet")
    assert lost_names(present["deferrals"], RELEASES[__version__]["deferrals"]) == []


def test_missing_names_are_found() -> None:
    stored = {"a": 1, "b": {"c": 2}, "d": [{"e": 3}]}
    assert list(missing_names(stored, {"a": 1, "b": {}, "d": [{"f": 3}]})) == [".b.c", ".d[0].e"]
    assert list(missing_names(stored, {**stored, "g": 4})) == []
