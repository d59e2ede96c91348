"""The routes about the ledger: who sees and settles what, the media of the library, and the spending."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.api_fastapi.core_api import security
from airflow.models.dag import DagModel
from fastapi import FastAPI
from fastapi.testclient import TestClient
from ledger.rows import add, configured, row, uncertain
from sqlalchemy import select

from airflow_provider_seedance.api_server import ledger_api, permissions
from airflow_provider_seedance.api_server.app import build
from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.tables import submissions
from api_server.render_samples import video

TASK = {"run_id": "run", "task_id": "video", "map_index": 0}
SETTLEMENT = {**TASK, "record_key": "generation", "generation_id": "g-9"}
OWN = {"Origin": "http://testserver"}
RESOLVE = "/api/dags/ads/library/resolve"


class AuthManager:
    """Rights of the user, by Dag."""

    readable = ("ads", "films")
    editable = ("ads",)
    reads_connections = True

    def is_authorized_dag(self, *, method: str, details: Any, **_: Any) -> bool:
        return details.id in (self.readable if method == "GET" else self.editable)

    def is_authorized_connection(self, **_: Any) -> bool:
        return self.reads_connections

    def get_authorized_dag_ids(self, **_: Any) -> set[str]:
        return {"ads", "films", "secret"}


@pytest.fixture
def rights(monkeypatch: pytest.MonkeyPatch) -> AuthManager:
    manager = AuthManager()
    for module in (security, permissions):
        monkeypatch.setattr(module, "get_auth_manager", lambda: manager)
    monkeypatch.setattr(DagModel, "get_team_name", lambda dag_id: None)
    return manager


@pytest.fixture(scope="module")
def app() -> FastAPI:
    made = build()
    made.dependency_overrides[security.get_user] = lambda: SimpleNamespace(name="user")
    return made


@pytest.fixture
def http(app: FastAPI, rights: AuthManager) -> TestClient:
    return TestClient(app)


@pytest.fixture
def database(ledger: Path) -> Database:
    return configured()


def state(database: Database) -> list[Any]:
    with database.reading() as connection:
        query = select(submissions.c.state, submissions.c.generation_id)
        return [tuple(found) for found in connection.execute(query)]


def test_without_a_ledger(http: TestClient) -> None:
    for path in ("/api/library", "/api/spend"):
        answer = http.get(path)
        assert (answer.status_code, "[seedance] ledger" in answer.json()["detail"]) == (404, True)


def test_a_ledger_that_cannot_be_used(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", "sqlite:////nowhere/ledger.db")
    for path in ("/api/library", "/api/spend"):
        assert http.get(path).status_code == 503
    assert http.post(RESOLVE, json=SETTLEMENT, headers=OWN).status_code == 503


def test_renders_of_readable_dags(http: TestClient, database: Database) -> None:
    dag_ids = ("ads", "secret", "films")
    add(database, [row(number, dag_id=dag_id, output_tokens=9) for number, dag_id in enumerate(dag_ids)])
    found = http.get("/api/library").json()
    assert {render["output_tokens"] for render in found["renders"]} == {9}
    assert {render["dag_id"] for render in found["renders"]} == {"ads", "films"}
    assert found["next"] is None
    assert http.get("/api/library", params={"dag_id": "secret"}).json()["renders"] == []
    assert len(http.get("/api/library", params={"text": "heron, 2"}).json()["renders"]) == 1


def test_pages(http: TestClient, database: Database) -> None:
    add(database, [row(number) for number in range(61)])
    first = http.get("/api/library").json()
    assert (len(first["renders"]), first["next"]) == (60, 60)
    assert len(http.get("/api/library", params={"offset": 60}).json()["renders"]) == 1


def test_the_files_of_a_render_are_played(http: TestClient, database: Database, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"0123456789")
    files = [{"path": str(path), "sha256": "1", "conn_id": None} for path in (clip, tmp_path / "notes.txt")]
    add(database, [row(0, stored_files=files), row(1, dag_id="secret", stored_files=files)])
    (render,) = http.get("/api/library").json()["renders"]
    (file,) = render["files"]
    assert (file["name"], file["media"]) == ("clip.mp4", "video")
    answer = http.get(f"/{file['url']}", headers={"Range": "bytes=2-4"})
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (206, b"234", "video/mp4")
    assert http.get(f"/{file['url'].replace('index=0', 'index=1')}").status_code == 404
    assert http.get("/api/dags/ads/library/media", params={"generation_id": "g-1"}).status_code == 404
    assert http.get("/api/dags/secret/library/media", params={"generation_id": "g-1"}).status_code == 403


# ---------------------------------------------------------------------- settling


def test_only_who_may_edit_the_dag_is_offered_to_settle(http: TestClient, database: Database) -> None:
    add(database, [uncertain(0), uncertain(1, dag_id="films"), row(2)])
    found = http.get("/api/library").json()["renders"]
    offered = {render["map_index"]: (render["can_settle"], render["can_edit"]) for render in found}
    assert offered == {0: (True, True), 1: (False, False), 2: (False, True)}


@pytest.mark.parametrize(
    ("generation_id", "expected"), [(" g-9 ", ("submitted", "g-9")), (None, ("not_submitted", None))]
)
def test_settling(http: TestClient, database: Database, generation_id: str | None, expected: Any) -> None:
    add(database, [uncertain(0)])
    settlement = {**SETTLEMENT, "generation_id": generation_id}
    assert http.post(RESOLVE, json=settlement, headers=OWN).status_code == 204
    assert state(database) == [expected]
    again = http.post(RESOLVE, json=settlement, headers=OWN)
    assert (again.status_code, "no uncertain submission" in again.json()["detail"]) == (409, True)


@pytest.mark.parametrize("own", [{"Authorization": "Bearer x"}, OWN], ids=["token", "own site"])
def test_only_its_own_site_and_those_who_may_edit_settle(
    http: TestClient, database: Database, rights: AuthManager, own: dict[str, str]
) -> None:
    add(database, [uncertain(0)])
    evil = {"Origin": "https://evil.example"}
    for headers in ({}, evil, {"Origin": "null"}, {**evil, "Authorization": "Bearer x"}):
        assert http.post(RESOLVE, json=SETTLEMENT, headers=headers).status_code == 403
    rights.editable = ()
    assert http.post(RESOLVE, json=SETTLEMENT, headers=own).status_code == 403
    assert state(database) == [("uncertain", None)]
    rights.editable = ("ads",)
    assert http.post(RESOLVE, json=SETTLEMENT, headers=own).status_code == 204
    assert state(database) == [("submitted", "g-9")]


def test_an_invalid_generation_id(http: TestClient, database: Database) -> None:
    add(database, [uncertain(0)])
    for generation_id in ("", "  ", "x" * 1001, 7):
        settlement = {**SETTLEMENT, "generation_id": generation_id}
        assert http.post(RESOLVE, json=settlement, headers=OWN).status_code == 422
    assert state(database) == [("uncertain", None)]


# ---------------------------------------------------------------------- rendering again

AGAIN = {**TASK, "generation_id": "g-0"}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The task instance of the metadata database."""
    here = SimpleNamespace(task=video())
    monkeypatch.setattr(ledger_api, "create_session", nullcontext)
    monkeypatch.setattr(ledger_api.queries, "find_task", lambda session, scope: here.task)
    return here


@pytest.fixture
def again(http: TestClient, database: Database, found: SimpleNamespace) -> Callable[..., int]:
    """Decide on the only render, and return the status of the response."""
    add(database, [row(0)])

    def decide(headers: dict[str, str] = OWN, **changes: Any) -> int:
        return http.post(
            "/api/dags/ads/library/again", json={**AGAIN, **changes}, headers=headers
        ).status_code

    return decide


def decision(database: Database) -> Any:
    with database.reading() as connection:
        return connection.execute(select(submissions.c.record)).scalar_one().get("render_again_until")


def test_rendering_again(again: Callable[..., int], database: Database, found: SimpleNamespace) -> None:
    assert again() == 204
    assert utc_now() + timedelta(hours=23) < datetime.fromisoformat(decision(database))
    assert again(generation_id="g-1") == 409
    found.task = None
    assert again(withdraw=True) == 204
    assert decision(database) is None
    assert again() == 409


def test_a_clear_that_would_pay_for_more_is_refused(
    again: Callable[..., int], database: Database, found: SimpleNamespace
) -> None:
    task, batch = found.task, replace(found.task, operator="SeedanceGenerateVideoBatchOperator")
    for found.task, status in (
        (replace(task, state="deferred"), 409),
        (replace(task, state="failed"), 204),
        (batch, 409),
        (replace(batch, fields={"on_clear": "new"}), 409),
        (replace(batch, fields={"on_clear": "reuse"}), 204),
        (replace(task, fields={"on_clear": "new"}), 204),
        (replace(task, iteration=0), 409),
    ):
        assert again() == status
        assert (decision(database) is None) == (status == 409)
        again(withdraw=True)


def test_who_may_render_again(again: Callable[..., int], database: Database, rights: AuthManager) -> None:
    assert again({"Origin": "https://evil.example"}) == 403
    rights.editable = ()
    assert again() == 403
    assert decision(database) is None


# ---------------------------------------------------------------------- spending


def test_spend_of_readable_dags(http: TestClient, database: Database) -> None:
    now = utc_now()
    add(database, [row(0, created_at=now), row(1, created_at=now, dag_id="secret"), row(2)])
    found = http.get("/api/spend").json()
    (only,) = found["rows"]
    assert (only["group"], only["cost_usd"], only["day"]) == ("ads", 0.07, f"{now:%Y-%m-%d}")
    assert http.get("/api/spend", params={"by": "model"}).json()["rows"][0]["group"] == "seedance-1-5-pro"
    for period in ("month", "last_month", "12m"):
        found = http.get("/api/spend", params={"period": period}).json()
        assert found["from"] <= found["to"]
        assert found["from"].endswith("-01")


def test_budgets(
    http: TestClient, database: Database, rights: AuthManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = '{"api": "ark", "budgets": [{"usd": 1, "per": "day"}, {"credits": 50, "per": "total"}]}'
    connection = f'{{"conn_type": "seedance", "password": "k", "extra": {extra}}}'
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", connection)
    now = utc_now()
    add(database, [row(0, intended_at=now), uncertain(1, intended_at=now), row(2, conn_id="missing")])
    day, total = http.get("/api/spend").json()["budgets"]
    assert (day["name"], day["spent"], day["reserved"], day["left"]) == ("$1 per day", 0.07, 0.1, 0.83)
    assert day["renews_at"] > now.isoformat()
    assert (total["name"], total["left"], total["renews_at"]) == ("50 credits in total", 24.0, None)
    rights.reads_connections = False
    assert http.get("/api/spend").json()["budgets"] == []
