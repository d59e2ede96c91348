"""Model of a service, of the store of a task instance, and of workers that die at any point."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import hypothesis.strategies as st
from helpers import reply
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support import Store

from airflow_provider_seedance.apis.ark import TASKS, Ark
from airflow_provider_seedance.apis.messages import HttpCall, HttpReply, Pause, TransportFailure

RETRIES = 2

#: Time for which the service keeps an output.
LINK_SECONDS = 24 * 3600
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
    ended_at: float | None = None
    gone: bool = False
    forgotten: bool = False
    #: It succeeded, and has no output.
    empty: bool = False
    #: Number of status requests until the service knows the id, and the time from which it does so anyway.
    unknown_for: int = 0
    known_from: float = 0.0
    #: Whether a look-up returned the id.
    listed: bool = False

    @property
    def unavailable(self) -> bool:
        """Return whether its output cannot be had (any more)."""
        expired = self.ended_at is not None and time.time() > self.ended_at + LINK_SECONDS - 60
        return self.gone or self.forgotten or self.empty or expired

    @property
    def unknown(self) -> bool:
        """Return whether the service does not know its id (yet, or any more)."""
        return self.forgotten or (self.unknown_for > 0 and time.time() < self.known_from)


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

    @property
    def binds(self) -> bool:
        """Return whether it is or may be paid for, and no person decided to go on without it."""
        failed = self.paid is not None and self.paid.status in ("failed", "expired")
        return not (self.settled or self.disproved or failed)

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
        ended = paid.unavailable or paid.status == "cancelled"
        return changed or ended or (paid.status == "succeeded" and on_clear == "new")


def arguments_of(request: str, signature: str = "") -> dict[str, Any]:
    """Return the arguments of a request: a prompt, and perhaps a link, which is signed anew each time."""
    prompt, _, link = request.partition(" https://")
    return (
        {"prompt": prompt, "images": [f"https://{link}&X-Amz-Signature={signature}"]}
        if link
        else {"prompt": prompt}
    )


def request_of(body: Mapping[str, Any]) -> str:
    """Return the request of a submission, without the signature of its link."""
    links = [item["image_url"]["url"].partition("&X-Amz-")[0] for item in body["content"][1:]]
    return " ".join([body["content"][0]["text"], *links])


#: Requests that differ in the query of their link only.
ONE, TWO = "A lamp https://in.example/uc?id=1", "A lamp https://in.example/uc?id=2"

#: Outcomes of a submission, and whether it is taken.
TAKEN = ("fine", "known late", "lost reply", "rubbish", "gateway took it", "worker dies after")
NOT_TAKEN = (
    "lost request",
    "gateway",
    "redirect",
    "unsent",
    "busy",
    "overloaded",
    "refused",
    "worker dies before",
)
WEATHER = {**dict.fromkeys(TAKEN, True), **dict.fromkeys(NOT_TAKEN, False)}

#: Mostly fine, or nothing would ever come of a task.
WEATHERS = ("fine",) * 8 + tuple(sorted(WEATHER))


#: Ends of the oldest render of a task while it waits: mostly it succeeds.
ENDS = (None, *("succeeded",) * 5, "running", "failed", "expired", "cancelled", "without output")

#: Further events of an entry of a worker: the store, and the secrets backend.
TROUBLES = ("none",) * 6 + ("unreadable", "unwritable", "dies before", "dies after", "no connection")


class World(RuleBasedStateMachine):
    """
    A service, the state store of a task instance, and workers that die.

    :cvar title: Its name in reports.
    :cvar counts: Steps, and what they came to, over all runs.
    """

    title: ClassVar[str]
    counts: ClassVar[Counter[str]]

    api: Any
    store: Store
    reads_broken: bool
    paid: list[Paid]
    posts: list[Post]
    posted: int

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] += number

    @invariant()
    def _count(self) -> None:
        self.count("steps")

    def teardown(self) -> None:
        self.count("paid", len(getattr(self, "paid", ())))

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
        if found is None or found.unknown:
            if found:
                found.unknown_for = max(0, found.unknown_for - 1)
            return reply(404, {"error": {"code": "ResourceNotFound", "message": "no such task"}})
        return reply(200, self.describe(found))

    def list_all(self) -> HttpReply:
        items = [paid for paid in reversed(self.paid) if not paid.forgotten]
        for paid in items:
            paid.listed = True
        return reply(200, {"items": [self.describe(paid) for paid in items], "total": len(items)})

    def describe(self, paid: Paid) -> dict[str, Any]:
        now = int(time.time())
        ended_at = int(paid.ended_at or now)
        body: dict[str, Any] = {
            "id": paid.id,
            "status": paid.status,
            "created_at": now,
            "updated_at": ended_at - LINK_SECONDS - 3600 if paid.gone else ended_at,
            "safety_identifier": paid.correlation,
        }
        if paid.status == "succeeded" and not paid.empty:
            body["content"] = {"video_url": f"https://cdn.example/{paid.id}.mp4"}
        return body

    def take(self, call: HttpCall) -> HttpReply | TransportFailure:
        assert call.json is not None
        weather, post = self.next_weather(), Post(prompt=request_of(call.json))
        self.check_that_posting_is_right(post.prompt)
        if weather == "worker dies before":
            raise Crash
        if weather == "unsent":
            return TransportFailure("refused", sent=False)
        self.posts.append(post)
        self.posted += 1
        if WEATHER[weather]:
            post.paid = Paid(f"cgt-{len(self.paid)}", post.prompt, call.json.get("safety_identifier"))
            if weather == "known late":
                post.paid.unknown_for, post.paid.known_from = 2, time.time() + 60
            self.paid.append(post.paid)
        if weather == "worker dies after":
            raise Crash
        post.disproved = weather in ("busy", "overloaded", "refused")
        own = {"error": {"code": "Busy", "message": "later"}}
        answers: dict[str, HttpReply | TransportFailure] = {
            "fine": reply(200, {"id": post.paid.id if post.paid else ""}),
            "known late": reply(200, {"id": post.paid.id if post.paid else ""}),
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
                lost = trouble == "unwritable" and seen[0] >= at_write
                if lost or (trouble == "unwritable ids" and self.posted):
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

    @precondition(lambda self: self.unended())
    @rule(which=st.integers(0, 99), status=st.sampled_from([status for status in ENDS if status]))
    def go_on(self, which: int, status: str) -> None:
        """A render goes on, or ends."""
        live = self.unended()
        paid = live[which % len(live)]
        paid.empty = status == "without output"
        paid.status = "succeeded" if paid.empty else status
        paid.ended_at = None if status == "running" else time.time()

    def unended(self) -> list[Paid]:
        """Return the renders that have not ended."""
        return [paid for paid in self.paid if paid.status in ("queued", "running")]

    def let_end(self, status: str | None, number: int = 99) -> None:
        """Let the oldest renders go on, or end."""
        for which, _ in enumerate(self.unended()[:number] if status else ()):
            self.go_on(which if status == "running" else 0, str(status))

    @precondition(lambda self: self.paid)
    @rule(which=st.integers(0, 99), how=st.sampled_from(["gone", "forgotten", "empty"]))
    def age(self, which: int, how: str) -> None:
        """An output expires or is not there, or the service forgets all about a render."""
        paid = self.paid[which % len(self.paid)]
        if how == "forgotten" or paid.status == "succeeded":
            setattr(paid, how, True)
