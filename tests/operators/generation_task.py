"""Helpers of the tests of the single-generation operators."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
from support import PROMPT, Store, TaskInstance, deferral, make_context, on_loop
from versions import ENDING_FROM_TRIGGERS, require

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoOperator,
)
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger

Connect = Callable[..., None]


def make(**arguments: Any) -> SeedanceGenerateVideoOperator:
    return SeedanceGenerateVideoOperator(**{"task_id": "task", "prompt": PROMPT, **arguments})


def below_3_3(context: Any) -> Any:
    context.pop("task_state_store", None)
    return context


def failed_by_airflow(op: Any, context: Any, error: str) -> Any:
    return op.resume_execution(
        TRIGGER_FAIL_REPR, {"error": error, "traceback": ["Traceback", "boom"]}, context
    )


def fire(trigger: SeedanceGenerationTrigger) -> Any:
    """Run a trigger to its event, and the event through Airflow's hands."""

    async def first() -> Any:
        async for event in trigger.run():
            return event
        raise AssertionError("no event")

    return json.loads(json.dumps(on_loop(first()).payload))


def resume(op: Any, deferred: TaskDeferred, event: Any, context: Any) -> Any:
    return op.resume_execution(deferred.method_name, {**(deferred.kwargs or {}), "event": event}, context)


class Path:
    """One way for a generation to come to its end and the result to its task."""

    def __init__(self, emulator: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
        self.emulator = emulator
        self.monkeypatch = monkeypatch
        self.store, self.ti = Store(), TaskInstance()
        self.context = make_context(self.store, self.ti)
        self.operator: Any = None

    def begin(self, **arguments: Any) -> TaskDeferred:
        self.emulator.hold()
        self.operator = make(poll_interval=0.01, **arguments)
        deferred = deferral(lambda: self.operator.execute(self.context))
        self.emulator.finish(self.emulator.ledger.submissions[-1].generation_id)
        return deferred

    def direct(self) -> Any:
        self.emulator.release()
        return make(poll_interval=0.01, deferrable=False).execute(self.context)

    def deferred(self) -> Any:
        deferred = self.begin()
        return resume(self.operator, deferred, fire(deferred.trigger), self.context)

    def read_again(self) -> Any:
        deferred = self.begin()
        return resume(self.operator, deferred, None, self.context)

    def reattached(self) -> Any:
        self.begin()
        self.ti.retry()
        return make().execute(self.context)

    def cleared(self) -> Any:
        self.begin()
        self.ti.clear()
        return make().execute(self.context)

    def timed_out_by_airflow(self) -> Any:
        self.begin()
        return failed_by_airflow(self.operator, self.context, TriggerFailureReason.TRIGGER_TIMEOUT)

    def broken_trigger(self) -> Any:
        self.begin()
        return failed_by_airflow(self.operator, self.context, TriggerFailureReason.TRIGGER_FAILURE)

    def below_3_3(self) -> Any:
        below_3_3(self.context)
        return self.deferred()

    def broken_below_3_3(self) -> Any:
        below_3_3(self.context)
        return self.broken_trigger()

    def ended_by_trigger(self) -> Any:
        require(ENDING_FROM_TRIGGERS)
        from airflow.sdk.bases.xcom import BaseXCom

        written: dict[str, Any] = {}

        async def aset(key: str, value: Any, **which: Any) -> None:
            written[key] = json.loads(json.dumps(value))

        self.monkeypatch.setattr(BaseXCom, "aset", aset)
        deferred = self.begin(end_from_trigger=True)
        deferred.trigger.task_instance = self.ti
        fire(deferred.trigger)
        return written["return_value"]
