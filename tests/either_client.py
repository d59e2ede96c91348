"""The synchronous and the asynchronous client behind the same methods, for tests that hold for both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from airflow_provider_seedance.apis.base import Flow
from airflow_provider_seedance.apis.messages import HttpCall
from airflow_provider_seedance.apis.rate_limits import RateLimit
from airflow_provider_seedance.client import api_client
from airflow_provider_seedance.settings import Settings

GET = HttpCall(method="GET", path="/status", query=(("task_id", "a b&c"), ("task_id", "d")))
POST = HttpCall(method="POST", path="/generate", json={"prompt": "山 🎬"})


class RecordingObserver:
    """Observer that records requests and replies."""

    def __init__(self) -> None:
        self.requests = 0
        self.replies: list[tuple[RateLimit, bool]] = []

    def sent(self) -> None:
        self.requests += 1

    def answered(self, limit: RateLimit, *, refused: bool) -> None:
        self.replies.append((limit, refused))


class EitherClient:
    """One of the two clients."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.observer: Any = None

    def send(self, found: Settings, *many: HttpCall) -> Any:
        """Send calls through one client; return the last answer."""
        return self.use(found, lambda it: [it.send(call) for call in many])[-1]

    def run(self, found: Settings, flow: Flow[Any]) -> Any:
        return self.use(found, lambda it: [it.run(flow)])[-1]

    def use(self, found: Settings, what: Callable[[Any], list[Any]]) -> list[Any]:
        if self.kind == "sync":
            with api_client.Client(found, observer=self.observer, sleep=lambda seconds: None) as one:
                return what(one)

        async def use() -> list[Any]:
            async with api_client.AsyncClient(found, observer=self.observer) as other:
                return [await item for item in what(other)]

        return asyncio.run(use())

    def observe(self, found: Settings, call: HttpCall) -> RecordingObserver:
        """Send one call and return its observer."""
        self.observer = observer = RecordingObserver()
        self.send(found, call)
        self.observer = None
        return observer
