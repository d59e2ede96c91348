"""A task on the ledger whose task state is discarded before every entry."""

from __future__ import annotations

from typing import Any

from operators.generation_task import fire, make
from support import Store, TaskInstance, deferral, make_context

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator


class DiscardingTask:
    """A task instance whose task state is discarded before every entry."""

    def __init__(self, emulator: SeedanceEmulator) -> None:
        self.emulator = emulator
        self.ti = TaskInstance()
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
        arguments = {"deferrable": False, "poll_interval": 0.01, **arguments}
        return make(**arguments).execute(make_context(Store(), self.ti))

    def defer(self, **arguments: Any) -> None:
        """Execute until the task defers."""
        self.operator = make(**{"poll_interval": 0.01, **arguments})
        self.deferred = deferral(lambda: self.operator.execute(make_context(Store(), self.ti)))

    def resume(self) -> Any:
        """Resume with the event of the trigger."""
        kwargs = {**self.deferred.kwargs, "event": fire(self.deferred.trigger)}
        context = make_context(Store(), self.ti)
        return self.operator.resume_execution(self.deferred.method_name, kwargs, context)

    @property
    def posts(self) -> int:
        return len(self.emulator.ledger.posts())
