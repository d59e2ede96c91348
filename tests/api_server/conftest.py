"""Fixtures of the API server's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_seedance.api_server.callback_limits import CallbackLimits
from api_server.callback_server import CallbackServer, patch_delivery
from api_server.metadata_database import MetadataDatabase


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[CallbackServer]:
    made = CallbackServer(CallbackLimits(quiet_period=0.0))
    patch_delivery(made, monkeypatch)
    yield made
    assert not made.queue._in_flight
    assert not made.queue._payloads


@pytest.fixture
def metadata() -> Iterator[MetadataDatabase]:
    """A metadata database in memory."""
    with MetadataDatabase() as made:
        yield made


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
