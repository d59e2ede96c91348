"""A private MariaDB, from installed binaries."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local_airflow.environment import free_ports

_START_SECONDS = 60.0


def missing() -> str | None:
    """Return what is missing, or ``None`` if MariaDB is installed."""
    names = ("mariadbd", "mariadb-install-db", "mariadb")
    return None if all(map(shutil.which, names)) else "MariaDB is not installed"


@contextmanager
def running(directory: Path) -> Iterator[str]:
    """Run a server with its files in a directory; yields the address of a database, without the name of the driver."""
    (port,) = free_ports(1)
    where = ["--no-defaults", f"--user={getpass.getuser()}", f"--datadir={directory / 'data'}"]
    install = ["mariadb-install-db", *where, "--auth-root-authentication-method=normal"]
    subprocess.run(install, check=True, capture_output=True)
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                *("mariadbd", *where, f"--socket={directory / 'socket'}", f"--port={port}"),
                *("--bind-address=127.0.0.1", "--max-connections=400"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        statements = (
            "CREATE DATABASE airflow CHARACTER SET utf8mb4; "
            "GRANT ALL ON airflow.* TO 'airflow'@'127.0.0.1' IDENTIFIED BY 'airflow'"
        )
        client = ["mariadb", "--no-defaults", "--user=root", f"--socket={directory / 'socket'}"]
        until = time.monotonic() + _START_SECONDS
        while subprocess.run([*client, "-e", statements], capture_output=True, check=False).returncode:
            assert time.monotonic() < until, "MariaDB does not answer"
            time.sleep(0.2)
        yield f"://airflow:airflow@127.0.0.1:{port}/airflow?charset=utf8mb4"
    finally:
        server.terminate()
        server.wait(_START_SECONDS)
