"""
A task with callbacks at any moment, true and false ones, through the real route and the real delivery.

Beyond the promises of :mod:`hostile.machine_task`: **no callback makes a task accept an id that the service has not
confirmed**, or the end of a generation that is still running; none submits; and none causes status requests faster
than the backoff allows.

The owner of the URL of a submission *whose id is unknown* can name any generation of the same key. This is the one
piece of information that a callback adds, and the reason why callback URLs are secrets.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import hypothesis.strategies as st
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR
from helpers import reply
from hypothesis.stateful import initialize, invariant, precondition, rule
from submission.service_model import Paid

from airflow_provider_seedance.apis.ark import TASKS
from airflow_provider_seedance.apis.messages import HttpCall, HttpReply, TransportFailure
from airflow_provider_seedance.callbacks import tokens
from airflow_provider_seedance.callbacks.signatures import SignatureScheme
from airflow_provider_seedance.generations import Generation, utc_now
from airflow_provider_seedance.submission import records
from airflow_provider_seedance.submission.submission_result import AwaitingCallback
from airflow_provider_seedance.submission.timing import TIMING
from hostile.api_server import LIMITS, ApiServer
from hostile.machine_task import CONDITIONS, Task

SECRET = "the secret of the addresses"
SIGNATURE_SECRET = "the secret of the service"

#: Kinds of payloads, sent with a valid token.
PAYLOADS = (
    *("true", "true", "true", "id only", "status only", "false status", "unknown id", "end of unknown id"),
    *("end of another generation", "rubbish"),
)

#: Kinds of forged callbacks.
FORGERIES = ("forged", "expired", "of no task", "of no connection", "unsigned", "replayed")

#: A generation of the same key that another task has paid for.
STRANGER = Paid("cgt-of-another-task", "A cat", None, status="succeeded")

_loop = asyncio.Runner()


class CalledTask(Task):
    """One task instance with ``use_callback=True``."""

    title = "a task with callbacks"
    counts: ClassVar[Counter[str]] = Counter()
    extra: ClassVar[dict[str, Any]] = {
        "callback_base_url": "https://airflow.example",
        "callback_secret": SECRET,
    }

    @initialize(signs=st.booleans(), ends_from_trigger=st.booleans())
    def begin_called(self, signs: bool, ends_from_trigger: bool) -> None:
        self.signs = signs
        self.arguments = {"use_callback": True, "end_from_trigger": ends_from_trigger}
        self.unanswered: Any = None
        self.working = self.calls_back_early = False
        self.deferred_at = 0.0
        #: Callback URLs, and times of the API server's status requests, by generation id.
        self.addresses: dict[str, str] = {}
        self.status_requests: dict[str, list[float]] = {}
        #: The ids in replies of the service.
        self.confirmed: set[str] = set()
        self.api_server = ApiServer(self, lambda: self.settings, self.answer_api_server, _loop)
        self.installed = self.api_server.installed()
        self.installed.__enter__()

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "api_server"):
            self.api_server.stop()
            self.installed.__exit__(None, None, None)

    @cached_property
    def settings(self) -> Any:
        found = super().settings
        if not self.signs:
            return found
        signing = SignatureScheme(
            header="X-Signature", secret=SIGNATURE_SECRET, scheme="hmac-sha256-timestamp"
        )
        return replace(found, callback_signing=signing)

    # ------------------------------------------------------------------ what Airflow knows of the task

    @property
    def texts(self) -> dict[str, str]:
        return self.store.texts

    @property
    def state(self) -> str | None:
        if self.working:
            return "running"
        if self.deferred or self.unanswered:
            return "deferred" if self.event is None else "scheduled"
        if self.succeeded:
            return "success"
        return "up_for_retry" if self.entered and not self.cleared_now else None

    @property
    def trigger(self) -> tuple[str, dict[str, Any], float] | None:
        deferred = self.deferred or self.unanswered
        if deferred is None:
            return None
        classpath, kwargs = deferred.trigger.serialize()
        return classpath, json.loads(json.dumps(kwargs)), self.deferred_at

    def snapshot(self) -> tuple[Any, ...]:
        """Return everything that a callback may change."""
        requests, in_flight = dict(self.status_requests), self.api_server.in_flight
        return dict(self.texts), self.state, self.event, requests, in_flight

    def resumed(self, payload: Any) -> None:
        self.count("resumed by a callback")
        self.event = json.loads(json.dumps(payload))

    def ended(self, xcoms: dict[str, Any]) -> None:
        self.count("ended by a callback")
        self.check_end(Generation.from_result(xcoms["return_value"]))
        self.deferred, self.succeeded, self.attached = None, True, None

    def check_end(self, reported: Generation) -> None:
        paid = self.awaited()
        assert reported.generation_id == paid.id
        assert reported.status.value == paid.status, "the reported end is not that of the generation"

    # ------------------------------------------------------------------ a worker

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Let a worker have the task in hand."""
        self.working = True
        try:
            yield
        finally:
            self.working = False
            self.deferred_at = self.api_server.clock.time()

    def go_in(self, *arguments: Any, **conditions: Any) -> None:
        with self.at_work():
            super().go_in(*arguments, **conditions)

    @property
    def waits(self) -> bool:
        return super().waits or self.unanswered is not None

    def leave(self) -> None:
        super().leave()
        self.unanswered = self.event = None

    def await_callback(self, deferred: TaskDeferred) -> AwaitingCallback:
        self.count("waits for a callback")
        kwargs = json.loads(json.dumps(deferred.kwargs))
        assert deferred.trigger.deadline <= time.time() + TIMING.callback_timeout
        assert self.store.value["state"] == "intent"
        self.unanswered = deferred
        record = records.Record.from_value(kwargs["record"])
        return AwaitingCallback(record=record, until=deferred.trigger.deadline)

    def finish(self, event: Any, *arguments: Any) -> None:
        self.event = None
        if event and event["outcome"] == "ended" and "result" in event and "media" in event["result"]:
            self.check_end(Generation.from_result(event["result"]))
        with self.at_work():
            super().finish(event, *arguments)

    @precondition(lambda self: self.deferred is not None and self.event is not None)
    @rule(reads_broken=CONDITIONS["reads_broken"], trouble=CONDITIONS["trouble"])
    def resume_called(self, reads_broken: bool, trouble: str) -> None:
        """A worker resumes after a callback."""
        self.finish(self.event, "call", reads_broken, trouble)

    @precondition(lambda self: self.unanswered is not None)
    @rule(how=st.sampled_from(["silence", "silence", "nothing", "broken trigger"]), **CONDITIONS)
    def settle(self, how: str, **conditions: Any) -> None:
        """The wait for a callback ends, with or without one."""
        deferred, event = self.unanswered, self.event
        if event is None and how == "silence":
            event = {"outcome": "silence"}
        self.resuming = (deferred, event, how)
        self.count("resolved by a callback" if self.event else "resolved without a callback")
        self.resume_in(self.work_on, **conditions)

    def work_on(self) -> Any:
        deferred, event, how = self.resuming
        name = deferred.method_name
        kwargs = {**json.loads(json.dumps(deferred.kwargs)), "event": event}
        if event is None and how == "broken trigger":
            name, kwargs = TRIGGER_FAIL_REPR, {"error": "TriggerFailure", "traceback": None}
        return self.resumption(name, kwargs)()

    # ------------------------------------------------------------------ the service

    def answer(self, call: HttpCall) -> HttpReply | TransportFailure:
        if call.method == "GET" and call.path == f"{TASKS}/{STRANGER.id}" and not self.reads_broken:
            return reply(200, self.describe(STRANGER))
        found = super().answer(call)
        if isinstance(found, HttpReply) and found.status == 200:
            self.confirmed.update(paid.id for paid in self.paid if f'"{paid.id}"'.encode() in found.body)
        for paid in self.paid:
            paid.listed |= call.path == f"{TASKS}/{paid.id}" and paid.id in self.confirmed
        return found

    def take(self, call: HttpCall) -> HttpReply | TransportFailure:
        assert call.json is not None
        known = len(self.paid)
        try:
            return super().take(call)
        finally:
            for paid in self.paid[known:]:
                self.addresses[paid.id] = call.json["callback_url"]
                if self.calls_back_early:
                    self.count("callbacks before the reply")
                    self.send(paid.id, json.dumps(self.describe(paid)).encode())

    def answer_api_server(self, flow: Any) -> Any:
        broken, self.reads_broken = getattr(self, "reads_broken", False), self.reads_broken_for_api_server
        posts = len(self.posts)
        before = {paid.id: paid.listed for paid in self.paid}
        call = flow.send(None)
        assert call.method == "GET"
        self.status_requests.setdefault(call.path.rpartition("/")[2], []).append(
            self.api_server.clock.monotonic()
        )
        try:
            answer: Any = self.answer(call)
            while True:
                step = flow.send(answer)
                answer = self.answer(step) if isinstance(step, HttpCall) else None
        except StopIteration as stop:
            return stop.value
        finally:
            self.reads_broken = broken
            for paid in self.paid:
                paid.listed = before[paid.id]
            assert len(self.posts) == posts, "a callback submits"

    reads_broken_for_api_server = False

    # ------------------------------------------------------------------ callbacks

    def send(self, paid_id: str, body: bytes, *, forgery: str = "") -> int:
        token = self.addresses[paid_id].rpartition("/")[2]
        claims = tokens.decode_unverified(token)
        assert claims is not None
        now = self.api_server.clock.time()
        changes: dict[str, Any] = {
            "expired": {"expires": int(now) - 1},
            "of no task": {"task_id": "none"},
            "of no connection": {"conn_id": "none"},
        }.get(forgery, {})
        if forgery == "forged" or changes:
            secret = "another secret" if forgery == "forged" else SECRET
            token = tokens.sign(replace(claims, **changes), secret)
        headers = {"Content-Type": "application/json"}
        if self.signs and forgery != "unsigned":
            stamp = str(int(now - (1000 if forgery == "replayed" else 0)))
            digest = hmac.new(SIGNATURE_SECRET.encode(), f"{stamp}.".encode() + body, hashlib.sha256)
            headers |= {"X-Signature": f"sha256={digest.hexdigest()}", "X-Timestamp": stamp}
        return self.api_server.receive(token, body, headers)

    def answer_for(self, paid_id: str) -> int:
        """Return the HTTP status of a callback with a valid token, which expires."""
        claims = tokens.decode_unverified(self.addresses[paid_id].rpartition("/")[2])
        assert claims is not None
        return 202 if self.api_server.clock.time() < claims.expires else 404

    def body(self, paid: Paid, kind: str) -> bytes:
        true = self.describe(paid)
        bodies = {
            "true": true,
            "id only": {"id": paid.id},
            "status only": {"status": paid.status},
            "false status": true | {"status": "failed" if paid.status == "succeeded" else "succeeded"},
            "unknown id": {"id": "cgt-made-up"},
            "end of unknown id": true | {"id": "cgt-made-up", "status": "succeeded"},
            "end of another generation": self.describe(STRANGER),
        }
        return b"[" * 2000 if kind == "rubbish" else json.dumps(bodies[kind]).encode()

    @precondition(lambda self: self.addresses)
    @rule(
        which=st.sampled_from([0, 0, 0, 1, 2]),
        kind=st.sampled_from(PAYLOADS),
        later=st.sampled_from([0.0, 30.0, 30.0]),
        times=st.sampled_from([1, 1, 1, 2, 12]),
        failures=st.sampled_from([0, 0, 0, 1, 9]),
        reads_broken=st.sampled_from([False, False, True]),
    )
    def call(
        self, which: int, kind: str, later: float, times: int, failures: int, reads_broken: bool
    ) -> None:
        """A callback with a valid token, once or several times."""
        paid = self.called_about(which)
        if kind == "end of another generation" and not self.is_known(paid):
            return
        self.reads_broken_for_api_server = reads_broken
        self.api_server.pass_time(later)
        self.api_server.failures = failures
        for _ in range(times):
            self.send_valid(paid, kind)
        self.api_server.failures = 0

    @precondition(lambda self: self.addresses)
    @rule(kind=st.sampled_from(["true", "true", "id only", "status only", "false status"]))
    def end_and_call(self, kind: str) -> None:
        """The ordinary case: the latest generation ends, the service calls back and its status is readable. Or a false status."""
        paid = self.called_about(0)
        if kind != "false status" and paid.status in ("queued", "running"):
            paid.status = "succeeded"
        self.api_server.pass_time(30.0)
        self.reads_broken_for_api_server = False
        self.send_valid(paid, kind)

    def send_valid(self, paid: Paid, kind: str) -> None:
        self.count("callbacks")
        assert self.send(paid.id, self.body(paid, kind)) == self.answer_for(paid.id)

    def called_about(self, which: int) -> Paid:
        """Return a submitted generation, counted from the latest."""
        ids = list(reversed(self.addresses))
        return next(paid for paid in self.paid if paid.id == ids[which % len(ids)])

    def is_known(self, paid: Paid) -> bool:
        """Return whether the record of the submission has its id."""
        record = self.store.value
        return record is not None and record["generation_id"] == paid.id and not self.unanswered

    @precondition(lambda self: self.addresses)
    @rule(which=st.sampled_from([0, 0, 1]), forgery=st.sampled_from(FORGERIES))
    def forge(self, which: int, forgery: str) -> None:
        """A callback with an invalid token or signature."""
        if forgery in ("unsigned", "replayed") and not self.signs:
            return
        paid = self.called_about(which)
        before = self.snapshot()
        self.count("forged callbacks")
        answer = self.send(paid.id, self.body(paid, "true"), forgery=forgery)
        # A valid token, but there is no such task.
        assert answer == (self.answer_for(paid.id) if forgery == "of no task" else 404)
        assert self.snapshot() == before, f"a callback that is {forgery} changes something"

    @rule(early=st.booleans())
    def call_back_early(self, early: bool) -> None:
        """The service calls back before its submission reply, or after it."""
        self.calls_back_early = early

    @rule(seconds=st.sampled_from([1.0, 6.0, 20.0, 200.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes; early callbacks are retried."""
        self.api_server.pass_time(seconds)

    @precondition(lambda self: self.unanswered is not None)
    @rule()
    def time_out(self) -> None:
        """The wait for a callback after a lost reply times out."""
        self.store.change(
            intended_at=(utc_now() - timedelta(seconds=2 * TIMING.callback_timeout)).isoformat()
        )

    @rule()
    def restart(self) -> None:
        self.api_server.stop()
        self.api_server.start()
        self.status_requests.clear()  # the backoff is in memory

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def _accepts_only_confirmed_ids(self) -> None:
        if not hasattr(self, "confirmed") or not hasattr(self, "store"):
            return
        value = self.store.value
        accepted = {value["generation_id"]} if value else set()
        if self.deferred and self.deferred.kwargs:
            accepted.add(self.deferred.kwargs["generation_id"])
        assert accepted - {None} <= self.confirmed, "an id that the service never confirmed is accepted"

    @invariant()
    def _status_requests_keep_the_backoff(self) -> None:
        for times in getattr(self, "status_requests", {}).values():
            for earlier, later in pairwise(times):
                assert later - earlier >= LIMITS.status_backoff - 0.001, "callbacks use up the quota"
