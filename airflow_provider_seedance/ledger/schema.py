"""Creation and migration of the ledger's tables, under a lock: several processes may start on an empty database."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import column, select, table, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import OperationalError, ProgrammingError

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.ledger.tables import REVISION, VERSION_TABLE

log = logging.getLogger(__name__)

#: Time that a process waits for another one that migrates.
MIGRATION_TIMEOUT_SECONDS = 120

#: Number of the lock in PostgreSQL, and its name in MySQL.
_LOCK_NUMBER = 7_333_263_256
_LOCK_NAME = "seedance_ledger"

_WAL_INTERVAL_SECONDS = 0.05


def ensure_schema(engine: Engine) -> None:
    """
    Create or migrate the tables, unless they are those of this release.

    :raises SeedanceLedgerError: they are of a newer release.
    :raises SQLAlchemyError: the database cannot be reached, or refuses.
    """
    if _current_revision(engine) == REVISION:
        return
    if engine.dialect.name == "sqlite":
        _enable_wal(engine)
    with _lock(engine) as connection:
        # Not if another process was faster: Alembic takes long to load, and others wait for the lock.
        if _current_revision(engine) != REVISION:
            _migrate(connection)


def _current_revision(engine: Engine) -> str | None:
    """Return the revision of the tables, or ``None`` if it cannot be read: the migration finds out why."""
    versions = table(VERSION_TABLE, column("version_num"))
    with engine.execution_options(read_only=True).connect() as connection:
        try:
            return connection.execute(select(versions.c.version_num)).scalar()
        except (OperationalError, ProgrammingError):
            return None


def _migrate(connection: Connection) -> None:
    # Imported for a migration only: most processes find the tables as they should be.
    from alembic import command, script
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext

    config = Config()
    location = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", location.replace("%", "%%"))
    config.attributes.update(connection=connection, version_table=VERSION_TABLE)
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    current = context.get_current_revision()
    known = {each.revision for each in script.ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise errors.SeedanceLedgerError(
            f"The tables of the ledger ([seedance] ledger) have version {current}, and this release knows {REVISION} "
            "as the newest. Nothing was sent. Upgrade airflow-provider-seedance here, too."
        )
    if current is None:
        log.warning("The ledger ([seedance] ledger) is new: its tables are created in an empty database.")
    command.upgrade(config, "head")


@contextmanager
def _lock(engine: Engine) -> Iterator[Connection]:
    """Hold the lock of the migrations, and commit them."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER})
        elif engine.dialect.name == "mysql":
            parameters = {"name": _LOCK_NAME, "timeout": MIGRATION_TIMEOUT_SECONDS}
            # MySQL commits each change of a table, so the lock belongs to the connection.
            if not connection.execute(text("SELECT GET_LOCK(:name, :timeout)"), parameters).scalar():
                raise errors.SeedanceLedgerError(
                    "Another process has been migrating the ledger ([seedance] ledger) for "
                    f"{MIGRATION_TIMEOUT_SECONDS} s. Nothing was sent; retry later."
                )
        # SQLite: the transaction has begun with the write lock.
        try:
            yield connection
        finally:
            if engine.dialect.name == "mysql":
                connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": _LOCK_NAME})


def _enable_wal(engine: Engine) -> None:
    """Let readers of a SQLite file work beside a writer; the file keeps this mode."""
    deadline = time.monotonic() + MIGRATION_TIMEOUT_SECONDS
    raw = engine.raw_connection()
    try:
        while True:
            try:
                # Outside of a transaction. SQLite does not wait for other processes here.
                raw.cursor().execute("PRAGMA journal_mode=WAL")
                return
            except Exception:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_WAL_INTERVAL_SECONDS)
    finally:
        raw.close()
