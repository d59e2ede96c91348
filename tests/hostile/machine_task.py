"""
The life of a task, driven through the operator itself: submit, crash at every access to the store, lost
reply, retry, clear, poll, and every way in which a render ends.

It is the model of :mod:`operators.test_submission_model` with the real operator in place of the bare
submission: what a worker would do in ``execute`` and after a deferral in ``resume_execution``. Two things
must hold after every step. *Never twice*: no submission while an earlier one may be paid for and nobody
decided to leave it. *Never lost*: what is paid for is delivered, or an error names it.
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
from submission.test_submission_model import BASE, Crash, Machine
from support import Store, TaskInstance, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.client import api_client
from airflow_provider_seedance.generations import Generation, GenerationStatus, utc_now
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.submission import records
from airflow_provider_seedance.submission.submitter import (
    AwaitingCallback,
    HasGeneration,
    RetryLater,
    SubmissionResult,
)
from airflow_provider_seedance.triggers.seedance import make_event


class Quiet:
    """A log that keeps nothing: a task of thousands of tries says a lot."""

    def info(self, *arguments: Any) -> None:
        pass

    debug = warning = error = info


class _Operator(SeedanceGenerateVideoOperator):
    log = Quiet()  # type: ignore[assignment]


class Connected:
    """A machine whose operators reach the model of a service, and that counts what it does over all of its runs."""

    title: ClassVar[str]
    counts: ClassVar[Counter[str]]

    api: Any
    run: Callable[[Any], Any]

    #: What more the connection says.
    extra: ClassVar[dict[str, Any]] = {}

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] += number

    @property
    def settings(self) -> Settings:
        return replace(settings_of(BASE, api="ark", **self.extra), api=self.api)

    def connected(self, operator: Any) -> Any:
        """Connect an operator to the model."""
        api_client.Client = self.client()  # type: ignore[misc]
        hook = SeedanceHook("seedance_default")
        hook._settings = self.settings
        operator._hook = lambda: hook
        return operator

    def client(self) -> Any:
        machine = self

        class Wire:
            """The client, of which only the wire is missing."""

            def __init__(self, found: Any, **options: Any) -> None:
                self.settings = found

            def run(self, flow: Any) -> Any:
                return machine.run(flow)

            def __enter__(self) -> Self:
                return self

            def __exit__(self, *why: object) -> None:
                pass

        return Wire


class Throughout:
    """Stands in for :class:`Submission`: enters by way of the operator."""

    def __init__(self, machine: Task, work: Callable[[], Any]) -> None:
        self.machine, self.work = machine, work

    def enter(self) -> SubmissionResult:
        machine = self.machine
        try:
            result = self.work()
        except TaskDeferred as deferred:
            return self.put_off(deferred)
        machine.count("delivered at once")
        machine.succeeded = True
        generation = Generation.from_result(result)
        return HasGeneration(generation, machine.record_of(generation.generation_id))

    def put_off(self, deferred: TaskDeferred) -> SubmissionResult:
        machine, kwargs = self.machine, deferred.kwargs
        assert kwargs is not None
        json.dumps([kwargs, deferred.trigger.serialize()])
        if deferred.method_name == "resume_submit":
            machine.count("put off")
            return RetryLater(errors.SeedanceRateLimitError("later"))
        if deferred.method_name == "resume_uncertain":
            return machine.waits_for_a_call(deferred)
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

    #: What more the operator says.
    arguments: dict[str, Any] = {}
    #: What a call has resumed the task with; see :mod:`machine_called`.
    event: Any = None
    #: Whether the task has delivered, and nobody cleared it since.
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
        self.pushed: dict[str, Any] = {}  # XCom outlives deferrals, and no try
        return Throughout(self, lambda: self.operator().execute(self.context()))

    def waits_for_a_call(self, deferred: TaskDeferred) -> AwaitingCallback:
        raise AssertionError("nobody was given an address to call")

    def report(self) -> None:
        self.count("uncertain")
        super().report()

    def record_of(self, generation_id: str) -> records.Record:
        """Return the record as it lies there; an id that could not be written is in the deferral."""
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
        """The wait ends, one way or another, and a worker goes on."""
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
        told = isinstance(event, dict) and event["outcome"] == "ended" and event["generation_id"] == paid.id
        readable = told or not (reads_broken or paid.forgotten)
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
            # Airflow's own word for a trigger that broke; without a store nothing says what it waited for.
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
