"""State machine of a submission on the ledger, with budgets, reuse, decisions to render again, and faults."""

from __future__ import annotations

import atexit
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
from hypothesis.stateful import initialize, precondition, rule
from sqlalchemy.engine import Connection
from submission.service_model import ONE, RETRIES, TWO, Crash, Paid, Post
from submission.submission_model import Machine
from support import Store

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.costs.budgets import Budget
from airflow_provider_seedance.costs.pricing import PriceRule, Prices
from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.ledger import account
from airflow_provider_seedance.ledger.configuration import LedgerConfig
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import TaskIdentity
from airflow_provider_seedance.ledger.ledger_store import LedgerStore
from airflow_provider_seedance.ledger.task_state import TaskStateStore
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import GENERATION_KEY, RecordStore
from airflow_provider_seedance.submission.submission_result import HasGeneration
from airflow_provider_seedance.submission.submitter import FallbackSubmission

_numbers = count()

#: Ends that the service does not bill.
_NOT_BILLED = ("failed", "expired", "cancelled")

#: States of the renders of other tasks that are reused.
_REUSED = ("queued", "running", "succeeded")


@cache
def _config() -> LedgerConfig:
    directory = tempfile.TemporaryDirectory(prefix="seedance-ledger-", ignore_cleanup_errors=True)
    atexit.register(directory.cleanup)
    return LedgerConfig(location=f"sqlite:///{Path(directory.name) / 'ledger.db'}")


class _FaultyDatabase(Database):
    """Database with the faults of a state store."""

    def __init__(self, state: LedgerState) -> None:
        super().__init__(_config())
        self.state = state

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._ledger_errors():
            self.state.before("get")
        with super().reading() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        counted = self.state.writes
        with self._ledger_errors():
            self.state.before("set")
        with super().transaction() as connection:
            yield connection
        if self.state.dies_after == self.state.writes > counted:
            self.state.crashes += 1
            raise Crash


class LedgerState(Store):
    """Ledger of one task instance, which shows its record as the fake state store does."""

    def __init__(self) -> None:
        super().__init__()
        # Budgets count by namespace, so each history has its own.
        self.task = TaskIdentity(namespace=f"n{next(_numbers)}", dag_id="dag", run_id="run", task_id="task")
        self.writes = self.dies_after = 0
        #: Crashes, and rejections that were not written, that may have left an intent, which stays reserved.
        self.crashes = 0

    def open(self, database: Database) -> LedgerStore:
        return LedgerStore(database, self.task, TaskStateStore(None), sleep=lambda seconds: None)

    @property
    def value(self) -> Any:
        record = self.open(Database(_config())).read(GENERATION_KEY)
        return record and record.as_dict()

    @value.setter
    def value(self, value: Any) -> None:
        raise NotImplementedError


class LedgerMachine(Machine):
    title = "a submission on the ledger"
    counts: ClassVar[Counter[str]] = Counter()

    #: Each render costs a dollar.
    prices = Prices(rules=(PriceRule(amount="usd", price=1.0),))

    @initialize(
        looks_up=st.booleans(),
        limit=st.sampled_from([None, None, 1, 3, 5]),
        max_cost_usd=st.sampled_from([None, None, 1.0, 3.0]),
        reuse=st.sampled_from(["task", "any"]),
    )
    def begin(
        self,
        looks_up: bool,
        limit: int | None = None,
        max_cost_usd: float | None = None,
        reuse: Any = "task",
    ) -> None:
        super().begin(looks_up)
        self.max_cost_usd = max_cost_usd
        #: Time until which a person has decided to render again, by the id of the generation.
        self.again: dict[str, float] = {}
        self.reuse = reuse
        #: Generations that other tasks have paid for.
        self.reusable: list[Paid] = []
        self.store: LedgerState = LedgerState()
        self.budgets = () if limit is None else (Budget(unit="cost_usd", limit=limit, per="total"),)
        self.runs = 0
        #: Whether a limit has ended the task for good since the latest clear. Airflow would not try it again.
        self.is_refused = False

    @property
    def ti_id(self) -> str:  # type: ignore[override]
        """Id that each try of each Dag run has of its own."""
        return f"{self.runs}.{self.try_number}"

    # ------------------------------------------------------------------ the promise: never over the budget

    def check_that_posting_is_right(self, prompt: str) -> None:
        super().check_that_posting_is_right(prompt)
        if self.is_decided(self.known_id):
            self.count("rendered again")
        elif self.reuse == "any" and self.on_clear == "reuse":
            equal = [paid for paid in self.reusable if paid.prompt == prompt and not paid.unavailable]
            assert not any(paid.status in _REUSED for paid in equal), "another task has paid for it"
        billed = sum(paid.status not in _NOT_BILLED for paid in self.paid)
        for budget in self.budgets:
            assert billed < budget.limit, "a render over the budget"
        if self.max_cost_usd is not None:
            reused = sum(paid.status not in _NOT_BILLED for paid in self.reusable)
            assert billed - reused < self.max_cost_usd, "a render over max_cost_usd"

    def take(self, call: Any) -> Any:
        """Count the intents whose worker dies before it sends the request."""
        posts = len(self.posts)
        try:
            return super().take(call)
        except Crash:
            self.store.crashes += len(self.posts) == posts
            raise

    def go_in(
        self, weather: str, later_weather: str, reads_broken: bool, trouble: str, at_write: int
    ) -> None:
        """Count the intents whose rejection may not have been written, too."""
        posts, record = len(self.posts), self.store.value
        #: Whether the first try of a run that was made again has left nothing: the record is that of an earlier try.
        self.hides_clear = bool(record) and (
            record["max_tries"] == self.max_tries and record["try_number"] < self.try_number
        )
        super().go_in(weather, later_weather, reads_broken, trouble, at_write)
        if trouble != "none":
            self.store.crashes += sum(post.disproved for post in self.posts[posts:])

    def check_error(self, error: errors.SeedanceError, trouble: str) -> None:
        """A refusal by a budget or a limit is right only if that is used up, and leaves the record as it was."""
        reserved = sum(not post.disproved for post in self.posts) + self.store.crashes
        if isinstance(error, errors.SeedanceBudgetError):
            self.count("refused by a budget")
            used_up = reserved + len(self.reusable) >= self.budgets[0].limit
        elif isinstance(error, errors.SeedanceMaxCreditsError):
            self.count("refused by max_cost_usd")
            used_up = self.max_cost_usd is not None and reserved >= self.max_cost_usd
        else:
            super().check_error(error, trouble)
            return
        self.is_refused = True
        assert used_up, "a refusal by a limit that is not used up"
        for post in self.unsettled():
            assert self.may_be_left(post), f"{post} is forgotten"

    # ------------------------------------------------------------------ reuse

    def submission(self) -> FallbackSubmission:
        made = super().submission()
        (one,) = made.submissions
        limits = {} if self.max_cost_usd is None else {"cost_usd": self.max_cost_usd}
        one.policy = replace(one.policy, reuse=self.reuse, limits=limits)
        return made

    @precondition(lambda self: self.entered)
    @rule(prompt=st.sampled_from([ONE, ONE, TWO]))
    def let_another_task_pay(self, prompt: str) -> None:
        own, self.prompt = self.prompt, prompt
        (one,) = self.submission().submissions
        self.prompt = own
        paid = Paid(f"cgt-{len(self.paid)}", prompt, None)
        task = replace(self.store.task, task_id=paid.id)
        store = LedgerStore(Database(_config()), task, TaskStateStore(None))
        intent = one.intent(None, {})
        try:
            store.write_intent(GENERATION_KEY, intent, one.details(None))
        except errors.SeedanceBudgetError:
            return
        store.write(GENERATION_KEY, rec.with_id(intent, paid.id))
        self.paid.append(paid)
        self.reusable.append(paid)

    def check_what_was_left(self) -> None:
        """A record of another task's generation is a decision about everything before, delivered or not."""
        super().check_what_was_left()
        value = self.store.value
        if not value or not value["result_defaults"].get("reused_from"):
            return
        for post in self.posts:
            if post.binds:
                assert self.may_be_left(post), f"{post} is forgotten"
                post.settled = True

    def check_attached(self, outcome: HasGeneration) -> None:
        for post in self.posts if outcome.generation.status.terminal else ():
            kept = post.paid and post.paid.id == outcome.generation.generation_id and post.cleared
            ignored = kept and self.is_decided(post.paid.id) and not (self.is_refused or self.hides_clear)
            assert not ignored, "a decision to render again is ignored"
        if outcome.record.reused_from:
            self.count("reused")
            assert outcome.generation.generation_id in {paid.id for paid in self.reusable}
        super().check_attached(outcome)

    # ------------------------------------------------------------------ render again

    def is_decided(self, generation_id: str | None) -> bool:
        return self.again.get(generation_id or "", 0.0) > time.time()

    def may_be_left(self, post: Post) -> bool:
        decided = post.cleared and post.paid is not None and self.is_decided(post.paid.id)
        return decided or super().may_be_left(post)

    @precondition(lambda self: self.attached is not None)
    @rule(hours=st.sampled_from([1, 1, 1, -1, None]))
    def decide(self, hours: float | None) -> None:
        """The render succeeds, and a person decides on the page to render again, or withdraws that."""
        assert self.attached is not None
        generation_id = self.attached.generation.generation_id
        self.let_end("succeeded")
        self.write_end()
        until = None if hours is None else utc_now() + timedelta(hours=hours)
        try:
            account.render_again(Database(_config()), self.store.task, generation_id, until)
        except errors.SeedanceRequestError:
            assert (self.store.value["generation_id"], self.store.value["status"]) != (
                generation_id,
                "succeeded",
            )
            return
        self.count("decided to render again")
        self.again[generation_id] = 0.0 if until is None else until.timestamp()

    # ------------------------------------------------------------------ Airflow

    def record_store(self) -> RecordStore:
        return self.store.open(_FaultyDatabase(self.store))

    def set_trouble(self, trouble: str, at_write: int) -> None:
        super().set_trouble(trouble, at_write)
        fail = self.store.before
        self.store.writes, self.store.dies_after = 0, at_write if trouble == "dies after" else 0

        def before(what: str) -> None:
            fail(what)
            self.store.writes += what == "set"

        self.store.before = before

    @precondition(lambda self: self.entered and not self.cleared_now)
    @rule(keeps_state=st.booleans())
    def clear(self, keeps_state: bool) -> None:
        super().clear(True)

    @precondition(lambda self: self.entered and not self.cleared_now)
    @rule()
    def make_run_again(self) -> None:
        """A person deletes the Dag run, which is made again."""
        self.cleared_now = True
        self.leave()
        self.runs += 1
        self.max_tries, self.try_number, self.entered = RETRIES, 1, False
        self.count_clear()

    def count_clear(self) -> None:
        super().count_clear()
        self.is_refused = False
