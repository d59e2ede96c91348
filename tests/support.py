"""Shared helpers: a fake state store, a task instance, connections, settings of an emulator."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout, TaskDeferred
from airflow.triggers.base import BaseTrigger, TriggerEvent
from helpers import connection

from airflow_provider_seedance.apis.validation import prepare_request
from airflow_provider_seedance.client import flows
from airflow_provider_seedance.client.api_client import Client
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import ImageRequest, VideoRequest, utc_now
from airflow_provider_seedance.ledger.task_state import STATE_KEY
from airflow_provider_seedance.settings import Settings, read_settings
from airflow_provider_seedance.submission.store import GENERATION_KEY
from airflow_provider_seedance.triggers import cancellation
from airflow_provider_seedance.triggers.cancellation import CancellingTrigger

#: A key that is long and odd enough to be found wherever it should not be.
SECRET = "sk-test-9f8e7d6c5b4a"

#: A prompt likewise.
PROMPT = "A quartz heron over teal dunes"


class Store:
    """Fake ``context["task_state_store"]``; accepts JSON only, as Airflow does."""

    def __init__(self, value: Any = None) -> None:
        self.texts: dict[str, str] = {}
        if value is not None:
            self.value = value
        #: The states of the record of a single generation, one for each write.
        self.states: list[str] = []
        self.retentions: list[Any] = []
        #: Every access with its key, in order.
        self.reads_and_writes: list[tuple[str, str]] = []
        #: Called before each access with ``get`` or ``set``; its exceptions are those of the access.
        self.before: Callable[[str], None] = lambda what: None

    def get(self, key: str, default: Any = None) -> Any:
        self.before("get")
        self.reads_and_writes.append(("get", key))
        return json.loads(self.texts[key]) if key in self.texts else default

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        self.before("set")
        self.texts[key] = json.dumps(value, allow_nan=False)
        if record := value.get("records", {}).get(GENERATION_KEY):
            self.states.append(record["state"])
        self.reads_and_writes.append(("set", key))
        self.retentions.append(retention)

    @property
    def value(self) -> Any:
        """The stored record of a single generation."""
        return (
            json.loads(self.texts[STATE_KEY])["records"][GENERATION_KEY] if STATE_KEY in self.texts else None
        )

    @value.setter
    def value(self, value: Any) -> None:
        self.texts[STATE_KEY] = json.dumps({"groups": 1, "records": {GENERATION_KEY: value}})

    def change(self, **changes: Any) -> None:
        """Change fields of the stored record."""
        self.value = {**self.value, **changes}

    def break_down(self, *accesses: str, times: int = 1000) -> None:
        """Make the next accesses fail."""
        left = [times]

        def fail(what: str) -> None:
            if what in accesses and left[0]:
                left[0] -= 1
                raise ConnectionError(f"the API server is away ({what})")

        self.before = fail


class TaskInstance:
    """As much of a task instance as the operators look at."""

    def __init__(self, *, max_tries: int = 2, try_number: int = 1, map_index: int = -1) -> None:
        self.dag_id, self.task_id, self.run_id = "dag", "task", "run"
        self.map_index = map_index
        self.max_tries = max_tries
        self.try_number = try_number
        self.pushed: dict[str, Any] = {}
        #: State that Airflow reports of this task instance while it is being killed.
        self.state: str | None = "running"

    def xcom_push(self, key: str, value: Any) -> None:
        json.dumps(value)
        self.pushed[key] = value

    def xcom_pull(self, *, task_ids: str, key: str, map_indexes: int | None = None) -> Any:
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self.pushed.get(key)

    def get_task_states(self, **which: Any) -> dict[str, dict[str, str | None]]:
        return {self.run_id: {self.task_id: self.state}}

    def retry(self) -> None:
        """Go on to the next try, as an automatic retry does."""
        self.try_number += 1

    def clear(self, retries: int = 2) -> None:
        """Go on to the next try, as a person's clear does."""
        self.max_tries = self.try_number + retries
        self.try_number += 1


class Log:
    """Substitute for the log of an operator or a trigger, which pytest does not see."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, *arguments: Any) -> None:
        self.lines.append(message % arguments)

    debug = warning = error = info


@contextmanager
def task_timeout(seconds: float) -> Iterator[None]:
    """
    Raise in this block as ``execution_timeout`` does: in the handler of a signal.

    And every 30 s after, because Python drops the exception if the signal arrives in the callback of a weak reference.
    """

    def handle(*_: Any) -> None:
        raise AirflowTaskTimeout("the time is over")

    before = signal.signal(signal.SIGALRM, handle)
    try:
        # Within the block: a signal that came before it would leave a timer that rings in another test.
        signal.setitimer(signal.ITIMER_REAL, seconds, 30)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def make_context(store: Store | None, ti: TaskInstance | None = None) -> Any:
    """Make the context of a task; without a store it is that of an Airflow below 3.3."""
    context: dict[str, Any] = {"ti": ti or TaskInstance()}
    if store is not None:
        context["task_state_store"] = store
    return context


def deferral(run: Callable[[], Any]) -> TaskDeferred:
    """Run a task until it defers, and return the deferral."""
    with pytest.raises(TaskDeferred) as caught:
        run()
    return caught.value


def emulator_settings(
    emulator: SeedanceEmulator, api: str, *, conn_id: str = "seedance_default", **extra: Any
) -> Settings:
    """Read the settings of a connection to a service of the emulator."""
    fields = emulator.connection(api, **extra)
    return read_settings(
        conn_id, connection(host=fields["host"], password=fields["password"], extra=fields["extra"])
    )


def smallest(api: str, media: str = "video", prompt: str = PROMPT) -> VideoRequest | ImageRequest:
    """Return the smallest request that a service takes."""
    return ImageRequest(prompt=prompt) if media == "image" else VideoRequest(prompt=prompt)


def on_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on an event loop of its own."""

    async def run() -> Any:
        try:
            return await coroutine
        finally:
            # A hub whose last wait was cancelled closes its connections in a task of its own.
            closing = [task for task in asyncio.all_tasks() if "Hub.close" in repr(task.get_coro())]
            await asyncio.gather(*closing, return_exceptions=True)

    return asyncio.run(run())


def tasks_of_kills() -> list[asyncio.Task[None]]:
    return [task for kills in cancellation._kills.values() for task in kills.tasks]


async def killed(*triggers: CancellingTrigger) -> None:
    """Kill triggers, and wait until their cancellations have closed the hub."""
    await asyncio.gather(*(trigger.on_kill() for trigger in triggers))
    await asyncio.gather(*tasks_of_kills())


def submitted(emulator: SeedanceEmulator, api: str) -> str:
    """Submit the smallest request to a service, and return the id of its generation."""
    settings = emulator_settings(emulator, api)
    request = prepare_request(settings, smallest(api)).request
    with Client(settings) as client:
        call = settings.api.submit_call(request)
        outcome = client.run(flows.submit_flow(settings.api, call, request, utc_now))
    return flows.raise_outcome(outcome).generation_id


def fire(trigger: BaseTrigger) -> TriggerEvent:
    """Run a trigger, and return its only event."""

    async def run() -> list[TriggerEvent]:
        return [event async for event in trigger.run()]

    (event,) = on_loop(run())
    return event


def payload_of(trigger: BaseTrigger) -> Any:
    """Run a trigger, and return the payload of its event as Airflow stores it."""
    return json.loads(json.dumps(fire(trigger).payload, allow_nan=False))
