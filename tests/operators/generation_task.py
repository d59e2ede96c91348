"""Driver of one task that makes a single generation."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR
from support import PROMPT, Store, TaskInstance, deferral, make_context, on_loop

from airflow_provider_seedance.callbacks.inbox import key_for, with_id
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger

#: An address without a listener: the tests hand in the callbacks themselves.
NOWHERE = "http://127.0.0.1:1"
CALLBACK_SECRET = "a secret for the addresses"
CALLED = {"callback_base_url": NOWHERE, "callback_secret": CALLBACK_SECRET}
SILENCE = {"outcome": "silence"}

Connect = Callable[..., None]


def make(**arguments: Any) -> SeedanceGenerateVideoOperator:
    return SeedanceGenerateVideoOperator(**{"task_id": "task", "prompt": PROMPT, **arguments})


def fire(trigger: Any) -> Any:
    """Run a trigger to its event, and the event through Airflow's hands."""

    async def first() -> Any:
        async for event in trigger.run():
            return event
        raise AssertionError("no event")

    return json.loads(json.dumps(on_loop(first()).payload))


class Task:
    """Task instance whose generation ends when the test says so."""

    def __init__(self, services: SeedanceEmulator, connect: Connect, **defaults: Any) -> None:
        services.hold()
        self.services, self.connect, self.defaults = services, connect, defaults
        self.store, self.ti = Store(), TaskInstance()
        self.context = make_context(self.store, self.ti)
        self.op: Any = None
        self.deferred: Any = None

    def without_store(self) -> None:
        """Take the task state store away, as on an Airflow below 3.3."""
        self.context.pop("task_state_store", None)

    def run(self, **arguments: Any) -> Any:
        """Execute the operator; new arguments make a new one."""
        if arguments or self.op is None:
            self.op = make(**{**self.defaults, **arguments})
        return self.op.execute(self.context)

    def defer(self, **arguments: Any) -> TaskDeferred:
        self.deferred = deferral(lambda: self.run(**arguments))
        return self.deferred

    def defer_while_ids_cannot_be_written(self) -> TaskDeferred:
        """Defer; the store accepts the intent, and then nothing more."""

        def away_once_it_was_sent(what: str) -> None:
            if what == "set" and self.submitted:
                raise ConnectionError("the API server is away")

        self.store.before = away_once_it_was_sent
        deferred = self.defer()
        self.store.before = lambda what: None
        return deferred

    def defer_and_finish(self, **arguments: Any) -> TaskDeferred:
        deferred = self.defer(poll_interval=0.01, **arguments)
        self.services.finish(self.generation_id)
        return deferred

    def resume(self, event: Any = None) -> Any:
        """Resume the latest deferral, with its arguments as Airflow stores them."""
        kwargs = json.loads(json.dumps(self.deferred.kwargs or {}))
        return self.op.resume_execution(self.deferred.method_name, {**kwargs, "event": event}, self.context)

    def defer_again(self, event: Any = None) -> TaskDeferred:
        self.deferred = deferral(lambda: self.resume(event))
        return self.deferred

    def fail_deferral(self, reason: str) -> Any:
        """Resume as Airflow does after a timeout or a failure of the trigger."""
        failure = {"error": reason, "traceback": ["Traceback", "boom"]}
        return self.op.resume_execution(TRIGGER_FAIL_REPR, failure, self.context)

    def store_callback(self, generation_id: str) -> None:
        """Store the id of a callback, as the API server does."""
        key = key_for(self.deferred.trigger.callback_nonce)
        self.store.texts[key] = json.dumps(with_id(None, generation_id))

    @property
    def posts(self) -> int:
        return len(self.services.ledger.posts())

    @property
    def submitted(self) -> int:
        return len(self.services.ledger.submissions)

    @property
    def generation_id(self) -> str:
        return self.services.ledger.submissions[-1].generation_id

    @property
    def called(self) -> dict[str, str]:
        """Return the event of a callback for the latest submission."""
        return callback(self.generation_id)

    def waits_for(self, generation_id: str) -> bool:
        """Return whether the latest deferral polls this generation."""
        trigger = self.deferred.trigger
        return isinstance(trigger, SeedanceGenerationTrigger) and trigger.generation_id == generation_id

    @property
    def polls_its_only_submission(self) -> bool:
        return self.posts == 1 and self.waits_for(self.generation_id)


def callback(generation_id: str) -> dict[str, str]:
    return {"outcome": "callback", "generation_id": generation_id}
