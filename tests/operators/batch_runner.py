"""Driver of one batch task."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR
from support import Store, TaskInstance, deferral, make_context
from versions import deserialize, serialize

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.operators.batch_run import BatchTiming
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoBatchOperator
from airflow_provider_seedance.triggers import seedance as triggers
from operators.generation_task import Connect, fire


def make(
    requests: Any, timing: BatchTiming | None = None, **arguments: Any
) -> SeedanceGenerateVideoBatchOperator:
    op = SeedanceGenerateVideoBatchOperator(
        **{"task_id": "task", "requests": requests, "poll_interval": 0.01, **arguments}
    )
    op.timing = timing
    return op


class Batch:
    """Tries of one task instance: resumes deferrals, keeps the store, counts entries."""

    def __init__(self, services: SeedanceEmulator, connect: Connect) -> None:
        self.services, self.connect = services, connect
        self.store, self.ti = Store(), TaskInstance()
        #: Whether this Airflow has a task state store.
        self.stored = True
        self.op: Any = None
        self.entries = 0
        self.deferrals: list[TaskDeferred] = []
        #: Called before an entry resumes.
        self.before_resume: Callable[[TaskDeferred], None] = lambda deferred: None

    @property
    def context(self) -> Any:
        return make_context(self.store if self.stored else None, self.ti)

    def without_store(self) -> None:
        """Take the task state store away, as on an Airflow below 3.3."""
        self.stored = False

    def other_task(self) -> Batch:
        return Batch(self.services, self.connect)

    def run(self, requests: Any, **arguments: Any) -> Any:
        self.op = make(requests, **arguments)
        return self.enter()

    def defer(self, requests: Any, **arguments: Any) -> TaskDeferred:
        self.op = make(requests, **arguments)
        return deferral(lambda: self.op.execute(self.context))

    def retry(self) -> Any:
        """Run the same operator in the next try, as an automatic retry does."""
        self.ti.retry()
        return self.enter()

    def clear(self) -> Any:
        """Run the same operator in the next try, as a person's clear does."""
        self.ti.clear()
        return self.enter()

    def fail_deferral(self, reason: str) -> Any:
        """Resume as Airflow does after a timeout or a failure of the trigger."""
        return self.op.resume_execution(TRIGGER_FAIL_REPR, {"error": reason, "traceback": None}, self.context)

    def enter(self) -> Any:
        """Run the operator through all its deferrals."""
        context = self.context
        call: Callable[[], Any] = lambda: self.op.execute(context)  # noqa: E731
        while True:
            self.entries += 1
            try:
                return call()
            except TaskDeferred as deferred:
                self.deferrals.append(deferred)
                self.before_resume(deferred)
                call = self._resume(deferred, context)

    def _resume(self, deferred: TaskDeferred, context: Any) -> Callable[[], Any]:
        path, kwargs = deferred.trigger.serialize()
        assert path.endswith("SeedanceBatchTrigger")
        event = fire(triggers.SeedanceBatchTrigger(**deserialize(serialize(kwargs))))
        again = deserialize(serialize(deferred.kwargs))
        return lambda: self.op.resume_execution(deferred.method_name, {**again, "event": event}, context)

    @property
    def paid(self) -> list[str]:
        return [submission.prompt for submission in self.services.ledger.submissions]

    def paid_ids_in(self, message: str) -> bool:
        """Return whether a message names all submitted generations."""
        return all(one.generation_id in message for one in self.services.ledger.submissions)


def keys(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["key"] for entry in entries]


def kinds(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the key and the kind of each failure."""
    return [(entry["key"], entry["kind"]) for entry in result["failed"]]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
