"""A real Airflow after successes and failures: everything it stored is searched for the secrets."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet, InvalidToken
from harness import TestAirflow

from airflow_provider_seedance.testing import SeedanceEmulator

KEY = "sk-integration-51c0ffee77aa"
CALLBACK = "callback-secret-99bb88cc"

DAG = """
    from datetime import timedelta

    from airflow.sdk import DAG

    from airflow_provider_seedance.operators.seedance import (
        SeedanceGenerateVideoBatchOperator,
        SeedanceGenerateVideoOperator,
    )

    with DAG("secrets", schedule=None):
        common = dict(seedance_conn_id="secret_one", retries=0, poll_interval=0.5)
        SeedanceGenerateVideoOperator(task_id="fine", prompt="A lamp", **common)
        SeedanceGenerateVideoOperator(task_id="here", prompt="A boat", deferrable=False, **common)
        SeedanceGenerateVideoOperator(task_id="refused", prompt="refuse me", **common)
        SeedanceGenerateVideoOperator(task_id="lost", prompt="lose me", **common)
        SeedanceGenerateVideoOperator(task_id="failed", prompt="fail me", **common)
        SeedanceGenerateVideoBatchOperator(task_id="batch", requests=["one", "two"], **common)
        SeedanceGenerateVideoOperator(task_id="unknown", prompt="A door", **{**common, "seedance_conn_id": "none"})
"""


@pytest.fixture
def services() -> Iterator[SeedanceEmulator]:
    with SeedanceEmulator(speed=60, media=False, key=KEY) as running:
        said = f"the key {KEY} may not"
        running.fault("refuse", on="submit", prompt="refuse me", times=None, status=403, message=said)
        running.fault("drop_reply", on="submit", prompt="lose me", times=None)
        running.fault("fail", prompt="fail me", times=None, message=said)
        yield running


@pytest.fixture
def airflow(tmp_path: Path, database_template: Path, services: SeedanceEmulator) -> Iterator[TestAirflow]:
    made = services.connection_json("seedanceapi-v2", callback_secret=CALLBACK)
    with TestAirflow(
        home=tmp_path / "home",
        dags_folder=tmp_path / "dags",
        connections={"secret_one": made},
        database_template=database_template,
    ) as running:
        yield running


def decrypted(value: Any, fernet: Fernet) -> str:
    """Return a value of the database as text, and what it hides."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    words = [text]
    try:
        loaded = json.loads(text)
    except ValueError:
        loaded = text
    for token in (loaded, text):
        if isinstance(token, str) and token.startswith("gAAAA"):
            try:
                words.append(fernet.decrypt(token.encode()).decode("utf-8", "replace"))
            except InvalidToken:
                continue
    return "\n".join(words)


def stored(airflow: TestAirflow) -> Iterator[tuple[str, str]]:
    """Yield every table of the database, decrypted, but for the connections, where secrets belong."""
    fernet = Fernet(airflow.config["core", "fernet_key"].encode())
    with closing(sqlite3.connect(airflow.database.path)) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if table != "connection":
                rows = database.execute(f'SELECT * FROM "{table}"')
                yield table, "\n".join(decrypted(value, fernet) for row in rows for value in row)


def test_nothing_that_airflow_stores_or_logs_holds_a_secret(
    airflow: TestAirflow, services: SeedanceEmulator
) -> None:
    services.hold()
    airflow.load_dag("secrets", DAG)
    run_id = airflow.trigger("secrets")
    # While one of them waits there is a row of its trigger.
    seen = ""
    while not seen:
        seen = "".join(text for table, text in stored(airflow) if table == "trigger" and "Generation" in text)
    assert [secret for secret in (KEY, CALLBACK) if secret in seen] == []
    services.release()
    assert airflow.wait_run("secrets", run_id, 120) == "failed"
    states = {row["task_id"]: row["state"] for row in airflow.database.task_instances("secrets", run_id)}
    assert {name for name, state in states.items() if state == "success"} == {"fine", "here", "batch"}

    tables = dict(stored(airflow))
    assert {"xcom", "rendered_task_instance_fields", "serialized_dag", "log"} <= set(tables)
    assert "A lamp" in tables["rendered_task_instance_fields"]
    found = [name for name, text in tables.items() if KEY in text or CALLBACK in text]
    files = [path for path in airflow.home.rglob("*") if path.is_file()]
    assert any(path.name.endswith("attempt=1.log") for path in files)
    found += [
        str(path) for path in files if any(secret.encode() in path.read_bytes() for secret in (KEY, CALLBACK))
    ]
    assert found == []
