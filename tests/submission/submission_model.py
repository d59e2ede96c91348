"""
Model of a service, of Airflow's tries and of workers that die at any point: it drives the real :class:`Submission`.

The state machines of :mod:`hostile` build on it.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
from helpers import prepare, reply
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from support import Store

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.ark import TASKS, Ark
from airflow_provider_seedance.apis.messages import HttpCall, HttpReply, Pause, TransportFailure
from airflow_provider_seedance.generations import VideoRequest, utc_now
from airflow_provider_seedance.ledger.task_state import TaskStateStore
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.lookup import AwaitingCallback
from airflow_provider_seedance.submission.store import GENERATION_KEY
from airflow_provider_seedance.submission.submitter import (
    HasGeneration,
    RetryLater,
    Submission,
    SubmissionPolicy,
)

RETRIES = 2
BASE = "https://ark.example/api/v3"


class Crash(BaseException):
    """The worker is gone."""


class Blind(Ark):
    """A service without a look-up of submissions whose reply was lost."""

    can_look_up = False

    def correlates(self, request: Any) -> bool:
        return False


@dataclass(eq=False)
class Paid:
    """A generation that the service took."""

    id: str
    prompt: str
    correlation: str | None
    status: str = "queued"
    gone: bool = False
    forgotten: bool = False
    #: Whether a look-up returned the id.
    listed: bool = False


@dataclass(eq=False)
class Post:
    """A submission that reached the service."""

    prompt: str
    paid: Paid | None = None
    #: Whether the reply proved to the client that it was not taken.
    disproved: bool = False
    #: Whether a task failed saying that this one is uncertain.
    reported: bool = False
    reported_before_clear: bool = False
    cleared: bool = False
    #: Whether a person decided to go on without it.
    settled: bool = False

    def may_be_left(
        self, known_ids: Collection[str | None], *, on_uncertain: str, on_clear: str, changed: bool = False
    ) -> bool:
        """
        Return whether a task may submit another one in its place.

        :param known_ids: Ids that the records of the task name.
        :param changed: Whether the task has another request now.
        """
        paid = self.paid
        if self.disproved or (paid and paid.status in ("failed", "expired")):
            return True
        known = paid is not None and (paid.listed or paid.id in known_ids)
        if on_uncertain == "resubmit" and (changed or not known):
            return True
        if not self.cleared:
            return False
        if not known:
            return self.reported_before_clear
        assert paid is not None
        ended = paid.gone or paid.forgotten or paid.status == "cancelled"
        return changed or ended or (paid.status == "succeeded" and on_clear == "new")


#: What a submission meets, and whether it is taken.
WEATHER = {
    "fine": True,
    "lost reply": True,
    "rubbish": True,
    "gateway took it": True,
    "worker dies after": True,
    "lost request": False,
    "gateway": False,
    "redirect": False,
    "unsent": False,
    "busy": False,
    "overloaded": False,
    "refused": False,
    "worker dies before": False,
}

#: Mostly fine, or nothing would ever come of a task.
WEATHERS = ("fine",) * 8 + tuple(sorted(WEATHER))


class World(RuleBasedStateMachine):
    """A service, the state store of a task instance, and workers that die."""

    api: Any
    store: Store
    reads_broken: bool
    paid: list[Paid]
    posts: list[Post]
    posted: int

    def next_weather(self) -> str:
        """Return what the next submission meets."""
        raise NotImplementedError

    def check_that_posting_is_right(self, prompt: str) -> None:
        """Fail unless a submission may be sent now."""
        raise NotImplementedError

    # ------------------------------------------------------------------ the service

    def run(self, flow: Any) -> Any:
        answer: Any = None
        try:
            while True:
                step = flow.send(answer)
                answer = None if isinstance(step, Pause) else self.answer(step)
        except StopIteration as stop:
            return stop.value

    def answer(self, call: HttpCall) -> HttpReply | TransportFailure:
        if call.method == "POST":
            return self.take(call)
        assert call.method == "GET"
        if self.reads_broken:
            return reply(500, {"error": {"code": "InternalServiceError", "message": "sorry"}})
        if call.path == TASKS:
            return self.list_all()
        found = next((paid for paid in self.paid if call.path == f"{TASKS}/{paid.id}"), None)
        if found is None or found.forgotten:
            return reply(404, {"error": {"code": "ResourceNotFound", "message": "no such task"}})
        return reply(200, self.describe(found))

    def list_all(self) -> HttpReply:
        items = [paid for paid in reversed(self.paid) if not paid.forgotten]
        for paid in items:
            paid.listed = True
        return reply(200, {"items": [self.describe(paid) for paid in items], "total": len(items)})

    def describe(self, paid: Paid) -> dict[str, Any]:
        now = int(time.time())
        body: dict[str, Any] = {
            "id": paid.id,
            "status": paid.status,
            "created_at": now,
            "updated_at": now - 25 * 3600 if paid.gone else now,
            "safety_identifier": paid.correlation,
        }
        if paid.status == "succeeded":
            body["content"] = {"video_url": f"https://cdn.example/{paid.id}.mp4"}
        return body

    def take(self, call: HttpCall) -> HttpReply | TransportFailure:
        assert call.json is not None
        weather, post = self.next_weather(), Post(prompt=call.json["content"][0]["text"])
        self.check_that_posting_is_right(post.prompt)
        if weather == "worker dies before":
            raise Crash
        if weather == "unsent":
            return TransportFailure("refused", sent=False)
        self.posts.append(post)
        self.posted += 1
        if WEATHER[weather]:
            post.paid = Paid(f"cgt-{len(self.paid)}", post.prompt, call.json.get("safety_identifier"))
            self.paid.append(post.paid)
        if weather == "worker dies after":
            raise Crash
        post.disproved = weather in ("busy", "overloaded", "refused")
        own = {"error": {"code": "Busy", "message": "later"}}
        answers: dict[str, HttpReply | TransportFailure] = {
            "fine": reply(200, {"id": post.paid.id if post.paid else ""}),
            "rubbish": reply(200, b"<html>"),
            "gateway took it": reply(504, b"<html>"),
            "gateway": reply(503, b"<html>"),
            "redirect": reply(307, b""),
            "busy": reply(429, own, {"retry-after": "1800"}),
            "overloaded": reply(503, own),
            "refused": reply(400, {"error": {"code": "InvalidParameter", "message": "no"}}),
        }
        return answers.get(weather, TransportFailure("reset", sent=True))

    # ------------------------------------------------------------------ the store

    def set_trouble(self, trouble: str, at_write: int) -> None:
        seen = [0]
        plain_set = Store.set

        def before(what: str) -> None:
            if trouble == "unreadable" and what == "get":
                raise ConnectionError("away")
            if what == "set":
                seen[0] += 1
                if trouble == "unwritable" and seen[0] >= at_write:
                    raise ConnectionError("away")
                if trouble == "dies before" and seen[0] == at_write:
                    raise Crash

        def write(key: str, value: Any, *, retention: Any = None) -> None:
            plain_set(self.store, key, value, retention=retention)
            if trouble == "dies after" and seen[0] == at_write:
                raise Crash

        self.store.before = before
        self.store.set = write  # type: ignore[method-assign]

    # ------------------------------------------------------------------ what becomes of renders

    @precondition(lambda self: any(paid.status in ("queued", "running") for paid in self.paid))
    @rule(
        which=st.integers(0, 99),
        status=st.sampled_from(["running", "succeeded", "succeeded", "failed", "expired", "cancelled"]),
    )
    def go_on(self, which: int, status: str) -> None:
        """A render goes on, or ends."""
        live = [paid for paid in self.paid if paid.status in ("queued", "running")]
        live[which % len(live)].status = status

    @precondition(lambda self: self.paid)
    @rule(which=st.integers(0, 99), how=st.sampled_from(["gone", "forgotten"]))
    def age(self, which: int, how: str) -> None:
        """An output expires, or the service forgets all about a render."""
        paid = self.paid[which % len(self.paid)]
        if how == "forgotten" or paid.status == "succeeded":
            setattr(paid, how, True)


class Machine(World):
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

    @rule(
        weather=st.sampled_from(WEATHERS),
        later_weather=st.sampled_from(WEATHERS),
        prompt=st.sampled_from(["A lamp", "A lamp", "A lamp", "A boat"]),
        on_clear=st.sampled_from(["reuse", "reuse", "new"]),
        on_uncertain=st.sampled_from(["fail", "fail", "fail", "resubmit"]),
        reads_broken=st.sampled_from([False, False, False, True]),
        trouble=st.sampled_from(["none"] * 6 + ["unreadable", "unwritable", "dies before", "dies after"]),
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
        if healthy and len(left) == 1 and not self.posted:
            assert outcome.generation.generation_id == left[0].paid.id  # type: ignore[union-attr]

    def submission(self) -> Submission:
        prepared = prepare(self.api.name, VideoRequest(prompt=self.prompt), base_url=BASE)
        client: Any = SimpleNamespace(
            settings=SimpleNamespace(api=self.api, image_timeout=600.0), run=self.run
        )
        return Submission(
            client=client,
            store=TaskStateStore(self.store, sleep=lambda seconds: None),
            prepared=prepared,
            attempt=rec.Attempt(
                fingerprint=rec.Fingerprint.of(prepared.as_requested, api=self.api.name, base_url=BASE),
                max_tries=self.max_tries,
                try_number=self.try_number,
            ),
            policy=SubmissionPolicy(on_clear=self.on_clear, on_uncertain_submit=self.on_uncertain),
        )

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
            TaskStateStore(self.store).write(
                GENERATION_KEY, rec.as_ended(outcome.record, outcome.generation, utc_now())
            )
        for post in self.posts:
            if post.paid is paid:
                # Where the use of the clear could not be written, the next try finds it once more.
                post.cleared &= self.store.value["max_tries"] != self.max_tries

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
        if "may have been billed" in error.message:
            # The look-up failed. The record stays as it was, and a retry repeats the look-up.
            assert self.reads_broken
            assert error.retry_helps
            assert self.store.value["state"] in ("intent", "uncertain")
            return
        for post in self.unsettled():
            assert post.paid is not None
            assert post.paid.id == error.generation_id
            assert post.paid.id in error.message

    def report(self) -> None:
        for post in self.posts:
            post.reported = True

    # ------------------------------------------------------------------ what else happens

    @precondition(lambda self: self.entered and not self.cleared_now)
    @rule()
    def clear(self) -> None:
        """A person clears the task."""
        self.cleared_now = True
        self.leave()
        self.max_tries = self.try_number + RETRIES
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
            TaskStateStore(self.store).write(
                GENERATION_KEY, rec.as_ended(self.attached.record, end, utc_now())
            )
            self.attached = None
