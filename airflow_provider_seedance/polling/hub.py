"""
One client and one scheduler of polls for all generations of a base URL and key in a triggerer.

All triggers of a triggerer run on one event loop, so a hub is found by (loop, base URL, key) at module
level. It holds a heap of due times and a future per generation; the first trigger in opens it, the
last one out closes it. What a reading means is decided in
:mod:`airflow_provider_seedance.polling.waiting`; nothing is logged per poll.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from airflow_provider_seedance import flows
from airflow_provider_seedance.client import POOL_SIZE, AsyncClient
from airflow_provider_seedance.exceptions import SeedanceAuthenticationError, SeedanceError
from airflow_provider_seedance.generations import Generation, utc_now
from airflow_provider_seedance.polling.waiting import Next, Waiting, begin, on_reading
from airflow_provider_seedance.settings import Settings

log = logging.getLogger(__name__)

#: Seconds after which a connection is looked up again, since keys are rotated.
CONNECTION_LIFETIME = 900.0

#: Seconds between look-ups while the service refuses a key: one for all who are refused.
_REFUSED_KEY_PATIENCE = 30.0

#: Longest sleep of the scheduler; bounds how late it notices that the wall clock was set.
_LONGEST_SLEEP = 30.0

LookUp = Callable[[str], Awaitable[Settings]]
_Loop = asyncio.AbstractEventLoop


class _Connections:
    """The settings of each connection id, looked up once for all triggers of a loop."""

    def __init__(self, look_up: LookUp) -> None:
        self._look_up = look_up
        self._known: dict[str, tuple[Settings, float]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def last(self, conn_id: str) -> Settings:
        """Return the settings as they were known last."""
        return self._known[conn_id][0]

    async def get(self, conn_id: str, *, max_age: float = CONNECTION_LIFETIME) -> Settings:
        """Return the settings, looked up anew if they are older than ``max_age`` seconds."""
        async with self._locks.setdefault(conn_id, asyncio.Lock()):
            known = self._known.get(conn_id)
            if known and time.time() - known[1] < max_age:
                return known[0]
            settings = await self._look_up(conn_id)
            self._known[conn_id] = (settings, time.time())
            return settings


@dataclass(eq=False, slots=True)
class _Watch:
    step: Next
    future: asyncio.Future[Next]
    conn_id: str


class Hub:
    """
    Polls the generations of one base URL and key.

    :param settings: Of the connection that came first.
    :param connections: Where to learn a new key when the service refuses this one.
    """

    def __init__(self, settings: Settings, connections: _Connections) -> None:
        #: Whether the scheduler died; a broken hub is replaced by the next one who comes.
        self.broken = False
        self._connections = connections
        # One, as long as the connections that meet here stay the same.
        self._clients: dict[tuple[str, ...], AsyncClient] = {identity(settings): AsyncClient(settings)}
        self._due: list[tuple[float, int, _Watch]] = []
        self._order = itertools.count()
        self._slots = asyncio.Semaphore(POOL_SIZE)
        self._wake = asyncio.Event()
        self._watches: set[_Watch] = set()
        self._polls: set[asyncio.Task[None]] = set()
        # A context of its own: log lines of the hub must not be pinned to the task that came first.
        self._scheduler = asyncio.create_task(self._run(), context=contextvars.Context())

    @property
    def idle(self) -> bool:
        """Whether nobody waits here."""
        return not self._watches

    async def wait(self, waiting: Waiting, conn_id: str, *, not_before: float) -> Next:
        """Wait until the generation has ended, is unknown, or the deadline has passed."""
        watch = _Watch(
            begin(waiting, time.time(), not_before=not_before),
            asyncio.get_running_loop().create_future(),
            conn_id,
        )
        if watch.step.kind != "wait":
            return watch.step
        self._watches.add(watch)
        self._plan(watch)
        try:
            return await watch.future
        finally:
            self._watches.discard(watch)

    async def close(self) -> None:
        """Stop polling and close the client."""
        tasks = [self._scheduler, *self._polls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in self._clients.values():
            await client.close()

    def _plan(self, watch: _Watch) -> None:
        heapq.heappush(self._due, (watch.step.at, next(self._order), watch))
        self._wake.set()

    async def _run(self) -> None:
        try:
            while True:
                self._wake.clear()
                now = time.time()
                if self._due and self._due[0][0] <= now:
                    watch = heapq.heappop(self._due)[2]
                    if watch.future.done():
                        continue
                    await self._slots.acquire()
                    task = asyncio.create_task(self._poll(watch))
                    self._polls.add(task)
                    task.add_done_callback(self._polls.discard)
                    continue
                sleep = min(_LONGEST_SLEEP, self._due[0][0] - now) if self._due else _LONGEST_SLEEP
                # Not wait_for: on Python 3.11 it can swallow the cancellation that is to end this loop.
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, sleep)):
                        await self._wake.wait()
        except Exception as error:
            self.broken = True
            self._fail_all(error)

    def _fail_all(self, error: Exception) -> None:
        for watch in list(self._watches):
            if not watch.future.done():
                watch.future.set_exception(error)

    async def _poll(self, watch: _Watch) -> None:
        try:
            waiting = watch.step.waiting
            now = time.time()
            if now >= waiting.deadline:
                # The last reading is the worker's: it may start much later than now.
                self._settle(watch, Next("deadline", waiting))
                return
            step = on_reading(waiting, await self._read(waiting, watch.conn_id), time.time())
            if step.kind == "wait":
                watch.step = step
                self._plan(watch)
            else:
                self._settle(watch, step)
        except Exception as error:
            if not watch.future.done():
                watch.future.set_exception(error)
        finally:
            self._slots.release()

    @staticmethod
    def _settle(watch: _Watch, step: Next) -> None:
        if not watch.future.done():
            watch.future.set_result(step)

    async def _read(self, waiting: Waiting, conn_id: str) -> Generation | SeedanceError:
        try:
            client = await self._client(conn_id, max_age=CONNECTION_LIFETIME)
            return await client.run(
                flows.status_flow(
                    client.settings.api, waiting.generation_id, waiting.media, utc_now, once=True
                )
            )
        except SeedanceAuthenticationError as error:
            await self._client(conn_id, max_age=_REFUSED_KEY_PATIENCE)
            return error
        except SeedanceError as error:
            return error

    async def _client(self, conn_id: str, *, max_age: float) -> AsyncClient:
        """Return the client for a connection as it is now; one that cannot be looked up stays as it was."""
        try:
            settings = await self._connections.get(conn_id, max_age=max_age)
        except Exception as error:
            log.warning("Connection %r could not be looked up again: %s", conn_id, type(error).__name__)
            settings = self._connections.last(conn_id)
        key = identity(settings)
        if key not in self._clients:
            # The old one stays until the hub closes: polls may be in the middle of it.
            self._clients[key] = AsyncClient(settings)
        return self._clients[key]


def identity(settings: Settings) -> tuple[str, ...]:
    """Return what has to be equal for two connections to share a client."""
    rest = (settings.api.name, settings.auth_header, settings.timeout, settings.proxy, settings.verify)
    return (*settings.identity, *map(str, rest))


_hubs: dict[tuple[_Loop, tuple[str, ...]], Hub] = {}
_connections: dict[_Loop, _Connections] = {}


async def wait_for_generation(waiting: Waiting, conn_id: str, look_up: LookUp, *, not_before: float) -> Next:
    """
    Wait in the hub of a connection.

    :param look_up: Reads the settings of a connection id.
    :param not_before: Seconds before which nothing is asked, see airflow's race after a deferral.
    :raises SeedanceConfigurationError: the connection is unusable.
    """
    loop = asyncio.get_running_loop()
    connections = _connections.setdefault(loop, _Connections(look_up))
    settings = await connections.get(conn_id)
    key = (loop, identity(settings))
    hub = _hubs.get(key)
    if hub is None or hub.broken:
        hub = _hubs[key] = Hub(settings, connections)
    try:
        return await hub.wait(waiting, conn_id, not_before=not_before)
    finally:
        if hub.idle and _hubs.get(key) is hub:
            del _hubs[key]
            if not any(other is loop for other, _ in _hubs):
                _connections.pop(loop, None)
            await asyncio.shield(hub.close())
