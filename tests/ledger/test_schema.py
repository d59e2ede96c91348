"""The migrations of the ledger, and the rights that it needs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.ledger import schema, shared_state_changer
from airflow_provider_seedance.ledger.tables import VERSION_TABLE, metadata
from airflow_provider_seedance.submission.store import GENERATION_KEY

from .conftest import Open
from .record_samples import DETAILS, submitted
from .record_samples import same_intent as intent


def test_a_ledger_is_made_and_one_of_an_earlier_version_is_migrated(
    any_ledger: Any,
    open_ledger: Open,
    reopen: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = open_ledger()._database
    with database.transaction() as connection:
        for table in (*metadata.tables, VERSION_TABLE):
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}")
    reopen()
    caplog.clear()
    upgrade = command.upgrade
    with monkeypatch.context() as first:
        first.setattr(command, "upgrade", lambda config, _: upgrade(config, "0001"))
        open_ledger().load()
    (line,) = [line for line in caplog.messages if "is new" in line]
    assert line == "The ledger ([seedance] ledger) is new: its tables are created in an empty database."
    reopen()
    caplog.clear()
    store = open_ledger()
    store.load()
    with store._database.transaction() as connection:
        # MySQL names the type of a binary text in another way.
        options = {"version_table": VERSION_TABLE, "compare_type": connection.dialect.name != "mysql"}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
    assert "is new" not in caplog.text


def test_the_rights_on_the_table_are_enough(
    postgres_ledger: Any, open_ledger: Open, reopen: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_ledger().load()
    owner = postgres_ledger.connect().cursor()
    rights = "SELECT, INSERT, UPDATE, DELETE ON seedance_submissions, seedance_shared_states"
    owner.execute(f"CREATE ROLE worker LOGIN PASSWORD 'w'; GRANT {rights} TO worker")
    address = f"postgres://worker:w@127.0.0.1:{postgres_ledger.port}/postgres"
    monkeypatch.setenv("AIRFLOW_CONN_TEAM_LEDGER", address)
    reopen()
    with pytest.raises(errors.SeedanceLedgerError, match="permission denied"):
        open_ledger().load()
    owner.execute(f"GRANT SELECT ON {VERSION_TABLE} TO worker")
    limited = open_ledger()
    limited.write_intent(GENERATION_KEY, intent(), DETAILS)
    limited.write(GENERATION_KEY, submitted(intent()))
    assert open_ledger().read(GENERATION_KEY) == submitted(intent())
    changer: Any = shared_state_changer()
    counted = [changer("name", lambda state: {"n": state.get("n", 0) + 1}) for _ in range(2)]
    assert counted == [{"n": 1}, {"n": 2}]


def engine_of(dialect: str, result: int) -> Any:
    """Return an engine that notes its statements, each of which returns this number."""
    sent: list[tuple[str, Any]] = []

    def execute(statement: Any, parameters: Any) -> Any:
        sent.append((str(statement), parameters))
        return SimpleNamespace(scalar=lambda: result)

    connection = SimpleNamespace(execute=execute, sent=sent)
    engine = SimpleNamespace(dialect=SimpleNamespace(name=dialect), connection=connection)
    engine.begin = lambda: nullcontext(connection)
    return engine


def test_a_lock_of_mysql_that_another_process_holds() -> None:
    message = "Another process has been migrating"
    with pytest.raises(errors.SeedanceLedgerError, match=message), schema._lock(engine_of("mysql", 0)):
        pass


@pytest.mark.parametrize(
    ("dialect", "statements"),
    [
        ("sqlite", []),
        ("postgresql", ["SELECT pg_advisory_xact_lock(:number)"]),
        ("mysql", ["SELECT GET_LOCK(:name, :timeout)", "SELECT RELEASE_LOCK(:name)"]),
    ],
)
def test_the_lock_of_each_database(dialect: str, statements: list[str]) -> None:
    engine = engine_of(dialect, 1)
    with pytest.raises(ZeroDivisionError), schema._lock(engine) as connection:
        1 / (connection is not engine.connection)
    sent = engine.connection.sent
    assert [statement for statement, _ in sent] == statements
    # Releases of all versions wait for each other.
    expected: dict[str, Any] = {"number": 7_333_263_256, "name": "seedance_ledger"}
    expected["timeout"] = schema.MIGRATION_TIMEOUT_SECONDS
    assert all(value == expected[name] for _, parameters in sent for name, value in parameters.items())
    assert all(f":{name}" in statement for statement, parameters in sent for name in parameters)


def test_a_file_in_use_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    locked, raw, clock = OSError("locked"), Mock(), Mock()
    clock.monotonic.side_effect = count(10.0)
    monkeypatch.setattr(schema, "time", clock)
    execute = raw.cursor.return_value.execute
    engine = Mock(**{"raw_connection.return_value": raw})
    execute.side_effect = [locked, locked, None]
    schema._enable_wal(engine)
    assert execute.mock_calls == [call("PRAGMA journal_mode=WAL")] * 3
    assert (clock.sleep.call_count, raw.close.call_count) == (2, 1)
    execute.side_effect = locked
    with pytest.raises(OSError, match="locked"):
        schema._enable_wal(engine)
    assert clock.sleep.call_count == 2 + schema.MIGRATION_TIMEOUT_SECONDS - 1
    assert raw.close.call_count == 2
