"""The API server of Airflow, as far as callbacks need one: the real route, queue and delivery on a simulated clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import airflow.state
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel

from airflow_provider_seedance.api_server import callback_confirmation, callback_delivery, callback_routes
from airflow_provider_seedance.api_server.callback_confirmation import StatusReader
from airflow_provider_seedance.api_server.callback_keys import SigningKeys
from airflow_provider_seedance.api_server.callback_limits import CallbackLimits
from airflow_provider_seedance.api_server.callback_queue import CallbackQueue
from airflow_provider_seedance.api_server.callback_settings import SettingsCache
from airflow_provider_seedance.callbacks.tokens import CallbackClaims

#: Limits of the simulated server.
LIMITS = CallbackLimits(quiet_period=0.0)

#: Maximum iterations of the event loop until a callback counts as hanging.
_MAX_ITERATIONS = 10_000


class Clock:
    """The real time, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def time(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


class ApiServer:
    """
    An API server that receives callbacks for one task instance.

    :param instance: The task instance: its ``texts`` in the state store, ``state``, and ``trigger`` (class path, kwargs
        and time of the deferral); ``resumed`` takes an event, ``ended`` the XComs of an end without a worker.
    :param settings: Returns the settings of the only connection.
    :param answer: Drives a flow against the service.
    """

    def __init__(
        self,
        instance: Any,
        settings: Callable[[], Any],
        answer: Callable[[Any], Any],
        loop: asyncio.Runner,
    ) -> None:
        self.instance, self.settings, self.answer, self.loop = instance, settings, answer, loop
        self.clock = Clock()
        #: Number of next deliveries that fail.
        self.failures = 0
        self.xcoms: dict[str, Any] = {}
        self.sleepers: list[tuple[float, asyncio.Future[None]]] = []
        #: Violations: the queue takes every exception for a database error.
        self.violations: list[AssertionError] = []
        self.start()

    def start(self) -> None:
        """Start the process, with nothing in memory."""
        self.cache = SettingsCache(
            LIMITS,
            read=lambda conn_id, _team: self.settings() if conn_id != "none" else None,
            clock=self.clock.monotonic,
        )
        self.queue = CallbackQueue(
            LIMITS,
            reader=StatusReader(LIMITS),
            clock=self.clock.monotonic,
            sleep=self._sleep,
            run_in_thread=_run_inline,
        )

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Replace Airflow's database with this instance."""
        with ExitStack() as stack:
            for owner, name, value in (
                (callback_routes, "time", self.clock),
                # The status is read from the simulated service.
                (callback_confirmation, "AsyncClient", lambda settings: nullcontext(self)),
                (callback_confirmation, "run_in_threadpool", _run_inline),
                (callback_delivery, "_locked_task_instance", self._locked_task_instance),
                (airflow.state, "get_state_backend", lambda: self),
                (Trigger, "submit_event", self._submit_event),
                (XComModel, "set", self._push),
            ):
                stack.enter_context(patch.object(owner, name, value))
            yield

    @property
    def in_flight(self) -> int:
        return len(self.queue._in_flight)

    # ------------------------------------------------------------------ requests and time

    def receive(self, token: str, body: bytes, headers: dict[str, str]) -> int:
        """Receive a callback, deliver it as far as possible, and return the HTTP status."""

        async def stream() -> AsyncIterator[bytes]:
            yield body

        async def do() -> int:
            request: Any = SimpleNamespace(headers=headers, stream=stream)
            status = await callback_routes.receive(token, request, self.cache, self.queue, SigningKeys())
            await self._run_until_quiet()
            return status

        return self.loop.run(do())

    def pass_time(self, seconds: float) -> None:
        """Advance the clock, and wake the tasks whose sleep is over."""
        self.clock.ahead += seconds
        self.loop.run(self._wake())

    def stop(self) -> None:
        """Stop the process: the callbacks in flight are lost."""

        async def cancel() -> None:
            tasks = list(self.queue._in_flight.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)

        self.loop.run(cancel())
        self.sleepers.clear()

    async def _wake(self) -> None:
        now = self.clock.monotonic()
        due = [future for until, future in self.sleepers if until <= now]
        self.sleepers = [sleeper for sleeper in self.sleepers if sleeper[1] not in due]
        for future in due:
            future.set_result(None)
        await self._run_until_quiet()

    async def _run_until_quiet(self) -> None:
        """Wait until every callback in flight sleeps or is delivered."""
        for _ in range(_MAX_ITERATIONS):
            await asyncio.sleep(0)
            if len(self.sleepers) >= self.in_flight:
                if self.violations:
                    raise self.violations.pop()
                return
        raise AssertionError("a delivery hangs")

    async def _sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sleepers.append((self.clock.monotonic() + seconds, future))
        await future

    @contextmanager
    def _recording(self) -> Iterator[None]:
        try:
            yield
        except AssertionError as error:
            self.violations.append(error)
            raise

    # ------------------------------------------------------------------ Airflow's database

    @contextmanager
    def _locked_task_instance(self, claims: CallbackClaims) -> Iterator[tuple[Any, Any]]:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the database is away")
        instance = None
        if (claims.dag_id, claims.run_id, claims.task_id, claims.map_index) == ("dag", "run", "task", -1):
            state = self.instance.state
            instance = SimpleNamespace(state=state, trigger_id=1 if state == "deferred" else None)
        yield instance, SimpleNamespace(get=self._trigger)

    def _trigger(self, model: Any, key: int) -> Any:
        assert (model, key) == (Trigger, 1)
        if self.instance.trigger is None:
            return None
        classpath, kwargs, deferred_at = self.instance.trigger
        # The delivery uses the wall clock.
        created = datetime.fromtimestamp(time.time() - (self.clock.time() - deferred_at), UTC)
        return SimpleNamespace(classpath=classpath, kwargs=kwargs, created_date=created)

    def _submit_event(self, trigger_id: int, event: Any, *, session: Any) -> None:
        with self._recording():
            assert self.instance.state == "deferred", "a task that is not deferred is resumed"
            if type(event).__name__ == "TaskSuccessEvent":
                self.instance.ended(dict(self.xcoms))
            else:
                self.instance.resumed(event.payload)

    def _push(self, key: str, value: Any, **where: Any) -> None:
        names = ("dag_id", "run_id", "task_id", "map_index")
        assert tuple(where[name] for name in names) == ("dag", "run", "task", -1)
        self.xcoms[key] = value

    # The state backend.

    def get(self, scope: Any, key: str, *, session: Any) -> str | None:
        return self.instance.texts.get(key)

    def set(self, scope: Any, key: str, value: str, *, expires_at: datetime, session: Any) -> None:
        self.instance.texts[key] = value

    # The client of the service.

    async def run(self, flow: Any) -> Any:
        with self._recording():
            return self.answer(flow)


async def _run_inline(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return function(*arguments, **named)
