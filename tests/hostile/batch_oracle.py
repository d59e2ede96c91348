"""
Independent model of the money of a batch task: what may be paid for, and what must have become of it.

* *Never twice*: no item is submitted while an earlier one of it may be paid for and no person left it.
* *Never over the budget*: the service has taken no more than ``max_credits`` since the task's records began.
* *Never lost*: every paid render is on record (or carried by the deferral), is waited for while it runs, and is in the
  task's result or error.
* *Never wrong*: a result is that of the item's own request.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from submission.service_model import Paid, Post, World, arguments_of

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import VideoRequest
from airflow_provider_seedance.ledger.task_state import TaskStateStore
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import RecordStore

#: Price of a render.
CREDITS = 10.0


class BatchOracle(World):
    #: Of Airflow: whether it has a store, and the try that is running.
    durable: bool
    max_tries: int
    try_number: int
    #: Arguments of the task.
    requests: tuple[str, ...]
    on_clear: str
    on_uncertain: str
    max_in_flight: int
    max_credits: float | None
    #: The store of the running entry, and the records after the latest one.
    live: RecordStore
    records: dict[str, rec.Record]
    deferred: Any

    def begin_oracle(self) -> None:
        self.paid, self.posts, self.records = [], [], {}
        #: Record key, try and time of the intent of each submission.
        self.slots: dict[int, str] = {}
        self.tries: dict[int, int] = {}
        self.intents: dict[int, Any] = {}
        #: Number of renders that the task's records have forgotten with a person's consent.
        self.forgotten = 0
        #: Ids that the task knew when the entry began.
        self.known: set[str] = set()

    # ------------------------------------------------------------------ never twice, never over the budget

    def take(self, call: Any) -> Any:
        known = len(self.posts)
        key, record = self.newest_intent()
        self.sending = key, record
        try:
            return super().take(call)
        finally:
            for post in self.posts[known:]:
                self.slots[id(post)], self.tries[id(post)] = key, self.try_number
                self.intents[id(post)] = record.intended_at
            spent = CREDITS * (len(self.paid) - self.forgotten)
            assert self.max_credits is None or spent <= self.max_credits, "max_credits is exceeded"

    def newest_intent(self) -> tuple[str, rec.Record]:
        """Return the intent of the submission that arrives: of all, at most one is being sent."""
        stored = TaskStateStore(self.store).records() if self.durable else self.live.records()
        intents = [(key, record) for key, record in stored.items() if record and record.state is _INTENT]
        assert intents, "a submission without a record of the intent"
        return max(intents, key=lambda found: str(found[1].intended_at))

    def check_that_posting_is_right(self, request: str) -> None:
        key, record = self.sending
        assert record.try_number == self.try_number
        assert slots_of(self.requests).get(key, "").startswith(f"{request}#"), "another item is sent"
        mine = [post for post in self.posts if self.slots[id(post)] == key]
        for post in mine:
            if not post.settled:
                assert self.may_be_left(post), f"{post} is submitted again"
                post.settled = True
        now = [post for post in mine if self.tries[id(post)] == self.try_number and not post.disproved]
        assert len(now) <= (self.on_uncertain == "resubmit"), "an item is submitted twice in a try"

    def may_be_left(self, post: Post) -> bool:
        return post.may_be_left(self.known, on_uncertain=self.on_uncertain, on_clear=self.on_clear)

    def settle_all(self) -> None:
        """Leave everything: a person, or an Airflow that keeps no records, has decided so."""
        self.forgotten = len(self.paid)
        for post in self.posts:
            post.settled = True

    # ------------------------------------------------------------------ never lost

    def mentions(self, text: str) -> set[str]:
        return {paid.id for paid in self.paid if f'"{paid.id}"' in text}

    def unsettled(self) -> list[tuple[Post, Paid]]:
        """Return the paid submissions that no person decided to leave."""
        return [
            (post, post.paid)
            for post in self.posts
            if not post.settled and post.paid and post.paid.status not in ("failed", "expired")
        ]

    def read_records(self) -> None:
        """Read the records as the next entry will find them."""
        carried = self.deferred.kwargs["state"]["records"] if self.deferred and self.deferred.kwargs else None
        store = TaskStateStore(self.store if self.durable else None)
        if self.durable:
            carried = None  # ids that the store does not have are looked for in the deferral
        store.load(json.loads(json.dumps(carried)))
        self.records = {key: record for key, record in store.records().items() if record}

    def check_what_is_on_record(self) -> None:
        carried = self.mentions(json.dumps(self.deferred.kwargs)) if self.deferred else set()
        for post, paid in self.unsettled():
            record = self.records.get(self.slots[id(post)])
            if record and record.generation_id == paid.id:
                post.cleared &= record.max_tries != self.max_tries
            elif paid.id not in carried and not (record and self.is_uncertain(record, post)):
                # Replacing the record by another intent was a decision, even without a POST.
                assert self.may_be_left(post), f"{post} has no record"
                post.settled = True

    def check_known_ids(self) -> None:
        """Check that no id was dropped that the task knew when the entry began."""
        carried = self.mentions(json.dumps(self.deferred.kwargs)) if self.deferred else set()
        for post, paid in self.unsettled():
            record = self.records.get(self.slots[id(post)])
            on_record = record is not None and record.generation_id == paid.id
            if paid.id in self.known - carried and not on_record:
                assert self.may_be_left(post), f"the id of {post} is dropped"

    def is_uncertain(self, record: rec.Record, post: Post) -> bool:
        """Return whether a record reports this very submission as uncertain."""
        return (
            record.has_unknown_outcome
            and not record.generation_id
            and record.intended_at == self.intents[id(post)]
        )

    def note_what_is_reported(self) -> None:
        for post in self.posts:
            record = self.records.get(self.slots[id(post)])
            if record and record.state is rec.RecordState.UNCERTAIN:
                post.reported = True

    def check_deferral(self, deferred: TaskDeferred) -> None:
        _, kwargs = deferred.trigger.serialize()
        json.dumps([kwargs, deferred.kwargs], allow_nan=False)
        awaited = kwargs["generations"]["generation_id"]
        assert len(awaited) == len(set(awaited))
        assert len(awaited) <= self.max_in_flight or not self.posted, "too many are in flight"
        assert awaited or kwargs["submit_not_before"] is not None, "it waits for nothing"
        listed = slots_of(self.requests)
        for post, paid in self.unsettled():
            record = self.records.get(self.slots[id(post)])
            in_flight = record and record.state is rec.RecordState.SUBMITTED and not record.failure
            if in_flight and record.generation_id == paid.id and self.slots[id(post)] in listed:  # type: ignore[union-attr]
                assert paid.id in awaited or self.may_be_left(post), f"{post} is not waited for"

    def check_result(self, result: dict[str, Any]) -> None:
        succeeded = {entry["key"]: entry for entry in result["succeeded"]}
        failed = {entry["key"]: entry for entry in result["failed"]}
        counted = Counter([*succeeded, *failed, *result["not_submitted"]])
        assert all(counted[key] == 1 for key in keys_of(self.requests)), (
            "an item is missing, or reported twice"
        )
        assert result["counts"]["succeeded"] == len(succeeded)
        ids = [entry["generation_id"] for entry in succeeded.values()]
        assert len(ids) == len(set(ids)), "a render is delivered for two items"
        for key, entry in succeeded.items():
            paid = next(paid for paid in self.paid if paid.id == entry["generation_id"])
            assert (paid.prompt, paid.status) == (key.rpartition("#")[0], "succeeded"), "another item's video"
            assert entry["urls"]
        listed = slots_of(self.requests)
        for post, paid in self.unsettled():
            key = listed.get(self.slots[id(post)])
            if key in result["not_submitted"]:
                assert self.may_be_left(post), f"{post} is lost"
            elif key:
                self.check_entry(post, paid, succeeded.get(key) or failed[key])

    def check_entry(self, post: Post, paid: Paid, entry: dict[str, Any]) -> None:
        if "kind" not in entry:
            assert entry["generation_id"] == paid.id
            return
        assert entry["generation_id"] == paid.id or entry["kind"] == "uncertain", f"{post} is lost"
        # At a deadline, or without an id, the task cannot know that it has succeeded.
        unknown = entry["kind"] in ("uncertain", "timeout")
        assert paid.status != "succeeded" or paid.unavailable or unknown, f"{post} is lost: {entry}"

    def check_error(self, error: Exception) -> None:
        """Check that an error loses and promises nothing, and that a retry after it can pay for nothing twice."""
        text, final = str(error), isinstance(error, AirflowFailException)
        listed = slots_of(self.requests)
        for post, paid in self.unsettled():
            key = self.slots[id(post)]
            assert "othing is billed" not in text, "a message denies a payment"
            if isinstance(error, (errors.SeedanceBatchError, errors.SeedanceBatchFinalError)):
                if key in listed and paid.status != "succeeded":
                    named = paid.id in text or f"{listed[key]} (uncertain" in text
                    assert named or self.may_be_left(post), f"{post} is lost"
            elif final and isinstance(error, _NAMES_ALL):
                assert paid.id in text or "unknown id" in text or "uncertain" in text, f"{post} is not named"
        if not self.durable and not final and self.on_uncertain == "fail":
            assert not [post for post in self.posts if post.binds], "a retry pays again"


_INTENT = rec.RecordState.INTENT

#: Errors after which nothing else names what was paid for.
_NAMES_ALL = (errors.SeedanceRequestError, errors.SeedanceConfigurationError, errors.SeedanceUnrecordedError)


def keys_of(requests: tuple[str, ...]) -> list[str]:
    """Return the key of each item: its request, and the number of equal ones before it."""
    return [f"{request}#{requests[:index].count(request)}" for index, request in enumerate(requests)]


@cache
def slots_of(requests: tuple[str, ...]) -> dict[str, str]:
    """Return the record key of each item, and its key in the list."""
    prints = [
        rec.Fingerprint.of(VideoRequest.from_arguments(arguments_of(request)), api="", base_url="")
        for request in requests
    ]
    return dict(zip(rec.record_keys(prints), keys_of(requests), strict=True))
