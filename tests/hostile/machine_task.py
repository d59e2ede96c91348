"""
State machine of a task, driven through its operator.

It submits, crashes at every access to the store, loses replies, retries, is cleared, polls, and its render
ends in every way. It is the model of :mod:`submission.submission_model` with the real operator in place of
the bare submission: a worker runs ``execute``, and ``resume_execution`` after a deferral.

Two invariants hold after every step. *Never twice*: no submission while an earlier one may be paid for and no
user decided to leave it. *Never lost*: a paid render is delivered, or an error names it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Self

import hypothesis.strategies as st
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR
from helpers import settings as settings_of
from hypothesis.stateful import initialize, invariant, precondition, rule
from submission.submission_model import BASE, Crash, Machine
from support import Store, TaskInstance, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, GenerationStatus, utc_now
from airflow_provider_seedance.hooks import seedance as hook_module
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.operators import batch_run, generation_run
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.submission import records
from airflow_provider_seedance.submission.lookup import AwaitingCallback
from airflow_provider_seedance.submission.submitter import (
    HasGeneration,
    RetryLater,
    SubmissionResult,
)
from airflow_provider_seedance.triggers.events import make_event


class Quiet:
    """A log that discards everything: thousands of tries log a lot."""

    def info(self, *arguments: Any) -> None:
        pass

    debug = warning = error = info


class _Operator(SeedanceGenerateVideoOperator):
    log = Quiet()  # type: ignore[assignment]


class Connected:
    """A machine whose operators use the model of a service. It counts its steps over all runs."""

    title: ClassVar[str]
    counts: ClassVar[Counter[str]]

    api: Any
    run: Callable[[Any], Any]

    #: Further keys of the connection's extra.
    extra: ClassVar[dict[str, Any]] = {}

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] += number

    @property
    def settings(self) -> Settings:
        return replace(settings_of(BASE, api="ark", **self.extra), api=self.api)

    def connected(self, operator: Any) -> Any:
        """Connect an operator to the model."""
        hook = SeedanceHook("seedance_default")
        hook._settings = self.settings
        hook_module.Client = self.client()  # type: ignore[misc]
        for module in (generation_run, batch_run):
            module.Client = self.client()  # type: ignore[attr-defined]
            module.SeedanceHook = lambda conn_id: hook  # type: ignore[attr-defined]
        return operator

    def client(self) -> Any:
        machine = self

        class FakeClient:
            """A client that sends requests to the model instead of the network."""

            def __init__(self, found: Any, **options: Any) -> None:
                self.settings = found

            def run(self, flow: Any) -> Any:
                return machine.run(flow)

            def __enter__(self) -> Self:
                return self

            def __exit__(self, *why: object) -> None:
                pass

        return FakeClient


class OperatorSubmission:
    """Stand-in for :class:`Submission` that submits through the operator."""

    def __init__(self, machine: Task, work: Callable[[], Any]) -> None:
        self.machine, self.work = machine, work

    def submit_or_attach(self) -> SubmissionResult:
        machine = self.machine
        try:
            result = self.work()
        except TaskDeferred as deferred:
            return self.on_deferred(deferred)
        machine.count("delivered at once")
        machine.succeeded = True
        generation = Generation.from_result(result)
        return HasGeneration(generation, machine.record_of(generation.generation_id))

    def on_deferred(self, deferred: TaskDeferred) -> SubmissionResult:
        machine, kwargs = self.machine, deferred.kwargs
        assert kwargs is not None
        json.dumps([kwargs, deferred.trigger.serialize()])
        if deferred.method_name == "resume_submit":
            machine.count("deferred before submitting")
            return RetryLater(errors.SeedanceRateLimitError("later"))
        if deferred.method_name == "resume_uncertain":
            return machine.await_callback(deferred)
        machine.count("deferred")
        machine.deferred = deferred
        known = Generation(
            generation_id=kwargs["generation_id"], api="ark", media="video", status=GenerationStatus.QUEUED
        )
        return HasGeneration(known, machine.record_of(known.generation_id))


class Task(Connected, Machine):
    """One task instance."""

    title = "a task"
    counts: ClassVar[Counter[str]] = Counter()

    #: Further arguments of the operator.
    arguments: dict[str, Any] = {}
    #: The event of a callback; see :mod:`machine_called`.
    event: Any = None
    #: The task has delivered, and was not cleared since.
    succeeded = False

    @initialize()
    def begin_task(self) -> None:
        self.deferred: TaskDeferred | None = None

    def teardown(self) -> None:
        self.count("paid", len(getattr(self, "paid", ())))

    def operator(self) -> SeedanceGenerateVideoOperator:
        return self.connected(
            _Operator(
                task_id="task",
                prompt=self.prompt,
                on_clear=self.on_clear,
                on_uncertain_submit=self.on_uncertain,
                **self.arguments,
            )
        )

    def context(self) -> Any:
        ti = TaskInstance(max_tries=self.max_tries, try_number=self.try_number)
        ti.pushed = self.pushed
        return make_context(self.store, ti)

    def leave(self) -> None:
        self.deferred, self.succeeded = None, False

    def submission(self) -> Any:
        self.leave()
        self.pushed: dict[str, Any] = {}  # XCom outlives deferrals, not tries
        return OperatorSubmission(self, lambda: self.operator().execute(self.context()))

    def await_callback(self, deferred: TaskDeferred) -> AwaitingCallback:
        raise AssertionError("the task has no callback URL")

    def report(self) -> None:
        self.count("uncertain")
        super().report()

    def record_of(self, generation_id: str) -> records.Record:
        """Return the stored record; an id that could not be written comes from the deferral."""
        found = records.Record.from_value(self.store.value)
        return replace(found, generation_id=generation_id, max_tries=self.max_tries)

    # ------------------------------------------------------------------ after a deferral

    @precondition(lambda self: self.deferred is not None and self.event is None)
    @rule(
        how=st.sampled_from(["event", "event", "nothing", "nonsense", "broken trigger"]),
        reads_broken=st.sampled_from([False, False, False, True]),
        trouble=st.sampled_from(["none"] * 5 + ["unreadable", "unwritable", "dies before", "dies after"]),
    )
    def resume(self, how: str, reads_broken: bool, trouble: str) -> None:
        """End the wait with an event, nothing, or an error, and resume on a worker."""
        deferred = self.deferred
        assert deferred is not None
        assert deferred.kwargs is not None
        generation_id = deferred.kwargs["generation_id"]
        paid = next(paid for paid in self.paid if paid.id == generation_id)
        terminal = paid.status not in ("queued", "running")
        event: Any = None
        if how == "event" and terminal:
            event = make_event(
                self.api.read_generation(self.describe(paid), paid.id, media="video", now=utc_now())
            )
        elif how == "nonsense":
            event = {"outcome": "ended", "generation_id": "another", "result": {"urls": ["https://a.b/c"]}}
        self.finish(deferred, event, how, paid, reads_broken, trouble)

    def finish(
        self, deferred: TaskDeferred, event: Any, how: str, paid: Any, reads_broken: bool, trouble: str
    ) -> None:
        posts = len(self.posts)
        self.reads_broken = reads_broken
        self.set_trouble(trouble, 1)
        has_result = (
            isinstance(event, dict) and event["outcome"] == "ended" and event["generation_id"] == paid.id
        )
        readable = has_result or not (reads_broken or paid.forgotten)
        name, kwargs = deferred.method_name, {**(deferred.kwargs or {}), "event": event}
        if how == "broken trigger":
            name, kwargs = TRIGGER_FAIL_REPR, {"error": "TriggerFailure", "traceback": None}
        self.deferred = None
        try:
            result = self.operator().resume_execution(name, kwargs, self.context())
        except Crash:
            self.count("died after the wait")
        except TaskDeferred as again:
            self.count("waits on")
            assert again.kwargs is not None
            assert again.kwargs["generation_id"] == paid.id
            self.deferred = again
        except errors.SeedanceError as error:
            self.count("failed after the wait")
            if not (how == "broken trigger" and trouble == "unreadable"):
                assert error.generation_id == paid.id
                assert not (readable and paid.status == "succeeded" and not paid.gone), (
                    "a paid render is lost"
                )
        except Exception:
            # Airflow's own error for a broken trigger: without a store the generation is unknown.
            assert how == "broken trigger"
            assert trouble == "unreadable"
        else:
            self.count("delivered after the wait")
            self.succeeded = True
            assert result["generation_id"] == paid.id
            assert paid.status == "succeeded"
            assert result["urls"]
            self.attached = None
        finally:
            self.store.before = lambda what: None
            self.store.set = Store.set.__get__(self.store)  # type: ignore[method-assign]
        assert len(self.posts) == posts, "a resumed task submits"

    @invariant()
    def _count(self) -> None:
        self.count("steps")
