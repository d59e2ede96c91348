"""
Everything that this release stores across processes, made by its own operators and triggers.

Airflow's database keeps it while users upgrade, so its names are an interface: class paths and kwargs of triggers,
names and kwargs of methods that resume a task, payloads of events, records, ids from callbacks, and manifest lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from airflow.providers.common.compat.sdk import TaskDeferred
from support import Store, TaskInstance, make_context, payload_of
from versions import serialize

from airflow_provider_seedance.callbacks import inbox
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoBatchOperator,
    SeedanceGenerateVideoOperator,
)
from airflow_provider_seedance.polling import wait_state
from airflow_provider_seedance.sensors.seedance import SeedanceGenerationSensor

API = "seedanceapi-v2"

#: Port of the emulator for frozen samples: the base URL is part of a record.
FROZEN_PORT = 18_311

_CALLBACKS = {"callback_base_url": "https://airflow.example.com", "callback_secret": "a-callback-secret"}

OPERATORS: dict[str, Callable[..., Any]] = {
    "video": SeedanceGenerateVideoOperator,
    "batch": SeedanceGenerateVideoBatchOperator,
    "sensor": SeedanceGenerationSensor,
}


def collect(directory: Path, *, port: int = 0) -> dict[str, Any]:
    """
    Return all stored forms as a JSON value.

    :param directory: Of the manifest.
    :param port: Of the emulator; 0 for a free one.
    """
    manifest = directory / "manifest.jsonl"
    with SeedanceEmulator(port=port, media=False, render_seconds=0) as emulator, connected(emulator):
        return {
            "connection": emulator.connection(API),
            "deferrals": dict(deferrals(emulator, manifest)),
            "callbacks": {inbox.key_for("nonce"): inbox.with_id(inbox.with_id(None, "gen-1"), "gen-2")},
            "manifest": manifest.read_text(encoding="utf-8").splitlines(),
        }


@contextmanager
def connected(emulator: SeedanceEmulator) -> Iterator[None]:
    """Connect tasks to the emulator, and let triggers fire without delay."""
    connection = emulator.connection_json(API, **_CALLBACKS)
    with (
        patch.dict(os.environ, {"AIRFLOW_CONN_SEEDANCE_DEFAULT": connection}),
        patch.object(wait_state, "TIMING", replace(wait_state.TIMING, min_trigger_time=0.0)),
    ):
        yield


def deferrals(emulator: SeedanceEmulator, manifest: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Defer tasks of each kind; write the manifest on the resume of a batch."""
    task = Task("video", prompt="A lamp", duration=5, poll_interval=0.01)
    yield "video", form_after_wait(emulator, task)
    emulator.fault("rate_limit", retry_after=1800)
    yield "video after a rate limit", form_at_once(Task("video", prompt="A bell"))
    emulator.fault("drop_reply")
    yield "video after a lost reply", form_at_once(Task("video", prompt="A kite", use_callback=True))
    emulator.fault("refuse", prompt="b", status=400)
    requests: list[Any] = [{"key": key, "prompt": key} for key in "abc"]
    task = Task(
        "batch", requests=requests, poll_interval=0.01, on_item_failure="keep", manifest_path=str(manifest)
    )
    form = form_after_wait(emulator, task)
    task.resume(form["event"])
    yield "batch", form
    # Enough records that the deferral packs them.
    requests = [f"prompt {number}" for number in range(20)]
    task = Task("batch", stored=False, requests=requests, poll_interval=0.01)
    yield "batch below Airflow 3.3", form_after_wait(emulator, task)
    emulator.hold()
    Task("video", prompt="A fox").defer()
    generation_id = emulator.ledger.submissions[-1].generation_id
    task = Task("sensor", generation_id=generation_id, poll_interval=0.01, timeout=3600)
    yield "sensor", form_after_wait(emulator, task)


def form_after_wait(emulator: SeedanceEmulator, task: Task) -> dict[str, Any]:
    """Defer a task, and return its form with the event after its generations have ended."""
    emulator.hold()
    task.defer()
    emulator.release()
    return task.form(event=payload_of(task.deferred.trigger))


def form_at_once(task: Task) -> dict[str, Any]:
    """Defer a task, and return its form with the event that its trigger fires at its time."""
    task.defer()
    trigger = task.deferred.trigger
    _, kwargs = trigger.serialize()
    past = {name: 0.0 for name in ("not_before", "deadline") if name in kwargs}
    return task.form(event=payload_of(type(trigger)(**{**kwargs, **past})))


class Task:
    """
    One task instance of an operator.

    :param kind: Of its operator.
    :param stored: Give it a task state store.
    """

    def __init__(self, kind: str, *, stored: bool = True, **arguments: Any) -> None:
        self.kind, self.arguments = kind, arguments
        self.store = Store() if stored else None
        self.ti = TaskInstance()
        self.deferred: Any = None

    def operator(self) -> Any:
        return OPERATORS[self.kind](task_id="task", **self.arguments)

    def defer(self) -> None:
        """Execute the task until it defers."""
        self._run(lambda: self.operator().execute(self.context()))

    def resume(self, event: Any) -> Any:
        """Resume the task with an event; returns its result unless it defers again."""
        method, kwargs = self.deferred.method_name, {**(self.deferred.kwargs or {}), "event": event}
        return self._run(lambda: self.operator().resume_execution(method, kwargs, self.context()))

    def context(self) -> Any:
        return make_context(self.store, self.ti)

    def _run(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except TaskDeferred as deferred:
            self.deferred = deferred

    def form(self, *, event: Any) -> dict[str, Any]:
        """Return what Airflow stores of the deferred task."""
        classpath, kwargs = self.deferred.trigger.serialize()
        form: dict[str, Any] = {
            "operator": self.kind,
            "arguments": self.arguments,
            "trigger": {"classpath": classpath, "kwargs": serialize(kwargs)},
            "method": self.deferred.method_name,
            "kwargs": serialize(self.deferred.kwargs or {}),
            "event": event,
            "xcom": self.ti.pushed,
            "task_state": self.store and {key: json.loads(text) for key, text in self.store.texts.items()},
        }
        return dict(json.loads(json.dumps(form, allow_nan=False)))
