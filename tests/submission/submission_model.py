"""
State machine of a task that submits one generation: it drives the real :class:`Submission`.

The state machines of :mod:`hostile` build on it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import hypothesis.strategies as st
from helpers import prepare
from hypothesis.stateful import initialize, precondition, rule
from support import Store

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.ark import Ark
from airflow_provider_seedance.costs.budgets import Budget
from airflow_provider_seedance.costs.pricing import Prices
from airflow_provider_seedance.generations import VideoRequest, utc_now
from airflow_provider_seedance.ledger.task_state import TaskStateStore
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.decisions import SubmissionPolicy
from airflow_provider_seedance.submission.store import GENERATION_KEY, RecordStore
from airflow_provider_seedance.submission.submission_result import AwaitingCallback, HasGeneration, RetryLater
from airflow_provider_seedance.submission.submitter import FallbackSubmission, Submission
from submission.service_model import (
    BASE,
    ONE,
    RETRIES,
    TROUBLES,
    TWO,
    WEATHERS,
    Blind,
    Crash,
    Paid,
    Post,
    World,
    arguments_of,
)


class Machine(World):
    """A task that submits one generation, without its operator."""

    title = "a submission"
    counts: ClassVar[Counter[str]] = Counter()

    #: Id of the task instance, where records contain it.
    ti_id: str | None = None

    #: Budgets and prices of the connection.
    budgets: tuple[Budget, ...] = ()
    prices = Prices()

    @initialize(looks_up=st.booleans())
    def begin(self, looks_up: bool) -> None:
        self.api = Ark() if looks_up else Blind()
        self.store = Store()
        self.max_tries, self.try_number = RETRIES, 1
        self.entered = False
        self.paid: list[Paid] = []
        self.posts: list[Post] = []
        self.attached: HasGeneration | None = None
        self.cleared_now = False

    # ------------------------------------------------------------------ the promise: never twice

    def leave(self) -> None:
        """The task stops waiting."""

    def next_weather(self) -> str:
        weather, self.weather = self.weather, self.later_weather
        return weather

    def check_that_posting_is_right(self, prompt: str) -> None:
        value = self.store.value
        assert value is not None, "a submission without a record of the intent"
        assert value["state"] == "intent"
        assert value["try_number"] == self.try_number
        for post in self.posts:
            if not post.settled:
                assert self.may_be_left(post), f"{post} is submitted again"
                post.settled = True

    def check_what_was_left(self) -> None:
        """A record that made room for another intent was a decision, even if nothing was posted then."""
        value = self.store.value
        if self.known_id is None or value is None or value["generation_id"] == self.known_id:
            return
        for post in self.posts:
            if post.paid and post.paid.id == self.known_id and not post.settled:
                assert self.may_be_left(post), f"{post} is forgotten"
                post.settled = True

    def may_be_left(self, post: Post) -> bool:
        return post.may_be_left(
            (self.known_id,),
            on_uncertain=self.on_uncertain,
            on_clear=self.on_clear,
            changed=post.prompt != self.prompt,
        )

    # ------------------------------------------------------------------ Airflow

    @property
    def waits(self) -> bool:
        """Return whether the task is deferred."""
        return False

    @precondition(lambda self: not self.waits)
    @rule(
        weather=st.sampled_from(WEATHERS),
        later_weather=st.sampled_from(WEATHERS),
        prompt=st.sampled_from([ONE, ONE, ONE, ONE, TWO, "A boat"]),
        on_clear=st.sampled_from(["reuse", "reuse", "new"]),
        on_uncertain=st.sampled_from(["fail", "fail", "fail", "resubmit"]),
        reads_broken=st.sampled_from([False, False, False, True]),
        trouble=st.sampled_from(TROUBLES),
        at_write=st.integers(1, 3),
    )
    def enter(
        self,
        weather: str,
        later_weather: str,
        prompt: str,
        on_clear: Any,
        on_uncertain: Any,
        reads_broken: bool,
        trouble: str,
        at_write: int,
    ) -> None:
        """One try of the task, up to where it would wait."""
        if self.entered:
            self.try_number += 1
        self.entered = True
        self.prompt, self.on_clear, self.on_uncertain = prompt, on_clear, on_uncertain
        self.go_in(weather, later_weather, reads_broken, trouble, at_write)

    def go_in(
        self, weather: str, later_weather: str, reads_broken: bool, trouble: str, at_write: int
    ) -> None:
        """Enter the submission, and judge what it comes to."""
        self.weather, self.later_weather, self.reads_broken = weather, later_weather, reads_broken
        self.known_id = self.store.value["generation_id"] if self.store.value else None
        self.posted = 0
        self.attached = None
        for paid in self.paid:
            paid.listed = False
        self.set_trouble(trouble, at_write)
        healthy = trouble == "none" and not reads_broken
        left = self.unsettled()
        try:
            outcome = self.submission().submit_or_attach()
        except Crash:
            if self.store.value and self.store.value["state"] == "uncertain":
                self.report()  # it died between writing that and saying so: too late to tell the two apart
            return
        except errors.SeedanceError as error:
            self.check_error(error, trouble)
            return
        finally:
            self.store.before = lambda what: None
            self.check_what_was_left()
            self.cleared_now = False
            uncertain = sum(not post.disproved for post in self.posts[-self.posted :]) if self.posted else 0
            assert uncertain <= (2 if self.on_uncertain == "resubmit" else 1)
        if isinstance(outcome, AwaitingCallback):
            return  # the service may still call
        if isinstance(outcome, RetryLater):
            assert not self.posted or self.posts[-1].disproved
            return
        self.check_attached(outcome)
        if healthy and len(left) == 1 and not self.posted and not outcome.record.reused_from:
            assert outcome.generation.generation_id == left[0].paid.id  # type: ignore[union-attr]

    def record_store(self) -> RecordStore:
        """Open the records, as each entry of a worker does."""
        return TaskStateStore(self.store, sleep=lambda seconds: None)

    def submission(self) -> FallbackSubmission:
        prepared = prepare(
            self.api.name,
            VideoRequest.from_arguments(arguments_of(self.prompt, str(self.try_number))),
            base_url=BASE,
            prices=self.prices,
        )
        settings = SimpleNamespace(
            api=self.api,
            base_url="https://x.example",
            image_timeout=600.0,
            conn_id="c",
            budgets=self.budgets,
            identity=(BASE, "digest-of-a-key"),
            submissions_per_minute=(),
        )
        client: Any = SimpleNamespace(settings=settings, run=self.run)
        submission = Submission(
            client=client,
            store=self.record_store(),
            prepared=prepared,
            attempt=rec.Attempt(
                fingerprint=rec.NO_REQUEST,
                max_tries=self.max_tries,
                try_number=self.try_number,
                ti_id=self.ti_id,
            ),
            policy=SubmissionPolicy(on_clear=self.on_clear, on_uncertain_submit=self.on_uncertain),
        )
        return FallbackSubmission(submissions=[submission])

    # ------------------------------------------------------------------ the promise: never lost

    def unsettled(self) -> list[Post]:
        return [
            post
            for post in self.posts
            if not post.settled and post.paid and post.paid.status not in ("failed", "expired")
        ]

    def check_attached(self, outcome: HasGeneration) -> None:
        paid = next(paid for paid in self.paid if paid.id == outcome.generation.generation_id)
        assert paid.prompt == self.prompt, "the video of another request"
        assert outcome.record.generation_id == paid.id
        assert outcome.record.max_tries == self.max_tries
        self.attached = outcome
        if outcome.generation.status.terminal:
            assert outcome.generation.urls
            self.record_store().write(
                GENERATION_KEY, rec.as_ended(outcome.record, outcome.generation, utc_now())
            )
        for post in self.posts:
            if post.paid is paid:
                # Where the use of the clear could not be written, the next try finds it once more.
                written = self.store.value
                post.cleared &= (written["max_tries"], written["ti_id"]) != (self.max_tries, self.ti_id)

    def check_error(self, error: errors.SeedanceError, trouble: str) -> None:
        if isinstance(error, errors.SeedanceUncertainSubmitError):
            assert "billed" in error.message
            assert "clear" in error.message
            self.report()
            return
        if isinstance(error, errors.SeedanceStateError):
            # The record stays as it was and a retry reads it.
            assert error.retry_helps
            assert trouble in ("unreadable", "unwritable")
            return
        if isinstance(error, errors.SeedanceRateLimitError) and error.retry_helps:
            return  # a retry reads the record
        if "may have been billed" in error.message:
            # The look-up failed. The record stays as it was, and a retry repeats the look-up.
            assert self.reads_broken
            assert error.retry_helps
            assert self.store.value["state"] in ("intent", "uncertain")
            return
        for post in self.unsettled():
            assert post.paid is not None
            unknown = isinstance(error, errors.SeedanceNotFoundError)
            assert post.paid.forgotten or not unknown, "a render that is known late counts as lost"
            assert post.paid.id == error.generation_id
            assert post.paid.id in error.message

    def report(self) -> None:
        for post in self.posts:
            post.reported = True

    # ------------------------------------------------------------------ what else happens

    @precondition(lambda self: self.entered and not self.cleared_now)
    @rule(keeps_state=st.sampled_from([True, True, True, False]))
    def clear(self, keeps_state: bool) -> None:
        """A person clears the task, perhaps with its state (Airflow 3.4)."""
        self.cleared_now = True
        self.leave()
        if not keeps_state:
            self.store.texts.clear()
            for post in self.posts:
                post.settled = True
        self.max_tries = self.try_number + RETRIES
        self.count_clear()

    def count_clear(self) -> None:
        """Let every submission so far be one of before a clear."""
        for post in self.posts:
            post.cleared = True
            post.reported_before_clear = post.reported

    @precondition(lambda self: self.attached is not None)
    @rule()
    def write_end(self) -> None:
        """The wait ends, and the task writes down how."""
        assert self.attached is not None
        known = self.attached.generation
        paid = next(paid for paid in self.paid if paid.id == known.generation_id)
        if paid.status not in ("queued", "running"):
            self.store.set = Store.set.__get__(self.store)  # type: ignore[method-assign]
            end = replace(
                known,
                status=self.api.read_generation(
                    self.describe(paid), paid.id, media="video", now=utc_now()
                ).status,
            )
            self.record_store().write(GENERATION_KEY, rec.as_ended(self.attached.record, end, utc_now()))
            self.attached = None
