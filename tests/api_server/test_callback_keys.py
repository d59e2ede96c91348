"""Callbacks of services that publish the keys of their signatures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from helpers import connection
from support import on_loop

from airflow_provider_seedance.api_server import callback_keys
from airflow_provider_seedance.api_server.callback_keys import (
    MAX_KEYS_AGE_SECONDS,
    MIN_READ_INTERVAL_SECONDS,
    SigningKeys,
)
from airflow_provider_seedance.apis.fal import Fal
from airflow_provider_seedance.settings import Settings, read_settings
from api_server.callback_server import CallbackServer, token_for

BODY = b'{"request_id": "r1", "status": "OK", "payload": {}}'


class Service:
    """A service whose key can change, and that may not answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.key: str | None = "old"
        self.reads = 0
        self.now = 1000.0
        self.keys = SigningKeys(clock=lambda: self.now)
        monkeypatch.setattr(callback_keys, "_read", self.read)
        monkeypatch.setattr(Fal, "is_signed", staticmethod(self.is_signed))

    async def read(self, settings: Settings, path: str) -> Mapping[str, Any] | None:
        assert path == "/.well-known/jwks.json"
        self.reads += 1
        return None if self.key is None else {"keys": self.key}

    @staticmethod
    def is_signed(keys: Mapping[str, Any], headers: Mapping[str, str], body: bytes, now: float) -> bool:
        return keys["keys"] == headers.get("x-key")

    def verify(self, key: str, api: str = "fal") -> bool | None:
        settings = read_settings("keys", connection(extra={"api": api}))
        found: bool | None = on_loop(self.keys.verify(settings, {"x-key": key}, b"", 0.0))
        return found


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    return Service(monkeypatch)


def test_keys_are_read_once_an_hour(service: Service) -> None:
    assert [service.verify("old") for _ in range(3)] == [True] * 3
    assert service.reads == 1
    service.now += MAX_KEYS_AGE_SECONDS
    assert service.verify("old")
    assert service.reads == 2


def test_a_wrong_signature_reads_the_keys_again_at_most_once_a_minute(service: Service) -> None:
    assert service.verify("old")
    service.key = "new"
    assert service.verify("new") is False
    service.now += MIN_READ_INTERVAL_SECONDS
    assert service.verify("new")
    assert [service.verify("forged") for _ in range(5)] == [False] * 5
    assert service.reads == 2


def test_keys_that_cannot_be_read_refuse_nothing_for_good(service: Service) -> None:
    service.key = None
    assert [service.verify("old") for _ in range(3)] == [None] * 3
    assert service.reads == 1
    service.key = "old"
    service.now += MIN_READ_INTERVAL_SECONDS
    assert service.verify("old")


def test_a_service_without_keys_signs_nothing(service: Service) -> None:
    assert service.verify("any", api="ark")
    assert service.reads == 0


def test_the_route_drops_a_callback_with_a_wrong_signature(
    server: CallbackServer, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    token = token_for(conn_id="keys")
    assert server.post(token, BODY, headers={"x-key": "forged"}).status_code == 404
    assert "missing or wrong" in caplog.text
    assert server.calls == []
    assert server.post(token, BODY, headers={"x-key": "old"}).status_code == 202
    assert [payload.generation_id for _, payload, *_ in server.calls] == ["r1"]
    service.key = None
    server.start()  # without the keys that it has read
    assert server.post(token, BODY, headers={"x-key": "old"}).status_code == 503
