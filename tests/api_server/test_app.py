"""The application that Airflow mounts, without Airflow."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_seedance.api_server.app import build
from airflow_provider_seedance.api_server.permissions import CAN_EDIT_RENDERS, CAN_READ_RENDERS
from airflow_provider_seedance.callbacks.tokens import ROUTE
from airflow_provider_seedance.plugin import LazyApp


def send_request(app: Any, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Send one request to an ASGI application."""
    sent: list[dict[str, Any]] = []

    requests = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not requests:
            await asyncio.Event().wait()  # the client stays connected
        return requests.pop()

    async def send(message: Any) -> None:
        sent.append(dict(message))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"airflow.example")],
        "server": ("airflow.example", 80),
        "client": ("127.0.0.1", 1),
    }
    asyncio.run(app(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


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
    app = build()
    assert send_request(app, "/api/runs")[0] == 404
    assert send_request(app, "/renders")[0] == 200
    assert "cannot be served by this version of Airflow" in caplog.text


def test_the_application_is_built_once_at_the_first_request() -> None:
    app = LazyApp()
    assert app._app is None
    assert send_request(app, "/renders")[0] == 200
    built = app._app
    assert send_request(app, "/static/renders.css")[0] == 200
    assert app._app is built


def test_every_response_has_the_security_headers() -> None:
    app = build()
    for path in ("/renders", "/static/renders.js", "/nothing", "/docs", "/openapi.json", "/api/x"):
        status, headers, body = send_request(app, path)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert (status == 404) == (path not in ("/renders", "/static/renders.js"))
        assert b"Traceback" not in body
