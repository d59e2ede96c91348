"""
The life of a task, driven through the operator itself: submit, crash at every access to the store, lost
reply, retry, clear, poll, and every way in which a render ends.

It is the model of :mod:`operators.test_submission_model` with the real operator in place of the bare
submission: what a worker would do in ``execute`` and after a deferral in ``resume_execution``. Two things
must hold after every step. *Never twice*: no submission while an earlier one may be paid for and nobody
decided to leave it. *Never lost*: what is paid for is delivered, or an error names it.

``make state-machine`` runs it for tens of thousands of steps.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

if __name__ == "__main__":
    _tests = Path(__file__).resolve().parent.parent
    sys.path[:0] = [str(_tests), str(_tests.parent)]
    _home = tempfile.TemporaryDirectory(prefix="airflow-machine-", ignore_cleanup_errors=True)
    os.environ["AIRFLOW_HOME"] = _home.name

import hypothesis.strategies as st
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR
from helpers import settings as settings_of
from hypothesis import HealthCheck, settings
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test
from operators.test_submission_model import BASE, Crash, Machine
from support import Store, TaskInstance, make_context

from airflow_provider_seedance import client, records
from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, GenerationStatus, utc_now
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator
from airflow_provider_seedance.operators.submission import Attached, Postponed
from airflow_provider_seedance.polling import notes
from airflow_provider_seedance.triggers.seedance import make_event


class Quiet:
    """A log that keeps nothing: a task of thousands of tries says a lot."""

    def info(self, *arguments: Any) -> None:
        pass

    debug = warning = error = info


class _Operator(SeedanceGenerateVideoOperator):
    log = Quiet()  # type: ignore[assignment]


#: Steps that were made, and what they came to.
COUNTS: dict[str, int] = {}


def count(what: str) -> None:
    COUNTS[what] = COUNTS.get(what, 0) + 1


class Throughout:
    """Stands in for :class:`Submission`: enters by way of the operator."""

    def __init__(self, machine: Task) -> None:
        self.machine = machine

    def enter(self) -> Attached | Postponed:
        machine = self.machine
        try:
            result = machine.operator().execute(machine.context())
        except TaskDeferred as deferred:
            if deferred.method_name == "resume_submit":
                count("put off")
                return Postponed(errors.SeedanceRateLimitError("later"))
            count("deferred")
            machine.deferred = deferred
            assert deferred.kwargs is not None
            known = Generation(
                generation_id=deferred.kwargs["generation_id"],
                api="ark",
                media="video",
                status=GenerationStatus.QUEUED,
            )
            json.dumps([deferred.kwargs, deferred.trigger.serialize()])
            return Attached(known, machine.record_of(known.generation_id))
        count("delivered at once")
        generation = Generation.from_result(result)
        return Attached(generation, machine.record_of(generation.generation_id))


class Task(Machine):
    """One task instance."""

    @initialize()
    def begin_task(self) -> None:
        self.deferred: TaskDeferred | None = None

    def setup_client(self) -> Any:
        machine = self

        class Wire:
            """The client, of which only the wire is missing."""

            def __init__(self, found: Any, **options: Any) -> None:
                self.settings = found

            def run(self, flow: Any) -> Any:
                return machine.run(flow)

            def __enter__(self) -> Self:
                return self

            def __exit__(
                self,
                kind: type[BaseException] | None,
                error: BaseException | None,
                traceback: TracebackType | None,
            ) -> None:
                pass

        return Wire

    def operator(self) -> SeedanceGenerateVideoOperator:
        client.Client = self.setup_client()  # type: ignore[misc]
        operator = _Operator(
            task_id="task",
            prompt=self.prompt,
            on_clear=self.on_clear,
            on_uncertain_submit=self.on_uncertain,
        )
        hook = SeedanceHook("seedance_default")
        hook._settings = replace(settings_of(BASE, api="ark"), api=self.api)
        operator._hook = lambda: hook  # type: ignore[method-assign]
        return operator

    def context(self) -> Any:
        return make_context(self.store, TaskInstance(max_tries=self.max_tries, try_number=self.try_number))

    def submission(self) -> Any:
        self.deferred = None
        return Throughout(self)

    def record_of(self, generation_id: str) -> records.Record:
        """Return the record as it lies there; an id that could not be written is in the deferral."""
        found = records.Record.from_value(self.store.value)
        return replace(found, generation_id=generation_id, max_tries=self.max_tries)

    # ------------------------------------------------------------------ after a deferral

    @precondition(lambda self: self.deferred is not None)
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

    # A callback is one more way to resume: an event that the service made, or anybody who knows the address.
    # Its rule belongs here: make the event from the body (true, forged, repeated, or of another generation)
    # and hand it to `finish`.

    def finish(
        self, deferred: TaskDeferred, event: Any, how: str, paid: Any, reads_broken: bool, trouble: str
    ) -> None:
        posts = len(self.posts)
        self.reads_broken = reads_broken
        self.set_trouble(trouble, 1)
        told = isinstance(event, dict) and event.get("generation_id") == paid.id
        readable = told or not (reads_broken or paid.forgotten)
        name, kwargs = deferred.method_name, {**(deferred.kwargs or {}), "event": event}
        if how == "broken trigger":
            name, kwargs = TRIGGER_FAIL_REPR, {"error": "TriggerFailure", "traceback": None}
        self.deferred = None
        try:
            result = self.operator().resume_execution(name, kwargs, self.context())
        except Crash:
            count("died after the wait")
        except TaskDeferred as again:
            count("waits on")
            assert again.kwargs is not None
            assert again.kwargs["generation_id"] == paid.id
            self.deferred = again
        except errors.SeedanceError as error:
            count("failed after the wait")
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
            count("delivered after the wait")
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
        count("steps")


def prepare(directory: Path) -> None:
    """Take the waiting out of it, and keep its notes apart."""
    records.WRITE_PAUSES = (0.0,) * len(records.WRITE_PAUSES)
    notes.directory = lambda: directory / "notes"


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the state machine of a task for many steps.")
    parser.add_argument("--steps", type=int, default=30_000)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    each = 50
    with tempfile.TemporaryDirectory() as directory:
        prepare(Path(directory))
        while COUNTS.get("steps", 0) < options.steps:
            run_state_machine_as_test(
                Task,
                settings=settings(
                    max_examples=40,
                    stateful_step_count=each,
                    deadline=None,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
            print(f"{COUNTS['steps']} steps", flush=True)
    steps = COUNTS.pop("steps")
    rest = ", ".join(f"{number} {what}" for what, number in sorted(COUNTS.items(), key=lambda item: -item[1]))
    print(f"{steps} steps, nothing paid twice, nothing lost ({rest})")


if __name__ == "__main__":
    main()
