"""The record store on the ledger: records, rejections, outages, and what is in the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import Store, TaskInstance

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.ledger.tables import REVISION
from airflow_provider_seedance.ledger.task_state import TaskStateStore
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import GENERATION_KEY
from airflow_provider_seedance.version_compat import COMMAND_WORDS

from .conftest import Open
from .record_samples import DETAILS, RECORDS, generation, later, submitted
from .record_samples import same_ended as ended
from .record_samples import same_intent as intent
from .sent_statements import statements

pytestmark = pytest.mark.usefixtures("ledger")


# ---------------------------------------------------------------------- records


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.state.value)
def test_a_record_is_read_as_it_was_written(open_ledger: Open, record: rec.Record) -> None:
    store = open_ledger()
    store.register(["a.0", "b.0"])
    store.update("a.0", record)
    store.write("c.0", record)
    assert open_ledger().records() == {"a.0": record, "b.0": None, "c.0": record}
    assert store.durable


def test_a_submission_is_a_row_of_its_own(open_ledger: Open) -> None:
    first, second = ended(1), later(30, earlier_credits=14.0)
    store = open_ledger()
    store.write(GENERATION_KEY, first)
    store.write_intent(GENERATION_KEY, second, DETAILS)
    assert open_ledger().read(GENERATION_KEY) == second
    assert open_ledger().committed("credits") == 14
    store.write(GENERATION_KEY, submitted(second))
    store.write_intent(GENERATION_KEY, later(31), DETAILS)
    assert [entry.number for entry in store._entries[GENERATION_KEY]] == [1, 2, 3]


@pytest.mark.parametrize(
    "previous", [submitted(intent()), rec.replace(intent(), state=rec.RecordState.UNCERTAIN)]
)
def test_a_rejected_submission_restores_the_record_before(open_ledger: Open, previous: rec.Record) -> None:
    store = open_ledger()
    store.write(GENERATION_KEY, previous)
    store.write_intent(GENERATION_KEY, later(30), DETAILS)
    store.write(GENERATION_KEY, previous)
    store = open_ledger()
    assert store.read(GENERATION_KEY) == previous
    assert store.committed("credits") == 0
    store.write_intent(GENERATION_KEY, later(31), DETAILS)  # in the row of the rejected one
    assert len(store._entries[GENERATION_KEY]) == 2


def test_two_processes_cannot_submit_at_once(open_ledger: Open) -> None:
    for before in (None, rec.replace(later(1), state=rec.RecordState.NOT_SUBMITTED)):
        if before:
            open_ledger().write("b.0", before)
        one, two = open_ledger(), open_ledger()
        one.load()
        two.load()
        key = "b.0" if before else "a.0"
        one.write_intent(key, later(20), DETAILS)
        with pytest.raises(errors.SeedanceLedgerError) as caught:
            two.write_intent(key, later(21), DETAILS)
        assert caught.value.message == (
            "Another process has recorded a submission for the same task at this moment. Nothing was sent; the next try "
            "decides on its record."
        )
        assert two.read(key) == before
        assert open_ledger().read(key) == later(20)


def test_tasks_maps_and_passes_share_no_records(open_ledger: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    open_ledger().write(GENERATION_KEY, ended(1))
    assert open_ledger(TaskInstance(map_index=0)).records() == {}
    loop = SimpleNamespace(index=0)
    assert open_ledger(loop=loop).records() == {}
    open_ledger(loop=loop).write(GENERATION_KEY, ended(2))
    assert open_ledger().read(GENERATION_KEY) == ended(1)
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER_NAMESPACE", "another")
    assert open_ledger().records() == {}


def test_earlier_records_are_taken_over(open_ledger: Open, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    state = Store()
    TaskStateStore(state).register(["a.0", "b.0"])
    TaskStateStore(state).write("a.0", ended(1))
    assert open_ledger(state=state).records() == {"a.0": ended(1), "b.0": None}
    assert open_ledger().records() == {"a.0": ended(1), "b.0": None}
    assert caplog.messages == ["Taking over 2 records of this task from Airflow's task state store."]


# ---------------------------------------------------------------------- outages


def test_what_could_not_be_written_travels_with_the_deferral(
    ledger: Path, open_ledger: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_ledger()
    store.write_intent("a.0", intent(), DETAILS)
    with monkeypatch.context() as away:
        away.setattr(store._database, "_open", lambda: 1 / 0)
        store._sleep = lambda seconds: None
        assert not store.write_with_retries("a.0", submitted(intent()))
        caplog.clear()
        carried = store.for_deferral()
        open_away = open_ledger()
        away.setattr(open_away._database, "_open", lambda: 1 / 0)
        open_away.try_write_end("a.0", intent(), generation(1))
        failed = (
            f"The ledger ([seedance] ledger) cannot be used: the database sqlite:///{ledger} failed: division by zero. It "
            "is not taken for an empty one."
        )
        assert caplog.messages == [
            f"{failed} The deferral carries these records.",
            f"{failed} The end of generation {generation(1).generation_id} is not recorded.",
        ]
        with pytest.raises(errors.SeedanceLedgerError, match="cannot be used"):
            store.write_intent("b.0", later(20), DETAILS)
    resumed = open_ledger()
    resumed.load(carried)
    assert resumed.records() == {"a.0": submitted(intent())}
    assert resumed.for_deferral() is None
    assert open_ledger().read("a.0") == submitted(intent())


@pytest.mark.parametrize("known", [None, ended(1)])
def test_what_a_deferral_carried_does_not_replace_what_the_ledger_knows_since(
    open_ledger: Open, known: rec.Record | None
) -> None:
    carried = rec.replace(submitted(intent()), intended_at=ended(1).intended_at)
    if known:
        open_ledger().write("a.0", known)
    below_3_3 = TaskStateStore(None)
    below_3_3.update("a.0", carried)
    store = open_ledger()
    store.load(below_3_3.for_deferral())
    assert store.records() == {"a.0": known or carried}


def test_a_ledger_of_a_newer_release_is_refused(open_ledger: Open, reopen: Callable[[], None]) -> None:
    store = open_ledger()
    store.load()
    with store._database.transaction() as connection:
        connection.exec_driver_sql("UPDATE seedance_ledger_version SET version_num = '9999'")
    reopen()
    with pytest.raises(errors.SeedanceLedgerError) as caught:
        open_ledger().load()
    assert caught.value.message == (
        f"The tables of the ledger ([seedance] ledger) have version 9999, and this release knows {REVISION} as the newest. "
        "Nothing was sent. Upgrade airflow-provider-seedance here, too."
    )


def test_a_damaged_row_is_not_an_empty_one(open_ledger: Open) -> None:
    store = open_ledger()
    store.write(GENERATION_KEY, ended(1))
    with store._database.transaction() as connection:
        connection.exec_driver_sql("UPDATE seedance_submissions SET record = '[1]'")
    with pytest.raises(errors.SeedanceRecordError) as caught:
        open_ledger().load()
    message = (
        "The records of this task's earlier submissions in the ledger cannot be understood ({}); unreadable records are "
        "not the same as none, so nothing was submitted."
    )
    assert caught.value.message == message.format("a row was damaged, or written by something else")
    with pytest.raises(errors.SeedanceRecordError) as caught:
        open_ledger(TaskInstance(map_index=1)).load([{"packed": 7}])
    assert caught.value.message == message.format("what the deferral carries was damaged")


@pytest.mark.parametrize(
    ("map_index", "loop", "key", "words"),
    [
        (-1, None, GENERATION_KEY, ""),
        (0, None, GENERATION_KEY, " --map-index 0"),
        (3, 0, "-b.0", " --map-index 3 --loop-index 0 --key=-b.0"),
    ],
)
def test_the_command_that_settles_a_submission(
    open_ledger: Open, map_index: int, loop: int | None, key: str, words: str
) -> None:
    context = {} if loop is None else {"loop": SimpleNamespace(index=loop)}
    command = open_ledger(TaskInstance(map_index=map_index), **context).resolve_command(key)
    assert command == f"{' '.join(COMMAND_WORDS)} ledger resolve dag run task{words}"


# ---------------------------------------------------------------------- what is in the file


def test_the_file_contains_no_signature_and_prompts_only_if_wanted(
    ledger: Path, open_ledger: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, prompts in (("a.0", "True"), ("b.0", "False")):
        monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER_PROMPTS", prompts)
        store = open_ledger()
        details = rec.replace(DETAILS, prompt=f"A heron of {key}\0")
        store.write_intent(key, intent(), details)
        signed = {"last_frame_url": "https://media.example/1.png?X-Signature=5"}
        store.write(key, rec.replace(ended(1, **signed), intended_at=intent().intended_at))
        store.try_write_end(key, ended(1, **signed), generation(1, **signed))
    raw = b"".join(path.read_bytes() for path in ledger.parent.glob("ledger.db*"))
    assert b"A heron of a.0" in raw
    assert b"A heron of b.0" not in raw
    assert b"https://media.example/1.mp4" in raw
    assert b"Signature" not in raw
    assert open_ledger().read("a.0").result == ended(1, **signed).result


def test_without_a_key_signed_links_are_left_out(open_ledger: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "")
    store = open_ledger()
    store.write("a.0", ended(1))
    store.write("b.0", ended(2, urls=("https://media.example/2.mp4",)))
    assert store.results_not_persisted() == {"a.0"}
    assert open_ledger().records() == {
        "a.0": ended(1).without_result,
        "b.0": ended(2, urls=("https://media.example/2.mp4",)),
    }


# ---------------------------------------------------------------------- statements


def test_a_batch_is_loaded_with_one_query(open_ledger: Open) -> None:
    keys = [f"{number:05}.0" for number in range(500)]
    open_ledger().register(keys)
    store = open_ledger()
    with statements() as sent:
        assert list(store.records()) == keys
        store.write_intent(keys[7], intent(), DETAILS)
        store.write_with_retries(keys[7], submitted(intent()))
        store.flush()  # nothing has changed
    assert sent == ["SELECT", "UPDATE", "UPDATE"]
