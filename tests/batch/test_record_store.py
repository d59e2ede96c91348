"""The records of a campaign: what is written is read, short enough, and never taken for none."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from helpers import video
from support import Store

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch.record_codec import Failure
from airflow_provider_seedance.batch.record_store import LEDGER_KEY, BatchRecordStore, record_keys
from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.submission import records as rec

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


def fingerprint(prompt: str) -> rec.Fingerprint:
    return rec.Fingerprint.of(video(prompt), api="ark", base_url="https://ark.example")


def attempt(prompt: str = "a") -> rec.Attempt:
    return rec.Attempt(fingerprint=fingerprint(prompt), max_tries=2, try_number=1)


def generation(number: int, **changes: Any) -> Generation:
    known: dict[str, Any] = {
        "generation_id": f"cgt-20260102030405-{number:05}",
        "api": "ark",
        "media": "video",
        "status": GenerationStatus.SUCCEEDED,
        "model": "seedance-1-5-pro",
        "urls": (f"https://media.example/{number}.mp4?X-Signature={'5' * 60}",),
        "duration": 5,
        "resolution": "720p",
        "credits": 14,
        "cost_usd": 0.07,
        "completed_at": NOW,
        **changes,
    }
    return Generation(**known)


def intent(prompt: str = "a", **result_defaults: Any) -> rec.Record:
    return rec.intent_record(
        attempt(prompt), NOW, correlates=True, result_defaults=result_defaults, end_from_trigger=False
    )


def full(number: int, **changes: Any) -> rec.Record:
    made = generation(number, **changes)
    record = rec.submitted(intent(credits=14), made, NOW, synchronous=False)
    return rec.replace(rec.ended(record, made, NOW), result=made.result())


def loaded(store: Any, carried: Any = None) -> BatchRecordStore:
    ledger = BatchRecordStore(store)
    ledger.load(carried)
    return ledger


def test_names_tell_takes_apart_and_do_not_depend_on_order() -> None:
    first = record_keys(map(fingerprint, ["a", "b", "a"]))
    second = record_keys(map(fingerprint, ["b", "a", "a"]))
    assert len(set(first)) == 3
    assert first == [second[1], second[0], second[2]]


@pytest.mark.parametrize(
    "record",
    [
        intent(),
        rec.replace(intent(model="m"), state=rec.RecordState.UNCERTAIN),
        rec.replace(intent(), state=rec.RecordState.NOT_SUBMITTED),
        rec.submitted(
            intent(credits=14), generation(1, status=GenerationStatus.RUNNING), NOW, synchronous=False
        ),
        full(1),
        full(2, status=GenerationStatus.FAILED, urls=()),
    ],
    ids=lambda record: record.state.value,
)
@pytest.mark.parametrize("failure", [None, Failure(kind="failed", error="GPU on fire", final=True)])
def test_a_record_is_read_as_it_was_written(record: rec.Record, failure: Failure | None) -> None:
    store = Store()
    (name,) = record_keys([fingerprint("a")])
    ledger = loaded(store)
    ledger.register([name])
    ledger.note(name, record, failure)
    ledger.flush()
    again = loaded(store)
    assert again.store(name, fingerprint("a")).read() == record
    assert again.failure(name) == failure


@pytest.mark.parametrize("count", [1, 99, 100, 101, 250])
def test_one_read_per_hundred(count: int) -> None:
    store, names = Store(), [f"{number:020}.0" for number in range(count)]
    loaded(store).register(names)
    store.reads_and_writes.clear()
    ledger = loaded(store)
    assert len(store.reads_and_writes) <= 1 + count / 100
    assert all(ledger.known(name) for name in names)


@pytest.mark.parametrize("url", ["https://m.example/a.mp4", "https://m.example/" + "x" * 5000])
def test_no_value_is_longer_than_the_store_likes(url: str) -> None:
    store, names = Store(), [f"{number:020}.0" for number in range(100)]
    ledger = loaded(store)
    ledger.register(names)
    for number, name in enumerate(names):
        failure = Failure(kind="failed", error="错误" * 500)
        ledger.note(name, full(number, urls=(url,), model=f"model {number}"), failure)
    ledger.flush()
    assert max(map(len, store.texts.values())) <= 64 * 1024
    record = loaded(store).record(names[7])
    assert record is not None
    assert record.generation_id == generation(7).generation_id


def test_what_is_replaced_is_still_counted() -> None:
    ledger, name = loaded(Store()), "x.0"
    ledger.register([name])
    ledger.write(name, full(1))
    assert ledger.spent_before == 0
    ledger.write(name, intent(credits=14))
    assert ledger.spent_before == 14
    ledger.write(name, full(2))
    assert ledger.spent_before == 14


def test_what_is_put_back_is_counted_once() -> None:
    store = Store()
    ledger, name = loaded(store), "x.0"
    ledger.register([name])
    ledger.write(name, full(1))
    for _ in range(3):
        ledger.write(name, intent(credits=14))
        ledger.write(name, full(1))
    assert ledger.spent_before == 0
    assert loaded(store).spent_before == 0


def test_a_submission_that_was_not_taken_has_cost_nothing() -> None:
    ledger, name = loaded(Store()), "x.0"
    ledger.register([name])
    ledger.write(name, rec.replace(intent(credits=14), state=rec.RecordState.NOT_SUBMITTED))
    ledger.write(name, intent(credits=14))
    assert ledger.spent_before == 0


def test_what_could_not_be_written_is_carried_and_taken_over() -> None:
    store = Store()
    ledger, names = loaded(store), [f"{number}.0" for number in range(150)]
    ledger.register(names)
    ledger.write(names[120], intent(credits=14))
    store.break_down("set")
    with pytest.raises(errors.SeedanceStateError):
        ledger.write(names[120], full(120))
    carried = json.loads(json.dumps(ledger.carried()))
    assert len(carried) == 1
    store.before = lambda what: None
    again = loaded(store, carried)
    record = again.record(names[120])
    assert record is not None
    assert record.generation_id == generation(120).generation_id
    assert again.carried() is None
    again.flush()
    assert loaded(store).record(names[120]) == record


def test_an_intent_that_could_not_be_written_is_written_by_nobody_else() -> None:
    store = Store()
    ledger = loaded(store)
    ledger.register(["a.0", "b.0"])
    store.break_down("set", times=1)
    with pytest.raises(errors.SeedanceStateError):
        ledger.write("a.0", intent())
    ledger.write("b.0", intent("b"))
    assert loaded(store).record("a.0") is None


def test_a_carried_record_does_not_replace_one_that_knows_more() -> None:
    store = Store()
    ledger = loaded(store)
    ledger.register(["a.0"])
    ledger.write("a.0", intent())
    carried = [ledger._value(ledger._groups[0], longest=None)]
    ledger.write("a.0", full(1))
    assert loaded(store, carried).record("a.0") == loaded(store).record("a.0")


def test_others_are_submissions_that_are_in_no_list() -> None:
    ledger = loaded(Store())
    ledger.register(["a.0", "b.0", "c.0"])
    ledger.write("b.0", full(1))
    ledger.write("c.0", rec.replace(intent(), state=rec.RecordState.NOT_SUBMITTED))
    assert set(ledger.others(["a.0"])) == {"b.0"}
    assert ledger.others(["a.0", "b.0"]) == {}


def test_below_airflow_3_3_the_deferral_carries_all() -> None:
    ledger = loaded(None)
    assert not ledger.durable
    ledger.register(["a.0"])
    ledger.write("a.0", full(1, urls=("https://m.example/" + "x" * 5000,)))
    carried = json.loads(json.dumps(ledger.carried()))
    record = loaded(None, carried).record("a.0")
    assert record is not None
    assert record.result
    assert loaded(Store()).carried() is None


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        "text",
        7,
        {"version": 2, "groups": 1, "result_defaults": [], "items": {}},
        {"version": 1, "groups": 0, "result_defaults": [], "items": {}},
        {"version": 1, "groups": "1", "result_defaults": [], "items": {}},
        {"version": 1, "groups": 1, "result_defaults": [], "items": {"a.0": []}},
        {
            "version": 1,
            "groups": 1,
            "result_defaults": [],
            "items": {"a.0": ["s", 1, 1, None, None, 0, 0, 0, 0, None, None]},
        },
        {
            "version": 1,
            "groups": 1,
            "result_defaults": [{}],
            "items": {"a.0": ["s", 1, 1, None, None, 0, 0, 0, 0, None, None]},
        },
        {
            "version": 1,
            "groups": 1,
            "result_defaults": [{}],
            "items": {"a.0": ["x", 1, 1, "g", None, 0, 0, 0, 0, None, None]},
        },
        {"version": 1, "groups": 2, "result_defaults": [], "items": {}},
    ],
)
def test_what_cannot_be_understood_is_not_none(value: Any) -> None:
    store = Store()
    store.texts[LEDGER_KEY] = json.dumps(value)
    with pytest.raises(errors.SeedanceRecordError):
        loaded(store)


def test_a_store_that_cannot_be_read_is_not_empty() -> None:
    store = Store()
    store.break_down("get")
    with pytest.raises(
        errors.SeedanceStateError, match="unknown what earlier tries have submitted"
    ) as caught:
        loaded(store)
    assert caught.value.retry_helps
