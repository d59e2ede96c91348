"""What the emulator was asked, what it accepted and what it billed.

Entries are values: a test compares them, prints them and keeps them. Requests are listed in the order
in which they arrived, including those that were never answered (their ``status`` stays ``None``).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

#: What a request is for; also the points at which a fault can strike.
REQUEST_KINDS = ("submit", "status", "result", "list", "cancel", "media", "other")


@dataclass(frozen=True, kw_only=True)
class RequestEntry:
    """One HTTP request.

    :param at: when it arrived, seconds since the epoch.
    :param api: the service it was for; for media, the service that made the file; empty if unknown.
    :param method: HTTP method.
    :param path: the path with the service's prefix.
    :param query: the query parameters, a list of values for each.
    :param headers: request headers by lower-case name; keys are masked.
    :param body: the decoded JSON body, the text if it is not JSON, or ``None``.
    :param status: status of the reply, or ``None`` if no reply was sent (yet).
    :param generation_id: the generation it made or asked about, as far as known.
    :param kind: one of :data:`REQUEST_KINDS`.
    """

    at: float
    api: str
    method: str
    path: str
    query: dict[str, list[str]] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    status: int | None = None
    generation_id: str | None = None
    kind: str = "other"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One accepted generation: this is what the vendor would bill.

    :param request: the body of the request as it was sent.
    :param billed: credits billed; 0 for a queued render that was cancelled.
    :param callback_url: where the end of the render is reported, if that was asked for.
    """

    at: float
    api: str
    generation_id: str
    media: str
    prompt: str
    request: dict[str, Any]
    billed: float | None
    callback_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """An accepted cancel call.

    :param effect: ``cancelled`` (it left the queue, nothing is billed) or ``deleted`` (a finished record,
        paid for, was destroyed).
    :param was: the status before the call.
    """

    at: float
    api: str
    generation_id: str
    was: str
    effect: str


@dataclass(frozen=True, kw_only=True)
class CallbackEntry:
    """One callback the emulator sent.

    :param status: HTTP status of the answer, or ``None`` if nobody answered.
    """

    at: float
    api: str
    generation_id: str
    url: str
    body: dict[str, Any]
    status: int | None


class Ledger:
    """The books of an emulator; safe to read while it runs. The lists it returns are copies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: list[RequestEntry] = []
        self._submissions: list[Submission] = []
        self._deletions: list[Deletion] = []
        self._callbacks: list[CallbackEntry] = []

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ledger:
        """The ledger that :meth:`as_dict` described, for instance in another process."""
        ledger = cls()
        ledger._requests = [RequestEntry(**entry) for entry in data["requests"]]
        ledger._submissions = [Submission(**entry) for entry in data["submissions"]]
        ledger._deletions = [Deletion(**entry) for entry in data["deletions"]]
        ledger._callbacks = [CallbackEntry(**entry) for entry in data["callbacks"]]
        return ledger

    @property
    def requests(self) -> list[RequestEntry]:
        """Every request, in the order of arrival; calls of the control API are not listed."""
        with self._lock:
            return list(self._requests)

    @property
    def submissions(self) -> list[Submission]:
        """Every accepted generation, in the order of acceptance."""
        with self._lock:
            return list(self._submissions)

    @property
    def deletions(self) -> list[Deletion]:
        """Every accepted cancel or delete call."""
        with self._lock:
            return list(self._deletions)

    @property
    def callbacks(self) -> list[CallbackEntry]:
        """Every callback sent."""
        with self._lock:
            return list(self._callbacks)

    @property
    def billed(self) -> float:
        """Credits billed in all."""
        return sum(entry.billed or 0 for entry in self.submissions)

    def posts(self, api: str | None = None, prompt: str | None = None) -> list[RequestEntry]:
        """The submit requests that arrived, accepted or not.

        :param api: only those of this service.
        :param prompt: only those whose body holds exactly this prompt, at any depth.
        """
        return [
            entry
            for entry in self.requests
            if entry.kind == "submit"
            and (api is None or entry.api == api)
            and (prompt is None or _holds_text(entry.body, prompt))
        ]

    def cancels(self) -> list[RequestEntry]:
        """The cancel requests that arrived, allowed or not; see :attr:`deletions` for their effects."""
        return [entry for entry in self.requests if entry.kind == "cancel"]

    def count(self, kind: str, api: str | None = None, generation_id: str | None = None) -> int:
        """How many requests of a kind arrived.

        :param kind: one of :data:`REQUEST_KINDS`, or ``any``.
        """
        return sum(
            1
            for entry in self.requests
            if kind in (entry.kind, "any")
            and (api is None or entry.api == api)
            and (generation_id is None or entry.generation_id == generation_id)
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON can carry it."""
        with self._lock:
            return {
                "requests": [asdict(entry) for entry in self._requests],
                "submissions": [asdict(entry) for entry in self._submissions],
                "deletions": [asdict(entry) for entry in self._deletions],
                "callbacks": [asdict(entry) for entry in self._callbacks],
            }

    def arrived(self, entry: RequestEntry) -> int:
        """Enter a request before anything is done with it.

        :return: its position, for :meth:`answered`.
        """
        with self._lock:
            self._requests.append(entry)
            return len(self._requests) - 1

    def answered(self, position: int, status: int | None, generation_id: str | None) -> None:
        """Complete a request's entry just before its reply is sent."""
        with self._lock:
            entry = self._requests[position]
            self._requests[position] = replace(
                entry, status=status, generation_id=generation_id or entry.generation_id
            )

    def submitted(self, entry: Submission) -> None:
        """Enter an accepted generation."""
        with self._lock:
            self._submissions.append(entry)

    def refunded(self, generation_id: str) -> None:
        """Nothing is billed for this generation after all."""
        with self._lock:
            self._submissions = [
                replace(entry, billed=0) if entry.generation_id == generation_id else entry
                for entry in self._submissions
            ]

    def deleted(self, entry: Deletion) -> None:
        """Enter the effect of a cancel call."""
        with self._lock:
            self._deletions.append(entry)

    def called_back(self, entry: CallbackEntry) -> None:
        """Enter a callback that was sent."""
        with self._lock:
            self._callbacks.append(entry)


def _holds_text(value: Any, text: str) -> bool:
    """Whether a decoded JSON value holds this string anywhere."""
    if isinstance(value, dict):
        return any(_holds_text(item, text) for item in value.values())
    if isinstance(value, list):
        return any(_holds_text(item, text) for item in value)
    return isinstance(value, str) and value == text
