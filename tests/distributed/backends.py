"""Backends of a distributed Airflow: a private PostgreSQL and a private Redis, from installed binaries."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg2
import psycopg2.extras
from local_airflow import processes
from local_airflow.database import Database
from local_airflow.environment import free_ports

_TIMEOUT_SECONDS = 60.0
# PostgreSQL refuses to run as root; then it runs as a user without other rights.
_UNPRIVILEGED_USER = "nobody"


def find_postgres() -> Path | None:
    """Return the directory of ``initdb`` and ``postgres``, which may not be on the search path."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    return next((place for place in places if (place / "postgres").exists()), None)


def _version(place: Path) -> float:
    """Return the version of a directory such as ``/usr/lib/postgresql/15/bin``."""
    return float(place.parent.name) if place.parent.name.isdecimal() else 0.0


def _binary(name: str) -> Path:
    place = find_postgres()
    assert place is not None
    return place / name


def missing() -> str | None:
    """Return the missing requirements; None if all are installed."""
    places = {"PostgreSQL": find_postgres(), "Redis": shutil.which("redis-server")}
    lacking = [name for name, place in places.items() if place is None]
    return f"{' and '.join(lacking)} not installed" if lacking else None


class _Server:
    """A server on the loopback interface, with a password and a directory of its own."""

    def __init__(self, name: str) -> None:
        (self.port,) = free_ports(1)
        self._password = secrets.token_urlsafe(24)
        # Not below pytest's directory, which other users may not enter.
        self._home = Path(tempfile.mkdtemp(prefix=f"seedance-{name}-"))
        self._process: subprocess.Popen[bytes] | None = None

    def kill(self) -> int:
        """SIGKILL it; returns its session."""
        assert self._process is not None
        _end(self._process)
        return self._process.pid

    def stop(self) -> None:
        """End it and remove its files."""
        _end(self._process)
        shutil.rmtree(self._home, ignore_errors=True)


class Postgres(_Server):
    """
    A PostgreSQL of its own.

    What it has confirmed survives its own end, but not that of the machine: that would be slow.
    """

    def __init__(self) -> None:
        super().__init__("postgres")
        self._user = _UNPRIVILEGED_USER if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        """The database for SQLAlchemy, without the name of the driver."""
        return f"://airflow:{self._password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> int:
        """Make the cluster, and launch the server; returns its session."""
        self._make()
        return self.launch()

    def _make(self) -> None:
        if self._user:
            os.chown(self._home, pwd.getpwnam(self._user).pw_uid, -1)
        password = self._home / "password"
        password.write_text(self._password)
        password.chmod(0o644)  # the directory lets in one user
        subprocess.run(
            [
                *(_binary("initdb"), "-D", self._data, "-U", "airflow", "--pwfile", password),
                *("-A", "scram-sha-256", "-E", "UTF8", "--no-locale", "--no-sync"),
            ],
            user=self._user,
            cwd=self._home,
            check=True,
            capture_output=True,
        )
        password.unlink()

    def launch(self) -> int:
        """Start the server on what it has, and wait until it answers; returns its session."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 300,
            "fsync": "off",
            "full_page_writes": "off",
        }
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_binary("postgres"), "-D", self._data]
                + [part for name, value in settings.items() for part in ("-c", f"{name}={value}")],
                user=self._user,
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _wait(self._answers, "PostgreSQL", lambda: self.log)
        return self._process.pid

    def kill(self) -> int:
        """SIGKILL it, and keep its files; returns its session."""
        assert self._process is not None
        # Each has a session of its own, and as long as one is left no new server starts on the same files.
        children = psutil.Process(self._process.pid).children()
        session = super().kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=_TIMEOUT_SECONDS)
        return session

    @property
    def _data(self) -> Path:
        return self._home / "data"

    @property
    def log(self) -> str:
        """Return its log."""
        return (self._home / "log").read_text(errors="replace")

    def connect(self, database: str = "postgres") -> Any:
        """A connection of the tests' own."""
        connection = psycopg2.connect(f"postgresql{self.url}", dbname=database, application_name="tests")
        connection.autocommit = True
        # As text, as the other database has it.
        psycopg2.extras.register_default_json(connection, loads=lambda text: text)
        psycopg2.extras.register_default_jsonb(connection, loads=lambda text: text)
        return connection

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg2.OperationalError:
            return False
        return True


class Redis(_Server):
    """A Redis of its own, in memory only: all that is queued is gone when it ends."""

    def __init__(self) -> None:
        super().__init__("redis")

    @property
    def url(self) -> str:
        """The broker, for Celery."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def launch(self) -> int:
        """Start it, empty, and wait until it answers; returns its session."""
        # Through a pipe: arguments stand in the list of processes.
        self._process = subprocess.Popen(
            ["redis-server", "-"],
            cwd=self._home,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        settings = f'bind 127.0.0.1\nport {self.port}\nrequirepass {self._password}\nsave ""\n'
        self._process.stdin.write(settings.encode())
        self._process.stdin.close()
        _wait(self._answers, "Redis")
        return self._process.pid

    start = launch

    def _answers(self) -> bool:
        import redis  # the tests of the ledger have PostgreSQL only

        try:
            with contextlib.closing(redis.Redis.from_url(self.url)) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


class PostgresDatabase(Database):
    """The queries of `LocalAirflow`'s database, on PostgreSQL."""

    def __init__(self, server: Postgres, name: str = "postgres") -> None:
        super().__init__(Path("/nowhere"))
        self._server, self._name = server, name

    def rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        """The answer to any query, as dictionaries."""
        with (
            contextlib.closing(self._server.connect(self._name)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(sql.replace("?", "%s"), parameters)
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, map(_plain, row), strict=True)) for row in cursor.fetchall()]

    def write(self, sql: str, *parameters: Any) -> int:
        """Change something behind Airflow's back; returns how many rows."""
        with (
            contextlib.closing(self._server.connect(self._name)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(sql.replace("?", "%s"), parameters)
            return int(cursor.rowcount)

    def connections(self) -> int:
        """Return the number of connections other than the tests'."""
        sql = (
            "SELECT COUNT(*) AS found FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND application_name <> 'tests'"
        )
        return int(self.rows(sql)[0]["found"])


def _plain(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return json.dumps(value) if isinstance(value, dict) else value


def _wait(look: Callable[[], bool], what: str, log: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} does not answer\n{log()}")
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        processes.end_sessions([process.pid])
        process.wait()
