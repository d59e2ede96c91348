"""Drivers of the tries of one task instance, and of a task that makes a single generation."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, Self

from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR
from support import PROMPT, Store, TaskInstance, deferral, make_context, payload_of
from versions import deserialize, serialize

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


#: Runs a trigger, and returns the payload of its event.
fire = payload_of


class Killed(BaseException):
    """The worker is killed."""


class Tries:
    """Tries of one task instance: resumes deferrals, keeps the store, counts entries."""

    make: Callable[..., Any]

    def __init__(self, services: SeedanceEmulator, connect: Connect, **defaults: Any) -> None:
        self.services, self.connect, self.defaults = services, connect, defaults
        self.store, self.ti = Store(), TaskInstance()
        #: Whether this Airflow has a task state store.
        self.stored = True
        self.op: Any = None
        self.deferred: Any = None
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

    def other_task(self) -> Self:
        return type(self)(self.services, self.connect, **self.defaults)

    def prepare(self, *requests: Any, **arguments: Any) -> None:
        """Make the operator of the following entries, unless there is one and these are its arguments."""
        if requests or arguments or self.op is None:
            self.op = self.make(*requests, **{**self.defaults, **arguments})

    def defer(self, *requests: Any, **arguments: Any) -> TaskDeferred:
        """Enter until the first deferral."""
        self.prepare(*requests, **arguments)
        self.deferred = deferred = deferral(lambda: self.op.execute(self.context))
        return deferred

    def resume(self, event: Any = None) -> Any:
        """Resume the latest deferral, with its arguments as Airflow stores them."""
        kwargs = {**deserialize(serialize(self.deferred.kwargs or {})), "event": event}
        return self.op.resume_execution(self.deferred.method_name, kwargs, self.context)

    def defer_again(self, event: Any = None) -> TaskDeferred:
        self.deferred = deferred = deferral(lambda: self.resume(event))
        return deferred

    def fail_deferral(self, reason: str) -> Any:
        """Resume as Airflow does after a timeout or a failure of the trigger."""
        failure = {"error": reason, "traceback": ["Traceback", "boom"]}
        return self.op.resume_execution(TRIGGER_FAIL_REPR, failure, self.context)

    def enter(self) -> Any:
        """Run the operator through all its deferrals."""
        call: Callable[[], Any] = lambda: self.op.execute(self.context)  # noqa: E731
        while True:
            self.entries += 1
            try:
                return call()
            except TaskDeferred as deferred:
                self.deferred = deferred
                self.deferrals.append(deferred)
                self.before_resume(deferred)
                _, kwargs = deferred.trigger.serialize()
                event = fire(type(deferred.trigger)(**deserialize(serialize(kwargs))))
                call = partial(self.resume, event)

    def retry(self) -> Any:
        """Run the same operator in the next try, as an automatic retry does."""
        self.ti.retry()
        return self.enter()

    def clear(self) -> Any:
        """Run the same operator in the next try, as a person's clear does."""
        self.ti.clear()
        return self.enter()

    def lose_ids(self, after: int = 1) -> None:
        """Let the store accept nothing after this number of submissions, until :meth:`restore`."""

        def away_once_it_was_sent(what: str) -> None:
            if what == "set" and len(self.ids) >= after:
                raise ConnectionError("the API server is away")

        self.store.before = away_once_it_was_sent

    def restore(self) -> None:
        """Let the store work again."""
        self.store.before = lambda what: None

    @property
    def posts(self) -> int:
        return len(self.services.ledger.posts())

    @property
    def ids(self) -> list[str]:
        """Return the ids of the submitted generations."""
        return [one.generation_id for one in self.services.ledger.submissions]


class Task(Tries):
    """Task instance whose generation ends when the test says so."""

    make = staticmethod(make)

    def __init__(self, services: SeedanceEmulator, connect: Connect, **defaults: Any) -> None:
        super().__init__(services, connect, **defaults)
        services.hold()

    def run(self, **arguments: Any) -> Any:
        """Enter once; new arguments make a new operator."""
        self.prepare(**arguments)
        return self.op.execute(self.context)

    def defer_while_ids_cannot_be_written(self) -> TaskDeferred:
        self.lose_ids()
        deferred = self.defer()
        self.restore()
        return deferred

    def defer_and_finish(self, **arguments: Any) -> TaskDeferred:
        deferred = self.defer(poll_interval=0.01, **arguments)
        self.services.finish(self.generation_id)
        return deferred

    def store_callback(self, generation_id: str) -> None:
        """Store the id of a callback, as the API server does."""
        key = key_for(self.deferred.trigger.callback_nonce)
        self.store.texts[key] = json.dumps(with_id(None, generation_id))

    @property
    def submitted(self) -> int:
        return len(self.ids)

    @property
    def generation_id(self) -> str:
        return self.ids[-1]

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
