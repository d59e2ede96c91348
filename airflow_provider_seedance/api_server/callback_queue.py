"""Callbacks in flight: each is delivered in the background, after its request has been answered."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool

from airflow_provider_seedance.api_server import callback_delivery
from airflow_provider_seedance.api_server.callback_confirmation import StatusReader, SubmissionBackoff
from airflow_provider_seedance.api_server.callback_delivery import Outcome
from airflow_provider_seedance.api_server.callback_limits import DEFAULT_LIMITS, CallbackLimits
from airflow_provider_seedance.callbacks.payload import CallbackPayload
from airflow_provider_seedance.callbacks.tokens import CallbackClaims
from airflow_provider_seedance.generations import GenerationStatus
from airflow_provider_seedance.ledger import record_end
from airflow_provider_seedance.polling.wait_state import lacks_output
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.triggers.events import make_event

log = logging.getLogger(__name__)


class CallbackQueue:
    """The callbacks in flight in this process, and their retries."""

    def __init__(
        self,
        limits: CallbackLimits = DEFAULT_LIMITS,
        *,
        reader: StatusReader | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        run_in_thread: Callable[..., Awaitable[Outcome]] = run_in_threadpool,
    ) -> None:
        self.limits, self._clock = limits, clock
        self._reader = reader or StatusReader(limits)
        self._sleep, self._run_in_thread = sleep, run_in_thread
        self._in_flight: dict[tuple[CallbackClaims, CallbackPayload], asyncio.Task[None]] = {}
        self._payloads: Counter[CallbackClaims] = Counter()
        self._slots = asyncio.Semaphore(limits.max_deliveries)
        self._status_backoff = SubmissionBackoff(limits, clock)
        self._worker_backoff = SubmissionBackoff(limits, clock)
        self._last_request = 0.0

    def on_request(self) -> None:
        """Note that a request arrived: answers come before deliveries, whose threads would slow them down."""
        self._last_request = self._clock()

    def enqueue(self, claims: CallbackClaims, payload: CallbackPayload, settings: Settings) -> bool:
        """Deliver a callback in the background; returns ``False`` if the queue is full."""
        key = (claims, payload)
        if key in self._in_flight or self._payloads[claims] >= self.limits.max_payloads:
            return True  # the same answer as for any other callback, so a caller cannot probe for tasks
        if len(self._in_flight) >= self.limits.max_in_flight:
            return False

        def done(_: asyncio.Task[None]) -> None:
            self._in_flight.pop(key, None)
            self._payloads[claims] -= 1
            if not self._payloads[claims]:
                del self._payloads[claims]

        # The event loop keeps weak references only.
        self._in_flight[key] = task = asyncio.create_task(
            self._deliver_with_retries(claims, payload, settings)
        )
        self._payloads[claims] += 1
        task.add_done_callback(done)
        return True

    async def _deliver_with_retries(
        self, claims: CallbackClaims, payload: CallbackPayload, settings: Settings
    ) -> None:
        limits = self.limits
        started = connected_since = self._clock()
        timeout = limits.retry_timeout if payload.generation_id is None else limits.id_retry_timeout
        early, errors = _doubling(limits.early_backoff, limits), _doubling(limits.error_backoff, limits)
        failures = 0
        while True:
            try:
                outcome = await self._deliver(claims, payload, settings, started)
            except Exception as error:
                # Any error of the database: the service has its answer and does not call again.
                failures += 1
                if failures >= limits.min_attempts and self._clock() > started + timeout:
                    _log_given_up(claims, error)
                    return
                await self._sleep(next(errors))
                connected_since = self._clock()
                continue
            late = self._clock() > connected_since + limits.retry_timeout
            if outcome.kind != "retry" or late:
                log.debug("Callback for %s of %s: %s", claims.task_id, claims.run_id, outcome.kind)
                return
            await self._sleep(next(early) if outcome.seconds is None else outcome.seconds)

    async def _deliver(
        self, claims: CallbackClaims, payload: CallbackPayload, settings: Settings, started: float
    ) -> Outcome:
        if payload.ended and (seconds := self._worker_backoff.remaining(claims)) > 0:
            return Outcome(kind="retry", seconds=seconds)  # a replay: a worker has just read the status
        async with self._slots:
            await self._wait_for_quiet(started)
            outcome = await self._run_in_thread(callback_delivery.deliver, claims, payload)
        if outcome.kind == "confirm":
            return await self._confirm(claims, payload, settings, outcome.trigger_kwargs)
        if outcome.kind == "resumed" and outcome.trigger_kwargs.get("generation_id"):
            self._worker_backoff.reserve(claims)
        return outcome

    async def _wait_for_quiet(self, started: float) -> None:
        latest = started + self.limits.max_quiet_wait
        while (wait := min(self._last_request + self.limits.quiet_period, latest) - self._clock()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(wait)

    async def _confirm(
        self, claims: CallbackClaims, payload: CallbackPayload, settings: Settings, kwargs: dict[str, Any]
    ) -> Outcome:
        """Read the status from the service, and end or resume the task accordingly."""
        if (seconds := self._status_backoff.reserve(claims)) > 0:
            return Outcome(kind="retry", seconds=seconds)
        generation = await self._reader.read_final(kwargs, settings)
        confirmed = generation and generation.status.terminal
        unreadable = generation is None and callback_delivery.reports_end(payload, kwargs["generation_id"])
        if not confirmed and not unreadable:
            return Outcome(kind="ignored")
        succeeded = generation and generation.status is GenerationStatus.SUCCEEDED and generation.urls
        async with self._slots:
            if generation and succeeded and callback_delivery.ends_from_trigger(kwargs):
                outcome = await self._run_in_thread(
                    callback_delivery.complete_task, claims, generation.result()
                )
                await self._run_in_thread(record_end, generation)
                return outcome
            event = make_event(generation) if generation and not lacks_output(generation) else None
            return await self._run_in_thread(
                callback_delivery.deliver, claims, payload, on_worker=True, event=event
            )


def _doubling(pause: float, limits: CallbackLimits) -> Iterator[float]:
    while True:
        yield pause
        pause = min(2 * pause, limits.max_backoff)


def _log_given_up(claims: CallbackClaims, error: Exception) -> None:
    log.warning(
        "A callback could not be delivered to %s (%s: %s) and is given up. If the task polls its generation, it "
        "finds the end; after a lost submission reply, on_uncertain_submit applies.",
        claims.task_id,
        type(error).__name__,
        error,
    )
