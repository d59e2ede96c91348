"""Ledgers for the tests: a SQLite file each, and one PostgreSQL where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from support import Store, TaskInstance, make_context

from airflow_provider_seedance.ledger import open_store

#: A private PostgreSQL, as the tests of a distributed Airflow start it.
DISTRIBUTED = Path(__file__).parents[1] / "distributed"

Open = Callable[..., Any]


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Configure a ledger in a SQLite file that does not exist yet."""
    path = tmp_path / "ledger.db"
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", f"sqlite:///{path}")
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", Fernet.generate_key().decode())
    return path


@pytest.fixture
def open_ledger() -> Open:
    """Open the configured ledger for a task instance, as a worker does."""

    def open_for(ti: TaskInstance | None = None, state: Store | None = None, **context: Any) -> Any:
        return open_store({**make_context(state or Store(), ti), **context})

    return open_for


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL of its own."""
    if not find_spec("psycopg2"):
        pytest.skip("needs psycopg2")
    sys.path.append(str(DISTRIBUTED))
    import backends

    server = backends.Postgres()
    try:
        server.start()
    except FileNotFoundError:
        pytest.skip("PostgreSQL is not installed")
    yield server
    server.stop()


@pytest.fixture
def postgres_ledger(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Configure a ledger in an empty database of the PostgreSQL."""
    import psycopg2

    connection = psycopg2.connect(f"postgresql{postgres.url}")
    connection.autocommit = True
    connection.cursor().execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    connection.close()
    monkeypatch.setenv("AIRFLOW_CONN_TEAM_LEDGER", f"postgres{postgres.url}")
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", "team_ledger")
    return postgres
