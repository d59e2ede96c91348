"""The record store on Airflow's task state store: one record, many, and everything that fails."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from unittest.mock import Mock

import pytest
from support import Store

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.callbacks.inbox import key_for, with_id
from airflow_provider_seedance.ledger import task_state
from airflow_provider_seedance.ledger.task_state import STATE_KEY, TaskStateStore
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import GENERATION_KEY
from airflow_provider_seedance.submission.timing import TIMING
from airflow_provider_seedance.version_compat import never_expire
from ledger.record_samples import RECORDS, ended, fingerprint, generation, intent

ENDED = ended(1)


def loaded(accessor: Any, deferred: Any = None) -> TaskStateStore:
    store = TaskStateStore(accessor)
    store.load(deferred)
    return store


# ---------------------------------------------------------------------- one record


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.state.value)
@pytest.mark.parametrize("count", [1, 60])
def test_a_record_is_read_as_it_was_written(record: rec.Record, count: int) -> None:
    accessor = Store()
    store = TaskStateStore(accessor)
    for number in range(count):
        store.update(f"a.{number}", record)
    store.flush()
    assert loaded(accessor).records() == {f"a.{number}": record for number in range(count)}
    assert store.durable


def test_records_never_expire() -> None:
    accessor = Store()
    TaskStateStore(accessor).write(GENERATION_KEY, intent())
    (retention,) = accessor.retentions
    assert retention is never_expire()  # Airflow compares by identity


@pytest.mark.parametrize("error", [ConnectionError("away"), RuntimeError("404"), ValueError("odd")])
def test_a_store_that_cannot_be_read_is_not_empty(error: Exception) -> None:
    accessor = Store(ENDED.as_dict())
    accessor.before = Mock(side_effect=error)
    with pytest.raises(errors.SeedanceStateError) as caught:
        TaskStateStore(accessor).read(GENERATION_KEY)
    assert type(caught.value) is errors.SeedanceStateError
    assert caught.value.retry_helps
    assert f"{type(error).__name__}: {error}" in caught.value.message
    assert caught.value.message.endswith(
        "), so it is unknown what earlier tries have submitted. Nothing was submitted; retry later."
    )


def test_a_store_that_cannot_be_written_raises() -> None:
    accessor = Store()
    accessor.break_down("set")
    with pytest.raises(errors.SeedanceStateError):
        TaskStateStore(accessor).register(["a.0"])
    with pytest.raises(errors.SeedanceStateError) as caught:
        TaskStateStore(accessor).write(GENERATION_KEY, ENDED)
    assert caught.value.generation_id == ENDED.generation_id
    assert "ConnectionError: the API server is away" in caught.value.message
    assert caught.value.retry_helps


@pytest.mark.parametrize(("failures", "written"), [(3, True), (1000, False)])
def test_the_id_of_a_billed_generation_is_written_with_retries(failures: int, written: bool) -> None:
    accessor = Store()
    accessor.break_down("set", times=failures)
    slept: list[float] = []
    store = TaskStateStore(accessor, sleep=slept.append)
    assert store.write_with_retries(GENERATION_KEY, ENDED) is written
    assert accessor.value == (ENDED.as_dict() if written else None)
    assert slept == list(TIMING.write_backoff[:failures])


def test_callback_ids_are_read_under_the_nonce_of_the_submission(caplog: pytest.LogCaptureFixture) -> None:
    accessor = Store()
    accessor.texts[key_for("n-1")] = json.dumps(with_id(with_id(None, "g-1"), "g-2"))
    store = TaskStateStore(accessor)
    assert store.callback_ids("n-1") == ["g-1", "g-2"]
    assert store.callback_ids("n-2") == []
    assert TaskStateStore(None).callback_ids("n-1") == []
    assert caplog.messages == []
    # Not knowing proves nothing, and does not fail the task.
    accessor.break_down("get")
    assert store.callback_ids("n-1") == []
    (line,) = caplog.messages
    assert "Callbacks of the service could not be read: the API server is away" in line


# ---------------------------------------------------------------------- the records of a batch


def test_keys_differ_for_identical_requests_and_do_not_depend_on_order() -> None:
    first = rec.record_keys(map(fingerprint, ["a", "b", "a"]))
    second = rec.record_keys(map(fingerprint, ["b", "a", "a"]))
    assert len(set(first)) == 3
    assert first == [second[1], second[0], second[2]]


def test_a_take_is_the_number_of_an_identical_request() -> None:
    first = rec.record_keys(map(fingerprint, ["a", "a"]))
    prints = [fingerprint(prompt) for prompt in ["a", "b", "a", "a"]]
    assert rec.record_keys(prints, [2, None, None, 1])[::3] == first[::-1]
    assert rec.record_keys(prints, [2, None, None, None])[2:] == [first[0], first[0].replace(".0", ".2")]
    assert rec.record_keys(prints[:1], [7]) == [first[0].replace(".0", ".6")]


@pytest.mark.parametrize("count", [1, 99, 100, 101, 250])
def test_one_read_per_hundred(count: int) -> None:
    accessor, keys = Store(), [f"{number:020}.0" for number in range(count)]
    loaded(accessor).register(keys)
    accessor.reads_and_writes.clear()
    store = loaded(accessor)
    assert len(accessor.reads_and_writes) <= 1 + count / 100
    assert set(store.records()) == set(keys)


@pytest.mark.parametrize("url", ["https://m.example/a.mp4", "https://m.example/" + "x" * 5000])
def test_no_value_exceeds_the_limit_of_the_store(url: str) -> None:
    accessor, keys = Store(), [f"{number:020}.0" for number in range(100)]
    store = loaded(accessor)
    store.register(keys)
    failure = rec.Failure(kind="failed", error="错误" * 500)
    for number, key in enumerate(keys):
        store.update(key, ended(number, failure, urls=(url,), model=f"model {number}"))
    store.flush()
    assert max(map(len, accessor.texts.values())) <= 64 * 1024
    record = loaded(accessor).read(keys[7])
    assert record.generation_id == generation(7).generation_id


def test_committed_credits_follow_every_change() -> None:
    accessor = Store()
    store, keys = loaded(accessor), [f"x.{number}" for number in range(150)]
    store.register(keys)
    assert store.committed("credits") == 0
    for key in keys:
        store.write(key, intent(credits=14))
    assert store.committed("credits") == 150 * 14
    store.write(keys[3], rec.replace(intent(credits=14), state=rec.RecordState.NOT_SUBMITTED))
    store.update(keys[4], rec.replace(intent(credits=14), earlier_credits=1.5))
    assert store.committed("credits") == 149 * 14 + 1.5
    assert loaded(accessor).committed("credits") == 149 * 14
    accessor.break_down("set")
    with pytest.raises(errors.SeedanceStateError):
        store.write(keys[3], intent(credits=14))
    assert store.committed("credits") == 149 * 14 + 1.5


def test_committed_credits_include_an_id_that_only_the_deferral_carried() -> None:
    accessor = Store()
    store, record = loaded(accessor), intent(credits=14)
    store.write("a.0", record)
    accessor.break_down("set")
    store.update("a.0", rec.replace(rec.with_id(record, "g"), reported_credits=9))
    accessor.break_down(times=0)
    again = TaskStateStore(accessor)
    again.load(store.for_deferral())
    assert again.committed("credits") == 9


def test_a_change_in_memory_is_written_before_the_deferral() -> None:
    accessor, key = Store(), "x.0"
    store = loaded(accessor)
    store.register([key])
    record = ended(7)
    store.update(key, record)
    assert store.for_deferral() is None
    assert loaded(accessor).read(key) == record


def test_the_deferral_carries_unwritten_records(caplog: pytest.LogCaptureFixture) -> None:
    accessor = Store()
    store, keys = loaded(accessor), [f"{number}.0" for number in range(150)]
    store.register(keys)
    store.write(keys[120], intent(credits=14))
    accessor.break_down("set")
    with pytest.raises(errors.SeedanceStateError):
        store.write(keys[120], ended(120))
    deferred = json.loads(json.dumps(store.for_deferral()))
    assert len(deferred) == 1
    away = "Airflow's task state store could not be written (ConnectionError: the API server is away (set))."
    loaded(accessor, deferred)
    assert caplog.messages == [
        f"{away} The deferral carries these records.",
        f"{away} A retry would not know what only the deferral has.",
    ]
    accessor.before = lambda what: None
    again = loaded(accessor, deferred)
    record = again.read(keys[120])
    assert record.generation_id == generation(120).generation_id
    assert again.for_deferral() is None
    again.flush()
    assert loaded(accessor).read(keys[120]) == record


def test_an_intent_that_could_not_be_written_is_in_no_later_write() -> None:
    accessor = Store()
    store = loaded(accessor)
    keys = [f"{number}.0" for number in range(101)]
    store.register(keys)
    store.update(keys[0], ENDED)
    # Of two values the first one is written.
    accessor.before = lambda what: accessor.break_down("set") if what == "set" else None
    with pytest.raises(errors.SeedanceStateError):
        store.write(keys[100], intent())
    assert loaded(accessor).read(keys[100]) is not None
    accessor.before = lambda what: None
    store.write(keys[1], intent("b"))
    assert loaded(accessor).read(keys[100]) is None


def test_a_record_that_cannot_be_serialized_never_raises_after_the_submission() -> None:
    store = TaskStateStore(Store(), sleep=lambda _: None)
    store.write(GENERATION_KEY, intent())
    assert not store.write_with_retries(GENERATION_KEY, rec.replace(ENDED, result={"usage": object()}))


LATER = replace(intent(), intended_at=datetime(2030, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(("deferred", "known"), [(rec.with_id(intent(), "gen-1"), LATER), (intent(), ENDED)])
def test_a_deferred_record_does_not_replace_one_that_is_later_or_knows_more(
    deferred: rec.Record, known: rec.Record
) -> None:
    accessor = Store()
    store = loaded(accessor)
    store.write("a.0", deferred)
    carried = [json.loads(accessor.texts[STATE_KEY])]
    store.write("a.0", known)
    assert loaded(accessor, carried).read("a.0") == known


def test_orphans_are_submissions_of_requests_that_are_not_in_the_list() -> None:
    store = loaded(Store())
    store.register(["a.0", "b.0", "c.0"])
    store.write("b.0", ended(1))
    store.write("c.0", rec.replace(intent(), state=rec.RecordState.NOT_SUBMITTED))
    assert set(store.orphans(["a.0"])) == {"b.0"}
    assert store.orphans(["a.0", "b.0"]) == {}


def test_below_airflow_3_3_the_deferral_carries_all_records() -> None:
    store = loaded(None)
    assert not store.durable
    store.register(["a.0"])
    long, begun = ended(1, urls=("https://m.example/" + "x" * 5000,)), intent()
    store.write("a.0", long)
    assert store.write_with_retries("b.0", begun)
    deferred = json.loads(json.dumps(store.for_deferral()))
    assert loaded(None, deferred).records() == {"a.0": long, "b.0": begun}
    assert loaded(Store()).for_deferral() is None
    assert loaded(None).read("a.0") is None


# ---------------------------------------------------------------------- damage


DAMAGED = "they were damaged, or written by something else"


def readable(record: Any) -> dict[str, Any]:
    return {"groups": 1, "records": {"a.0": record}}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        *(
            (value, DAMAGED)
            for value in ({}, [], "", "text", 0, 7, False, {"groups": 1}, {"groups": 0, "records": {}})
        ),
        *(({"groups": 1, "packed": packed}, DAMAGED) for packed in (7, "not base64", "AAAA")),
        *((readable(record), "") for record in ([], {}, {**ENDED.as_dict(), "generation_id": None})),
        ({"groups": "1", "records": {}}, DAMAGED),
        ({"groups": 1, "records": []}, DAMAGED),
        (readable({**ENDED.as_dict(), "version": 2}), ""),
        ({"groups": 2, "records": {}}, "a part of them is missing"),
    ],
)
def test_records_that_cannot_be_understood_are_not_none(value: Any, why: str) -> None:
    accessor = Store()
    accessor.texts[STATE_KEY] = json.dumps(value)
    before = dict(accessor.texts)
    with pytest.raises(errors.SeedanceRecordError) as caught:
        TaskStateStore(accessor).write(GENERATION_KEY, intent())
    assert accessor.texts == before
    assert not caught.value.retry_helps
    assert caught.value.message.startswith(
        f"The records of this task's earlier submissions cannot be understood ({why}"
    )
    assert caught.value.message.endswith(
        "); unreadable records are not the same as none, so nothing was submitted. Look for the generations in the "
        f"console of the service, then delete the states {STATE_KEY!r} … of this task instance."
    )


def test_the_results_that_have_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    store = loaded(Store())
    for number in range(101):
        store.update(f"{number}.0", ended(number, urls=(f"https://m.example/{number}",)))
    assert store.results_not_persisted() == set()
    monkeypatch.setattr(task_state, "MAX_VALUE_BYTES", 1)
    assert store.results_not_persisted() == {f"{number}.0" for number in range(101)}
    assert loaded(None).results_not_persisted() == set()
