"""Queries of the ledger: what is listed and exported, corrections by a person, and what is deleted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text, update

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import iso, utc_now
from airflow_provider_seedance.ledger import account
from airflow_provider_seedance.ledger.account import Filter
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import TaskIdentity
from airflow_provider_seedance.ledger.tables import submissions
from airflow_provider_seedance.submission.records import RecordState
from airflow_provider_seedance.submission.store import GENERATION_KEY

from .record_samples import DETAILS, same_intent, submitted
from .rows import NOON, add, configured, content, row, uncertain

SECOND = timedelta(seconds=1)

TASK = TaskIdentity(namespace="default", dag_id="ads", run_id="run", task_id="video", map_index=0)


# ---------------------------------------------------------------------- lists


@pytest.mark.parametrize(
    ("chosen", "numbers"),
    [
        (Filter(), [4, 3, 2, 1, 0]),
        (Filter(namespace="default"), [3, 2, 1, 0]),
        (Filter(dag_ids={"films"}), [2]),
        (Filter(dag_ids=()), []),
        (Filter(state="uncertain"), [3]),
        (Filter(dag_id="films"), [2]),
        (Filter(run_id="another"), [1]),
        (Filter(conn_id="other"), [0]),
        (Filter(accepted=True), [4, 2, 1, 0]),
        (Filter(since=NOON + SECOND, until=NOON + 3 * SECOND), [2, 1]),
        (Filter(text="A HERON, 1"), [1]),
        (Filter(text="G-2"), [2]),
        (Filter(text="%"), []),
        (Filter(text="_"), []),
        (Filter(text="a/b"), [4]),
    ],
    ids=str,
)
def test_filters(database: Database, chosen: Filter, numbers: list[int]) -> None:
    rows = [
        row(0, conn_id="other"),
        row(1, run_id="another"),
        row(2, dag_id="films"),
        uncertain(3),
        row(4, namespace="another", prompt="a/b"),
    ]
    add(database, [{**each, "created_at": NOON + number * SECOND} for number, each in enumerate(rows)])
    assert [found["map_index"] for found in account.list_submissions(database, chosen)] == numbers


def test_a_listed_submission(database: Database) -> None:
    add(database, [row(0, number=number, item_key="heron") for number in (1, 2, 3)])
    latest, second = account.list_submissions(database, Filter(), 2)
    assert (latest["number"], second["number"]) == (3, 2)
    assert (latest["key"], latest["created_at"]) == ("heron", "2026-03-10T12:00:00+00:00")
    internal = "instance namespace record result item_key ti_id reuse_key fingerprint kind"
    hidden = {*internal.split(), "search_model", "search_text"}
    assert latest.keys() == {column.name for column in submissions.c} - hidden | {"key"}


def test_an_export_has_whole_rows_without_encrypted_links(database: Database) -> None:
    sealed = {"sealed_result": "…", "correlation": "c"}
    add(database, [row(0, created_at=NOON + SECOND, record=None), row(1, record=sealed)])
    first, second = account.export(database, Filter(namespace="default"))
    assert (first["map_index"], first["record"]) == (1, {"correlation": "c"})
    assert (second["map_index"], second["record"]) == (0, None)
    compared = {"search_model", "search_text"}
    assert first.keys() == {column.name for column in submissions.c} - compared
    assert list(account.export(database, Filter(namespace="other"))) == []


def test_connections_and_kinds_of_a_namespace(database: Database) -> None:
    rows = [row(0), row(1), row(2, conn_id=None), row(3, namespace="other", conn_id="b")]
    add(database, [{**each, "kind": kind} for each, kind in zip(rows, ("k", None, "l", "m"), strict=True)])
    assert account.connection_ids(database, "default") == ["seedance_default"]
    assert account.connection_ids(database, "other") == ["b"]
    kinds = [account.kind_of_generation(database, "default", f"g-{number}") for number in (0, 1, 3)]
    assert kinds == ["k", None, None]


# ---------------------------------------------------------------------- corrections


@pytest.mark.parametrize(
    ("key", "generation_id", "state"),
    [("heron", "g-9", "submitted"), ("b.0", None, "not_submitted")],
)
def test_the_latest_uncertain_submission_of_a_key_is_settled(
    database: Database, key: str, generation_id: str | None, state: str
) -> None:
    failed = {"failure": {"kind": "uncertain", "error": "…"}, "correlation": "c"}
    items = {"heron": {"record_key": "a.0", "item_key": "heron"}, "b.0": {"record_key": "b.0"}}
    add(
        database,
        [
            *(uncertain(0, number=1, **item) for item in items.values()),
            *(uncertain(0, number=2, **item, state="intent", record=failed) for item in items.values()),
            *(row(0, number=3, **item) for item in items.values()),
            uncertain(1, **items["heron"]),
        ],
    )
    account.resolve(database, TASK, key, generation_id)
    found = content(database, "state", "number", "record_key", "generation_id", "record")
    (settled,) = (each for each in found if each[:2] == (state, 2))
    assert settled[2:] == (items[key]["record_key"], generation_id, {"failure": None, "correlation": "c"})
    states = [*["uncertain"] * 3, "intent", state, "ended", "ended"]
    assert sorted(each[0] for each in found) == sorted(states)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([row(0)], "no uncertain submission"),
        (
            [
                uncertain(0, number=2, record_key="b.0"),
                uncertain(0, number=1, record_key="a.0", item_key="heron"),
            ],
            "several of them; choose one with --key: heron, b.0",
        ),
    ],
)
def test_one_submission_is_settled_at_a_time(database: Database, rows: list[Any], why: str) -> None:
    add(database, rows)
    with pytest.raises(errors.SeedanceRequestError) as caught:
        account.resolve(database, TASK, None, "g-9")
    assert caught.value.message == f"Task 'video' of run 'run' of Dag 'ads' has {why}."


def test_a_decision_to_render_again_is_about_the_latest_generation(database: Database) -> None:
    takes = [row(0, number=number, generation_id=f"g-{number}") for number in (1, 2)]
    in_flight = row(0, record_key="b.0", generation_id="g-b", state="submitted", status=None)
    add(
        database,
        [*takes, row(0, number=3, state="not_submitted"), in_flight, row(1, generation_id="g-other")],
    )
    for generation_id in ("g-1", "g-b", "unknown"):
        with pytest.raises(errors.SeedanceRequestError) as caught:
            account.render_again(database, TASK, generation_id, NOON)
        assert caught.value.message == (
            f"Generation {generation_id} is not the latest one of its request, or did not succeed."
        )
    for until, decision in ((NOON, "2026-03-10T12:00:00+00:00"), (None, None)):
        account.render_again(database, TASK, "g-2", until)
        known = dict(content(database, "generation_id", "record"))
        assert known.pop("g-2") == {"result_is_complete": True, "render_again_until": decision}
        assert all(record == {"result_is_complete": True} for record in known.values())


# ---------------------------------------------------------------------- deletion


@pytest.mark.parametrize(
    ("counted_since", "kept"),
    [
        (None, [1, 2, 3, 4]),
        ({"seedance_default": NOON}, [0, 1, 2, 3, 4]),
        ({"seedance_default": NOON + SECOND, "other": None}, [1, 2, 3, 4, 7]),
        ({"seedance_default": None}, [0, 1, 2, 3, 4]),
    ],
)
def test_what_is_deleted(
    database: Database, counted_since: dict[str, datetime | None] | None, kept: list[int]
) -> None:
    before = NOON + SECOND
    rows = [
        row(0),
        row(1, ended_at=before),
        row(2, state="submitted"),
        uncertain(3),
        row(4, namespace="other"),
        row(5, state="not_submitted", conn_id=None, ended_at=None),
        row(6, conn_id="third"),
        row(7, conn_id="other", state="not_submitted", ended_at=None),
    ]
    add(database, rows)
    assert account.prune(database, "default", before, counted_since) == len(rows) - len(kept)
    assert [number for (number,) in content(database, "map_index")] == kept


@pytest.mark.parametrize(
    "kept",
    [
        {"state": "submitted", "ended_at": None},
        {"ended_at": NOON + SECOND},
        {"state": "uncertain", "ended_at": None},
        {"state": "not_submitted", "ended_at": None, "created_at": NOON + SECOND},
        {"conn_id": "counted"},
    ],
    ids=lambda kept: "-".join(kept),
)
def test_a_task_that_goes_on_is_kept_as_a_whole(database: Database, kept: dict[str, Any]) -> None:
    """A batch would pay again for items without rows, and a number would be given twice."""
    add(database, [row(0), row(0, record_key="b.0"), row(0, number=2, **kept), row(1)])
    assert account.prune(database, "default", NOON + SECOND, {"counted": NOON}) == 1
    assert [number for (number,) in content(database, "map_index")] == [0, 0, 0]


def test_a_task_submits_again_after_its_first_render_is_too_old(any_ledger: Any, open_ledger: Any) -> None:
    """The number of its next submission is free."""
    first, second, third = (replace(same_intent(), intended_at=NOON + n * SECOND) for n in range(3))
    for record in (first, second):
        store = open_ledger()
        store.write_intent(GENERATION_KEY, record, DETAILS)
        ended = replace(submitted(record), state=RecordState.ENDED, ended_at=record.intended_at)
        store.write(GENERATION_KEY, ended)
    database = store._database
    assert account.prune(database, "default", NOON + SECOND) == 0
    assert account.prune(database, "other", NOON + 9 * SECOND) == 0
    # A clear may submit at the moment in which its earlier rows are deleted.
    with database.transaction() as connection:
        connection.execute(submissions.delete().where(submissions.c.number == 1))
    open_ledger().write_intent(GENERATION_KEY, third, DETAILS)
    assert open_ledger().read(GENERATION_KEY) == third


def test_a_submission_that_is_being_sent_is_not_settled(database: Database) -> None:
    """The task would pay again beside the process that is sending it."""
    now = utc_now()
    add(database, [uncertain(0, number=1, state="intent", intended_at=now - timedelta(minutes=10))])
    for generation_id in ("g-9", None):
        with pytest.raises(errors.SeedanceRequestError, match="may be submitting at this moment") as caught:
            account.resolve(database, TASK, None, generation_id)
        assert iso(now + timedelta(minutes=5)) in caught.value.message
    add(database, [uncertain(0, number=2, state="intent", intended_at=now - timedelta(seconds=901))])
    account.resolve(database, TASK, None, None)


# ---------------------------------------------------------------------- while a task writes its rows


#: Sessions that wait for a lock.
_WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")


def while_a_task_writes(database: Database, values: dict[str, Any], do: Callable[[], object]) -> list[object]:
    """Do something that has to wait for a transaction of a task; return its result or error."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(do())
        except errors.SeedanceError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    with database.transaction() as connection:
        connection.execute(update(submissions).values(values))
        thread.start()
        waiting, until = False, time.monotonic() + 60
        while not waiting and time.monotonic() < until:
            time.sleep(0.02)
            with database.reading() as other:
                waiting = bool(other.execute(_WAITING).scalar())
    thread.join(60)
    return results


def test_a_submission_that_a_retry_has_found_is_not_settled(postgres_ledger: Any) -> None:
    server = configured()
    add(server, [uncertain(0)])
    found = {"state": "submitted", "generation_id": "g-1"}
    (error,) = while_a_task_writes(server, found, partial(account.resolve, server, TASK, None, None))
    assert "no uncertain submission" in str(error)
    assert content(server, "state") == [("submitted",)]


def test_a_row_that_is_submitted_again_is_not_deleted(postgres_ledger: Any) -> None:
    server = configured()
    add(server, [row(0, state="not_submitted", status=None)])
    prune = partial(account.prune, server, "default", NOON + SECOND)
    assert while_a_task_writes(server, {"state": "intent"}, prune) == [0]
    assert content(server, "state") == [("intent",)]
