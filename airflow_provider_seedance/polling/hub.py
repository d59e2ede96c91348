"""
Hub of a base URL and key in a triggerer: one client, one quota and one scheduler for all waits.

All triggers of a triggerer run on one event loop, so a hub is found by (loop, base URL, key) at module level; the
first wait opens it, the last one closes it. The queue of requests is in
:mod:`airflow_provider_seedance.polling.request_queue`; the meaning of a reading, in
:mod:`airflow_provider_seedance.polling.schedule`. Nothing is logged per poll.

Polls follow the clock of the event loop, deadlines the wall clock: a wall clock that is set back stops nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.base import Api, Flow
from airflow_provider_seedance.apis.rate_limits import RateLimit
from airflow_provider_seedance.client import flows
from airflow_provider_seedance.client.api_client import MAX_CONNECTIONS, AsyncClient
from airflow_provider_seedance.generations import Generation, GenerationStatus, counted, utc_now
from airflow_provider_seedance.observability import metrics
from airflow_provider_seedance.polling.call_rates import MAX_CANCEL_WAIT_SECONDS, CallRates
from airflow_provider_seedance.polling.connections import Connections, GetSettings
from airflow_provider_seedance.polling.duration_model import DurationModels
from airflow_provider_seedance.polling.loop_clock import LoopClock
from airflow_provider_seedance.polling.quota import Quota
from airflow_provider_seedance.polling.request_queue import RequestQueue
from airflow_provider_seedance.polling.schedule import on_poll, start_wait
from airflow_provider_seedance.polling.shared_quota import SharedQuota
from airflow_provider_seedance.polling.wait_state import PollTiming, WaitState, WaitStep, default_timing
from airflow_provider_seedance.settings import Settings

log = logging.getLogger(__name__)

#: Generations in a list after a longer one failed: its address or its reply may have been too long.
MAX_IDS_AFTER_FAILURE = 100

#: Number of waits from which they are polled in common lists, and the interval of these.
MIN_COMMON_LIST = 20
LIST_INTERVAL_SECONDS = 10.0

#: Maximum number of cancelled waits in the queue before it is pruned.
MAX_DEAD_WAITERS = 100

#: Settings that are equal for connections that share a client.
_SAME_CLIENT = ("identity", "requests_per_hour", "api.name", "auth_header", "timeout", "proxy", "verify")
_client_key = attrgetter(*_SAME_CLIENT)

Report = Callable[[Generation], None]

#: Durations of generations, as this process has observed them or read them in the ledger; they outlive the hubs.
_durations = DurationModels()

#: Times of the latest polls that found generations queued, oldest poll first: a batch waits anew after each submission.
_queued_at: dict[str, float] = {}
MAX_QUEUED = 20_000


@dataclass(eq=False, slots=True)
class _Waiter:
    """
    A wait for a generation, or for a submission, which needs the future only.

    :param due: Time of the next poll, by the clock of the loop.
    :param single: Whether a request for many generations did not return this one.
    """

    future: asyncio.Future[Any]
    conn_id: str = ""
    state: WaitState = field(init=False)
    kind: Hashable = None
    single: bool = False
    due: float = 0.0
    report: Report | None = None

    @property
    def alive(self) -> bool:
        return not self.future.done()

    def resolve(self, result: WaitStep | None) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            # Not the error itself, which many waits would raise, each with its frames.
            self.future.set_exception(RuntimeError(repr(error)))


class Hub:
    """Scheduler that polls the generations of one base URL and key, and grants submissions that wait for its quota."""

    def __init__(self, settings: Settings, connections: Connections, timing: PollTiming) -> None:
        #: Whether the scheduler failed; the next wait replaces a broken hub.
        self.broken = False
        #: Number of waits and cancellations that use the hub.
        self.users = 0
        self._clock = LoopClock()
        self._timing = timing
        self._connections = connections
        self._base_url = settings.base_url
        self._shared_quota = SharedQuota(settings.identity, settings.change_in_ledger)
        self._quota = Quota()
        self._synced_at = -timing.shared_quota_interval
        self._rates = CallRates.of(settings.api.calls_per_second)
        self._queue: RequestQueue[_Waiter] = RequestQueue(
            self._quota,
            alive=lambda waiter: waiter.alive,
            cost=settings.api.requests_per_status,
            rates=self._rates,
        )
        # One, as long as the connections that share the hub do not change.
        self._clients: dict[Hashable, AsyncClient] = {}
        self.client(settings)
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._wake = asyncio.Event()
        self._waiters: set[_Waiter] = set()
        self._polls: set[asyncio.Task[None]] = set()
        self._max_ids = settings.api.max_ids_per_status_call
        # An empty context: log lines of the hub must not be attributed to the task that came first.
        self._scheduler = asyncio.create_task(self._run(), context=contextvars.Context())

    async def wait(
        self, state: WaitState, conn_id: str, *, not_before: float, report: Report | None = None
    ) -> WaitStep:
        """Wait until the generation has ended, is unknown, or the deadline has passed."""
        kind = (self._base_url, state.kind)
        _durations.teach(kind, state.durations)
        state = replace(state, queued_at=_queued_at.get(state.generation_id, state.queued_at))
        step = start_wait(state, time.time(), not_before=not_before, model=_durations.of(kind))
        if step.kind != "wait":
            return step
        if state.submitted_at_known and state.submitted_at is not None:
            self._quota.on_observed_submission(self._clock.at(state.submitted_at), self._clock.now())
        waiter = _Waiter(asyncio.get_running_loop().create_future(), conn_id, kind=kind, report=report)
        self._schedule(waiter, self._stretched(step))
        self._queue.set_deadline(waiter, state.deadline)
        last_step: WaitStep = await self._wait_for(waiter)
        return last_step

    async def wait_to_submit(self, not_before: float) -> None:
        """Wait until the quota has room for a submission, which is then expected to follow."""
        waiter = _Waiter(asyncio.get_running_loop().create_future())
        self._queue.push_submission(waiter, self._clock.at(not_before))
        await self._wait_for(waiter)

    async def wait_to_cancel(self) -> None:
        """Wait until the rate of single reads has room for a cancellation, which reads twice, but not for long."""
        await asyncio.sleep(self._rates.read.reserve(self._clock.now(), 2, MAX_CANCEL_WAIT_SECONDS))

    async def _wait_for(self, waiter: _Waiter) -> Any:
        self._waiters.add(waiter)
        self._wake.set()
        try:
            return await waiter.future
        finally:
            self._waiters.discard(waiter)
            if len(self._queue) > 2 * len(self._waiters) + MAX_DEAD_WAITERS:
                self._queue.prune()

    async def close(self) -> None:
        """Stop polling and close the clients."""
        tasks = [self._scheduler, *self._polls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in self._clients.values():
            await client.close()

    def sent(self) -> None:
        """Count a request."""
        self._quota.spend(self._clock.now())

    def answered(self, limit: RateLimit, *, refused: bool) -> None:
        """Apply the rate-limit headers of a reply."""
        now = self._clock.now()
        if limit.known:
            self._quota.learn(self._clock.converted(limit), now)
        self._shared_quota.answered(limit, refused=refused)
        if refused and not self._rates.apart and self._quota.refuse(limit.retry_after, now):
            log.warning(
                "The quota is used up: %s delayed by %.0f s; no render is lost.",
                counted(len(self._waiters), "request"),
                self._quota.blocked_until - now,
            )

    async def _run(self) -> None:
        try:
            while True:
                self._wake.clear()
                self._expire(time.time())
                if self._slots.locked():
                    # The next request is chosen when there is a connection for it.
                    await self._sleep(self._timing.max_sleep)
                else:
                    await self._send_next(self._clock.now())
        except Exception as error:
            self.broken = True
            log.warning("The polling of %s waits broke and starts again: %r", len(self._waiters), error)
            for waiter in list(self._waiters):
                waiter.fail(error)

    def _expire(self, now: float) -> None:
        """End the waits whose deadline has passed; those that only the quota keeps from a poll end later."""
        for waiter in self._queue.pop_expired(now):
            if waiter.due <= self._clock.now() and now < waiter.state.final_deadline:
                self._queue.set_deadline(waiter, waiter.state.final_deadline)
            else:
                waiter.resolve(WaitStep("deadline", waiter.state))

    async def _send_next(self, now: float) -> None:
        """Send the request that is due, or sleep until there is one."""
        self._sync_shared_quota(now)
        grant = self._queue.next(now, max_ids=self._max_ids)
        if grant.submission is not None:
            grant.submission.resolve(None)
        elif grant.polls:
            await self._slots.acquire()
            task = asyncio.create_task(self._poll(grant.polls))
            self._polls.add(task)
            task.add_done_callback(self._polls.discard)
            # It has to start before the next grant: only sent requests are counted.
            await asyncio.sleep(0)
        else:
            blocked = self._queue.has_blocked_submissions(now)
            longest = self._timing.shared_quota_interval if blocked else self._timing.max_sleep
            await self._sleep(min(longest, grant.until - now, self._queue.next_deadline - time.time()))

    def _sync_shared_quota(self, now: float) -> None:
        """Read the quota state of other processes, and let them know of queued submissions."""
        if now - self._synced_at >= self._timing.shared_quota_interval:
            self._synced_at = now
            self._shared_quota.exchange_in_background()
            shared = self._shared_quota.read(time.time())
            if shared.limit is not None:
                self._quota.learn(self._clock.converted(shared.as_rate_limit()), now)
            if self._queue.has_blocked_submissions(now):
                self._shared_quota.record_queue(time.time())

    async def _sleep(self, seconds: float) -> None:
        # Not wait_for: on Python 3.11 it can swallow the cancellation that ends this loop.
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._wake.wait()

    async def _poll(self, waiters: tuple[_Waiter, ...]) -> None:
        try:
            groups: dict[Hashable, list[_Waiter]] = {}
            for waiter in waiters:
                if time.time() >= waiter.state.deadline:
                    # The last reading is the worker's, which comes later.
                    waiter.resolve(WaitStep("deadline", waiter.state))
                else:
                    # Connections may use different keys by now.
                    groups.setdefault(waiter if waiter.single else waiter.conn_id, []).append(waiter)
            for number, group in enumerate(groups.values()):
                if number and len(group) > 1:  # only one list was granted
                    for waiter in group:
                        self._queue.push_poll(waiter, waiter.due)
                elif len(group) > 1:
                    await self._read_together(group)
                else:
                    self._on_poll_result(group[0], await self._read(group[0]))
        except Exception as error:
            for waiter in waiters:
                waiter.fail(error)
        finally:
            self._queue.release()
            self._slots.release()
            self._wake.set()

    async def _read_together(self, waiters: list[_Waiter]) -> None:
        """Read many generations with one request; those it does not return are read one by one from now on."""
        ids = [waiter.state.generation_id for waiter in waiters]
        found = await self._run_flow(waiters[0].conn_id, lambda api: api.status_many_flow(ids, utc_now()))
        again = any(waiter.state.failures for waiter in waiters)
        max_ids = self._max_ids
        self._rates.list.learn(found, self._clock.now(), again=again)
        if isinstance(found, errors.SeedanceError):
            found = self._without_list(ids, found)
        shorter = 1 < self._max_ids < max_ids
        now = self._clock.now()
        for waiter in waiters:
            reading = found.get(waiter.state.generation_id)
            if reading is not None:
                self._on_poll_result(waiter, reading)
                await asyncio.sleep(0)  # what the durations learn from an end takes half a millisecond
            else:  # proves nothing: the list may lag behind
                waiter.single = not shorter
                self._queue.push_poll(waiter, now)

    def _without_list(self, ids: list[str], error: errors.SeedanceError) -> dict[str, errors.SeedanceError]:
        """Return the reading of each generation of a list that failed; ask for fewer, or for one at a time, from now on."""
        refusals = (errors.SeedanceNotFoundError, errors.SeedanceRequestError, errors.SeedanceForbiddenError)
        # Services that imitate this one may answer with a page, or a redirect to one, in place of a list.
        refused = isinstance(error, refusals) or (error.http_status or 500) < 400
        if refused or isinstance(error, errors.SeedanceConnectionError):
            self._max_ids = min(self._max_ids, MAX_IDS_AFTER_FAILURE)
        if not refused:
            return dict.fromkeys(ids, error)
        if len(ids) <= self._max_ids:
            log.warning("The service does not list generations (%s); they are read one by one.", error)
            self._max_ids = 1
        return {}

    def _on_poll_result(self, waiter: _Waiter, reading: Generation | errors.SeedanceError) -> None:
        try:
            if waiter.alive:
                self._apply(waiter, reading)
        except Exception as error:
            waiter.fail(error)

    def _apply(self, waiter: _Waiter, reading: Generation | errors.SeedanceError) -> None:
        now = time.time()
        before = waiter.state
        if isinstance(reading, errors.SeedanceRateLimitError) and now < before.final_deadline:
            # Not a reading: the waiter keeps its place, and the quota decides when it is polled.
            waiter.state = replace(before, rate_limited=True)
            self._queue.push_poll(waiter, waiter.due)
            return
        queued = before.queued_at is not None
        step = on_poll(before, reading, now, _durations.of(waiter.kind, queued=queued))
        _queued_at.pop(before.generation_id, None)
        if step.kind == "wait" and (queued_at := step.state.queued_at) is not None:
            _queued_at[before.generation_id] = queued_at
            if len(_queued_at) > MAX_QUEUED:
                del _queued_at[next(iter(_queued_at))]
        if waiter.report and isinstance(reading, Generation):
            waiter.report(reading)
        if step.kind == "wait":
            # The reading of an unfinished generation is not worth the memory of thousands.
            self._schedule(waiter, self._stretched(replace(step, state=replace(step.state, last=None))))
            return
        if step.kind == "ended" and isinstance(reading, Generation):
            _learn(waiter.kind, before, step.state.poll_count, reading, now)
        waiter.resolve(step)

    def _schedule(self, waiter: _Waiter, step: WaitStep) -> None:
        waiter.state = step.state
        waiter.due = self._clock.at(step.at)
        self._queue.push_poll(waiter, waiter.due)

    def _stretched(self, step: WaitStep) -> WaitStep:
        """Delay a poll where the quota is short, or advance it to a common list; an interval that was given is kept."""
        if step.state.poll_interval is not None or step.state.retry_after is not None:
            return step
        now = time.time()
        if self._max_ids > 1 and len(self._waiters) >= MIN_COMMON_LIST and not step.state.expects_callback:
            lists = len(self._waiters) / self._max_ids
            latest = now + max(LIST_INTERVAL_SECONDS, 2 * lists * self._rates.list.interval)
            return replace(step, at=min(step.at, latest))
        factor = self._quota.interval_factor(self._clock.now(), len(self._waiters))
        return replace(step, at=min(now + factor * (step.at - now), max(step.state.deadline, step.at)))

    async def _read(self, waiter: _Waiter) -> Generation | errors.SeedanceError:
        state = waiter.state
        reading: Generation | errors.SeedanceError = await self._run_flow(
            waiter.conn_id,
            lambda api: flows.status_flow(api, state.generation_id, state.media, utc_now, once=True),
        )
        self._rates.read.learn(reading, self._clock.now())
        return reading

    async def _run_flow(self, conn_id: str, make: Callable[[Api], Flow[Any]]) -> Any:
        """Run a flow that reads; return its result or its error."""
        try:
            client = self.client(await self._connections.get(conn_id))
            return await client.run(make(client.settings.api))
        except errors.SeedanceAuthenticationError as error:
            self.client(await self._connections.get(conn_id, max_age=self._timing.refused_key_interval))
            return error
        except errors.SeedanceError as error:
            return error

    def client(self, settings: Settings) -> AsyncClient:
        """Return the client of a connection, and apply its configured quota."""
        key = _client_key(settings)
        if key not in self._clients:
            # The old one stays open until the hub closes: polls may be using it.
            self._clients[key] = AsyncClient(settings, observer=self)
            rates = [client.settings.requests_per_hour for client in self._clients.values()]
            self._quota.requests_per_hour = min((rate for rate in rates if rate is not None), default=None)
        return self._clients[key]


def _learn(kind: Hashable, before: WaitState, poll_count: int, ended: Generation, now: float) -> None:
    """Observe the duration of a generation: it ended after the last reading before this one."""
    delay = max(0.0, now - ended.completed_at.timestamp()) if ended.completed_at else None
    metrics.render_ended(api=ended.api, outcome=ended.status.value, polls=poll_count, delay=delay)
    # One that was never seen outside the queue proves nothing: a service may call all of them queued.
    seen = before.queued_at is None or before.queued_at < (before.running_at or 0.0)
    if before.submitted_at_known and seen and ended.status is GenerationStatus.SUCCEEDED:
        low = before.elapsed(before.running_at) if before.running_at is not None else 0.0
        _durations.observe(kind, low, before.elapsed(now))


_hubs: dict[tuple[asyncio.AbstractEventLoop, tuple[str, str]], Hub] = {}
_connections: dict[asyncio.AbstractEventLoop, Connections] = {}


async def wait_for_generation(
    state: WaitState, conn_id: str, look_up: GetSettings, *, not_before: float, report: Report | None = None
) -> WaitStep:
    """
    Wait in the hub of a connection; start again after a failed look-up or a broken hub, until the deadline.

    :param look_up: Reads the settings of a connection id.
    :param not_before: Seconds before which no request is sent, because a task must not resume too early.
    :param report: Called with each reading; must not raise.
    """
    failures = 0
    with _loop_connections(look_up):
        while True:
            try:
                async with open_hub(conn_id, look_up) as (hub, _):
                    return await hub.wait(state, conn_id, not_before=not_before, report=report)
            except Exception as error:
                left = state.deadline - time.time()
                if left <= 0:
                    return WaitStep("deadline", state)
                log.debug("The wait for generation %s starts again: %s", state.generation_id, error)
                await asyncio.sleep(min(left, state.timing.retry_delay(failures)))
                failures += 1


async def wait_for_submission(not_before: float, conn_id: str | None, look_up: GetSettings) -> None:
    """
    Wait for a time, and then for room for a submission in the quota of a connection, if that is usable.

    :param not_before: Seconds since 1970.
    :param conn_id: ``None`` waits for the time only.
    """
    clock = LoopClock()
    ends_at = clock.at(not_before)
    if conn_id is not None:
        try:
            async with open_hub(conn_id, look_up) as (hub, _):
                await hub.wait_to_submit(not_before)
        except Exception as error:
            # The worker reports best what is wrong with the connection.
            log.warning("The quota of connection %r could not be waited for: %s", conn_id, error)
    await asyncio.sleep(max(0.0, ends_at - clock.now()))


@contextmanager
def _loop_connections(look_up: GetSettings) -> Iterator[Connections]:
    """Return the connections of the running loop; the last wait drops them."""
    loop = asyncio.get_running_loop()
    connections = _connections.setdefault(loop, Connections(look_up, default_timing()))
    connections.users += 1
    try:
        yield connections
    finally:
        connections.users -= 1
        if not connections.users:
            del _connections[loop]


def known_settings(conn_id: str) -> Settings | None:
    """Return the latest settings of a connection that waits of the running loop use, without a look-up."""
    connections = _connections.get(asyncio.get_running_loop())
    return connections.known(conn_id) if connections else None


@asynccontextmanager
async def open_hub(conn_id: str, look_up: GetSettings) -> AsyncIterator[tuple[Hub, Settings]]:
    """Return the hub of a connection; the last user closes it."""
    with _loop_connections(look_up) as connections:
        settings = await connections.get(conn_id)
        key = (asyncio.get_running_loop(), settings.identity)
        hub = _hubs.get(key)
        if hub is None or hub.broken:
            hub = _hubs[key] = Hub(settings, connections, default_timing())
        hub.users += 1
        try:
            yield hub, settings
        finally:
            hub.users -= 1
            if not hub.users:
                if _hubs.get(key) is hub:  # and not the one that replaced it
                    del _hubs[key]
                await asyncio.shield(hub.close())
