"""
State machine of a task below Airflow 3.3, which has no store of records: every failure after a payment is final and
names it, unless the Dag author chose ``on_uncertain_submit="resubmit"``. A lost worker and a clear start from scratch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import hypothesis.strategies as st
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from hypothesis.stateful import initialize, precondition, rule
from submission.service_model import (
    ENDS,
    ONE,
    RETRIES,
    TWO,
    WEATHERS,
    Blind,
    Paid,
    Post,
    World,
    arguments_of,
)
from support import Store

from airflow_provider_seedance.apis.ark import Ark
from hostile.clock import CLOCK
from hostile.machine_task import Connected, ending, event_of, operator_of_task

_MAX_ENTRIES = 20

CONDITIONS: dict[str, Any] = {
    "weather": st.sampled_from(WEATHERS),
    "reads_broken": st.sampled_from([False, False, False, True]),
    "trouble": st.sampled_from(["none"] * 6 + ["no XCom", "no connection", "bad template"]),
}
FINE: dict[str, Any] = {"weather": "fine", "reads_broken": False, "trouble": "none"}


class UnrecordedTask(Connected, World):
    """One task instance without a store."""

    title = "a task without a store"
    counts: ClassVar[Counter[str]] = Counter()
    durable = False

    @initialize(looks_up=st.booleans())
    def begin(self, looks_up: bool) -> None:
        self.api = Ark() if looks_up else Blind()
        self.store = Store()
        self.paid: list[Paid] = []
        self.posts: list[Post] = []
        self.posted = self.posts_before = 0
        self.max_tries, self.try_number = RETRIES, 0
        self.request, self.on_uncertain = ONE, "fail"
        self.pushed = {}
        self.deferred = None
        self.over = False
        CLOCK.reset()

    # ------------------------------------------------------------------ never twice

    def next_weather(self) -> str:
        weather, self.weather = self.weather, "fine"
        return weather

    def binding(self) -> list[Post]:
        """Return the submissions that are or may be paid for, and that nothing allows to forget."""
        return [post for post in self.posts if post.binds]

    def check_that_posting_is_right(self, prompt: str) -> None:
        assert prompt == self.request
        mine = [post for post in self.posts[self.posts_before :] if not post.disproved]
        assert len(mine) <= (self.on_uncertain == "resubmit"), "a request is submitted twice in a try"
        for post in self.binding():
            known = post.paid is not None and post.paid.listed
            assert self.on_uncertain == "resubmit", f"{post} is submitted again"
            assert not known, f"{post} is submitted again, although its id was found"
            post.settled = True

    def settle_all(self) -> None:
        for post in self.posts:
            post.settled = True

    # ------------------------------------------------------------------ a worker

    def operator(self) -> Any:
        return self.connected(
            operator_of_task(),
            **{"images": None, **arguments_of(self.request, f"s{CLOCK.time()}")},
            on_uncertain_submit=self.on_uncertain,
        )

    @precondition(lambda self: not (self.over or self.deferred))
    @rule(
        request=st.sampled_from([ONE, ONE, TWO]),
        on_uncertain=st.sampled_from(["fail", "fail", "fail", "resubmit"]),
        **CONDITIONS,
    )
    def enter(self, request: str, on_uncertain: str, **conditions: Any) -> None:
        self.try_number += 1
        self.request, self.on_uncertain, self.pushed = request, on_uncertain, {}
        self.posts_before = len(self.posts)
        self.work(self.execution, **conditions)

    @precondition(lambda self: self.deferred is not None)
    @rule(
        how=st.sampled_from(["event", "event", "nothing", "nonsense", "timeout", "broken trigger"]),
        end=st.sampled_from(ENDS),
        **CONDITIONS,
    )
    def resume(self, how: str, end: str | None, **conditions: Any) -> None:
        """End the wait with an event, nothing, or an error."""
        self.let_end(end)
        deferred, self.deferred = self.deferred, None
        event = (
            self.event(deferred) if how == "event" else {"outcome": "ended"} if how == "nonsense" else None
        )
        self.work(self.resumption(*ending(deferred, how, event)), **conditions)

    def event(self, deferred: TaskDeferred) -> Any:
        generation_id = (deferred.kwargs or {}).get("generation_id")
        paid = next((paid for paid in self.paid if paid.id == generation_id), None)
        return paid and event_of(self, paid)

    def work(self, call: Callable[[], Any], *, weather: str, reads_broken: bool, trouble: str) -> None:
        self.weather, self.reads_broken, self.trouble, self.over = weather, reads_broken, trouble, False
        for paid in self.paid:
            paid.listed = False
        result, problem = self.outcome(call)
        self.trouble = "none"
        if result is not None:
            self.check_result(result)
        elif problem:
            self.check_error(problem)
        elif not self.deferred:
            self.settle_all()  # the worker died

    def check_result(self, result: dict[str, Any]) -> None:
        self.over = True
        retries = self.server.should_retry and self.on_uncertain == "fail"
        assert not retries, "a result that cannot be pushed would be paid for again"
        paid = next(paid for paid in self.paid if paid.id == result["generation_id"])
        assert (paid.prompt, paid.status) == (self.request, "succeeded"), "the video of another request"
        assert [post for post in self.binding() if post.paid is not paid] == []

    def check_error(self, error: Exception) -> None:
        self.over = isinstance(error, AirflowFailException)
        if self.over:
            for post in self.binding():
                named = post.paid is not None and post.paid.id in str(error)
                assert named or "unknown" in str(error) or "may have been billed" in str(error), (
                    f"{post} is lost"
                )
        else:
            assert self.on_uncertain == "resubmit" or not self.binding(), "a retry pays again"
            self.settle_all()

    # ------------------------------------------------------------------ what else happens

    @precondition(lambda self: self.over)
    @rule()
    def clear(self) -> None:
        self.over = False
        self.max_tries = self.try_number + RETRIES
        self.settle_all()

    @rule(how=st.sampled_from(["succeeded", "timeout", "without output"]))
    def end(self, how: str) -> None:
        """Run without failures: the task ends."""
        if self.over:
            self.clear()
        if not self.deferred:
            self.enter(ONE, "fail", **FINE)
        for _ in range(_MAX_ENTRIES):
            if self.deferred is None:
                return
            if how == "timeout":
                self.resume(how, None, **FINE)
            else:
                self.resume("event", how, **FINE)
        raise AssertionError("the task never ends")
