"""
The emulator's ledger: requests received, generations accepted and billed.

Entries are values. Requests are listed in the order of arrival, including those without a reply (their
``status`` stays ``None``).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar


@dataclass(frozen=True, kw_only=True)
class RequestEntry:
    """
    An HTTP request.

    :param at: Time of arrival, seconds since the epoch.
    :param api: The service; for media, the service that made the file; empty if unknown.
    :param path: The path with the service's prefix.
    :param query: The query parameters, a list of values for each.
    :param headers: Request headers by lower-case name; keys are masked.
    :param body: The decoded JSON body, the text if it is not JSON, or ``None``.
    :param status: Status of the reply, or ``None`` if no reply was sent (yet).
    :param generation_id: The generation that it created or named, as far as known.
    :param kind: submit, status, result, list, cancel, media or other.
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
class SubmissionEntry:
    """
    An accepted generation, which a vendor would bill.

    :param request: The body of the request as it was sent.
    :param billed: Credits billed; 0 for a queued render that was cancelled.
    :param callback_url: The callback URL of the request.
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
class DeletionEntry:
    """
    An accepted cancel call.

    :param effect: ``cancelled`` (it left the queue, nothing is billed) or ``deleted`` (a finished record,
        paid for, was destroyed).
    :param was: The status before the call.
    """

    at: float
    api: str
    generation_id: str
    was: str
    effect: str


@dataclass(frozen=True, kw_only=True)
class CallbackEntry:
    """
    A callback that the emulator sent.

    :param status: HTTP status of the response, or ``None`` without one.
    """

    at: float
    api: str
    generation_id: str
    url: str
    body: dict[str, Any]
    status: int | None


Entry = RequestEntry | SubmissionEntry | DeletionEntry | CallbackEntry
_Entry = TypeVar("_Entry", bound=Entry)

#: Entry types by the name of their list.
_TYPES: Mapping[str, type[Entry]] = {
    "requests": RequestEntry,
    "submissions": SubmissionEntry,
    "deletions": DeletionEntry,
    "callbacks": CallbackEntry,
}


class EmulatorLedger:
    """The ledger of an emulator; safe to read while it runs. The lists it returns are copies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[type[Any], list[Any]] = {kind: [] for kind in _TYPES.values()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EmulatorLedger:
        """Create a ledger from the output of :meth:`as_dict`, for instance of another process."""
        ledger = cls()
        for name, kind in _TYPES.items():
            ledger._entries[kind] = [kind(**entry) for entry in data[name]]
        return ledger

    def as_dict(self) -> dict[str, Any]:
        """Return all entries as a JSON value."""
        return {name: [asdict(entry) for entry in self._copy(kind)] for name, kind in _TYPES.items()}

    @property
    def requests(self) -> list[RequestEntry]:
        """All requests in the order of arrival, without those to the control API."""
        return self._copy(RequestEntry)

    @property
    def submissions(self) -> list[SubmissionEntry]:
        """All accepted generations in the order of acceptance."""
        return self._copy(SubmissionEntry)

    @property
    def deletions(self) -> list[DeletionEntry]:
        """All accepted cancel or delete calls."""
        return self._copy(DeletionEntry)

    @property
    def callbacks(self) -> list[CallbackEntry]:
        """All callbacks sent."""
        return self._copy(CallbackEntry)

    def _copy(self, kind: type[_Entry]) -> list[_Entry]:
        with self._lock:
            return list(self._entries[kind])

    @property
    def billed(self) -> float:
        """Total of the credits billed."""
        return sum(entry.billed or 0 for entry in self.submissions)

    def posts(self, api: str | None = None, prompt: str | None = None) -> list[RequestEntry]:
        """
        Return the submit requests, accepted or not.

        :param api: Only those to this service.
        :param prompt: Only those whose body contains exactly this prompt, at any depth.
        """
        found = self._of_kind("submit", api)
        return [entry for entry in found if prompt is None or _contains_text(entry.body, prompt)]

    def cancels(self) -> list[RequestEntry]:
        """Return the cancel requests, allowed or not; see :attr:`deletions` for their effects."""
        return self._of_kind("cancel")

    def count(self, kind: str, api: str | None = None, generation_id: str | None = None) -> int:
        """
        Return the number of requests of a kind.

        :param kind: As in :class:`RequestEntry`, or ``any``.
        """
        return sum(generation_id in (None, entry.generation_id) for entry in self._of_kind(kind, api))

    def _of_kind(self, kind: str, api: str | None = None) -> list[RequestEntry]:
        return [entry for entry in self.requests if kind in (entry.kind, "any") and api in (None, entry.api)]

    def add(self, entry: Entry) -> int:
        """Add an entry; return its position in the list of its type."""
        with self._lock:
            entries = self._entries[type(entry)]
            entries.append(entry)
            return len(entries) - 1

    def answered(self, position: int, status: int | None, generation_id: str | None) -> None:
        """Complete the entry of a request, at the position that :meth:`add` returned."""
        with self._lock:
            requests = self._entries[RequestEntry]
            named = generation_id or requests[position].generation_id
            requests[position] = replace(requests[position], status=status, generation_id=named)

    def refunded(self, generation_id: str) -> None:
        """Set the credits billed for a generation to 0."""
        with self._lock:
            self._entries[SubmissionEntry] = [
                replace(entry, billed=0) if entry.generation_id == generation_id else entry
                for entry in self._entries[SubmissionEntry]
            ]


def _contains_text(value: Any, text: str) -> bool:
    """Return whether a decoded JSON value contains this string at any depth."""
    if isinstance(value, dict):
        return any(_contains_text(item, text) for item in value.values())
    if isinstance(value, list):
        return any(_contains_text(item, text) for item in value)
    return isinstance(value, str) and value == text
