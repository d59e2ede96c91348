"""The cache of connections that callback tokens name."""

from __future__ import annotations

import json

import pytest

from airflow_provider_seedance.api_server.callback_limits import CallbackLimits
from airflow_provider_seedance.api_server.callback_settings import read_connection
from api_server.callback_server import CallbackServer, token_for


def test_a_connection_is_not_looked_up_for_every_callback(server: CallbackServer) -> None:
    for _ in range(5):
        server.post()
        server.post(token_for(conn_id="no such connection"))
    assert server.lookups == ["ours", "no such connection"]


def test_a_connection_is_looked_up_again_when_it_expires(server: CallbackServer) -> None:
    server.start(CallbackLimits(connection_ttl=-1.0))
    server.post()
    server.post()
    assert server.lookups == ["ours", "ours"]


def test_a_secrets_backend_that_is_away_is_not_cached(server: CallbackServer) -> None:
    server.post(token_for(conn_id="away"))
    server.post(token_for(conn_id="away"))
    assert server.lookups == ["away", "away"]


def test_a_known_connection_outlasts_failing_lookups(server: CallbackServer) -> None:
    """Airflow reports a failing secrets backend as a missing connection."""
    limits = CallbackLimits()
    assert server.post().status_code == 202
    del server.connections["ours"]
    server.pauses.append(limits.connection_ttl + 1)
    assert server.post().status_code == 202
    server.pauses.append(limits.stale_connection_ttl)
    assert server.post().status_code == 404


def test_a_missing_connection_that_appears_is_found(server: CallbackServer) -> None:
    ours = server.connections.pop("ours")
    assert server.post().status_code == 404
    server.connections["ours"] = ours
    server.pauses.append(CallbackLimits().missing_connection_ttl)
    assert server.post().status_code == 202


def test_made_up_names_do_not_evict_real_connections(server: CallbackServer) -> None:
    server.start(CallbackLimits(max_connections=10))
    server.post()
    for number in range(50):
        server.post(token_for(conn_id=f"made up {number}"))
    assert len(server.cache._cached) <= 10
    server.post()
    assert server.lookups.count("ours") == 1


def test_read_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in (("OURS", "seedance"), ("OTHER", "http")):
        value = json.dumps({"conn_type": kind, "password": "key", "extra": {"callback_secret": "s" * 20}})
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", value)
    settings = read_connection("ours")
    assert settings is not None
    assert settings.callback_secret == "s" * 20
    assert read_connection("other") is None
    assert read_connection("none") is None
