"""
Simulated time, a service in it, and those who wait there: hours take no time, and every moment is exact.

The fixtures that go with it are in ``conftest.py``.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from helpers import reply
from helpers import settings as settings_of

from airflow_provider_seedance.apis.messages import HttpCall, HttpReply, TransportFailure
from airflow_provider_seedance.apis.rate_limits import read_rate_limit
from airflow_provider_seedance.polling import hub
from airflow_provider_seedance.polling.hub import wait_for_generation
from airflow_provider_seedance.polling.wait_state import WaitState
from airflow_provider_seedance.settings import Settings

#: When simulated time begins, in seconds since 1970.
EPOCH = 1_800_000_000.0

#: So many turns of an event loop are an endless loop, and not a wait.
_MOST_TURNS = 50_000


class _Selector(selectors.DefaultSelector):
    """Does not wait: it moves the clock."""

    now = 0.0
    turns = 0

    def select(self, timeout: float | None = None) -> Any:
        self.turns += 1
        assert self.turns < _MOST_TURNS, "this goes on for ever"
        assert timeout is not None, "nothing will ever happen any more"
        self.now += max(0.0, timeout)
        return super().select(0)


def simulate(
    monkeypatch: pytest.MonkeyPatch, main: Callable[[], Awaitable[Any]], *, longest: float = 86400.0
) -> Any:
    """Run a coroutine in simulated time, at most for so many seconds; nothing may be left to do after it."""
    selector = _Selector()
    loop = asyncio.SelectorEventLoop(selector)
    monkeypatch.setattr(loop, "time", lambda: selector.now)

    async def guarded() -> Any:
        async with asyncio.timeout(longest):
            result = await main()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: EPOCH + selector.now)
        try:
            return loop.run_until_complete(guarded())
        finally:
            loop.close()


def passed() -> float:
    """Return the seconds since the begin of simulated time."""
    return time.time() - EPOCH


@dataclass(frozen=True)
class Request:
    """A request that the service had: when, for which generations, and by which connection."""

    at: float
    ids: tuple[str, ...]
    settings: Settings


@dataclass(kw_only=True)
class Service:
    """
    A service whose renders end at moments that a test chooses.

    :param ends: Seconds at which a generation has succeeded; one that is not named is not known.
    :param latency: Seconds that each reply takes.
    :param slow: Seconds that replies about a generation take instead.
    :param bodies: More fields of the status of a generation, made from the seconds that have passed.
    :param answer: Answers instead, where it returns something.
    :param headers: Of each reply.
    :param refused_keys: API keys that are wrong.
    """

    ends: dict[str, float] = field(default_factory=dict)
    latency: float = 0.0
    slow: dict[str, float] = field(default_factory=dict)
    bodies: Callable[[str, float], dict[str, Any]] = lambda generation_id, at: {}
    answer: Callable[[Request], HttpReply | TransportFailure | None] = lambda request: None
    headers: Callable[[float], dict[str, str]] = lambda at: {}
    refused_keys: set[str] = field(default_factory=set)
    requests: list[Request] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    def serve(self, monkeypatch: pytest.MonkeyPatch) -> Service:
        """Let every client of a hub speak to this service."""
        monkeypatch.setattr(hub, "AsyncClient", lambda settings, observer: Client(self, settings, observer))
        return self

    def times(self, *ids: str) -> list[float]:
        """Return when it was asked, for these generations only if any are named."""
        return [request.at for request in self.requests if not ids or request.ids == ids]

    def reply_to(self, call: HttpCall, settings: Settings) -> HttpReply | TransportFailure:
        listed = tuple(value for name, value in call.query if name == "filter.task_ids")
        request = Request(passed(), listed or (call.path.rsplit("/", 1)[1],), settings)
        self.requests.append(request)
        if settings.key in self.refused_keys:
            return reply(401, {"error": {"code": "AuthenticationError", "message": "wrong key"}})
        return self.answer(request) or self._state(request, many=bool(listed))

    def _state(self, request: Request, *, many: bool) -> HttpReply:
        known = [self._body(generation_id, request.at) for generation_id in request.ids]
        items = [item for item in known if item is not None]
        if many:
            return reply(200, {"total": len(items), "items": items}, self.headers(request.at))
        if not items:
            error = {"error": {"code": "NotFound", "message": "no such generation"}}
            return reply(404, error, self.headers(request.at))
        return reply(200, items[0], self.headers(request.at))

    def _body(self, generation_id: str, at: float) -> dict[str, Any] | None:
        if generation_id not in self.ends:
            return None
        done = at >= self.ends[generation_id]
        body: dict[str, Any] = {"id": generation_id, "task_id": generation_id}
        body["status"] = "succeeded" if done else "running"
        if done:
            url = "https://media.example/v.mp4"
            body |= {"output": [url], "content": {"video_url": url}, "result": {"video_url": url}}
        return body | self.bodies(generation_id, at)


class Client:
    """Drives flows as the real client does, without a network."""

    def __init__(self, service: Service, settings: Settings, observer: Any) -> None:
        self.service, self.settings, self.observer = service, settings, observer
        self.closed = False
        service.clients.append(self)

    async def run(self, flow: Any) -> Any:
        answer = None
        try:
            while True:
                answer = await self.send(flow.send(answer))
        except StopIteration as stop:
            return stop.value

    async def send(self, call: HttpCall) -> HttpReply | TransportFailure:
        assert not self.closed
        self.observer.sent()
        self.service.running += 1
        self.service.most_running = max(self.service.most_running, self.service.running)
        try:
            await asyncio.sleep(self.service.slow.get(call.path.rsplit("/", 1)[1], self.service.latency))
            answer = self.service.reply_to(call, self.settings)
        finally:
            self.service.running -= 1
        if isinstance(answer, HttpReply):
            limit = read_rate_limit(answer.headers, datetime.fromtimestamp(time.time(), UTC))
            self.observer.answered(limit, refused=answer.status == 429)
        return answer

    async def close(self) -> None:
        assert not self.closed
        self.closed = True


def refusal(retry_after: float | None = None) -> HttpReply:
    """Return a refusal for quota."""
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    body = json.dumps({"error": {"code": "RATE_LIMITED", "message": "too many requests"}}).encode()
    return HttpReply(status=429, headers=headers, body=body)


CONN = "seedance_default"
HOUR = 3600.0


class Connections:
    """Looks connections up, and notes when."""

    def __init__(self, *known: Settings) -> None:
        self.known = {one.conn_id: one for one in known}
        self.looked_up: list[tuple[float, str]] = []

    async def __call__(self, conn_id: str) -> Settings:
        self.looked_up.append((passed(), conn_id))
        await asyncio.sleep(0)
        return self.known[conn_id]


def connection(api: str = "runbase", conn_id: str = CONN, **changes: Any) -> Settings:
    return replace(settings_of(api=api), conn_id=conn_id, **changes)


def waiting(
    generation_id: str = "g", *, interval: float | None = 10.0, patience: float = HOUR, **changes: Any
) -> WaitState:
    return WaitState(
        **{
            "generation_id": generation_id,
            "media": "video",
            "deadline": time.time() + patience,
            "poll_interval": interval,
            **changes,
        }
    )


def wait(
    look_up: Any, generation_id: str = "g", conn_id: str = CONN, *, more: Any = None, **changes: Any
) -> Any:
    more = {"not_before": 0.0, **(more or {})}
    return wait_for_generation(waiting(generation_id, **changes), conn_id, look_up, **more)


async def wait_for_all(*waits: Any) -> list[Any]:
    return await asyncio.gather(*waits, return_exceptions=True)


async def leave(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
