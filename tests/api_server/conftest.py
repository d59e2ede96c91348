"""Fixtures of the API server's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger.rows import configured

from airflow_provider_seedance.api_server import callback_delivery, totals
from airflow_provider_seedance.api_server.callback_limits import CallbackLimits
from airflow_provider_seedance.ledger.database import Database
from api_server.callback_server import CallbackServer
from api_server.metadata_database import MetadataDatabase


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[CallbackServer]:
    """A server that delivers to a script."""
    made = CallbackServer(CallbackLimits(quiet_period=0.0))
    monkeypatch.setattr(callback_delivery, "deliver", made.deliver)
    monkeypatch.setattr(callback_delivery, "complete_task", made.complete_task)
    monkeypatch.setattr(callback_delivery, "ends_from_trigger", lambda kwargs: "end_from_trigger" in kwargs)
    yield made
    assert not made.queue._in_flight
    assert not made.queue._payloads


@pytest.fixture
def metadata() -> Iterator[MetadataDatabase]:
    """A metadata database in memory."""
    with MetadataDatabase() as made:
        yield made


@pytest.fixture
def ledger_database(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """An empty ledger; a failed read of an earlier test does not keep the page from reading it."""
    monkeypatch.setattr(totals, "_unreadable_until", {})
    return configured()


@pytest.fixture(scope="module")
def tables() -> Iterator[None]:
    from api_server import delivery_database

    with delivery_database.tables():
        yield


@pytest.fixture
def database(tables: None) -> Iterator[None]:
    """A metadata database with one run."""
    from api_server import delivery_database

    with delivery_database.one_run():
        yield
