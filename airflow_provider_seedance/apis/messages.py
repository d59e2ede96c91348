"""
The values that travel between the adapters, the flows and the client: calls, replies, outcomes.

Adapters make :class:`HttpCall` objects and read :class:`HttpReply` objects; only the client knows
how one becomes the other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from airflow_provider_seedance.exceptions import SeedanceError
from airflow_provider_seedance.generations import Generation

#: Most values that a JSON body may hold. Small ones take fifty times their bytes in memory; no service sends
#: a hundredth of this.
MOST_VALUES = 1_000_000

#: How deep they may be nested. What is deeper could be read, but not walked through or written again.
DEEPEST = 64

#: Stands for what can be no part of a text: half characters, which no API server takes; NUL, which
#: PostgreSQL does not keep; and what makes a terminal do something.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")

#: Most characters of a service's words that are looked at to show some of them, ...
_LOOKED_AT = 64 * 1024
#: ... and how many of these are not shown where there are more: the last may be the half of a secret, which no
#: longer looks like one.
_UNSEEN = 16 * 1024
_SUSPECT = re.compile(r"\\u|[\x7f-\x9f]")


@dataclass(frozen=True, kw_only=True)
class HttpCall:
    """
    One request to a service.

    :param method: ``GET``, ``POST`` or ``DELETE``.
    :param path: Path below the base URL, beginning with a slash.
    :param query: Query parameters in order; names may repeat.
    :param json: The body, or ``None``.
    :param timeout: Seconds for this call; ``None`` is the connection's own.
    :param images: Whether the reply may hold images, and so be very long.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    json: Mapping[str, Any] | None = field(default=None, repr=False)
    timeout: float | None = None
    images: bool = False


@dataclass(frozen=True)
class HttpReply:
    """
    What a service answered.

    :param status: HTTP status.
    :param headers: Header fields by lower-case name.
    :param body: The body as it came, decoded from its transfer encoding.
    :param redact: Removes secrets from a text that is about to be shown.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    redact: Callable[[str], str] = field(default=str, repr=False, compare=False)

    @cached_property
    def json(self) -> Any:
        """
        The body read as JSON, or ``None`` where it is not JSON that a service could mean.

        A character in the wrong encoding makes no text unreadable: the id beside it may be of a paid
        generation.
        """
        try:
            return read_json(self.body)
        except (ValueError, RecursionError, MemoryError):
            return None

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    def excerpt(self, limit: int = 300) -> str:
        """Return the beginning of the body as one line of text, for messages."""
        # Enough for more characters than are looked at, if there are more.
        return self.line(self.body[: 4 * (_LOOKED_AT + 1)].decode("utf-8", "replace"), limit)

    def line(self, text: str, limit: int = 1000) -> str:
        """Return what a service wrote as one line for messages: without secrets, harmless, and not too long."""
        # Not all of it: each word costs many times its length in memory.
        more = len(text) > _LOOKED_AT
        shown = _UNPRINTABLE.sub(REPLACEMENT, self.redact(" ".join(text[:_LOOKED_AT].split())))
        if more:
            shown = shown[:-_UNSEEN]
        return shown[:limit] + "…" if more or len(shown) > limit else shown


def read_json(body: bytes) -> Any:
    """
    Read JSON from outside.

    :raises ValueError: it is none, or so large or deep that reading it would harm us.
    """
    text = body.decode(json.detect_encoding(body), "replace").removeprefix("\ufeff")
    brackets = text.count("[") + text.count("{")
    if text.count(",") + brackets > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values")
    value = json.loads(text)
    return _tidy(value, 0) if brackets > DEEPEST or _SUSPECT.search(text) else value


def _tidy(value: Any, depth: int) -> Any:
    if depth > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST}")
    if isinstance(value, str):
        return _UNPRINTABLE.sub(REPLACEMENT, value)
    if isinstance(value, dict):
        return {_tidy(name, depth): _tidy(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_tidy(inner, depth + 1) for inner in value]
    return value


@dataclass(frozen=True)
class TransportFailure:
    """
    A call that got no (whole) reply.

    :param message: What broke, without secrets.
    :param sent: Whether the first byte of the request may have left this machine. ``False`` is
        certain: the service cannot have seen the request.
    """

    message: str
    sent: bool


@dataclass(frozen=True)
class Pause:
    """A flow asks its driver to wait this many seconds."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class VendorError:
    """
    An error as the service itself wrote it.

    :param code: Its code, as text.
    :param message: Its message.
    :param status: HTTP status that the body claims, where it differs from the real one.
    """

    code: str | None = None
    message: str | None = None
    status: int | None = None


@dataclass(frozen=True)
class Accepted:
    """The service took the submission: it is billed from now on."""

    generation: Generation


@dataclass(frozen=True)
class NotAccepted:
    """
    The service certainly did not take the submission; sending it again pays once.

    :param error: What to raise when there is no more time to send it again.
    :param retry_after: Seconds after which the service said it would take it.
    """

    error: SeedanceError
    retry_after: float | None = None


@dataclass(frozen=True)
class Refused:
    """The service refused the submission for good; nothing was billed."""

    error: SeedanceError


@dataclass(frozen=True)
class Uncertain:
    """Nobody can tell whether the submission was taken and billed."""

    error: SeedanceError


SubmitOutcome = Accepted | NotAccepted | Refused | Uncertain
