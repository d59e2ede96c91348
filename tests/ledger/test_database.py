"""The address of the ledger's database, the engine that is made for it, and changes of both in a running process."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from airflow.sdk import Connection
from sqlalchemy import event
from sqlalchemy.engine import make_url

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.ledger import database as module
from airflow_provider_seedance.ledger.configuration import LedgerConfig
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.submission.store import GENERATION_KEY

from .conftest import Open
from .record_samples import DETAILS
from .record_samples import same_intent as intent
from .rows import recorded

BEFORE = "The ledger ([seedance] ledger) cannot be used: "
AFTER = ". It is not taken for an empty one."
NO_PATH = "a SQLite file is named by its absolute path, as in sqlite:////srv/ledger.db"


@pytest.fixture
def drivers(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The modules of drivers that are installed."""
    found = {"psycopg2", "psycopg", "MySQLdb", "pymysql"}
    monkeypatch.setattr(module, "find_spec", lambda name: name if name in found else None)
    return found


@pytest.mark.parametrize(
    ("conn_type", "missing", "dialect"),
    [
        ("postgres", "", "postgresql+psycopg2"),
        ("postgres", "psycopg2", "postgresql+psycopg"),
        ("mysql", "", "mysql+mysqldb"),
        ("mysql", "MySQLdb", "mysql+pymysql"),
    ],
)
def test_the_address_of_a_server(drivers: set[str], conn_type: str, missing: str, dialect: str) -> None:
    drivers.discard(missing)
    fields: dict[str, Any] = {"login": "u", "password": "p", "host": "h", "port": 7, "schema": "db"}
    extra = json.dumps({"sslmode": "require", "number": 5})
    url = module._url_of(Connection(conn_id="c", conn_type=conn_type, **fields, extra=extra))
    assert url.render_as_string(hide_password=False) == f"{dialect}://u:p@h:7/db?sslmode=require"


@pytest.mark.parametrize(
    ("location", "conn", "why"),
    [
        ("sqlite:////no/l.db", "", "the directory of /no/l.db does not exist"),
        ("sqlite:///l.db", "", NO_PATH),
        ("team", "sqlite://", NO_PATH),
        ("team", "sqlite://l.db", NO_PATH),
        ("postgresql://u:secret@h/db", "", "it takes the id of a connection, or sqlite:////absolute/path.db"),
        ("missing", "", "the database of connection 'missing' failed: "),
        ("team", "http://h", "a connection of type 'http' is not PostgreSQL, MySQL or SQLite"),
        ("team", "mysql://h", "no driver is installed: pip install 'airflow-provider-seedance[mysql]'"),
        ("team", "postgres://u:secret@127.0.0.1:1/db", "the database of connection 'team' failed: "),
    ],
)
def test_a_ledger_that_cannot_be_used_is_not_empty(
    drivers: set[str], open_ledger: Open, monkeypatch: pytest.MonkeyPatch, location: str, conn: str, why: str
) -> None:
    drivers -= {"MySQLdb", "pymysql"}
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", location)
    monkeypatch.setenv("AIRFLOW_CONN_TEAM", conn)
    with pytest.raises(errors.SeedanceLedgerError) as caught:
        open_ledger().read(GENERATION_KEY)
    message = caught.value.message
    assert message.startswith(f"{BEFORE}{why}")
    assert message.endswith(AFTER)
    assert "secret" not in message
    assert caught.value.retry_helps


@pytest.mark.parametrize(
    ("location", "cause", "shown"),
    [
        ("team", ValueError("odd  \n words."), "the database of connection 'team' failed: odd words"),
        ("sqlite:////l.db", ValueError(), "the database sqlite:////l.db failed: ValueError"),
    ],
)
def test_a_database_that_fails(
    monkeypatch: pytest.MonkeyPatch, location: str, cause: Exception, shown: str
) -> None:
    database = Database(LedgerConfig(location=location))
    monkeypatch.setattr(database, "_url", Mock(side_effect=cause))
    for use in (database.transaction, database.reading):
        with pytest.raises(errors.SeedanceLedgerError) as caught, use():
            pass
        assert caught.value.message == f"{BEFORE}{shown}{AFTER}"
        assert caught.value.__cause__ is cause


def test_a_forked_process_has_its_own_connections(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = database._open()
    assert Database(database.config)._open() is engine
    monkeypatch.setattr(module.os, "getpid", lambda: -3)
    module._opened.clear()  # as a fork does
    assert database._open() is not engine


def test_a_writer_holds_the_file_from_its_first_statement_and_a_reader_does_not(database: Database) -> None:
    begun: list[str] = []
    engine = database._open()
    event.listen(engine, "before_cursor_execute", lambda _c, _cursor, statement, *_: begun.append(statement))
    with database.transaction(), database.reading():
        pass
    assert begun == ["BEGIN IMMEDIATE", "BEGIN"]
    assert database._open() is engine


def test_a_statement_that_fails_shows_no_values(database: Database) -> None:
    with pytest.raises(errors.SeedanceLedgerError) as caught, database.transaction() as connection:
        connection.exec_driver_sql("SELECT ? FROM missing", ("a secret prompt",))
    assert caught.value.message.endswith(f"failed: no such table: missing{AFTER}")
    assert "secret" not in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("address", "timeout"),
    [("sqlite:////tmp/l.db", {"timeout": 60}), ("postgresql+psycopg2://h/db", {"connect_timeout": 10})],
)
def test_a_process_does_not_wait_for_ever(address: str, timeout: dict[str, int]) -> None:
    pytest.importorskip("psycopg2")
    engine = module._engine(make_url(address), -1)
    given: dict[str, Any] = {}

    def connect(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> Any:
        given.update(parameters)
        raise ZeroDivisionError

    event.listen(engine, "do_connect", connect)
    with pytest.raises(ZeroDivisionError):
        engine.connect()
    assert {name: given.get(name) for name in timeout} == timeout


def test_the_engine_of_a_server() -> None:
    pytest.importorskip("psycopg2")
    engine = module._engine(make_url("postgresql+psycopg2://h/other"), -1)
    pool: Any = engine.pool
    assert (pool.timeout(), engine.hide_parameters) == (60, True)
    assert engine.get_execution_options() == {}
    assert SimpleNamespace(**engine.dialect.__dict__)._on_connect_isolation_level == "READ COMMITTED"


def test_another_connection_in_the_environment_is_another_database_at_once(
    tmp_path: Path, open_ledger: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", "team_ledger")
    for name, before in (("first", 0), ("second", 0), ("first", 1)):
        connection = {"conn_type": "sqlite", "host": f"{tmp_path}/{name}.db"}
        monkeypatch.setenv("AIRFLOW_CONN_TEAM_LEDGER", json.dumps(connection))
        assert len(recorded()) == before
        if not before:
            open_ledger().write_intent(GENERATION_KEY, intent(), DETAILS)
            assert len(recorded()) == 1


def test_a_file_that_was_deleted_is_a_new_ledger_at_once(
    new_ledger: Path, open_ledger: Open, caplog: pytest.LogCaptureFixture
) -> None:
    open_ledger().write_intent(GENERATION_KEY, intent(), DETAILS)
    assert len(recorded()) == 1
    for file in new_ledger.parent.glob(f"{new_ledger.name}*"):
        file.unlink()
    caplog.clear()
    assert len(recorded()) == 0
    assert "The ledger ([seedance] ledger) is new" in caplog.text
