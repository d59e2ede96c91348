"""Ledgers of the tests, on PostgreSQL and MySQL where they are installed, and tasks on them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from operators.batch_runner import Batch
from support import Store, TaskInstance, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.costs.budgets import Budget
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.ledger import database as connections
from airflow_provider_seedance.ledger import ledger_store, open_store
from airflow_provider_seedance.ledger.configuration import local_now
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.tables import VERSION_TABLE, metadata
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import GENERATION_KEY, SubmissionDetails

from . import record_samples as samples
from .discarding_task import DiscardingTask
from .rows import configured

#: A private PostgreSQL, as the tests of a distributed Airflow start it.
DISTRIBUTED = Path(__file__).parents[1] / "distributed"

Open = Callable[..., Any]
Batches = Callable[[int], Batch]

#: Whether these tests run once for each mutant: then no server is started.
MANY_RUNS = os.environ.get("HYPOTHESIS_PROFILE") == "mutation"


@pytest.fixture
def open_ledger() -> Open:
    """Open the configured ledger for a task instance, as a worker does."""

    def open_for(ti: TaskInstance | None = None, state: Store | None = None, **context: Any) -> Any:
        return open_store({**make_context(state or Store(), ti), **context})

    return open_for


@pytest.fixture(autouse=True)
def reopen() -> Callable[[], None]:
    """Return what makes the process read the connection and the version of the tables again, as each test does."""
    connections._opened.clear()
    return connections._opened.clear


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL of its own."""
    if MANY_RUNS or not find_spec("psycopg2"):
        pytest.skip("needs psycopg2, and time")
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
    with closing(postgres.connect()) as connection:
        connection.cursor().execute(
            "DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC"
        )
    monkeypatch.setenv("AIRFLOW_CONN_TEAM_LEDGER", f"postgres{postgres.url}")
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", "team_ledger")
    return postgres


@pytest.fixture(scope="session")
def mysql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a MariaDB, without the name of the driver."""
    if MANY_RUNS or not (find_spec("pymysql") or find_spec("MySQLdb")):
        pytest.skip("needs a driver of MySQL, and time")
    sys.path.append(str(DISTRIBUTED))
    import mariadb

    if missing := mariadb.missing():
        pytest.skip(missing)
    with mariadb.running(tmp_path_factory.mktemp("mariadb")) as address:
        yield address


@pytest.fixture
def mysql_ledger(mysql: str, monkeypatch: pytest.MonkeyPatch, reopen: Callable[[], None]) -> Any:
    """Configure a ledger in an empty database of the MariaDB."""
    monkeypatch.setenv("AIRFLOW_CONN_TEAM_LEDGER", f"mysql{mysql}")
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", "team_ledger")
    with configured().transaction() as connection:
        for table in (*metadata.tables, VERSION_TABLE):
            connection.exec_driver_sql(f"DROP TABLE {table}")
    reopen()
    return mysql


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def any_ledger(request: pytest.FixtureRequest) -> Any:
    """Configure an empty ledger on each database."""
    names = {"sqlite": "ledger", "postgresql": "postgres_ledger", "mysql": "mysql_ledger"}
    return request.getfixturevalue(names[request.param])


@pytest.fixture
def database(ledger: Path) -> Database:
    """An empty ledger on SQLite."""
    return configured()


@pytest.fixture
def connected(connect: Callable[..., None], ledger: Path) -> None:
    """Connect a service, and configure a ledger."""
    connect("seedanceapi-v1")


@pytest.fixture
def task(services: SeedanceEmulator, connected: None) -> DiscardingTask:
    """A task whose Airflow keeps no state, with a ledger."""
    return DiscardingTask(services)


@pytest.fixture
def batch(services: SeedanceEmulator, connect: Callable[..., None]) -> Batches:
    """Make batch tasks by their map index."""

    def new(number: int) -> Batch:
        made = Batch(services, connect)
        made.ti = TaskInstance(map_index=number)
        return made

    return new


@pytest.fixture
def same_period(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no budget renew during a test, such as one that runs at midnight."""
    now = local_now()
    monkeypatch.setattr(ledger_store, "local_now", lambda: now)


def admitted_at_once(
    count: int, details_of: Callable[[rec.Record], SubmissionDetails], *, credits: float = 14
) -> int:
    """Return how many of these tasks, which begin together, may submit."""
    open_store(make_context(None)).load()  # the tables

    def submit(number: int) -> bool:
        intent = samples.intent(f"{number}", credits=credits)
        intent = rec.replace(intent, conn_id="c", intended_at=utc_now())
        store = open_store(make_context(None, TaskInstance(map_index=number)))
        try:
            record = store.write_intent(GENERATION_KEY, intent, details_of(intent))
        except (errors.SeedanceBudgetError, errors.SeedanceRateLimitError):
            return False
        if admitted := record is not None and record.state is rec.RecordState.INTENT:
            store.write(GENERATION_KEY, rec.with_id(record, f"g{number}"))
        return admitted

    with ThreadPoolExecutor(count) as threads:
        return sum(threads.map(submit, range(count)))


def admitted_by_budget(count: int, *, price: float, limit: float) -> int:
    """Return how many of these tasks a budget admits."""
    details = SubmissionDetails(prompt="a", budgets=(Budget(unit="credits", limit=limit, per="day"),))
    return admitted_at_once(count, lambda _: details, credits=price)
