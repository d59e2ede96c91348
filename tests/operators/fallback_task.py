"""Driver of one task with two connections, each to an emulator of its own."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger
from operators.generation_task import Task

PRIMARY, FALLBACK = "primary", "fallback"
CONNECTIONS = [PRIMARY, FALLBACK]

ConnectTo = Callable[..., None]

API = "seedance2api"

#: Reasons for which a connection certainly takes nothing, by name: a fault, or a setting of the connection.
PASSING: dict[str, dict[str, Any]] = {
    "401": {"kind": "refuse", "status": 401},
    "402": {"kind": "refuse", "status": 402, "code": "INSUFFICIENT_CREDITS"},
    "403": {"kind": "refuse", "status": 403},
    "long 429": {"kind": "rate_limit", "retry_after": 1800},
    "503": {"kind": "refuse", "status": 503, "code": "SERVICE_UNAVAILABLE", "times": None},
    "short 429s": {"kind": "rate_limit", "retry_after": 0, "times": None},
    "unreachable": {},
    "unfit": {},
}

#: Outcomes after which no other connection may be tried.
FINAL: dict[str, dict[str, Any]] = {
    "lost reply": {"kind": "drop_reply"},
    "gateway error": {"kind": "gateway_error"},
    "408": {"kind": "refuse", "status": 408},
    "500": {"kind": "refuse", "status": 500},
    "rubbish": {"kind": "rubbish"},
    "400": {"kind": "refuse", "status": 400},
    "moderation": {"kind": "refuse", "status": 400, "code": "CONTENT_POLICY_VIOLATION"},
}

#: Outcomes that may be waited for.
LIMITED = {"long 429", "short 429s"}

#: Outcomes that may be billed, or are.
UNCERTAIN = ("lost reply", "gateway error", "408", "500", "rubbish")


class Killed(BaseException):
    """The worker is killed."""


def connect_to(monkeypatch: pytest.MonkeyPatch) -> ConnectTo:
    """Return a function that makes a connection to a service of an emulator."""

    def make(conn_id: str, emulator: SeedanceEmulator, api: str, **extra: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", emulator.connection_json(api, **extra))

    return make


def closed_port() -> int:
    """Return a port without a listener."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def disconnect(monkeypatch: pytest.MonkeyPatch, conn_id: str, emulator: SeedanceEmulator, api: str) -> None:
    """Point a connection to a port without a listener."""
    connection = json.loads(emulator.connection_json(api))
    connection["host"] = connection["host"].replace(emulator.url.rpartition(":")[2], str(closed_port()))
    connection.pop("port", None)
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))


class FallbackTask(Task):
    """Task instance with two connections."""

    def __init__(self, primary: SeedanceEmulator, fallback: SeedanceEmulator, connect: Any) -> None:
        super().__init__(primary, connect, seedance_conn_id=CONNECTIONS)
        fallback.hold()
        self.primary, self.fallback = primary, fallback

    @property
    def posts_at(self) -> tuple[int, int]:
        """Return the submissions that were sent to each service."""
        return len(self.primary.ledger.posts()), len(self.fallback.ledger.posts())

    @property
    def bills_at(self) -> tuple[int, int]:
        """Return the generations that each service bills."""
        return len(self.primary.ledger.submissions), len(self.fallback.ledger.submissions)

    @property
    def waits_at(self) -> str:
        """Return the connection that the latest deferral polls."""
        assert isinstance(self.deferred.trigger, SeedanceGenerationTrigger)
        return self.deferred.trigger.seedance_conn_id
