"""Helpers of the tests of tasks with callbacks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from airflow.providers.common.compat.sdk import TaskDeferred
from support import PROMPT, Store, TaskInstance, deferral, make_context

from airflow_provider_seedance.callbacks.inbox import key_for, with_id
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoOperator,
)
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger

CALLING = ("seedance2api", "seedanceapi-v1", "seedanceapi-v2", "ark")
#: Services without a look-up of lost submissions.
UNANSWERED = CALLING[:3]
#: An address without a listener: the tests hand in the callbacks themselves.
NOWHERE = "http://127.0.0.1:1"
SECRET = "a secret for the addresses"
CALLED = {"callback_base_url": NOWHERE, "callback_secret": SECRET}
LOST = [
    ("drop_reply", {}),
    ("cut_body", {}),
    ("rubbish", {}),
    ("gateway_error", {"accept": True}),
    ("gateway_error", {"accept": True, "status": 504}),
]

Connect = Callable[..., None]


def make(**arguments: Any) -> SeedanceGenerateVideoOperator:
    return SeedanceGenerateVideoOperator(
        **{"task_id": "task", "prompt": PROMPT, "use_callback": True, **arguments}
    )


def resume(op: Any, deferred: TaskDeferred, event: Any, context: Any) -> Any:
    # As Airflow stores it in between.
    kwargs = json.loads(json.dumps(deferred.kwargs or {}))
    return op.resume_execution(deferred.method_name, {**kwargs, "event": event}, context)


def call(generation_id: str) -> dict[str, str]:
    """Return the event of a callback."""
    return {"outcome": "callback", "generation_id": generation_id}


SILENCE = {"outcome": "silence"}


class Task:
    """Task with callbacks whose renders end when the test says so."""

    def __init__(self, services: SeedanceEmulator, store: Store | None, **arguments: Any) -> None:
        self.services, self.store, self.ti = services, store, TaskInstance()
        self.context = make_context(store, self.ti)
        self.op = make(**arguments)

    def execute(self) -> TaskDeferred:
        return deferral(lambda: self.op.execute(self.context))

    def resume(self, deferred: TaskDeferred, event: Any) -> TaskDeferred:
        return deferral(lambda: resume(self.op, deferred, event, self.context))

    def mail(self, deferred: TaskDeferred, generation_id: str) -> None:
        """Store the id of a callback, as the API server does."""
        assert self.store is not None
        nonce = deferred.trigger.callback_nonce
        self.store.texts[key_for(nonce)] = json.dumps(with_id(None, generation_id))

    @property
    def posts(self) -> int:
        return len(self.services.ledger.posts())

    @property
    def paid(self) -> str:
        """Return the id of the latest submission."""
        return self.services.ledger.submissions[-1].generation_id


def waits_for(deferred: TaskDeferred, generation_id: str) -> bool:
    trigger = deferred.trigger
    return isinstance(trigger, SeedanceGenerationTrigger) and trigger.generation_id == generation_id
