"""
State machine of a batch task, driven through its operator.

It submits items, dies between any two steps, retries, is cleared, and resumes with any event of a trigger.
Items fail, and the service refuses, in every way.

Two invariants hold after every entry of a worker. *Never twice*: no item is submitted while an earlier
submission of it may be paid for and no user decided to leave it. A submission whose worker died between POST
and id is uncertain, and reported so. *Never lost*: every paid render is on record with its id or as uncertain
(or carried by the deferral), is waited for while it runs, and is in the task's result or error.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import hypothesis.strategies as st
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
from helpers import prepare
from hypothesis.stateful import initialize, invariant, precondition, rule
from submission.submission_model import BASE, RETRIES, WEATHERS, Blind, Crash, Paid, Post, World
from support import Store, TaskInstance, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.ark import Ark
from airflow_provider_seedance.generations import VideoRequest, utc_now
from airflow_provider_seedance.ledger.task_state import TaskStateStore
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoBatchOperator
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.triggers.events import make_event
from hostile.machine_task import Connected, Quiet

#: Request lists that a template may render; mostly the same one.
LISTS = (("a", "b", "c"),) * 5 + (("a", "c"), ("c", "b", "a"), ("a", "b", "c", "d"), ("d", "e"))

#: Maximum entries of a worker until a batch without failures ends.
_MAX_ENTRIES = 30

TROUBLES = ("none",) * 8 + ("unreadable", "unwritable", "dies before", "dies after")


class _Operator(SeedanceGenerateVideoBatchOperator):
    log = Quiet()  # type: ignore[assignment]


class BatchTask(Connected, World):
    """One batch task instance."""

    title = "a batch"
    counts: ClassVar[Counter[str]] = Counter()

    @initialize(
        looks_up=st.booleans(),
        keeps=st.booleans(),
        max_in_flight=st.sampled_from([1, 2, 100]),
        on_clear=st.sampled_from(["reuse", "reuse", "new"]),
    )
    def begin(self, looks_up: bool, keeps: bool, max_in_flight: int, on_clear: str) -> None:
        self.api = Ark() if looks_up else Blind()
        self.store = Store()
        self.keeps, self.max_in_flight, self.on_clear = keeps, max_in_flight, on_clear
        self.max_tries, self.try_number = RETRIES, 1
        self.entered = self.cleared_now = self.reads_broken = False
        self.prompts: tuple[str, ...] = ()
        self.on_uncertain = "fail"
        self.paid, self.posts, self.posted = [], [], 0
        #: The try of each submission, and the time of its intent.
        self.tries: dict[int, int] = {}
        self.intents: dict[int, Any] = {}
        self.weathers: list[str] = []
        self.known: set[str] = set()
        self.deferred: TaskDeferred | None = None

    def teardown(self) -> None:
        self.count("paid", len(getattr(self, "paid", ())))

    # ------------------------------------------------------------------ never twice

    def next_weather(self) -> str:
        return self.weathers.pop(0) if self.weathers else "fine"

    def take(self, call: Any) -> Any:
        known = len(self.posts)
        try:
            return super().take(call)
        finally:
            for post in self.posts[known:]:
                record = self.record_of(post.prompt)
                self.tries[id(post)] = self.try_number
                self.intents[id(post)] = record and record.intended_at

    def check_that_posting_is_right(self, prompt: str) -> None:
        record = self.record_of(prompt)
        assert record is not None, "a submission without a record of the intent"
        assert record.state is rec.RecordState.INTENT
        assert record.try_number == self.try_number
        assert prompt in self.prompts, "an item outside the list is submitted"
        mine = [post for post in self.posts if post.prompt == prompt]
        for post in mine:
            if not post.settled:
                assert self.may_be_left(post), f"{post} is submitted again"
                post.settled = True
        now = [post for post in mine if self.tries[id(post)] == self.try_number and not post.disproved]
        if self.on_uncertain == "resubmit":  # the Dag author allows one more in each entry
            now = [post for post in now if post in self.posts[self.posts_before :]]
        assert len(now) <= (self.on_uncertain == "resubmit"), "an item is submitted twice in a try"

    def may_be_left(self, post: Post) -> bool:
        return post.may_be_left(self.known, on_uncertain=self.on_uncertain, on_clear=self.on_clear)

    # ------------------------------------------------------------------ the records

    def record_of(self, prompt: str) -> rec.Record | None:
        """Return the stored record of an item."""
        before, self.store.before = self.store.before, lambda what: None
        try:
            return TaskStateStore(self.store).read(self.name_of(prompt))
        finally:
            self.store.before = before

    def name_of(self, prompt: str) -> str:
        prepared = prepare(self.api.name, VideoRequest(prompt=prompt), base_url=BASE)
        print_ = rec.Fingerprint.of(prepared.as_requested, api=self.api.name, base_url=BASE)
        return rec.record_keys([print_])[0]

    def mentions(self, text: str) -> set[str]:
        return {paid.id for paid in self.paid if f'"{paid.id}"' in text}

    # ------------------------------------------------------------------ a worker

    def operator(self) -> SeedanceGenerateVideoBatchOperator:
        return self.connected(
            _Operator(
                task_id="task",
                requests=[{"prompt": prompt, "key": prompt} for prompt in self.prompts],
                max_in_flight=self.max_in_flight,
                on_item_failure="keep" if self.keeps else "fail",
                on_clear=self.on_clear,
                on_uncertain_submit=self.on_uncertain,
            )
        )

    def context(self) -> Any:
        return make_context(self.store, TaskInstance(max_tries=self.max_tries, try_number=self.try_number))

    @rule(
        weathers=st.lists(st.sampled_from(WEATHERS), max_size=5),
        prompts=st.sampled_from(LISTS),
        on_uncertain=st.sampled_from(["fail", "fail", "fail", "resubmit"]),
        reads_broken=st.sampled_from([False, False, False, True]),
        trouble=st.sampled_from(TROUBLES),
        at_write=st.integers(1, 8),
    )
    def enter(
        self,
        weathers: list[str],
        prompts: tuple[str, ...],
        on_uncertain: str,
        reads_broken: bool,
        trouble: str,
        at_write: int,
    ) -> None:
        """Begin a try."""
        self.begin_try(prompts, on_uncertain)
        self.work(lambda: self.operator().execute(self.context()), weathers, reads_broken, trouble, at_write)

    def begin_try(self, prompts: tuple[str, ...], on_uncertain: str) -> None:
        if self.entered:
            self.try_number += 1
        self.entered = True
        self.prompts, self.on_uncertain = prompts, on_uncertain
        self.deferred = None

    @precondition(lambda self: self.deferred is not None)
    @rule(
        weathers=st.lists(st.sampled_from(WEATHERS), max_size=5),
        how=st.sampled_from(["event"] * 4 + ["nothing", "nonsense", "timeout", "broken trigger"]),
        overdue=st.booleans(),
        turn=st.booleans(),
        reads_broken=st.sampled_from([False, False, False, True]),
        trouble=st.sampled_from(TROUBLES),
        at_write=st.integers(1, 8),
    )
    def resume(
        self,
        weathers: list[str],
        how: str,
        overdue: bool,
        turn: bool,
        reads_broken: bool,
        trouble: str,
        at_write: int,
    ) -> None:
        """End the wait with an event, nothing, or an error, and resume on a worker."""
        assert self.deferred is not None
        event: Any = None
        if how == "event":
            event = self.event(self.deferred.trigger, overdue=overdue, turn=turn)
        elif how == "nonsense":
            event = {
                "outcome": "many",
                "ended": [{"outcome": "ended", "generation_id": "x"}, 7],
                "unknown": 1,
            }
        self.work(self.resumption(how, event), weathers, reads_broken, trouble, at_write)

    def resumption(self, how: str, event: Any) -> Callable[[], Any]:
        deferred, self.deferred = self.deferred, None
        assert deferred is not None
        name, kwargs = deferred.method_name, {**json.loads(json.dumps(deferred.kwargs)), "event": event}
        self.carried = json.dumps(kwargs["state"])
        if how in ("timeout", "broken trigger"):  # the state in the deferral is lost
            error = TriggerFailureReason.TRIGGER_TIMEOUT if how == "timeout" else "TriggerFailure"
            self.carried = ""
            name, kwargs = TRIGGER_FAIL_REPR, {"error": error, "traceback": None}
        return lambda: self.operator().resume_execution(name, kwargs, self.context())

    def event(self, trigger: Any, *, overdue: bool, turn: bool) -> Any:
        """Return the event of the trigger."""
        awaited = set(trigger.generation_ids)
        mine = [paid for paid in self.paid if paid.id in awaited]
        ended = [paid for paid in mine if paid.status not in ("queued", "running") and not paid.forgotten]
        return {
            "outcome": "many",
            "generation_id": f"{len(ended)} of {len(awaited)}",
            "ended": [make_event(self.reading(paid)) for paid in ended],
            "unknown": [paid.id for paid in mine if paid.forgotten],
            "overdue": [paid.id for paid in mine if paid not in ended and overdue],
            "submission_granted": trigger.submit_not_before is not None and turn,
        }

    def reading(self, paid: Paid) -> Any:
        return self.api.read_generation(self.describe(paid), paid.id, media="video", now=utc_now())

    def work(
        self,
        call: Callable[[], Any],
        weathers: list[str],
        reads_broken: bool,
        trouble: str,
        at_write: int,
    ) -> None:
        """Run a worker, and check the invariants."""
        self.weathers, self.reads_broken, self.posted = list(weathers), reads_broken, 0
        self.posts_before = len(self.posts)
        self.known = self.mentions("".join(self.store.texts.values())) | self.mentions(self.carried)
        for paid in self.paid:
            paid.listed = False
        self.set_trouble(trouble, at_write)
        result: Any = None
        problem: errors.SeedanceError | None = None
        try:
            result = call()
        except Crash:
            self.count("died")
        except TaskDeferred as deferred:
            self.count("deferred")
            self.deferred = deferred
        except errors.SeedanceError as error:
            self.count("failed")
            problem = error
        finally:
            self.carried = ""
            self.store.before = lambda what: None
            self.store.set = Store.set.__get__(self.store)  # type: ignore[method-assign]
        self.check_what_is_on_record()
        self.note_what_is_reported()
        if self.deferred:
            self.check_deferral(self.deferred)
        elif result is not None:
            self.count("delivered")
            self.check_result(result)
        elif isinstance(problem, (errors.SeedanceBatchError, errors.SeedanceBatchFinalError)):
            self.check_error(problem)
        self.cleared_now = False

    carried = ""

    # ------------------------------------------------------------------ never lost

    def unsettled(self) -> list[tuple[Post, Paid]]:
        """Return the paid submissions that no user decided to leave."""
        return [
            (post, post.paid)
            for post in self.posts
            if not post.settled and post.paid and post.paid.status not in ("failed", "expired")
        ]

    def check_what_is_on_record(self) -> None:
        carried = self.mentions(json.dumps(self.deferred.kwargs)) if self.deferred else set()
        for post, paid in self.unsettled():
            record = self.record_of(post.prompt)
            if record and record.generation_id == paid.id:
                post.cleared &= record.max_tries != self.max_tries
            elif paid.id not in carried and not (record and self.is_uncertain(record, post)):
                # Replacing the record by another intent was a decision, even without a POST.
                assert self.may_be_left(post), f"{post} has no record"
                post.settled = True

    def is_uncertain(self, record: rec.Record, post: Post) -> bool:
        """Return whether a record reports this very submission as uncertain."""
        unknown = record.state in (rec.RecordState.INTENT, rec.RecordState.UNCERTAIN)
        return unknown and not record.generation_id and record.intended_at == self.intents[id(post)]

    def note_what_is_reported(self) -> None:
        for prompt in {post.prompt for post in self.posts if not post.reported}:
            record = self.record_of(prompt)
            if record and record.state is rec.RecordState.UNCERTAIN:
                self.count("uncertain")
                for post in self.posts:
                    post.reported |= post.prompt == prompt

    def check_deferral(self, deferred: TaskDeferred) -> None:
        classpath, kwargs = deferred.trigger.serialize()
        assert classpath.endswith("SeedanceBatchTrigger")
        json.dumps([kwargs, deferred.kwargs], allow_nan=False)
        awaited = kwargs["generations"]["generation_id"]
        assert len(awaited) == len(set(awaited))
        assert len(awaited) <= self.max_in_flight or not self.posted, "too many are in flight"
        assert awaited or kwargs["submit_not_before"] is not None, "it waits for nothing"
        for post, paid in self.unsettled():
            record = self.record_of(post.prompt)
            in_flight = (
                record and record.state is rec.RecordState.SUBMITTED and record.generation_id == paid.id
            )
            done_with = self.failed_in_this_try(post.prompt) or self.may_be_left(post)
            if in_flight and post.prompt in self.prompts and not done_with:
                assert paid.id in awaited, f"{post} is not waited for"

    def failed_in_this_try(self, prompt: str) -> bool:
        record = TaskStateStore(self.store).read(self.name_of(prompt))
        return record is not None and record.failure is not None

    def check_result(self, result: dict[str, Any]) -> None:
        succeeded = {entry["key"]: entry for entry in result["succeeded"]}
        failed = {entry["key"]: entry for entry in result["failed"]}
        counted = Counter([*succeeded, *failed, *result["not_submitted"]])
        assert all(counted[prompt] == 1 for prompt in self.prompts), "an item is missing, or reported twice"
        assert result["counts"]["succeeded"] == len(succeeded)
        for prompt, entry in succeeded.items():
            paid = next(paid for paid in self.paid if paid.id == entry["generation_id"])
            assert (paid.prompt, paid.status) == (prompt, "succeeded"), "another item's video"
            assert entry["urls"]
        for post, paid in self.unsettled():
            if post.prompt not in self.prompts:
                continue
            if post.prompt in succeeded:
                assert succeeded[post.prompt]["generation_id"] == paid.id
                continue
            entry = failed[post.prompt]
            assert entry["generation_id"] == paid.id or entry["kind"] == "uncertain", f"{post} is lost"
            assert paid.status != "succeeded" or paid.gone or paid.forgotten or self.was_overdue(entry)

    @staticmethod
    def was_overdue(entry: dict[str, Any]) -> bool:
        """Return whether the task could not know that it had succeeded."""
        return entry["kind"] in ("uncertain", "timeout")

    def check_error(self, error: errors.SeedanceError) -> None:
        for post, paid in self.unsettled():
            if post.prompt not in self.prompts or paid.status == "succeeded":
                continue
            named = paid.id in error.message or f"{post.prompt} (uncertain" in error.message
            assert named, f"{post} is lost"

    # ------------------------------------------------------------------ what else happens

    @precondition(lambda self: self.entered and not self.cleared_now)
    @rule(on_clear=st.sampled_from(["reuse", "reuse", "new"]))
    def clear(self, on_clear: str) -> None:
        """Clear the task as a user, perhaps for another take."""
        self.count("cleared")
        self.cleared_now, self.on_clear, self.deferred = True, on_clear, None
        self.max_tries = self.try_number + RETRIES
        for post in self.posts:
            post.cleared = True
            post.reported_before_clear = post.reported

    @precondition(lambda self: self.entered)
    @rule(prompts=st.sampled_from(LISTS))
    def end_without_failures(self, prompts: tuple[str, ...]) -> None:
        """Run without failures: the task ends, and reports every item."""
        self.begin_try(prompts, "fail")
        self.work(lambda: self.operator().execute(self.context()), [], False, "none", 1)
        for _ in range(_MAX_ENTRIES):
            if self.deferred is None:
                self.count("ended")
                return
            for paid in self.paid:
                if paid.status in ("queued", "running"):
                    paid.status = "succeeded"
            event = self.event(self.deferred.trigger, overdue=False, turn=True)
            self.work(self.resumption("event", event), [], False, "none", 1)
        raise AssertionError("the task never ends")

    @invariant()
    def _count(self) -> None:
        self.count("steps")
