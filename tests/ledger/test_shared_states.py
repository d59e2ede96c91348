"""Quotas that machines share through the ledger; a machine is a directory for temporary files."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.rate_limits import RateLimit
from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.ledger import account, shared_state_changer
from airflow_provider_seedance.ledger.tables import shared_states
from airflow_provider_seedance.polling import shared_quota
from airflow_provider_seedance.polling.quota import POLICY
from airflow_provider_seedance.polling.shared_quota import EXCHANGE_INTERVAL_SECONDS, SharedQuota

from .rows import configured
from .sent_statements import statements

pytestmark = pytest.mark.usefixtures("ledger")

IDENTITY = ("https://vendor.example/v1", "digest-of-a-key")
NOW = float(int(time.time()))
LATER = NOW + EXCHANGE_INTERVAL_SECONDS

On = Callable[[str], Any]


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> On:
    """Run the body on a machine."""

    @contextmanager
    def on_machine(name: str) -> Iterator[None]:
        with monkeypatch.context() as here:
            here.setattr(shared_quota, "directory", lambda: tmp_path / name)
            yield

    return on_machine


def quota() -> SharedQuota:
    return SharedQuota(IDENTITY, shared_state_changer())


def learn(remaining: int, *, left: float = 600.0) -> None:
    reset_at = datetime.fromtimestamp(NOW + left, UTC)
    quota().learn(RateLimit(limit=10, remaining=remaining, reset_at=reset_at), NOW)


def publish(remaining: int, *, left: float = 600.0) -> None:
    learn(remaining, left=left)
    quota().exchange(NOW)


def test_a_machine_knows_the_headers_that_another_one_has_read(any_ledger: Any, on: On) -> None:
    with on("a"):
        publish(1)
    with on("b"):
        assert quota().reserve(NOW) == 0
        quota().exchange(LATER)
    with on("a"):
        assert quota().reserve(LATER) == 600 + POLICY.reset_margin - EXCHANGE_INTERVAL_SECONDS


@pytest.mark.parametrize(
    ("known", "expected"),
    [((3, 600.0), 3), ((7, 601.0), 5), ((7, 900.0), 7), ((2, 60.0), 5)],
    ids=["same window, fewer", "same window, more", "later window", "earlier window"],
)
def test_the_later_window_counts(on: On, known: tuple[int, float], expected: int) -> None:
    with on("a"):
        publish(known[0], left=known[1])
    with on("b"):
        publish(5)
        assert quota().read(NOW).remaining == expected
    with on("a"):
        quota().exchange(LATER)
        assert quota().read(LATER).remaining == expected


def test_a_machine_waits_behind_the_submissions_that_are_queued_on_another_one(on: On) -> None:
    with on("a"):
        quota().record_queue(NOW)
        quota().exchange(NOW)
    with on("b"):
        assert quota().reserve(NOW) == POLICY.queue_lifetime


def test_a_machine_exchanges_at_intervals(on: On) -> None:
    with statements("seedance_shared") as sent, on("a"):
        learn(9)
        for _ in range(5):
            quota().reserve(NOW)
        assert sent == ["SELECT", "INSERT"]
        quota().reserve(LATER)
        assert sent[2:] == ["SELECT", "UPDATE"]
        quota().exchange(LATER + EXCHANGE_INTERVAL_SECONDS)
        quota().exchange(LATER + 2 * EXCHANGE_INTERVAL_SECONDS)
        assert sent[4:] == ["SELECT", "UPDATE", "SELECT"]


def test_namespaces_share_nothing(on: On, monkeypatch: pytest.MonkeyPatch) -> None:
    with on("a"):
        publish(0)
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER_NAMESPACE", "another")
    with on("b"):
        assert quota().reserve(NOW) == 0


def test_what_is_in_the_ledger(ledger: Path, connect: Callable[..., Any], on: On) -> None:
    connect("seedance2api", password="a-key-of-the-account")
    settings = SeedanceHook("seedance_default").settings
    with on("a"):
        quota = SharedQuota(settings.identity, settings.change_in_ledger)
        quota.learn(RateLimit(limit=10, remaining=9, reset_at=utc_now() + timedelta(minutes=10)), NOW)
        quota.exchange(NOW)
    assert b"a-key-of-the-account" not in ledger.read_bytes()
    database = configured()
    with database.reading() as connection:
        rows = connection.execute(select(shared_states.c.name, shared_states.c.state)).all()
    shown = {name.partition("-")[0]: sorted(state) for name, state in rows}
    assert shown == {"quota": ["limit", "remaining", "reset_at", "window"]}
    for namespace, days, left in (("default", -1, 1), ("another", 1, 1), ("default", 1, 0)):
        account.prune(database, namespace, utc_now() + timedelta(days=days))
        with database.reading() as connection:
            assert len(connection.execute(select(shared_states)).all()) == left


def test_without_the_ledger_each_machine_counts_for_itself(on: On, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", "sqlite:////missing/ledger.db")
    with on("a"):
        learn(1)
        assert quota().reserve(NOW) == 0
        assert quota().reserve(NOW) > 0
    with on("b"):
        assert quota().reserve(NOW) == 0


def test_an_event_loop_does_not_wait_for_the_ledger(on: On) -> None:
    entered, released = threading.Event(), threading.Event()

    def stuck(name: str, change: Callable[[Any], Any]) -> Any:
        entered.set()
        released.wait(60)
        raise errors.SeedanceLedgerError("away")

    async def main() -> None:
        shared = SharedQuota(IDENTITY, stuck)
        shared.exchange_in_background()
        first = shared._exchanging
        assert first is not None
        await asyncio.to_thread(entered.wait, 60)
        shared.exchange_in_background()
        assert shared._exchanging is first
        released.set()
        await first
        assert shared.read(time.time()).limit is None

    with on("a"):
        asyncio.run(main())


def test_the_first_two_processes_write_one_row(postgres_ledger: Any) -> None:
    database = configured()
    changer: Any = shared_state_changer()
    row = {"namespace": "default", "name": "n", "state": {"b": 1}, "updated_at": utc_now()}
    seen: list[Any] = []

    def change(state: Any) -> Any:
        if not seen:  # another process is faster
            with database.transaction() as connection:
                connection.execute(shared_states.insert().values(**row))
        seen.append(state)
        return {"a": 1}

    assert changer("n", change) == {"a": 1}
    assert seen == [{}, {"b": 1}]
    with database.reading() as connection:
        assert connection.execute(select(shared_states.c.state)).scalar() == {"a": 1}


def test_a_connection_that_has_changed_is_read_again_after_an_error(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def connect(path: object) -> None:
        connection = json.dumps({"conn_type": "sqlite", "host": str(path)})
        monkeypatch.setenv("AIRFLOW_CONN_TEAM_LEDGER", connection)

    connect(tmp_path / "gone.db")
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", "team_ledger")
    changer: Any = shared_state_changer()
    assert changer("n", lambda _: {"a": 1}) == {"a": 1}
    with sqlite3.connect(tmp_path / "gone.db") as connection:
        connection.execute("DROP TABLE seedance_shared_states")
    connection.close()
    with pytest.raises(errors.SeedanceLedgerError):
        changer("n", lambda _: {"a": 1})
    connect(ledger)
    assert changer("n", lambda _: {"b": 1}) == {"b": 1}
