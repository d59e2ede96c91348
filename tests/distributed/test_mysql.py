"""The delivery of callbacks on MariaDB, as an Airflow whose metadata database is a MySQL runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mariadb
import pytest

ROOT = Path(__file__).parents[2]

_TEST_SECONDS = 600.0


@pytest.fixture
def mysql(tmp_path: Path) -> Iterator[str]:
    """The address of a private database, without the name of the driver."""
    pytest.importorskip("aiomysql", reason="the extra 'distributed' is not installed")
    pytest.importorskip("MySQLdb", reason="mysqlclient, which Airflow itself needs there, is not installed")
    if missing := mariadb.missing():
        pytest.skip(missing)
    with mariadb.running(tmp_path) as address:
        yield address


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
