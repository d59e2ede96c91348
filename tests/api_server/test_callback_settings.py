"""The cache of connections that callback tokens name."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any

import anyio.to_thread
import httpx
import pytest
from helpers import connection

from airflow_provider_seedance.api_server import callback_settings
from airflow_provider_seedance.api_server.callback_limits import DEFAULT_LIMITS
from airflow_provider_seedance.api_server.callback_settings import read_connection
from api_server.callback_server import SUCCEEDED, TOKEN, CallbackServer, token_for


def test_a_connection_is_not_looked_up_for_every_callback(server: CallbackServer) -> None:
    for _ in range(5):
        server.post()
        server.post(token_for(conn_id="no such connection"))
    assert server.lookups == ["ours", "no such connection"]


def test_a_connection_is_looked_up_again_when_it_expires(server: CallbackServer) -> None:
    server.start(connection_ttl=-1.0)
    server.post()
    server.post()
    assert server.lookups == ["ours", "ours"]


def test_teams_may_have_connections_with_the_same_id(server: CallbackServer) -> None:
    """Each has a secret of its own, which verifies the calls for its own tasks only."""
    server.connections |= {
        "films/ours": {"callback_secret": "of the films"},
        "ads/ours": {"callback_secret": "of the ads"},
    }
    for _ in range(2):
        assert server.post(token_for("of the films", team="films")).status_code == 202
        assert server.post(token_for("of the ads", team="ads")).status_code == 202
        assert server.post(token_for("of the films", team="ads")).status_code == 404
        assert server.post(token_for("of the films")).status_code == 404
    assert server.lookups == ["films/ours", "ads/ours", "ours"]


@pytest.mark.parametrize("conn_id", ["away", "missing"])
def test_a_failing_lookup_is_repeated_after_a_moment(server: CallbackServer, conn_id: str) -> None:
    token = token_for(conn_id=conn_id)
    assert [server.post(token).status_code for _ in range(3)] == [404] * 3
    assert server.lookups == [conn_id]
    server.connections[conn_id] = server.connections["ours"]
    server.pauses.append(DEFAULT_LIMITS.missing_connection_ttl)
    assert server.post(token).status_code == 202
    assert server.lookups == [conn_id, conn_id]


@pytest.mark.parametrize("raises", [False, True])
def test_a_known_connection_outlasts_failing_lookups(server: CallbackServer, raises: bool) -> None:
    """Airflow reports a failing secrets backend as a missing connection."""
    assert server.post().status_code == 202
    if raises:
        server.connections["ours"] = ConnectionError("the secrets backend is away")
    else:
        del server.connections["ours"]
    server.pauses.append(DEFAULT_LIMITS.connection_ttl + 1)
    for _ in range(5):
        assert server.post().status_code == 202
    assert server.lookups == ["ours", "ours"]
    server.pauses.append(DEFAULT_LIMITS.stale_connection_ttl)
    assert server.post().status_code == 404


def test_made_up_names_do_not_evict_real_connections(server: CallbackServer) -> None:
    server.start(max_connections=10, unknown_lookup_burst=100)
    server.post()
    for number in range(20):
        server.post(token_for(conn_id=f"made up {number}"))
    assert len(server.cache._cached) <= 10
    server.post()
    assert server.lookups.count("ours") == 1


def test_forged_tokens_cause_few_lookups(server: CallbackServer) -> None:
    """An attacker can make up the names in tokens that are not verified yet."""

    async def do(http: httpx.AsyncClient) -> list[int]:
        forged = [token_for("guess", conn_id=f"made up {number}") for number in range(100)]
        answers = await asyncio.gather(*(http.post(f"/callbacks/{token}") for token in forged))
        return [answer.status_code for answer in answers]

    statuses = Counter(server.run(do))
    assert set(statuses) == {404, 503}
    assert DEFAULT_LIMITS.unknown_lookup_burst <= len(server.lookups) == statuses[404] < 50
    # The rate recovers.
    server.pauses.append(5.0)
    assert server.post(token_for("guess", conn_id="another")).status_code == 404


def test_forged_tokens_do_not_delay_known_connections_nor_other_threads(server: CallbackServer) -> None:
    """A lookup may take long: those of unknown names use neither the threads of known ones nor the server's own."""
    server.post()
    server.pauses.append(DEFAULT_LIMITS.connection_ttl + 1)
    backend = threading.Event()
    read = server.read_connection

    def slow(conn_id: str, team: str) -> Any:
        if conn_id != "ours":
            assert backend.wait(60)
        return read(conn_id, team)

    server.cache._read = slow

    async def do(http: httpx.AsyncClient) -> int:
        forged = [token_for("guess", conn_id=f"made up {number}") for number in range(19)]
        waiting = [asyncio.create_task(http.post(f"/callbacks/{token}")) for token in forged]
        await asyncio.sleep(0)
        genuine = await http.post(f"/callbacks/{TOKEN}", content=SUCCEEDED)
        # The threads that serve heartbeats are all free.
        assert anyio.to_thread.current_default_thread_limiter().borrowed_tokens <= 1
        backend.set()
        await asyncio.gather(*waiting)
        return genuine.status_code

    assert server.run(do) == 202


def test_concurrent_callbacks_share_a_lookup(server: CallbackServer) -> None:
    async def do(http: httpx.AsyncClient) -> set[int]:
        answers = await asyncio.gather(*(http.post(f"/callbacks/{TOKEN}") for _ in range(50)))
        return {answer.status_code for answer in answers}

    assert server.run(do) == {202}
    assert server.lookups == ["ours"]


def test_read_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in (("OURS", "seedance"), ("OTHER", "http")):
        value = json.dumps({"conn_type": kind, "password": "key", "extra": {"callback_secret": "s" * 20}})
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", value)
    settings = read_connection("ours")
    assert settings.callback_secret == "s" * 20
    assert read_connection("other") is None
    assert read_connection("none") is None


def test_read_connection_of_a_team(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    ours = SimpleNamespace(**vars(connection(extra={})), conn_type="seedance")
    monkeypatch.setattr(callback_settings.Team, "get_name_if_exists", {"films": "films"}.get, raising=False)
    monkeypatch.setattr(
        callback_settings.Connection,
        "get_connection_from_secrets",
        lambda conn_id, **of_team: read.append((conn_id, of_team)) or ours,
    )
    assert read_connection("ours", "films") is not None
    assert read_connection("ours") is not None
    assert read_connection("ours", "forged") is None
    assert read == [("ours", {"team_name": "films"}), ("ours", {})]
