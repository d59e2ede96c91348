"""Drivers of one task with two connections, each to an emulator of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Self

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger
from operators.batch_runner import Batch
from operators.generation_task import Connect, Task, Tries

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


def connect_to(monkeypatch: pytest.MonkeyPatch) -> ConnectTo:
    """Return a function that makes a connection to a service of an emulator."""

    def make(conn_id: str, emulator: SeedanceEmulator, api: str, **extra: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", emulator.connection_json(api, **extra))

    return make


class TwoConnections(Tries):
    """Two connections, each to an emulator of its own."""

    def __init__(
        self, primary: SeedanceEmulator, fallback: SeedanceEmulator, connect: Connect, **defaults: Any
    ) -> None:
        super().__init__(primary, connect, seedance_conn_id=CONNECTIONS, **defaults)
        self.primary, self.fallback = primary, fallback

    def connected(self, monkeypatch: pytest.MonkeyPatch) -> Self:
        self.monkeypatch: pytest.MonkeyPatch = monkeypatch
        self.connect_to(PRIMARY)
        self.connect_to(FALLBACK)
        return self

    def at(self, conn_id: str) -> SeedanceEmulator:
        return {PRIMARY: self.primary, FALLBACK: self.fallback}[conn_id]

    def connect_to(self, conn_id: str, api: str = API, **extra: Any) -> None:
        """Make a connection to its service."""
        connect_to(self.monkeypatch)(conn_id, self.at(conn_id), api, **extra)

    def meet(self, conn_id: str, outcome: str, **options: Any) -> None:
        """Give a connection an outcome."""
        emulator = self.at(conn_id)
        if outcome == "unreachable":
            connection = emulator.connection_json(API)
            # No process gets port 9 by chance.
            nowhere = connection.replace(emulator.url.rpartition(":")[2], "9")
            self.monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", nowhere)
        elif outcome == "unfit":
            self.connect_to(conn_id, "seedanceapi-v1")  # which takes no fps
        elif fault := {**PASSING, **FINAL}.get(outcome):
            emulator.fault(**{**fault, **options})

    def begin(self, *requests: Any, **arguments: Any) -> errors.SeedanceError | None:
        """Enter until the first deferral; return the error if the task fails."""
        self.deferred = None
        try:
            self.prepare(*requests, **arguments)
            self.op.execute(self.context)
        except TaskDeferred as deferred:
            self.deferred = deferred
        except errors.SeedanceError as error:
            return error
        return None

    @property
    def posts_at(self) -> tuple[int, int]:
        """Return the submissions that were sent to each service."""
        return len(self.primary.ledger.posts()), len(self.fallback.ledger.posts())


class FallbackTask(TwoConnections, Task):
    def __init__(self, primary: SeedanceEmulator, fallback: SeedanceEmulator, connect: Connect) -> None:
        super().__init__(primary, fallback, connect)
        fallback.hold()

    def begin(self, *requests: Any, **arguments: Any) -> errors.SeedanceError | None:
        return super().begin(*requests, fps=24, **arguments)

    @property
    def fallback_id(self) -> str:
        """Return the id of the only submission to the second service."""
        (submission,) = self.fallback.ledger.submissions
        return submission.generation_id

    @property
    def bills_at(self) -> tuple[int, int]:
        """Return the generations that each service bills."""
        return len(self.primary.ledger.submissions), len(self.fallback.ledger.submissions)

    @property
    def waits_at(self) -> str:
        """Return the connection that the latest deferral polls."""
        assert isinstance(self.deferred.trigger, SeedanceGenerationTrigger)
        return self.deferred.trigger.seedance_conn_id


class FallbackBatch(TwoConnections, Batch):
    def __init__(self, primary: SeedanceEmulator, fallback: SeedanceEmulator, connect: Connect) -> None:
        super().__init__(primary, fallback, connect, on_item_failure="keep")

    def meet(self, conn_id: str, outcome: str, prompt: str | None = None) -> None:  # type: ignore[override]
        """Give a connection an outcome for every item, or for one."""
        super().meet(conn_id, outcome, prompt=prompt, times=None)

    def hold(self) -> None:
        """Let renders end only when the test says so."""
        self.primary.hold()
        self.fallback.hold()

    def release(self) -> None:
        """Let every render end."""
        self.primary.release()
        self.fallback.release()

    @property
    def bills_at(self) -> tuple[list[str], list[str]]:
        """Return the prompts of the renders that each service bills."""
        primary, fallback = (
            sorted(submission.prompt for submission in service.ledger.submissions)
            for service in (self.primary, self.fallback)
        )
        return primary, fallback

    @property
    def most_bills(self) -> int:
        """Return how often the request that was billed most was billed."""
        primary, fallback = self.bills_at
        return max(Counter([*primary, *fallback]).values(), default=0)

    @property
    def waits_at(self) -> dict[str, int]:
        """Return the connections that the latest deferral polls, with the number of renders at each."""
        return {conn_id: len(ids) for conn_id, ids in self.deferred.trigger.billed_to.items()}
