"""
Calls, replies and outcomes: the values that adapters, flows and the client exchange.

Adapters make :class:`HttpCall` objects and read :class:`HttpReply` objects; only the client knows
how one becomes the other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from airflow_provider_seedance.exceptions import SeedanceError
from airflow_provider_seedance.generations import Generation

#: Values that a JSON body may hold. Small values take fifty times their bytes in memory; no service sends a
#: hundredth of this.
MAX_JSON_VALUES = 1_000_000
#: Values of the reply to a read: parsing more would block the event loop of a triggerer.
MAX_READ_JSON_VALUES = 50_000

#: Nesting of a JSON body. Deeper ones could be parsed, but neither walked through nor serialized again.
MAX_JSON_DEPTH = 64

#: Replaces unpaired surrogates, which no API server accepts; NUL, which PostgreSQL does not store; and terminal
#: control characters.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")

#: Texts of a service that are shown and stored: its messages, and its other words.
MAX_MESSAGE_CHARS = 4000
MAX_WORD_CHARS = 200

#: Characters of a service's text that are processed to show its beginning, ...
_MAX_PROCESSED_CHARS = 64 * 1024
#: ... and characters at the end of these that are dropped where the text goes on: they may hold a part of a secret,
#: which redaction cannot recognize.
_DROPPED_CHARS = 16 * 1024
#: Texts of a generation that the service chooses.
_WORDS = ("model", "resolution", "error_code", "word")
_SUSPECT = re.compile(r"\\u|[\x7f-\x9f]")


#: JSON object of a service.
JsonObject = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class HttpCall:
    """
    One request to a service.

    :param path: Path below the base URL, beginning with a slash.
    :param query: Query parameters in order; names may repeat.
    :param timeout: Seconds for this call; ``None`` is the connection's own.
    :param images: Whether the reply may hold images, and so be very long.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    json: Mapping[str, Any] | None = field(default=None, repr=False)
    timeout: float | None = None
    images: bool = False

    @property
    def kind(self) -> str:
        """``read``, ``submit`` or ``cancel``; some services cancel with a POST, which has no body."""
        if self.method == "GET":
            return "read"
        return "submit" if self.json is not None else "cancel"


@dataclass(frozen=True)
class HttpReply:
    """
    Reply of a service.

    Texts of the service enter messages and generations through :meth:`line`, :meth:`excerpt` and :meth:`clean`,
    which redact them.

    :param headers: Header fields by lower-case name.
    :param body: The body, decoded from its transfer encoding.
    :param source: The connection and its service, for messages.
    :param redact: Removes secrets from a text.
    :param max_values: Limit for the values of a JSON body.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    source: str = field(default="The service", compare=False)
    redact: Callable[[str], str] = field(default=str, repr=False, compare=False)
    max_values: int = field(default=MAX_JSON_VALUES, repr=False, compare=False)

    @cached_property
    def json(self) -> Any:
        """
        The body read as JSON, or ``None`` where it is not JSON within the bounds of :func:`read_json`.

        Wrongly encoded characters are replaced: the id beside them may be of a paid generation.
        """
        try:
            return read_json(self.body, self.max_values)
        except (ValueError, RecursionError, MemoryError):
            return None

    @property
    def ok(self) -> bool:
        """True for a 2xx status."""
        return 200 <= self.status < 300

    def excerpt(self, limit: int = 300) -> str:
        """Return the beginning of the body as one line of text, for messages."""
        # A character takes up to four bytes.
        return self.line(self.body[: 4 * (_MAX_PROCESSED_CHARS + 1)].decode("utf-8", "replace"), limit)

    def line(self, text: str, limit: int = 1000) -> str:
        """Return a text of the service as one redacted, printable line of limited length, for messages."""
        # Splitting costs many times the length of the text in memory.
        more = len(text) > _MAX_PROCESSED_CHARS
        shown = _UNPRINTABLE.sub(REPLACEMENT, self.redact(" ".join(text[:_MAX_PROCESSED_CHARS].split())))
        if more:
            shown = shown[:-_DROPPED_CHARS]
        return shown[:limit] + "…" if more or len(shown) > limit else shown

    def clean(self, generation: Generation) -> Generation:
        """Return a generation that was read from this reply with the service's texts redacted and shortened."""
        limits = {**dict.fromkeys(_WORDS, MAX_WORD_CHARS), "error_message": MAX_MESSAGE_CHARS}
        texts: dict[str, Any] = {
            name: self.line(text, limit)
            for name, limit in limits.items()
            if (text := getattr(generation, name))
        }
        outputs = tuple(
            {
                **each,
                **{name: self.line(each[name], MAX_WORD_CHARS) for name in ("id", "format") if each[name]},
            }
            for each in generation.outputs
        )
        return replace(generation, **texts, outputs=outputs)


def read_json(body: bytes, max_values: int = MAX_JSON_VALUES) -> Any:
    """
    Parse untrusted JSON.

    :raises ValueError: it is not JSON, or exceeds the number of values or :data:`MAX_JSON_DEPTH`.
    """
    text = body.decode(json.detect_encoding(body), "replace").removeprefix("\ufeff")
    brackets = text.count("[") + text.count("{")
    if text.count(",") + brackets > max_values:
        raise ValueError(f"more than {max_values} values")
    value = json.loads(text)
    return _sanitize(value, 0) if brackets > MAX_JSON_DEPTH or _SUSPECT.search(text) else value


def _sanitize(value: Any, depth: int) -> Any:
    if depth > MAX_JSON_DEPTH:
        raise ValueError(f"nested deeper than {MAX_JSON_DEPTH}")
    if isinstance(value, str):
        return _UNPRINTABLE.sub(REPLACEMENT, value)
    if isinstance(value, dict):
        return {_sanitize(name, depth): _sanitize(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_sanitize(inner, depth + 1) for inner in value]
    return value


@dataclass(frozen=True)
class TransportFailure:
    """
    A call without a (complete) reply.

    :param message: Description of the failure, redacted.
    :param sent: Whether the first byte of the request may have left this machine. ``False`` is
        certain: the service cannot have seen the request.
    """

    message: str
    sent: bool


@dataclass(frozen=True)
class Pause:
    """Request of a flow to wait before its next step."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class FlowTiming:
    """
    Pauses between the calls of a flow, in seconds.

    :param submit_backoff: After submissions that were not accepted, where the service reports no wait.
    :param fallback_backoff: The same where another connection is tried next.
    :param read_backoff: After failed reads.
    :param look_up_backoff: Between look-ups of a lost submission: the service may list it a little later.
    :param result_backoff: Between reads of a result that should be there.
    :param list_interval: Between lists, where an account may make one a second.
    :param refused_list_backoff: After refused lists.
    """

    submit_backoff: tuple[float, ...] = (1.0, 2.0, 4.0)
    fallback_backoff: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 15.0)
    read_backoff: tuple[float, ...] = (0.5, 1.5)
    look_up_backoff: tuple[float, ...] = (1.0, 3.0)
    result_backoff: tuple[float, ...] = (1.0, 2.0, 4.0)
    list_interval: float = 1.2
    refused_list_backoff: tuple[float, ...] = (2.0, 4.0, 8.0)


@dataclass(frozen=True, kw_only=True)
class VendorError:
    """
    Error body of a service.

    :param status: HTTP status given in the body, where it differs from the real one.
    """

    code: str | None = None
    message: str | None = None
    status: int | None = None


@dataclass(frozen=True)
class Accepted:
    """Outcome of a submission that the service accepted, and that is billed from now on."""

    generation: Generation


@dataclass(frozen=True)
class NotAccepted:
    """Outcome of a submission that was certainly not accepted, and can be sent again without paying twice."""

    error: SeedanceError


@dataclass(frozen=True)
class Refused:
    """Outcome of a submission that the service refused for good; nothing was billed."""

    error: SeedanceError


@dataclass(frozen=True)
class Uncertain:
    """Unknown outcome: the submission may have been accepted and billed."""

    error: SeedanceError


SubmitOutcome = Accepted | NotAccepted | Refused | Uncertain
