"""
State machine of a task, driven through its operator: :mod:`submission.submission_model` with ``execute``, and with
``resume_execution`` after a deferral, in place of the bare submission.

*Never twice*: no submission while an earlier one may be paid for and no user decided to leave it. *Never lost*: a paid
render is delivered, or an error names it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import Mock

import hypothesis.strategies as st
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
from helpers import settings as settings_of
from hypothesis.stateful import initialize, precondition, rule
from submission.service_model import BASE, ENDS, TROUBLES, WEATHERS, Crash, Paid, arguments_of
from submission.submission_model import Machine
from support import Store, TaskInstance, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, GenerationStatus, utc_now
from airflow_provider_seedance.hooks import seedance as hook_module
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.operators import batch_run, generation_run, task_hooks
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.submission import records
from airflow_provider_seedance.submission.submission_result import (
    AwaitingCallback,
    HasGeneration,
    RetryLater,
    SubmissionResult,
)
from airflow_provider_seedance.triggers.events import make_event
from airflow_provider_seedance.version_compat import TaskDeferralError, TaskDeferralTimeout
from hostile.clock import CLOCK


class Quiet:
    """A log that discards everything: thousands of tries log a lot."""

    def info(self, *arguments: Any) -> None:
        pass

    debug = warning = error = info


class _Operator(SeedanceGenerateVideoOperator):
    log = Quiet()  # type: ignore[assignment]


class _Hook(SeedanceHook):
    """A hook of the model, whose connection cannot be looked up at times."""

    def __init__(self, machine: Connected) -> None:
        super().__init__("seedance_default")
        self.machine, self._settings = machine, machine.settings

    @property
    def settings(self) -> Settings:
        if self.machine.trouble == "no connection":
            raise ConnectionError("the secrets backend is away")
        return super().settings


class Connected:
    """A machine whose operators use the model of a service."""

    #: Events that the entry meets beside the replies of the service.
    trouble = "none"

    api: Any
    run: Callable[[Any], Any]
    store: Store
    max_tries: int
    try_number: int
    #: XCom of the try.
    pushed: dict[str, Any]
    #: The deferral of the task while it waits, a `TaskDeferred`.
    deferred: Any

    #: Whether Airflow has a store of records.
    durable = True

    #: Further keys of the connection's extra.
    extra: ClassVar[dict[str, Any]] = {}

    @cached_property
    def settings(self) -> Settings:
        return replace(settings_of(BASE, api="ark", **self.extra), api=self.api)

    def connected(self, operator: Any, **arguments: Any) -> Any:
        """
        Connect an operator to the model, with rendered arguments.

        It is used again and again, because making one costs as much as a step.
        """
        for name, value in {"delivered": None, "on_clear": "reuse", **arguments}.items():
            setattr(operator, name, value)
        hook = _Hook(self)
        for module in (hook_module, generation_run, batch_run):
            module.Client = self.client  # type: ignore[attr-defined]
        task_hooks.SeedanceHook = lambda conn_id: hook  # type: ignore[assignment, misc]
        return operator

    def client(self, found: Any, **options: Any) -> Any:
        """Make a client that sends requests to the model instead of the network."""
        return nullcontext(SimpleNamespace(settings=found, run=self.run))

    # ------------------------------------------------------------------ Airflow

    def operator(self) -> Any:
        """Return the operator, connected to the model."""
        raise NotImplementedError

    def context(self, next_method: str | None = None) -> Any:
        """Return the context of an entry, with the method that resumes a deferred task."""
        ti = TaskInstance(max_tries=self.max_tries, try_number=self.try_number)
        ti.pushed = self.pushed  # it outlives deferrals, not tries
        if self.trouble == "no XCom":
            ti.xcom_push = Mock(side_effect=ConnectionError("away"))  # type: ignore[method-assign]
        #: Answer of the API server about the entry.
        self.server = SimpleNamespace(next_method=next_method, should_retry=True)
        ti._ti_context_from_server = self.server  # type: ignore[attr-defined]
        return make_context(self.store if self.durable else None, ti)

    def execution(self) -> Any:
        return self.operator().execute(self.context())

    def resumption(self, name: str, kwargs: dict[str, Any]) -> Callable[[], Any]:

        def resume() -> Any:
            operator, context = self.operator(), self.context(name)
            if self.trouble == "bad template":
                operator.on_clear = "{{ 1 / 0 }}"
                operator.render_template_fields(context)
            return operator.resume_execution(name, kwargs, context)

        return resume

    def outcome(self, call: Callable[[], Any]) -> tuple[dict[str, Any] | None, Exception | None]:
        """Return the result of an entry or its error; neither, where it deferred or its worker died."""
        try:
            result = call()
        except Crash:
            self.count("died")
        except TaskDeferred as deferred:
            self.count("deferred")
            self.deferred = deferred
        except (errors.SeedanceError, *FOREIGN_ERRORS) as error:
            self.count(type(error).__name__)
            return None, error
        else:
            self.count("delivered")
            return result, None
        return None, None


def event_of(machine: Any, paid: Paid) -> dict[str, Any] | None:
    """Return the event of the trigger that waits for a render, or ``None`` while that goes on."""
    if paid.forgotten:
        return {"outcome": "unknown", "generation_id": paid.id}
    if paid.status in ("queued", "running"):
        return None
    described = machine.describe(paid)
    return make_event(machine.api.read_generation(described, paid.id, media="video", now=utc_now()))


def ending(deferred: TaskDeferred, how: str, event: Any) -> tuple[str, dict[str, Any]]:
    """Return what Airflow resumes a task with; without an event, the arguments of the deferral are lost."""
    if how == "timeout":
        assert deferred.timeout is not None
        CLOCK.advance_to(CLOCK.now + deferred.timeout.total_seconds())
    if how in ("timeout", "broken trigger"):
        error = TriggerFailureReason.TRIGGER_TIMEOUT if how == "timeout" else "TriggerFailure"
        return TRIGGER_FAIL_REPR, {"error": error, "traceback": None}
    return deferred.method_name, {**json.loads(json.dumps(deferred.kwargs)), "event": event}


#: Conditions that a worker meets.
CONDITIONS: dict[str, Any] = {
    "weather": st.sampled_from(WEATHERS),
    "later_weather": st.sampled_from(WEATHERS),
    "reads_broken": st.sampled_from([False, False, False, True]),
    "trouble": st.sampled_from(TROUBLES),
    "at_write": st.integers(1, 3),
}

#: Errors that are not of the package, before or in place of the method that resumes a task.
FOREIGN_ERRORS = (ConnectionError, ZeroDivisionError, TaskDeferralError, TaskDeferralTimeout)


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
        except FOREIGN_ERRORS as error:
            # Not an error of the package: the record says what may be billed, and the next try reads it.
            raise Crash from error
        machine.count("delivered at once")
        machine.succeeded = True
        generation = Generation.from_result(result)
        return HasGeneration(generation, machine.record_of(generation.generation_id))

    def on_deferred(self, deferred: TaskDeferred) -> SubmissionResult:
        machine, kwargs = self.machine, deferred.kwargs or {}
        json.dumps([kwargs, deferred.trigger.serialize()])
        if deferred.method_name == "resume_submit":
            machine.count("deferred before submitting")
            machine.delayed = deferred
            return RetryLater(errors.SeedanceRateLimitError("later"))
        if deferred.method_name == "resume_uncertain":
            return machine.await_callback(deferred)
        machine.count("deferred")
        machine.deferred = deferred
        known = Generation(
            generation_id=kwargs["generation_id"], api="ark", media="video", status=GenerationStatus.QUEUED
        )
        return HasGeneration(known, machine.record_of(known.generation_id))


@cache
def operator_of_task() -> _Operator:
    return _Operator(task_id="task", prompt="")


class Task(Connected, Machine):
    title = "a task"
    counts: ClassVar[Counter[str]] = Counter()

    #: Further arguments of the operator.
    arguments: dict[str, Any] = {}
    #: The event of a callback; see :mod:`machine_called`.
    event: Any = None
    #: The task has delivered, and was not cleared since.
    succeeded = False
    #: The deferral until the service accepts submissions again, likewise.
    delayed: Any = None
    #: Resumes the task, instead of a new try.
    resumed_by: Callable[[], Any] | None = None
    #: Number of submissions before the try.
    posts_before = 0

    @initialize()
    def begin_task(self) -> None:
        self.deferred = None
        CLOCK.reset()

    def operator(self) -> SeedanceGenerateVideoOperator:
        return self.connected(
            operator_of_task(),
            **{"images": None, **arguments_of(self.prompt, f"s{CLOCK.time()}")},
            on_clear=self.on_clear,
            on_uncertain_submit=self.on_uncertain,
            **{"use_callback": False, "end_from_trigger": False, **self.arguments},
        )

    @property
    def waits(self) -> bool:
        return bool(self.deferred or self.delayed)

    def leave(self) -> None:
        self.deferred, self.delayed, self.succeeded = None, None, False

    def submission(self) -> Any:
        self.leave()
        if self.resumed_by:
            return OperatorSubmission(self, self.resumed_by)
        self.pushed = {}
        self.posts_before = len(self.posts)
        return OperatorSubmission(self, self.execution)

    def resume_in(self, resumption: Callable[[], Any], **conditions: Any) -> None:
        self.resumed_by = resumption
        try:
            self.go_in(**conditions)
        finally:
            self.resumed_by = None

    def check_that_posting_is_right(self, prompt: str) -> None:
        super().check_that_posting_is_right(prompt)
        mine = [post for post in self.posts[self.posts_before :] if not post.disproved]
        assert len(mine) <= (self.on_uncertain == "resubmit"), "a request is submitted twice in a try"

    def set_trouble(self, trouble: str, at_write: int) -> None:
        super().set_trouble(trouble, at_write)
        self.trouble = trouble

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

    @precondition(lambda self: self.delayed is not None)
    @rule(how=st.sampled_from(["event", "event", "event", "timeout", "broken trigger"]), **CONDITIONS)
    def submit_later(self, how: str, **conditions: Any) -> None:
        """The wait until the service accepts submissions ends."""
        self.resume_in(self.resumption(*ending(self.delayed, how, None)), **conditions)

    @precondition(lambda self: self.deferred is not None and self.event is None)
    @rule(
        how=st.sampled_from(["event", "event", "nothing", "nonsense", "timeout", "broken trigger"]),
        end=st.sampled_from(ENDS),
        reads_broken=CONDITIONS["reads_broken"],
        trouble=CONDITIONS["trouble"],
    )
    def resume(self, how: str, end: str | None, reads_broken: bool, trouble: str) -> None:
        """End the wait with an event, nothing, or an error, and resume on a worker."""
        self.let_end(end)
        event: Any = None
        if how == "event":
            event = event_of(self, self.awaited())
        elif how == "nonsense":
            event = {"outcome": "ended", "generation_id": "another", "result": {"urls": ["https://a.b/c"]}}
        self.finish(event, how, reads_broken, trouble)

    def awaited(self) -> Paid:
        """Return the generation that the task waits for."""
        generation_id = self.deferred.kwargs["generation_id"]
        return next(paid for paid in self.paid if paid.id == generation_id)

    def finish(self, event: Any, how: str, reads_broken: bool, trouble: str) -> None:
        posts, deferred, paid = len(self.posts), self.deferred, self.awaited()
        self.reads_broken = reads_broken
        self.set_trouble(trouble, 1)
        has_result = event and event["outcome"] == "ended" and event["generation_id"] == paid.id
        away = trouble == "no connection"
        readable = has_result or not (reads_broken or paid.unknown or away)
        resume = self.resumption(*ending(deferred, how, event))
        lost = how in ("broken trigger", "timeout") and trouble == "unreadable"
        self.deferred = None
        try:
            result = resume()
        except Crash:
            self.count("died after the wait")
        except TaskDeferred as again:
            self.count("waits on")
            self.deferred = again
            assert self.awaited() is paid
        except errors.SeedanceError as error:
            self.count("failed after the wait")
            if not lost:
                assert error.generation_id == paid.id
                assert not (readable and paid.status == "succeeded" and not paid.unavailable), (
                    "a paid render is lost"
                )
        except Exception:
            # Airflow's own error for a deferral that ended without an event: the record cannot be read.
            assert lost or away or trouble == "bad template"
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
            self.trouble = "none"
        assert len(self.posts) == posts, "a resumed task submits"
