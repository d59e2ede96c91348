"""
One client, one quota and one scheduler for all who wait on a base URL and key in a triggerer.

All triggers of a triggerer run on one event loop, so a hub is found by (loop, base URL, key) at module
level; the first trigger in opens it, the last one out closes it. Who has a turn, and when, is decided in
:mod:`airflow_provider_seedance.polling.request_queue`; what a reading means, in
:mod:`airflow_provider_seedance.polling.wait_state`. Nothing is logged per poll.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_seedance.apis.base import Api, Flow
from airflow_provider_seedance.apis.rate_limits import RateLimit
from airflow_provider_seedance.client import flows
from airflow_provider_seedance.client.api_client import MAX_CONNECTIONS, AsyncClient
from airflow_provider_seedance.exceptions import (
    SeedanceAuthenticationError,
    SeedanceError,
    SeedanceForbiddenError,
    SeedanceNotFoundError,
    SeedanceRateLimitError,
    SeedanceRequestError,
)
from airflow_provider_seedance.generations import Generation, GenerationStatus, utc_now
from airflow_provider_seedance.observability import metrics
from airflow_provider_seedance.polling.duration_model import DurationModels
from airflow_provider_seedance.polling.quota import Quota
from airflow_provider_seedance.polling.request_queue import RequestQueue
from airflow_provider_seedance.polling.shared_quota import SharedQuota
from airflow_provider_seedance.polling.wait_state import WaitState, WaitStep, begin, on_poll
from airflow_provider_seedance.settings import Settings

log = logging.getLogger(__name__)

#: Seconds after which a connection is looked up again, since keys are rotated.
CONNECTION_LIFETIME = 900.0

#: Seconds between look-ups while the service refuses a key: one for all who are refused.
_REFUSED_KEY_PATIENCE = 30.0

#: So many who left without their turn may be remembered before the list is tidied.
_MOST_GONE = 100

#: Seconds between looks at what other processes noted of the quota.
_HEARING = 2.0

#: Longest sleep of the scheduler; bounds how late it notices that the wall clock was set.
_LONGEST_SLEEP = 30.0

LookUp = Callable[[str], Awaitable[Settings]]
Report = Callable[[float], None]
Complain = Callable[..., None]
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
class _Waiter:
    """
    One who waits in the hub.

    :param future: Is told how it ended; cancelled when nobody waits any more.
    :param step: Of the generation that is waited for; ``None`` where somebody waits to submit, who needs nothing
        of the rest either.
    :param kind: Renders of the same kind take about the same time.
    :param alone: Whether a request for many did not tell about this one.
    """

    future: asyncio.Future[Any]
    conn_id: str = ""
    step: WaitStep | None = None
    kind: Hashable = None
    alone: bool = False
    report: Report | None = None

    @property
    def planned(self) -> WaitStep:
        assert self.step is not None
        return self.step

    @property
    def waiting(self) -> WaitState:
        return self.planned.waiting


def _alive(seat: _Waiter) -> bool:
    return not seat.future.done()


class Hub:
    """
    Polls the generations of one base URL and key, and lets submissions through that wait for its quota.

    :param settings: Of the connection that came first.
    :param connections: Where to learn a new key when the service refuses this one.
    """

    def __init__(self, settings: Settings, connections: _Connections) -> None:
        #: Whether the scheduler died; a broken hub is replaced by the next one who comes.
        self.broken = False
        self._connections = connections
        self._note = SharedQuota(settings.identity)
        self._quota = Quota()
        self._heard_at = 0.0
        self._turns: RequestQueue[_Waiter] = RequestQueue(
            self._quota, alive=_alive, cost=settings.api.requests_per_status
        )
        # One, as long as the connections that meet here stay the same.
        self._clients: dict[tuple[str, ...], AsyncClient] = {}
        self._use(settings)
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._wake = asyncio.Event()
        self._seats: set[_Waiter] = set()
        self._polls: set[asyncio.Task[None]] = set()
        self._most = settings.api.max_ids_per_status_call
        # A context of its own: log lines of the hub must not be pinned to the task that came first.
        self._scheduler = asyncio.create_task(self._run(), context=contextvars.Context())

    @property
    def idle(self) -> bool:
        """Whether nobody waits here."""
        return not self._seats

    async def wait(
        self,
        waiting: WaitState,
        conn_id: str,
        *,
        kind: Hashable,
        not_before: float,
        report: Report | None = None,
    ) -> WaitStep:
        """Wait until the generation has ended, is unknown, or the deadline has passed."""
        step = begin(waiting, time.time(), not_before=not_before, belief=_beliefs.of(kind))
        if step.kind != "wait":
            return step
        if waiting.told and waiting.submitted_at is not None:
            self._quota.on_observed_submission(waiting.submitted_at, time.time())
        step = self._stretched(step, time.time())
        seat = _Waiter(asyncio.get_running_loop().create_future(), conn_id, step, kind, report=report)
        self._turns.poll(seat, step.at)
        self._turns.end(seat, waiting.end)
        ended: WaitStep = await self._sit(seat)
        return ended

    async def wait_to_submit(self, moment: float) -> None:
        """Wait until the quota has room for a submission, which is then expected to follow."""
        seat = _Waiter(asyncio.get_running_loop().create_future())
        self._turns.submit(seat, moment)
        await self._sit(seat)

    async def _sit(self, seat: _Waiter) -> Any:
        self._seats.add(seat)
        self._wake.set()
        try:
            return await seat.future
        finally:
            self._seats.discard(seat)
            if len(self._turns) > 2 * len(self._seats) + _MOST_GONE:
                self._turns.tidy()

    async def close(self) -> None:
        """Stop polling and close the client."""
        tasks = [self._scheduler, *self._polls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in self._clients.values():
            await client.close()

    # ------------------------------------------------------------------ what clients tell

    def sent(self) -> None:
        """Count a request."""
        self._quota.spend(time.time())

    def answered(self, limit: RateLimit, *, refused: bool) -> None:
        """Take in what a reply told of the quota."""
        now = time.time()
        if limit.known:
            self._quota.learn(limit, now)
        if not refused:
            self._note.learn(limit, now)
        elif self._quota.refuse(limit.retry_after, now):
            log.warning(
                "The quota is used up: %s polls and submissions that wait here stay away for %.0f s; no render "
                "is lost.",
                len(self._seats),
                self._quota.blocked_until - now,
            )

    # ------------------------------------------------------------------ the scheduler

    async def _run(self) -> None:
        try:
            while True:
                self._wake.clear()
                now = time.time()
                for seat in self._turns.over(now):  # while the quota allows nothing, too
                    _settle(seat, WaitStep("deadline", seat.waiting))
                if self._slots.locked():
                    # Whose turn it is may look different when there is a connection for it.
                    await self._sleep(_LONGEST_SLEEP)
                    continue
                self._hear(now)
                turn = self._turns.next(now, most=self._most)
                if turn.submission is not None:
                    _settle(turn.submission, None)
                elif turn.polls:
                    await self._slots.acquire()
                    task = asyncio.create_task(self._poll(turn.polls))
                    self._polls.add(task)
                    task.add_done_callback(self._polls.discard)
                    # It has to begin before the next turn: only what was sent is counted.
                    await asyncio.sleep(0)
                else:
                    longest = _HEARING if self._turns.queue(now) else _LONGEST_SLEEP
                    await self._sleep(min(longest, turn.until - now))
        except Exception as error:
            self.broken = True
            for seat in list(self._seats):
                _fail(seat, error)

    def _hear(self, now: float) -> None:
        """Take in what the other processes of this machine noted of the quota, and tell them of the queue."""
        if now - self._heard_at >= _HEARING:
            self._heard_at = now
            noted = self._note.read(now)
            if noted.limit is not None:
                self._quota.learn(noted.told(), now)
            if self._turns.queue(now):
                self._note.queue(now)

    async def _sleep(self, seconds: float) -> None:
        # Not wait_for: on Python 3.11 it can swallow the cancellation that is to end this loop.
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._wake.wait()

    async def _poll(self, seats: tuple[_Waiter, ...]) -> None:
        try:
            seats = tuple(seat for seat in seats if not self._out_of_time(seat))
            for group in self._groups(seats):
                if len(group) > 1:
                    await self._read_together(group)
                else:
                    self._take_in(group[0], await self._read(group[0]))
        except Exception as error:
            for seat in seats:
                _fail(seat, error)
        finally:
            self._turns.done()
            self._slots.release()
            self._wake.set()

    def _groups(self, seats: tuple[_Waiter, ...]) -> list[list[_Waiter]]:
        """Return who can be asked for in one request: connections may have come to mean different keys."""
        groups: dict[Hashable, list[_Waiter]] = {}
        for seat in seats:
            groups.setdefault(seat if seat.alone else seat.conn_id, []).append(seat)
        return list(groups.values())

    def _out_of_time(self, seat: _Waiter) -> bool:
        """End the wait of one whose patience is over; the last reading is the worker's, much later than now."""
        if time.time() < seat.waiting.deadline:
            return False
        _settle(seat, WaitStep("deadline", seat.waiting))
        return True

    async def _read_together(self, seats: list[_Waiter]) -> None:
        """Read many with one request; whoever it does not tell about is asked for alone from now on."""
        ids = [seat.waiting.generation_id for seat in seats]
        found: Any = await self._run_flow(seats[0].conn_id, lambda api: api.status_many_flow(ids, utc_now()))
        now = time.time()
        if isinstance(found, SeedanceError):
            if isinstance(found, (SeedanceNotFoundError, SeedanceRequestError, SeedanceForbiddenError)):
                log.warning("Reading many generations at once is refused (%s); reading one by one.", found)
                self._most = 1
                found = {}
            else:
                found = dict.fromkeys(ids, found)
        for seat in seats:
            reading = found.get(seat.waiting.generation_id)
            if reading is not None:
                self._take_in(seat, reading)
            else:  # proves nothing: the list may lag behind
                seat.alone = True
                self._turns.poll(seat, now)

    def _take_in(self, seat: _Waiter, reading: Generation | SeedanceError) -> None:
        try:
            if _alive(seat):
                self._go_on(seat, reading)
        except Exception as error:
            _fail(seat, error)

    def _go_on(self, seat: _Waiter, reading: Generation | SeedanceError) -> None:
        now, before = time.time(), seat.waiting
        if isinstance(reading, SeedanceRateLimitError) and now < before.end:
            # Not a reading at all: it keeps its place, and the quota says when.
            seat.step = replace(seat.planned, waiting=replace(before, refused=True))
            self._turns.poll(seat, seat.step.at)
            return
        step = on_poll(before, reading, now, _beliefs.of(seat.kind))
        if step.kind == "wait":
            if seat.report and isinstance(reading, Generation) and reading.progress is not None:
                seat.report(float(reading.progress))
            # What an unfinished generation looks like is nothing to keep ten thousand times.
            seat.step = self._stretched(replace(step, waiting=replace(step.waiting, last=None)), now)
            self._turns.poll(seat, seat.step.at)
            return
        if step.kind == "ended" and isinstance(reading, Generation):
            _learn(seat.kind, before, step.waiting.known.asked, reading, now)
        _settle(seat, step)

    def _stretched(self, step: WaitStep, now: float) -> WaitStep:
        """Put a reading off where the quota is short; the user's own interval is kept."""
        if step.waiting.known.poll_interval is not None:
            return step
        interval_factor = self._quota.interval_factor(now, len(self._seats))
        return replace(
            step, at=min(now + interval_factor * (step.at - now), max(step.waiting.deadline, step.at))
        )

    # ------------------------------------------------------------------ reading

    async def _read(self, seat: _Waiter) -> Generation | SeedanceError:
        waiting = seat.waiting
        reading: Generation | SeedanceError = await self._run_flow(
            seat.conn_id,
            lambda api: flows.status_flow(api, waiting.generation_id, waiting.media, utc_now, once=True),
        )
        return reading

    async def _run_flow(self, conn_id: str, make: Callable[[Api], Flow[Any]]) -> Any:
        """Drive a reading flow; an error of ours is a result, too."""
        try:
            client = await self._client(conn_id, max_age=CONNECTION_LIFETIME)
            return await client.run(make(client.settings.api))
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
        return self._use(settings)

    def _use(self, settings: Settings) -> AsyncClient:
        """Return the client for a connection, and take in what it says of the quota."""
        key = identity(settings)
        if key not in self._clients:
            # The old one stays until the hub closes: polls may be in the middle of it.
            self._clients[key] = AsyncClient(settings, observer=self)
            told = [c.settings.requests_per_hour for c in self._clients.values()]
            self._quota.requests_per_hour = min((rate for rate in told if rate is not None), default=None)
        return self._clients[key]


def _settle(seat: _Waiter, result: WaitStep | None) -> None:
    if not seat.future.done():
        seat.future.set_result(result)


def _fail(seat: _Waiter, error: Exception) -> None:
    if not seat.future.done():
        seat.future.set_exception(error)


def _learn(kind: Hashable, before: WaitState, asked: int, ended: Generation, now: float) -> None:
    """Remember how long a render took: longer than until it was seen running, at most until now."""
    delay = max(0.0, now - ended.completed_at.timestamp()) if ended.completed_at else None
    metrics.render_ended(api=ended.api, outcome=ended.status.value, polls=asked, delay=delay)
    if not before.told or before.submitted_at is None:
        return
    if ended.status is GenerationStatus.SUCCEEDED:
        low = (before.running_at or before.submitted_at) - before.submitted_at
        _beliefs.learn(kind, max(0.0, low), max(0.0, now - before.submitted_at))


def identity(settings: Settings) -> tuple[str, ...]:
    """Return what has to be equal for two connections to share a client."""
    rest = (settings.api.name, settings.auth_header, settings.timeout, settings.proxy, settings.verify)
    return (*settings.identity, str(settings.requests_per_hour), *map(str, rest))


_hubs: dict[tuple[_Loop, tuple[str, str]], Hub] = {}
_connections: dict[_Loop, _Connections] = {}
#: How long renders take, as far as this process has seen; it outlives the hubs.
_beliefs = DurationModels()


async def wait_for_generation(
    waiting: WaitState,
    conn_id: str,
    look_up: LookUp,
    *,
    not_before: float,
    result_defaults: Mapping[str, Any] | None = None,
    report: Report | None = None,
) -> WaitStep:
    """
    Wait in the hub of a connection.

    :param look_up: Reads the settings of a connection id.
    :param not_before: Seconds before which nothing is asked, see airflow's race after a deferral.
    :param facts: What the request told; renders alike in it take about as long.
    :param report: Called with the progress, in percent, that a reading tells; must not raise.
    :raises SeedanceConfigurationError: the connection is unusable.
    """
    async with _hub(conn_id, look_up) as (hub, settings):
        like = tuple((result_defaults or {}).get(name) for name in ("model", "duration", "resolution"))
        kind = (settings.base_url, waiting.media, *like)
        return await hub.wait(waiting, conn_id, kind=kind, not_before=not_before, report=report)


async def wait_to_submit(conn_id: str, look_up: LookUp, *, moment: float) -> None:
    """
    Wait until a submission has a turn in the quota of a connection.

    :param moment: Seconds since 1970 before which it has none.
    :raises SeedanceConfigurationError: the connection is unusable.
    """
    async with _hub(conn_id, look_up) as (hub, _):
        await hub.wait_to_submit(moment)


async def wait_for_turn(moment: float, conn_id: str | None, look_up: LookUp, *, complain: Complain) -> None:
    """
    Wait for a moment, and then for a turn in the quota of a connection; whatever is wrong with it, not for ever.

    :param moment: Seconds since 1970.
    :param conn_id: ``None`` waits for the moment only.
    :param complain: Writes to the log of whoever waits.
    """
    try:
        if conn_id is not None:
            await wait_to_submit(conn_id, look_up, moment=moment)
    except Exception as error:
        # The task says best itself what is wrong with its connection.
        complain("No turn in the quota could be waited for: %s", error)
    await asyncio.sleep(max(0.0, moment - time.time()))


@asynccontextmanager
async def _hub(conn_id: str, look_up: LookUp) -> AsyncIterator[tuple[Hub, Settings]]:
    """Give the hub of a connection; the last one out closes it."""
    loop = asyncio.get_running_loop()
    connections = _connections.setdefault(loop, _Connections(look_up))
    settings = await connections.get(conn_id)
    key = (loop, settings.identity)
    hub = _hubs.get(key)
    if hub is None or hub.broken:
        hub = _hubs[key] = Hub(settings, connections)
    try:
        yield hub, settings
    finally:
        if hub.idle:
            if _hubs.get(key) is hub:  # and not the one that replaced it
                del _hubs[key]
            if not any(other is loop for other, _ in _hubs):
                _connections.pop(loop, None)
            await asyncio.shield(hub.close())
