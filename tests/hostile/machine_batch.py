"""
State machine of a batch task, driven through its operator, with changing lists, files and connections that cannot be
read, and below Airflow 3.3 without a store. The promises are those of :mod:`hostile.batch_oracle`; every episode ends.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, ClassVar

import hypothesis.strategies as st
from airflow.providers.common.compat.sdk import AirflowFailException
from hypothesis.stateful import initialize, precondition, rule
from submission.service_model import ENDS, ONE, RETRIES, TWO, WEATHERS, Blind, Paid, arguments_of
from support import Store

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.ark import Ark
from airflow_provider_seedance.batch import requests as requests_module
from airflow_provider_seedance.generations import Estimate, utc_now
from airflow_provider_seedance.ledger.task_state import TaskStateStore
from airflow_provider_seedance.operators import batch_run
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoBatchOperator
from airflow_provider_seedance.storage.jsonl import parse_lines
from airflow_provider_seedance.triggers.events import make_event
from hostile.batch_oracle import CREDITS, BatchOracle, keys_of
from hostile.clock import CLOCK
from hostile.machine_task import Connected, Quiet, ending

#: Request lists that a template may render, in families: mostly the first one of a family.
FAMILIES = (
    (("a", "b", "c"), ("a", "c"), ("c", "b", "a"), ("a", "b", "c", "d"), ("d", "e")),
    (("a", "a", "b"), ("b", "a", "a"), ("a", "b"), ("a", "a", "a", "b"), ("a", "b", "a")),
    ((ONE, TWO), (TWO, ONE), (ONE,), (ONE, TWO, "a"), (TWO, TWO, ONE)),
)

#: Maximum entries of a worker until a batch without failures ends.
_MAX_ENTRIES = 30

#: Events that an entry meets, beside the replies to its submissions.
TROUBLES = (
    *("none",) * 8,
    *("unreadable", "unwritable", "unwritable ids", "unwritable ids", "dies before", "dies after"),
    *("no XCom", "no connection", "bad template"),
)
FILES = (*("fine",) * 10, "missing", "unreadable", "bad line", "no manifest")
CONDITIONS: dict[str, Any] = {
    "weathers": st.lists(st.sampled_from(WEATHERS), max_size=5),
    "reads_broken": st.sampled_from([False, False, False, True]),
    "trouble": st.sampled_from(TROUBLES),
    "at_write": st.integers(1, 8),
    "files": st.sampled_from(FILES),
}
FINE: dict[str, Any] = {
    "weathers": [],
    "reads_broken": False,
    "trouble": "none",
    "at_write": 1,
    "files": "fine",
}


class _Priced(Ark):
    def price(self, request: Any) -> Estimate:
        return Estimate(credits=CREDITS)


class _PricedBlind(_Priced, Blind):
    pass


class _Operator(SeedanceGenerateVideoBatchOperator):
    log = Quiet()  # type: ignore[assignment]


@cache
def _operator() -> _Operator:
    return _Operator(task_id="task", requests=[])


class BatchTask(Connected, BatchOracle):
    title = "a batch"
    counts: ClassVar[Counter[str]] = Counter()

    @initialize(
        looks_up=st.booleans(),
        keeps=st.booleans(),
        durable=st.sampled_from([True, True, True, False]),
        max_in_flight=st.sampled_from([1, 2, 100]),
        max_credits=st.sampled_from([None, None, None, 25.0, 45.0]),
        family=st.integers(0, 2),
        source=st.sampled_from(["list", "file"]),
        manifest=st.sampled_from([False, False, True]),
    )
    def begin(self, looks_up: bool, keeps: bool, durable: bool, family: int, **arguments: Any) -> None:
        self.api = _Priced() if looks_up else _PricedBlind()
        self.store, self.pushed = Store(), {}
        self.keeps, self.durable, self.family = keeps, durable, FAMILIES[family]
        self.max_in_flight, self.max_credits = arguments["max_in_flight"], arguments["max_credits"]
        self.source = arguments["source"]
        self.manifest: bytes | None = b"" if arguments["manifest"] else None
        self.max_tries, self.try_number, self.posted = RETRIES, 1, 0
        self.entered = self.reads_broken = False
        #: Worker starts since the task was cleared or has ended.
        self.starts = 0
        #: Without a store, Airflow does not run the task again.
        self.over = False
        self.on_clear, self.on_uncertain = "reuse", "fail"
        self.weathers: list[str] = []
        self.deferred = None
        self.carried, self.files, self.trouble = "", "fine", "none"
        self.begin_oracle()
        CLOCK.reset()

    def next_weather(self) -> str:
        return self.weathers.pop(0) if self.weathers else "fine"

    # ------------------------------------------------------------------ files

    def entries(self) -> list[dict[str, Any]]:
        """Return the requests; their links are signed anew for each entry."""
        entries = [
            {"key": key, **arguments_of(request, f"s{CLOCK.time()}")}
            for key, request in zip(keys_of(self.requests), self.requests, strict=True)
        ]
        return [*entries, {"prompt": 7}] if self.files == "bad line" else entries

    def read_requests(self, path: Any, **options: Any) -> str:
        if self.files == "missing":
            raise errors.SeedanceConfigurationError(
                "there is no such file. Nothing was sent, nothing is billed."
            )
        if self.files == "unreadable":
            raise errors.SeedanceMediaError("503")
        return "\n".join(json.dumps(entry) for entry in self.entries())

    def read_manifest(self, path: Any) -> list[dict[str, Any]]:
        if self.files == "no manifest":
            raise errors.SeedanceMediaError("503")
        return parse_lines(self.manifest or b"", "manifest")

    def write_manifest(self, path: Any, lines: Iterable[Mapping[str, Any]]) -> None:
        if self.files == "no manifest":
            raise errors.SeedanceMediaError("503")
        self.manifest = b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    # ------------------------------------------------------------------ a worker

    def operator(self) -> SeedanceGenerateVideoBatchOperator:
        requests_module.read_text = self.read_requests  # type: ignore[assignment]
        batch_run.read_manifest = self.read_manifest  # type: ignore[attr-defined]
        batch_run.write_manifest = self.write_manifest  # type: ignore[attr-defined]
        batch_run.open_store = self.open_store  # type: ignore[attr-defined]
        return self.connected(
            _operator(),
            requests=self.entries() if self.source == "list" else "s3://bucket/requests.jsonl",
            max_in_flight=self.max_in_flight,
            max_credits=self.max_credits,
            on_item_failure="keep" if self.keeps else "fail",
            manifest_path=None if self.manifest is None else "s3://bucket/manifest.jsonl",
            on_clear=self.on_clear,
            on_uncertain_submit=self.on_uncertain,
        )

    def open_store(self, context: Any) -> TaskStateStore:
        self.live = TaskStateStore(context.get("task_state_store"))
        return self.live

    @precondition(lambda self: not (self.over or self.deferred))
    @rule(
        other=st.sampled_from([0, 0, 0, 1, 2, 3, 4]),
        on_uncertain=st.sampled_from(["fail", "fail", "fail", "resubmit"]),
        **CONDITIONS,
    )
    def enter(self, other: int, on_uncertain: str, **conditions: Any) -> None:
        self.begin_try(other, on_uncertain)
        self.work(self.execution, **conditions)

    def begin_try(self, other: int, on_uncertain: str) -> None:
        self.try_number += self.entered
        self.entered = True
        self.requests, self.on_uncertain = self.family[other], on_uncertain
        self.pushed = {}
        self.deferred = None

    @precondition(lambda self: self.deferred is not None)
    @rule(
        how=st.sampled_from(["event"] * 4 + ["nothing", "nonsense", "timeout", "broken trigger"]),
        overdue=st.sampled_from([False, False, True]),
        end=st.sampled_from(ENDS),
        number=st.sampled_from([1, 2, 9]),
        grant=st.booleans(),
        other=st.sampled_from([None] * 9 + [0, 1, 2]),
        **CONDITIONS,
    )
    def resume(
        self,
        how: str,
        overdue: bool,
        end: str | None,
        number: int,
        grant: bool,
        other: int | None,
        **conditions: Any,
    ) -> None:
        """End the wait with an event, nothing, or an error, and resume on a worker; the list may have changed."""
        self.let_end(end, number)
        self.count(f"resumed: {how}")
        if other is not None:
            self.requests = self.family[other]
        event: Any = None
        if how == "event":
            event = self.event(self.deferred.trigger, overdue=overdue, grant=grant)
        elif how == "nonsense":
            event = {
                "outcome": "many",
                "ended": [{"outcome": "ended", "generation_id": "x"}, 7],
                "unknown": 1,
            }
        self.work(self.resumed_by(how, event), **conditions)

    def resumed_by(self, how: str, event: Any) -> Callable[[], Any]:
        deferred, self.deferred = self.deferred, None
        name, kwargs = ending(deferred, how, event)
        self.carried = json.dumps([kwargs.get("state"), self.pushed])
        lost = not self.durable and not (kwargs.get("state") or self.pushed.get("seedance_records"))
        if lost and self.on_uncertain == "resubmit":
            # No record of the try is left, and the Dag author allows to submit anew.
            self.settle_all()
            self.tries = dict.fromkeys(self.tries, 0)
        return self.resumption(name, kwargs)

    def event(self, trigger: Any, *, overdue: bool, grant: bool) -> Any:
        """Return the event of the trigger, at the time at which it fires."""
        _, kwargs = trigger.serialize()
        awaited = set(kwargs["generations"]["generation_id"])
        grant = grant and kwargs["submit_not_before"] is not None
        if grant:
            CLOCK.advance_to(kwargs["submit_not_before"])
        if overdue and awaited:
            CLOCK.advance_to(max(kwargs["generations"]["deadline"]))
        mine = [paid for paid in self.paid if paid.id in awaited]
        ended = [paid for paid in mine if paid.status not in ("queued", "running") and not paid.forgotten]
        return {
            "outcome": "many",
            "generation_id": f"{len(ended)} of {len(awaited)}",
            "ended": [make_event(self.reading(paid)) for paid in ended],
            "unknown": [paid.id for paid in mine if paid.forgotten],
            "overdue": [paid.id for paid in mine if paid not in ended and overdue],
            "submission_granted": grant,
        }

    def reading(self, paid: Paid) -> Any:
        return self.api.read_generation(self.describe(paid), paid.id, media="video", now=utc_now())

    def work(
        self,
        call: Callable[[], Any],
        *,
        weathers: list[str],
        reads_broken: bool,
        trouble: str,
        at_write: int,
        files: str,
    ) -> None:
        self.weathers, self.reads_broken, self.files, self.posted = list(weathers), reads_broken, files, 0
        self.trouble = trouble
        texts = self.store.texts.values() if self.durable else ()
        self.known = self.mentions("".join(texts)) | self.mentions(self.carried)
        for paid in self.paid:
            paid.listed = False
        self.set_trouble(trouble, at_write)
        try:
            self.judge(call)
        finally:
            self.mend()
        self.starts += 1

    def mend(self) -> None:
        self.store.before = lambda what: None
        self.store.set = Store.set.__get__(self.store)  # type: ignore[method-assign]
        self.carried, self.trouble = "", "none"

    def judge(self, call: Callable[[], Any]) -> None:
        result, problem = self.outcome(call)
        self.over = not self.durable and (result is not None or isinstance(problem, AirflowFailException))
        trouble = self.trouble
        self.mend()
        if self.durable or self.deferred:
            self.read_records()
            self.check_what_is_on_record()
            if trouble not in ("unreadable", "unwritable", "unwritable ids", "dies before", "dies after"):
                self.check_known_ids()
            self.note_what_is_reported()
        if self.deferred:
            self.check_deferral(self.deferred)
        elif result is not None:
            retries = self.server.should_retry and not self.durable and self.on_uncertain == "fail"
            assert not retries, "a result that cannot be pushed would be paid for again"
            self.check_result(self.whole(result))
        elif problem:
            self.check_error(problem)
        if not self.durable and not (self.deferred or self.over):
            self.settle_all()  # a worker that died, and what the Dag author allowed

    def whole(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return a result with the lists that its manifest has instead."""
        if result["manifest"] is None:
            return result
        lines = parse_lines(self.manifest or b"", "manifest")
        return {
            **result,
            "succeeded": [line for line in lines if line["status"] == "succeeded"],
            "failed": [line for line in lines if line["status"] == "failed"],
            "not_submitted": [line["key"] for line in lines if line["status"] == "not_submitted"],
        }

    # ------------------------------------------------------------------ what else happens

    @precondition(lambda self: self.over or self.starts > 1)
    @rule(
        on_clear=st.sampled_from(["reuse", "reuse", "new"]),
        keeps_state=st.sampled_from([True, True, True, False]),
    )
    def clear(self, on_clear: str, keeps_state: bool) -> None:
        """Clear the task as a person, perhaps for another render, and perhaps with its state (Airflow 3.4)."""
        self.count("cleared" if keeps_state else "cleared with its state")
        self.starts, self.on_clear, self.deferred, self.over = 0, on_clear, None, False
        self.max_tries = self.try_number + RETRIES
        for post in self.posts:
            post.cleared = True
            post.reported_before_clear = post.reported
        if not (keeps_state and self.durable):
            self.store.texts.clear()
            self.settle_all()

    @precondition(lambda self: self.starts > 2)
    @rule(how=st.sampled_from(["succeeded", "succeeded", "timeout", "without output"]))
    def end(self, how: str) -> None:
        """Run without failures: the task ends, and reports every item."""
        if self.over:
            self.clear("reuse", True)
        if not self.deferred:
            self.begin_try(0, "fail")
            self.work(self.execution, **FINE)
        for _ in range(_MAX_ENTRIES):
            if self.deferred is None:
                self.starts = 0
                return
            self.let_end(None if how == "timeout" else how)
            event = self.event(self.deferred.trigger, overdue=False, grant=True)
            self.work(self.resumed_by(how if how == "timeout" else "event", event), **FINE)
        raise AssertionError("the task never ends")
