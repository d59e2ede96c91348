"""
The API server of Airflow, as far as callbacks need one: the real route and the real hand-over, with a task
instance in memory in place of the database, a clock that is set, and a loop that runs until all is quiet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Protocol
from unittest.mock import patch

import airflow.state
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel

from airflow_provider_seedance.api_server import callback_confirmation, callback_delivery, callback_routes
from airflow_provider_seedance.callbacks.tokens import CallbackClaims

#: So many turns of the loop without an end are a hang.
_MOST_TURNS = 10_000


class Instance(Protocol):
    """The one task instance there is."""

    #: The texts in its state store, by key.
    texts: dict[str, str]

    @property
    def state(self) -> str | None:
        """The state that Airflow has for it."""

    @property
    def waits(self) -> tuple[str, dict[str, Any], float] | None:
        """Class path and kwargs of its trigger, and the moment of its deferral."""

    def resumed(self, payload: Any) -> None:
        """Take what the task is resumed with."""

    def ended(self, xcoms: dict[str, Any]) -> None:
        """Take that it has ended well, without a worker."""


class Clock:
    """Tells the time, and goes forward when it is told to."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def time(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


class Transaction:
    """Stands in for the session in which the API server looks at a task instance."""

    def __init__(self, api_server: ApiServer) -> None:
        self.api_server = api_server

    def get(self, model: Any, key: int) -> Any:
        waits = self.api_server.instance.waits
        assert (model, key) == (Trigger, 1)
        if waits is None:
            return None
        classpath, kwargs, since = waits
        # The hand-over goes by the clock on the wall.
        began = datetime.fromtimestamp(time.time() - (self.api_server.clock.time() - since), UTC)
        return SimpleNamespace(classpath=classpath, kwargs=kwargs, created_date=began)


class ApiServer:
    """
    Takes calls for one task instance.

    :param client: Makes the client with which the service is asked, from settings.
    :param settings: Returns the settings of the only connection.
    """

    def __init__(
        self, instance: Instance, settings: Callable[[], Any], ask: Callable[[Any], Any], loop: asyncio.Runner
    ) -> None:
        self.instance, self.settings, self.ask, self.loop = instance, settings, ask, loop
        self.clock = Clock()
        #: So many accesses to the database fail from now on.
        self.failures = 0
        self.xcoms: dict[str, Any] = {}
        self.sleepers: list[tuple[float, asyncio.Future[None]]] = []
        #: What must not happen, and did: whoever works on a call takes every exception for a database that is away.
        self.faults: list[AssertionError] = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put it in the place of the real one."""
        with ExitStack() as stack:
            for owner, name, value in (
                (callback_routes, "time", self.clock),
                (callback_routes, "_sleep", self._sleep),
                (callback_routes, "QUIET", 0.0),
                (callback_routes, "run_in_threadpool", _at_once),
                (callback_routes, "read_settings", lambda conn_id, connection: self.settings()),
                (callback_confirmation, "run_in_threadpool", _at_once),
                (callback_confirmation, "AsyncClient", self._client),
                (callback_delivery, "look_up", lambda conn_id: object() if conn_id != "none" else None),
                (callback_delivery, "_task_instance", self._task_instance),
                (airflow.state, "get_state_backend", lambda: self),
                (Trigger, "submit_event", self._submit_event),
                (XComModel, "set", self._push),
            ):
                stack.enter_context(patch.object(owner, name, value))
            for known in (
                callback_routes._working,
                callback_routes._of_one,
                callback_routes._settings,
                callback_routes._asked,
            ):
                known.clear()  # type: ignore[attr-defined]
            yield

    # ------------------------------------------------------------------ what the service does

    def receive(self, token: str, body: bytes, headers: dict[str, str]) -> int:
        """Take a call, work on it until there is nothing to do at once, and return what was answered."""

        async def stream() -> AsyncIterator[bytes]:
            yield body

        async def do() -> int:
            request: Any = SimpleNamespace(headers=headers, stream=stream)
            answer = await callback_routes.receive(token, request)
            await self._quiet()
            return answer.status_code

        return self.loop.run(do())

    def pass_time(self, seconds: float) -> None:
        """Let time go by: whoever sleeps for less goes on."""
        self.clock.ahead += seconds
        self.loop.run(self._wake())

    def stop(self) -> None:
        """Stop as a server is stopped: what it was working on is forgotten."""

        async def cancel() -> None:
            for task in list(callback_routes._working.values()):
                task.cancel()
            await asyncio.gather(*callback_routes._working.values(), return_exceptions=True)
            await asyncio.sleep(0)

        self.loop.run(cancel())
        self.sleepers.clear()

    async def _wake(self) -> None:
        now = self.clock.monotonic()
        due = [future for until, future in self.sleepers if until <= now]
        self.sleepers = [sleeper for sleeper in self.sleepers if sleeper[1] not in due]
        for future in due:
            future.set_result(None)
        await self._quiet()

    async def _quiet(self) -> None:
        """Wait until everybody who works on a call has ended, or sleeps."""
        for _ in range(_MOST_TURNS):
            await asyncio.sleep(0)
            if len(self.sleepers) >= len(callback_routes._working):
                if self.faults:
                    raise self.faults.pop()
                return
        raise AssertionError("a call is worked on without an end")

    async def _sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sleepers.append((self.clock.monotonic() + seconds, future))
        await future

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except AssertionError as error:
            self.faults.append(error)
            raise

    # ------------------------------------------------------------------ what the hand-over finds

    @contextmanager
    def _task_instance(self, ticket: CallbackClaims) -> Iterator[tuple[Any, Any]]:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the database is away")
        instance = None
        if (ticket.dag_id, ticket.run_id, ticket.task_id, ticket.map_index) == ("dag", "run", "task", -1):
            state = self.instance.state
            instance = SimpleNamespace(state=state, trigger_id=1 if state == "deferred" else None)
        yield instance, Transaction(self)

    def _submit_event(self, trigger_id: int, event: Any, *, session: Any) -> None:
        with self._noted():
            assert self.instance.state == "deferred", "a task is resumed that does not wait"
            if type(event).__name__ == "TaskSuccessEvent":
                self.instance.ended(dict(self.xcoms))
            else:
                self.instance.resumed(event.payload)

    def _push(self, key: str, value: Any, **where: Any) -> None:
        assert (where["dag_id"], where["run_id"], where["task_id"], where["map_index"]) == (
            *("dag", "run", "task"),
            -1,
        )
        self.xcoms[key] = value

    # The state backend: keys of the task's own store, and texts.

    def get(self, scope: Any, key: str, *, session: Any) -> str | None:
        return self.instance.texts.get(key)

    def set(self, scope: Any, key: str, value: str, *, expires_at: datetime, session: Any) -> None:
        self.instance.texts[key] = value

    # ------------------------------------------------------------------ asking the service

    def _client(self, settings: Any) -> Any:
        async def run(flow: Any) -> Any:
            with self._noted():
                return self.ask(flow)

        async def close() -> None:
            pass

        return SimpleNamespace(run=run, close=close)


async def _at_once(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return function(*arguments, **named)
