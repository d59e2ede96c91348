"""Simulated time, with a service and waits in it: hours take no time, and every moment is exact."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from helpers import reply
from helpers import settings as settings_of

from airflow_provider_seedance.apis.messages import HttpCall, HttpReply, TransportFailure
from airflow_provider_seedance.apis.rate_limits import RateLimit, read_rate_limit
from airflow_provider_seedance.polling import hub
from airflow_provider_seedance.polling.connections import GetSettings
from airflow_provider_seedance.polling.hub import Report, wait_for_generation
from airflow_provider_seedance.polling.wait_state import WaitState, WaitStep
from airflow_provider_seedance.settings import Settings

#: Beginning of simulated time, in seconds since 1970.
EPOCH = 1_800_000_000.0

#: Maximum iterations of the event loop until a wait counts as endless.
_MAX_ITERATIONS = 50_000

CONN = "seedance_default"
HOUR = 3600.0

#: Functions that are called at these times.
Calls = Mapping[float, Callable[[], Any]]


class _Selector(selectors.DefaultSelector):
    """Selector that advances the clock instead of waiting."""

    now = 0.0
    iterations = 0

    def select(self, timeout: float | None = None) -> Any:
        self.iterations += 1
        assert self.iterations < _MAX_ITERATIONS, "the wait does not end"
        assert timeout is not None, "no task can continue"
        self.now += max(0.0, timeout)
        return super().select(0)


def simulate(monkeypatch: pytest.MonkeyPatch, main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine in simulated time; it may leave no task behind."""
    selector = _Selector()
    loop = asyncio.SelectorEventLoop(selector)
    monkeypatch.setattr(loop, "time", lambda: selector.now)

    async def guarded() -> Any:
        async with asyncio.timeout(24 * HOUR):
            result = await main
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
    """Return the seconds since simulated time began."""
    return time.time() - EPOCH


@dataclass(frozen=True)
class Request:
    """A request to the service: its time, generations and connection."""

    at: float
    ids: tuple[str, ...]
    settings: Settings


@dataclass(kw_only=True)
class Service:
    """
    A service whose generations end at moments that a test chooses, and the waits for them.

    :param look_up: Look-up of the connections of the waits.
    :param ends: Seconds at which each generation has succeeded; the service knows no other.
    :param latency: Seconds that each reply takes.
    :param slow: Seconds that replies about a generation take instead.
    :param bodies: Returns more fields of the status of a generation at a time.
    :param answer: Returns another reply to a request, or ``None``.
    :param headers: Returns the headers of a reply at a time.
    :param refused_keys: Invalid API keys.
    """

    monkeypatch: pytest.MonkeyPatch
    look_up: GetSettings = field(default_factory=lambda: Connections())
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
    max_running: int = 0
    #: Length of the last run.
    seconds: float = 0.0

    def run(self, main: Coroutine[Any, Any, Any], at: Calls | None = None) -> Any:
        """Run in simulated time."""

        async def run() -> Any:
            calls = [asyncio.create_task(call_at(*one)) for one in (at or {}).items()]
            result = await main
            await asyncio.gather(*calls)
            self.seconds = passed()
            return result

        result = simulate(self.monkeypatch, run())
        assert all(client.closed for client in self.clients)
        return result

    def wait(
        self, generation_id: str = "g", conn_id: str = CONN, **options: Any
    ) -> Coroutine[Any, Any, WaitStep]:
        """Wait for a generation; the options are those of :func:`wait`."""
        return wait(self.look_up, generation_id, conn_id, **options)

    def run_all(self, *waits: Coroutine[Any, Any, Any], at: Calls | None = None) -> list[Any]:
        """Run coroutines at the same time, and return their results."""

        async def run() -> list[Any]:
            return await asyncio.gather(*waits)

        found: list[Any] = self.run(run(), at)
        return found

    def run_each(self, ids: Iterable[str], at: Calls | None = None, **options: Any) -> list[Any]:
        """Wait for generations at the same time, and return their last steps."""
        return self.run_all(*(self.wait(generation_id, **options) for generation_id in ids), at=at)

    def add(self, count: int, *, ends: float = 0.0) -> list[str]:
        """Add generations that end at the same time, and return their ids."""
        ids = [f"g{number}" for number in range(count)]
        self.ends |= dict.fromkeys(ids, ends)
        return ids

    def times(self, *ids: str) -> list[float]:
        """Return the times of all requests, or of those for exactly these generations."""
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
    """Client that drives flows as the real one does, without a network."""

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
        self.service.max_running = max(self.service.max_running, self.service.running)
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
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return reply(429, {"error": {"code": "RATE_LIMITED", "message": "too many requests"}}, headers)


class Connections:
    """
    Look-up of connections, which records the time of each.

    :param known: The settings of the connections; without any, those of the default connection.
    :param fails: Returns whether a look-up at a time fails.
    """

    def __init__(self, *known: Settings, fails: Callable[[float], bool] = lambda at: False) -> None:
        self.known = {one.conn_id: one for one in known or (connection(),)}
        self.fails = fails
        self.looked_up: list[tuple[float, str]] = []

    async def __call__(self, conn_id: str) -> Settings:
        self.looked_up.append((passed(), conn_id))
        await asyncio.sleep(0)
        if self.fails(passed()):
            raise ConnectionError("the secrets backend is away")
        return self.known[conn_id]


def connection(api: str = "runbase", conn_id: str = CONN, **changes: Any) -> Settings:
    return replace(settings_of(api=api), conn_id=conn_id, **changes)


async def wait(
    look_up: GetSettings,
    generation_id: str,
    conn_id: str = CONN,
    *,
    interval: float | None = 10.0,
    timeout: float = HOUR,  # noqa: ASYNC109
    not_before: float = 0.0,
    report: Report | None = None,
    **known: Any,
) -> WaitStep:
    """
    Wait for a generation in the hub of its connection.

    :param known: More fields of the wait.
    """
    state = WaitState(
        **{
            "generation_id": generation_id,
            "media": "video",
            "deadline": time.time() + timeout,
            "poll_interval": interval,
            **known,
        }
    )
    return await wait_for_generation(state, conn_id, look_up, not_before=not_before, report=report)


async def call_at(seconds: float, call: Callable[[], Any]) -> None:
    await asyncio.sleep(seconds - passed())
    call()


def ends(steps: Iterable[WaitStep]) -> set[tuple[str, int]]:
    """Return how waits ended, each with its consecutive failures."""
    return {(step.kind, step.state.failures) for step in steps}


async def leave(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def wait_for_a_while(seconds: float, *waits: Coroutine[Any, Any, Any]) -> None:
    tasks = [asyncio.create_task(one) for one in waits]
    await asyncio.sleep(seconds)
    await leave(*tasks)


def only_hub() -> hub.Hub:
    (found,) = hub._hubs.values()
    return found


def rate_limit(limit: int, remaining: int, reset: float, **more: Any) -> RateLimit:
    """Return rate-limit headers; ``reset`` counts from the beginning of simulated time."""
    reset_at = datetime.fromtimestamp(EPOCH + reset, UTC)
    return RateLimit(limit=limit, remaining=remaining, reset_at=reset_at, **more)


def report_limit(limit: int, remaining: int, reset: float) -> None:
    only_hub().answered(rate_limit(limit, remaining, reset), refused=False)
