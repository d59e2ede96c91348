"""The delivery of callbacks on MariaDB, as an Airflow whose metadata database is a MySQL runs it."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: The first start of the server, and the tests.
_START_SECONDS, _TEST_SECONDS = 60.0, 600.0


@pytest.fixture
def mysql(tmp_path: Path) -> Iterator[str]:
    """The address of a private database, without the name of the driver."""
    pytest.importorskip("aiomysql", reason="the extra 'distributed' is not installed")
    pytest.importorskip("MySQLdb", reason="mysqlclient, which Airflow itself needs there, is not installed")
    server, install, client = map(shutil.which, ("mariadbd", "mariadb-install-db", "mariadb"))
    if server is None or install is None or client is None:
        pytest.skip("MariaDB is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = ["--no-defaults", f"--user={getpass.getuser()}", f"--datadir={tmp_path / 'data'}"]
    subprocess.run(
        [install, *where, "--auth-root-authentication-method=normal"], check=True, capture_output=True
    )
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            [server, *where, f"--socket={tmp_path / 'socket'}", f"--port={port}", "--bind-address=127.0.0.1"],
            stdout=log,
            stderr=log,
        )
    try:
        _make_database([client, "--no-defaults", "--user=root", f"--socket={tmp_path / 'socket'}"])
        yield f"://airflow:airflow@127.0.0.1:{port}/airflow?charset=utf8mb4"
    finally:
        running.terminate()
        running.wait(_START_SECONDS)


def _make_database(client: list[str]) -> None:
    statements = (
        "CREATE DATABASE airflow CHARACTER SET utf8mb4; "
        "GRANT ALL ON airflow.* TO 'airflow'@'127.0.0.1' IDENTIFIED BY 'airflow'"
    )
    until = time.monotonic() + _START_SECONDS
    while subprocess.run([*client, "-e", statements], capture_output=True, check=False).returncode:
        assert time.monotonic() < until, "MariaDB does not answer"
        time.sleep(0.2)


def test_callbacks_are_delivered(mysql: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "tests/api_server/test_callback_delivery.py"],
        cwd=ROOT,
        env={
            **os.environ,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"mysql+pymysql{mysql}",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"mysql+aiomysql{mysql}",
        },
        capture_output=True,
        text=True,
        timeout=_TEST_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
