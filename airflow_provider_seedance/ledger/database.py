"""
The ledger's database: its address, transactions, and errors that name the setting.

Every error is a :class:`~airflow_provider_seedance.exceptions.SeedanceLedgerError`: a ledger that cannot be used is
never taken for an empty one.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

from airflow.providers.common.compat.sdk import BaseHook
from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.ledger.configuration import LedgerConfig
from airflow_provider_seedance.ledger.schema import ensure_schema

#: Time that a process waits for the write lock of a SQLite file, which one process holds at a time, and a thread for
#: one of the connections of its process.
BUSY_TIMEOUT_SECONDS = 60

#: Time for a connection to PostgreSQL or MySQL.
CONNECT_TIMEOUT_SECONDS = 10

#: Time after which a process reads the connection and the version of the tables again, which takes as long as a query.
MAX_OPEN_SECONDS = 60

#: Idle time after which a connection is tested: a restart of the database, or a firewall, may have closed it.
MAX_IDLE_SECONDS = 1

#: Drivers by connection type, in order of preference.
_DRIVERS = {
    "postgres": {"psycopg2": "postgresql+psycopg2", "psycopg": "postgresql+psycopg"},
    "mysql": {"MySQLdb": "mysql+mysqldb", "pymysql": "mysql+pymysql"},
}


class Database:
    """
    The database of the configured ledger, which a process opens when it first uses it.

    :param config: Its location.
    """

    def __init__(self, config: LedgerConfig) -> None:
        self.config = config
        self._key = config.location, os.environ.get(f"AIRFLOW_CONN_{config.location.upper()}")

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """
        Run the body in one transaction.

        :raises SeedanceLedgerError: the database cannot be reached or used.
        """
        with self._ledger_errors(), self._open().begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """
        Run queries without the write lock of SQLite.

        :raises SeedanceLedgerError: the database cannot be reached or used.
        """
        with self._ledger_errors(), self._open().execution_options(read_only=True).begin() as connection:
            yield connection

    def _open(self) -> Engine:
        engine, until = _opened.get(self._key, (None, 0.0))  # another thread may drop it after an error
        gone = engine and engine.dialect.name == "sqlite" and not os.path.exists(engine.url.database or "")
        if engine is None or gone or time.monotonic() >= until:
            engine = _engine(self._url(), os.getpid())
            ensure_schema(engine)
            _opened[self._key] = engine, time.monotonic() + MAX_OPEN_SECONDS
        return engine

    def _url(self) -> URL:
        location = self.config.location
        if location.startswith("sqlite:"):
            return _sqlite_url(location)
        if "://" in location:
            raise _unusable("it takes the id of a connection, or sqlite:////absolute/path.db")
        return _url_of(BaseHook.get_connection(location))

    @contextmanager
    def _ledger_errors(self) -> Iterator[None]:
        try:
            yield
        except errors.SeedanceError:
            raise
        except SQLAlchemyError as error:
            # The next use reads the connection again, whose password may be another one.
            _opened.pop(self._key, None)
            # Without the statement, whose parameters may contain a prompt.
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise self._error(cause) from error
        except Exception as error:  # the connection does not exist, or cannot be read
            raise self._error(error) from error

    def _error(self, cause: object) -> errors.SeedanceLedgerError:
        location = self.config.location
        shown = f" {location}" if location.startswith("sqlite:") else f" of connection {location!r}"
        what = " ".join(str(cause).split()) or type(cause).__name__
        return _unusable(f"the database{shown} failed: {what.rstrip('.')}")


def _unusable(why: str) -> errors.SeedanceLedgerError:
    return errors.SeedanceLedgerError(
        f"The ledger ([seedance] ledger) cannot be used: {why}. It is not taken for an empty one."
    )


#: Engines whose tables are those of this release, and until when, by location and the connection in the environment.
_opened: dict[tuple[str, str | None], tuple[Engine, float]] = {}
os.register_at_fork(after_in_child=_opened.clear)


@cache
def _engine(url: URL, _process_id: int) -> Engine:
    """Return the engine of a process; a forked one must not use the connections of its parent."""
    if url.get_backend_name() == "sqlite":
        engine = create_engine(
            url,
            future=True,
            hide_parameters=True,
            poolclass=NullPool,
            connect_args={"timeout": BUSY_TIMEOUT_SECONDS},
        )
        event.listen(engine, "connect", _leave_transactions_to_us)
        event.listen(engine, "begin", _begin)
        return engine
    engine = create_engine(
        url,
        future=True,
        hide_parameters=True,
        isolation_level="READ COMMITTED",
        pool_timeout=BUSY_TIMEOUT_SECONDS,
        connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS},
    )
    event.listen(engine, "checkin", lambda _, record: record.info.update(used_at=time.monotonic()))
    event.listen(engine, "checkout", partial(_test_if_idle, engine))
    return engine


def _test_if_idle(engine: Engine, connection: Any, record: Any, _: Any) -> None:
    # Not always, as pool_pre_ping does: the test takes as long as a query.
    idle_seconds = time.monotonic() - record.info.get("used_at", math.inf)
    with suppress(Exception):
        if idle_seconds <= MAX_IDLE_SECONDS or engine.dialect.do_ping(connection):
            return
    raise DisconnectionError  # the pool connects again


def _leave_transactions_to_us(connection: Any, _: Any) -> None:
    connection.isolation_level = None


def _begin(connection: Connection) -> None:
    # A transaction that begins with a read cannot wait for the write lock later.
    read_only = connection.get_execution_options().get("read_only")
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _sqlite_url(location: str) -> URL:
    url = make_url(location)
    if not url.database or not os.path.isabs(url.database):
        raise _unusable("a SQLite file is named by its absolute path, as in sqlite:////srv/ledger.db")
    if not os.path.isdir(os.path.dirname(url.database)):
        raise _unusable(f"the directory of {url.database} does not exist")
    return url


def _url_of(connection: Any) -> URL:
    if connection.conn_type == "sqlite":
        return _sqlite_url(f"sqlite:///{connection.host or ''}")
    drivers = _DRIVERS.get(connection.conn_type)
    if drivers is None:
        raise _unusable(f"a connection of type {connection.conn_type!r} is not PostgreSQL, MySQL or SQLite")
    dialect = next((name for module, name in drivers.items() if find_spec(module)), None)
    if dialect is None:
        raise _unusable(
            f"no driver is installed: pip install 'airflow-provider-seedance[{connection.conn_type}]'"
        )
    extra = {name: value for name, value in connection.extra_dejson.items() if isinstance(value, str)}
    return URL.create(
        dialect,
        username=connection.login,
        password=connection.password,
        host=connection.host,
        port=connection.port,
        database=connection.schema,
        query=extra,
    )
