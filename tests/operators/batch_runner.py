"""Runner for the tests of the batch operator: an emulator, a state store in memory, and resumed deferrals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import TaskDeferred
from support import Store, TaskInstance, make_context, on_loop
from versions import deserialize, serialize

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.operators.batch_run import BatchTiming
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoBatchOperator
from airflow_provider_seedance.triggers import seedance as triggers

Connect = Callable[..., None]


def make(
    requests: Any, timing: BatchTiming | None = None, **arguments: Any
) -> SeedanceGenerateVideoBatchOperator:
    op = SeedanceGenerateVideoBatchOperator(
        **{"task_id": "task", "requests": requests, "poll_interval": 0.01, **arguments}
    )
    op.timing = timing
    return op


class Runner:
    """Runs tries of one task instance: resumes deferrals, keeps the store, counts entries."""

    def __init__(self, *, store: Store | bool | None = True) -> None:
        self.store = Store() if store is True else store or None
        self.ti = TaskInstance()
        self.entries = 0
        self.deferrals: list[TaskDeferred] = []
        #: Called before an entry resumes.
        self.before_resume: Callable[[TaskDeferred], None] = lambda deferred: None

    def run(self, op: SeedanceGenerateVideoBatchOperator) -> Any:
        context = make_context(self.store, self.ti)
        call: Callable[[], Any] = lambda: op.execute(context)  # noqa: E731
        while True:
            self.entries += 1
            try:
                return call()
            except TaskDeferred as deferred:
                self.deferrals.append(deferred)
                self.before_resume(deferred)
                call = self._resume(op, deferred, context)

    def _resume(self, op: Any, deferred: TaskDeferred, context: Any) -> Callable[[], Any]:
        path, kwargs = deferred.trigger.serialize()
        assert path.endswith("SeedanceBatchTrigger")
        trigger = triggers.SeedanceBatchTrigger(**deserialize(serialize(kwargs)))

        async def first() -> Any:
            async for event in trigger.run():
                return event
            raise AssertionError("no event")

        event = json.loads(json.dumps(on_loop(first()).payload))
        again = deserialize(serialize(deferred.kwargs))
        return lambda: op.resume_execution(deferred.method_name, {**again, "event": event}, context)


def paid(emulator: SeedanceEmulator) -> list[str]:
    return [submitter.prompt for submitter in emulator.ledger.submissions]


def keys(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["key"] for entry in entries]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
