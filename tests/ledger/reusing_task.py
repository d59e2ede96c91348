"""Task instances that reuse the generations of others."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR
from helpers import set_submission_timing
from operators.generation_task import make
from support import deferral

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.submission.submitter import Submission

from .discarding_task import LedgerTask


class Task(LedgerTask):
    """A task instance that reuses."""

    def __init__(self, number: int = 1, dag_id: str = "dag", **arguments: Any) -> None:
        super().__init__(number, **{"reuse": "any", **arguments})
        self.ti.dag_id = dag_id

    def defer_again(self) -> TaskDeferred:
        """Resume without the wait of the trigger."""
        op, deferred = make(**self.arguments), self.deferred
        kwargs = {**(deferred.kwargs or {}), "event": {}}
        self.deferred = deferral(lambda: op.resume_execution(deferred.method_name, kwargs, self.context))
        return self.deferred

    def break_trigger(self) -> Any:
        """Resume as Airflow does after a trigger that failed."""
        failure = {"error": "Trigger failure", "traceback": ["boom"]}
        return make(**self.arguments).resume_execution(TRIGGER_FAIL_REPR, failure, self.context)


def waiting_pair(services: SeedanceEmulator, **arguments: Any) -> tuple[Task, Task]:
    """Let a task pay for a render that goes on until its release, and another one wait for it."""
    services.hold()
    payer, other = Task(1), Task(2, **arguments)
    payer.defer()
    other.defer()
    return payer, other


def let_a_worker_die(monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> None:
    """Let a worker die while it submits, and the tasks after it wait for it on no worker."""
    set_submission_timing(monkeypatch, reuse_backoff=())
    with monkeypatch.context() as patch:
        patch.setattr(Submission, "_post", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Task(1, **arguments).run()


def posts(services: SeedanceEmulator) -> int:
    return len(services.ledger.posts())
