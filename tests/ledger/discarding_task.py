"""Tasks on the ledger whose task state is discarded before every entry."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import TaskDeferred
from operators.generation_task import fire, make
from support import Store, TaskInstance, deferral, make_context

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator


class LedgerTask:
    """A task instance whose task state is discarded before every entry."""

    def __init__(self, number: int = -1, **arguments: Any) -> None:
        self.ti = TaskInstance(map_index=number)
        self.arguments = {"poll_interval": 0.01, **arguments}

    @property
    def context(self) -> Any:
        return make_context(Store(), self.ti)

    def run(self, **arguments: Any) -> Any:
        return make(**{"deferrable": False, **self.arguments, **arguments}).execute(self.context)

    def defer(self, **arguments: Any) -> TaskDeferred:
        """Execute until the task defers."""
        operator = make(**{**self.arguments, **arguments})
        self.deferred = deferral(lambda: operator.execute(self.context))
        return self.deferred

    def resume(self, **arguments: Any) -> Any:
        """Resume with the event of the trigger."""
        kwargs = {**(self.deferred.kwargs or {}), "event": fire(self.deferred.trigger)}
        operator = make(**{"deferrable": False, **self.arguments, **arguments})
        return operator.resume_execution(self.deferred.method_name, kwargs, self.context)


class DiscardingTask(LedgerTask):
    """The only task of its Dag run, with the id of its task instance."""

    def __init__(self, emulator: SeedanceEmulator) -> None:
        super().__init__()
        self.emulator = emulator
        self.next_id = 0
        self.new_try()

    def new_try(self) -> None:
        self.next_id += 1
        self.ti.id = f"ti-{self.next_id}"  # type: ignore[attr-defined]

    def retry(self) -> None:
        self.ti.retry()
        self.new_try()

    def clear(self) -> None:
        self.ti.clear()
        self.new_try()

    def run_again(self) -> None:
        """Make the deleted Dag run again."""
        self.ti.max_tries, self.ti.try_number = 2, 1
        self.new_try()

    def execute(self, **arguments: Any) -> Any:
        return self.run(**arguments)

    @property
    def posts(self) -> int:
        return len(self.emulator.ledger.posts())
