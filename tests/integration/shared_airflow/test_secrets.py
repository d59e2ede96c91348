"""A real Airflow after successes and failures: everything it stored, logged and shows is searched for the secrets."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from cryptography.fernet import Fernet, InvalidToken
from harness import TestAirflow
from renders_stage import Stage

from airflow_provider_seedance.testing import SeedanceEmulator

KEY = "sk-integration-51c0ffee77aa"
CALLBACK = "callback-secret-99bb88cc"
SIGNED_WITH = "signature-secret-44dd33ee"
SECRETS = (KEY, CALLBACK, SIGNED_WITH)

#: Seconds for anything that must happen: only a test that fails waits that long.
TIMEOUT_SECONDS = 480.0

DAG = """
    from airflow.sdk import DAG

    from airflow_provider_seedance.operators.seedance import (
        SeedanceGenerateVideoBatchOperator,
        SeedanceGenerateVideoOperator,
    )
    from airflow_provider_seedance.sensors.seedance import SeedanceGenerationSensor
    from airflow_provider_seedance.transfers.seedance_to_object_storage import SeedanceToObjectStorageOperator

    with DAG("secrets", schedule=None):
        common = dict(seedance_conn_id="secret_one", retries=0, poll_interval=0.5)
        fine = SeedanceGenerateVideoOperator(task_id="fine", prompt="A lamp", **common)
        SeedanceToObjectStorageOperator(
            task_id="store", generation=fine.output, destination="{stored}/", seedance_conn_id="secret_one"
        )
        SeedanceToObjectStorageOperator(
            task_id="nowhere", generation=fine.output, destination="/proc/none/", seedance_conn_id="secret_one"
        )
        SeedanceGenerateVideoOperator(task_id="here", prompt="A boat", deferrable=False, **common)
        SeedanceGenerateVideoOperator(task_id="refused", prompt="refuse me", **common)
        SeedanceGenerateVideoOperator(task_id="lost", prompt="lose me", **common)
        SeedanceGenerateVideoOperator(task_id="failed", prompt="fail me", **common)
        SeedanceGenerateVideoBatchOperator(task_id="batch", requests=["one", "two"], **common)
        SeedanceGenerateVideoBatchOperator(task_id="bad_batch", requests=["three", "fail me"], **common)
        SeedanceGenerateVideoOperator(task_id="unknown", prompt="A door", **{**common, "seedance_conn_id": "none"})
        SeedanceGenerationSensor(
            task_id="sensed", generation_id="no-such-id", seedance_conn_id="secret_one", poll_interval=0.5
        )
        # What calls is not signed here, and is dropped; there it is, and resumes the task.
        called = dict(use_callback=True, retries=0, poll_interval=0.5)
        SeedanceGenerateVideoOperator(task_id="unsigned", prompt="A cat", seedance_conn_id="secret_one", **called)
        SeedanceGenerateVideoOperator(task_id="called", prompt="A dog", seedance_conn_id="secret_two", **called)
"""

#: Tasks that succeed; all others fail.
FINE = {"fine", "store", "here", "batch", "unsigned", "called"}


@pytest.fixture
def services() -> Iterator[SeedanceEmulator]:
    with SeedanceEmulator(speed=60, key=KEY) as running:
        said = f"the key {KEY} may not"
        running.fault("refuse", on="submit", prompt="refuse me", times=None, status=403, message=said)
        running.fault("drop_reply", on="submit", prompt="lose me", times=None)
        running.fault("fail", prompt="fail me", times=None, message=said)
        yield running


@pytest.fixture
def airflow(airflow: TestAirflow, services: SeedanceEmulator) -> TestAirflow:
    """The shared Airflow with two connections, one of which requires signed callbacks."""
    common = {"callback_base_url": airflow.url, "callback_secret": CALLBACK}
    signing = {"callback_signature_header": "X-Signature", "callback_signature_secret": SIGNED_WITH}
    for name, extra in (("one", {**common, **signing}), ("two", common)):
        airflow.connect(f"secret_{name}", services.connection("seedanceapi-v2", **extra))
    return airflow


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


def stored(airflow: TestAirflow, *only: str) -> Iterator[tuple[str, str]]:
    """Yield every table of the database, or only some, decrypted, but for the connections, where secrets belong."""
    fernet = Fernet(airflow.config["core", "fernet_key"].encode())
    with closing(sqlite3.connect(airflow.database.path, timeout=120)) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if table != "connection" and (not only or table in only):
                rows = database.execute(f'SELECT * FROM "{table}"')
                yield table, "\n".join(decrypted(value, fernet) for row in rows for value in row)


def secrets_in(text: str | bytes) -> list[str]:
    """Return the secrets that something holds."""
    data = text.encode() if isinstance(text, str) else text
    return [secret for secret in SECRETS if secret.encode() in data]


class Page:
    """The Renders page and all that it asks for, as a user's browser does."""

    def __init__(self, airflow: TestAirflow, dag_id: str, run_id: str) -> None:
        self.stage = Stage(airflow=airflow, runs={}, stored=airflow.home)
        self.run = f"/seedance/api/dags/{dag_id}/runs/{quote(run_id, safe='')}"
        self.shell = f"/seedance/renders?{urlencode({'dag_id': dag_id, 'run_id': run_id})}"
        #: The statuses of the answers, and what no answer may contain.
        self.statuses: set[int] = set()
        self.found: dict[str, list[str]] = {}

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        answer = self.stage.ask(path, **headers)
        self.statuses.add(answer.status)
        if found := secrets_in(str(answer.headers)) + secrets_in(answer.body):
            self.found[path] = found
        return answer.status, answer.body

    def look(self) -> list[dict[str, Any]]:
        """Fetch everything once, and return the renders."""
        status, shell = self.get(self.shell)
        assert status == 200
        for name in ("renders.js", "renders.css"):
            if name.encode() in shell:
                assert self.get(f"/seedance/static/{name}")[0] == 200
        assert self.get("/seedance/api/runs")[0] == 200
        assert self.get("/seedance/api/dags/secrets/runs/none/renders")[0] == 404
        status, body = self.get(f"{self.run}/renders")
        assert status == 200
        found: list[dict[str, Any]] = json.loads(body)["renders"]
        for task_id in {render["task_id"] for render in found} | {"store", "nowhere"}:
            self.get(f"{self.run}/renders?task_id={task_id}")
            self.get(f"{self.run}/media?task_id={task_id}")
        return found


def test_nothing_that_airflow_stores_logs_or_shows_holds_a_secret(
    airflow: TestAirflow, services: SeedanceEmulator, tmp_path: Path
) -> None:
    services.hold()
    airflow.load_dag("secrets", DAG.replace("{stored}", (tmp_path / "stored").as_uri()))
    run_id = airflow.trigger("secrets")
    page = Page(airflow, "secrets", run_id)
    # While they wait there are rows of their triggers.
    seen, until = "", time.monotonic() + TIMEOUT_SECONDS
    while "callback_nonce" not in seen or "SeedanceBatchTrigger" not in seen:
        assert time.monotonic() < until, "the tasks never defer"
        time.sleep(0.2)
        seen = dict(stored(airflow, "trigger"))["trigger"]
    assert secrets_in(seen) == []
    assert {render["state"] for render in page.look()} & {"queued", "running", "waiting"}
    services.release()
    assert airflow.wait_run("secrets", run_id, TIMEOUT_SECONDS) == "failed"
    states = {row["task_id"]: row["state"] for row in airflow.database.task_instances("secrets", run_id)}
    assert {name for name, state in states.items() if state == "success"} == FINE

    renders = page.look()
    assert {"fine", "here", "failed", "called"} <= {render["task_id"] for render in renders}
    status, video = page.get(f"{page.run}/media?task_id=store", Range="bytes=0-99")
    assert (status, len(video)) == (206, 100)
    assert {200, 206, 404} <= page.statuses
    assert page.found == {}

    tables = dict(stored(airflow))
    by_attempt = airflow.database.keeps_attempts  # since Airflow 3.4
    xcoms, fields = ("xcom_v2", "rtif_v2") if by_attempt else ("xcom", "rendered_task_instance_fields")
    assert {xcoms, fields, "serialized_dag", "log", "trigger"} <= set(tables)
    assert "A lamp" in tables[fields]
    assert "secret_one" in tables["serialized_dag"]
    assert "generation_id" in tables[xcoms]
    found = [name for name, text in tables.items() if secrets_in(text)]
    files = airflow.files()
    assert any(path.name.endswith("attempt=1.log") for path in files)
    found += [str(path) for path, content in files.items() if secrets_in(content)]
    assert found == []
