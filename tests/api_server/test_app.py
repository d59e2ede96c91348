"""The application that Airflow mounts, without Airflow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from airflow_provider_seedance.api_server.app import build
from airflow_provider_seedance.api_server.permissions import CAN_EDIT_RENDERS, CAN_READ_RENDERS
from airflow_provider_seedance.callbacks.tokens import ROUTE
from airflow_provider_seedance.plugin import LazyApp


def routes_of(router: Any) -> Iterator[Any]:
    """Return all routes; later versions of FastAPI nest those of a router."""
    for route in router.routes:
        included = getattr(route, "original_router", None)
        yield from routes_of(included) if included else (route,)


def test_every_route_with_a_dag_is_guarded() -> None:
    routes = [route for route in routes_of(build()) if "{dag_id}" in getattr(route, "path", "")]
    assert len(routes) == 6
    for route in routes:
        guards = [dependency.dependency for dependency in route.dependencies]
        expected = CAN_READ_RENDERS if route.methods <= {"GET", "HEAD"} else CAN_EDIT_RENDERS
        assert guards == [dependency.dependency for dependency in expected]


def test_only_callbacks_and_decisions_about_submissions_change_anything() -> None:
    changing = {
        getattr(route, "path", "")
        for route in routes_of(build())
        if not set(getattr(route, "methods", None) or ()) <= {"GET", "HEAD"}
    }
    assert changing == {ROUTE, *(f"/api/dags/{{dag_id}}/library/{name}" for name in ("resolve", "again"))}


def test_routes_without_their_guards_are_not_served(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "airflow.api_fastapi.core_api.security", None)
    for name in ("permissions", "renders_api", "media", "ledger_api"):
        monkeypatch.delitem(sys.modules, f"airflow_provider_seedance.api_server.{name}")
    http = TestClient(build())
    assert http.get("/api/runs").status_code == 404
    assert http.get("/renders").status_code == 200
    assert "cannot be served by this version of Airflow" in caplog.text


def test_the_application_is_built_once_at_the_first_request() -> None:
    app = LazyApp()
    http = TestClient(app)
    assert app._app is None
    assert http.get("/renders").status_code == 200
    built = app._app
    assert http.get("/static/renders.css").status_code == 200
    assert app._app is built


def test_every_response_has_the_security_headers() -> None:
    http = TestClient(build())
    for path in ("/renders", "/static/renders.js", "/nothing", "/docs", "/openapi.json", "/api/x"):
        answer = http.get(path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert (answer.status_code == 404) == (path not in ("/renders", "/static/renders.js"))
        assert "Traceback" not in answer.text
