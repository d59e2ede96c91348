"""
The base of all services: requests and replies as values, validation, authentication.

A service implements its vendor's documents strictly: it refuses everything that they do not list, in their form and
with their codes.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import urlsplit

from airflow_provider_seedance.emulator.interface import SERVICE_PREFIXES
from airflow_provider_seedance.emulator.media_store import MediaStore
from airflow_provider_seedance.emulator.models import EmulatedGeneration, EmulatedRender, MediaSpec
from airflow_provider_seedance.emulator.state import Backend, OutOfCreditsError

#: Error codes by HTTP status, which seedance2api.com and seedanceapi.org share.
ERROR_CODES = {
    400: "INVALID_REQUEST",
    401: "INVALID_API_KEY",
    402: "INSUFFICIENT_CREDITS",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    429: "RATE_LIMITED",
    500: "INTERNAL_ERROR",
    503: "SERVICE_UNAVAILABLE",
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """An HTTP request; the path is below the prefix of the service, header names are in lower case."""

    method: str
    path: str
    prefix: str = ""
    query: Mapping[str, list[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def full_path(self) -> str:
        """The path with the service's prefix."""
        return self.prefix + self.path

    def json(self) -> Any:
        """Return the decoded body, or ``None`` if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True, kw_only=True)
class Route:
    """The purpose of a request: a kind of :class:`RequestEntry`, and the generation that it names."""

    kind: str = "other"
    generation_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An HTTP reply, with its generation for the ledger."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    generation_id: str | None = None


@dataclass(eq=False)
class ApiError(Exception):
    """
    A request that the service refuses.

    :param code: The vendor's code, or ``None`` for the one that fits status, field and constraint.
    :param field: The invalid field, with its ``value`` and the violated ``constraint`` (``type``,
        ``required``, ``unknown``, ``enum``, ``max_length``, ``max_items``, ``range`` …) and its ``limit``.
    """

    message: str
    _: KW_ONLY
    status: int = 400
    code: str | None = None
    field: str | None = None
    value: Any = None
    constraint: str | None = None
    limit: Any = None


def json_reply(body: Any, *, status: int = 200, generation_id: str | None = None) -> Reply:
    """Return a reply with a JSON body."""
    return Reply(
        status=status,
        body=json.dumps(body, ensure_ascii=False).encode(),
        headers={"Content-Type": "application/json"},
        generation_id=generation_id,
    )


def timestamp(seconds: float) -> str:
    """Format a time as the vendors do: ISO 8601 in UTC, whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def is_loopback(url: str) -> bool:
    """Return whether a URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    address = _address(host)
    return address.is_loopback if address else host == "localhost" or host.endswith(".localhost")


def is_http_url(value: object) -> bool:
    """Return whether a value is an absolute http or https URL."""
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
        host = parts.hostname
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and not any(c.isspace() for c in value)


def is_file(value: object) -> bool:
    """Return whether a value is an http or https URL, or a data URI."""
    return is_http_url(value) or str(value).startswith("data:")


def is_https_url(value: object) -> bool:
    """Return whether a value is an https URL, or a plain one of this machine, such as of another emulator."""
    return is_http_url(value) and (str(value).startswith("https:") or is_loopback(str(value)))


def video_tokens(spec: MediaSpec) -> int:
    """Return the tokens of a video by ByteDance's formula: pixels times frames by 1024."""
    return spec.width * spec.height * round(spec.fps * spec.seconds) // 1024


def is_private(url: str) -> bool:
    """Return whether a URL's host is an address that a vendor cannot reach. Names are not resolved."""
    address = _address(urlsplit(url).hostname or "")
    return address is not None and not address.is_global


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


class Fields:
    """
    The fields of a request, read strictly by name and type.

    Every method raises :class:`ApiError` for a value of another type or outside the limits, and returns ``None`` for
    a missing field. After all documented fields have been read, :meth:`refuse_unread` refuses the rest.

    :param data: The decoded object.
    :param at: The name of the object, for messages: ``input`` gives ``input.prompt``.
    :param nulls: Whether ``null`` means the same as a missing field.
    """

    def __init__(self, data: Any, *, at: str = "", nulls: bool = False) -> None:
        if not isinstance(data, dict):
            where = f"{at} must" if at else "The request body must"
            raise ApiError(f"{where} be a JSON object", field=at or None, constraint="type", limit="object")
        self._at = f"{at}." if at else ""
        self._data = {name: value for name, value in data.items() if not (nulls and value is None)}
        self._unread = dict(self._data)

    def __contains__(self, name: str) -> bool:
        return name in self._data

    @property
    def given(self) -> dict[str, Any]:
        """A copy of the fields."""
        return dict(self._data)

    def refuse_unread(self) -> None:
        """Refuse fields that have not been read."""
        for name in self._unread:
            raise self.error(name, "is an unknown parameter", "unknown")

    def error(self, name: str, message: str, constraint: str, limit: Any = None) -> ApiError:
        """Create the error of an invalid value."""
        return ApiError(
            f"{self._at}{name} {message}",
            field=f"{self._at}{name}",
            value=self._data.get(name),
            constraint=constraint,
            limit=limit,
        )

    def nested(self, name: str) -> Fields | None:
        """Return the fields of an object, whose null fields are missing."""
        return Fields(self.raw(name), at=name, nulls=True) if name in self._data else None

    def raw(self, name: str, *, required: bool = False) -> Any:
        """Return the value without validation."""
        self._unread.pop(name, None)
        if required and name not in self._data:
            raise self.error(name, "is required", "required")
        return self._data.get(name)

    def _typed(self, name: str, kind: Any, label: str, *, required: bool = False) -> Any:
        value = self.raw(name, required=required)
        is_valid = isinstance(value, kind) and isinstance(value, bool) is (kind is bool)
        if name in self._data and not is_valid:
            raise self.error(name, f"must be of type {label}", "type", label)
        return value

    def _check_choice(self, name: str, value: Any, choices: Collection[Any]) -> None:
        if choices and value not in choices:
            raise self.error(name, f"must be one of {', '.join(map(str, choices))}", "enum", list(choices))

    def _bounded(self, name: str, value: Any, low: float, high: float) -> Any:
        if not low <= value <= high:
            raise self.error(name, f"must be from {low} to {high}", "range", [low, high])
        return value

    def text(
        self,
        name: str,
        *,
        required: bool = False,
        max_chars: int | None = None,
        choices: Collection[str] = (),
    ) -> str | None:
        """Return a string; a required one must not be blank."""
        value: str | None = self._typed(name, str, "string", required=required)
        if value is None:
            return None
        if required and not value.strip():
            raise self.error(name, "must not be empty", "min_length", 1)
        if max_chars is not None and len(value) > max_chars:
            raise self.error(name, f"is too long (max {max_chars} characters)", "max_length", max_chars)
        self._check_choice(name, value, choices)
        return value

    def prompt(self, *, max_chars: int | None = None) -> str:
        """Return the required prompt."""
        return self.text("prompt", required=True, max_chars=max_chars) or ""

    def integer(
        self,
        name: str,
        *,
        required: bool = False,
        low: float = -math.inf,
        high: float = math.inf,
        choices: Collection[int] = (),
    ) -> int | None:
        """Return an integer, not a string of digits or a boolean."""
        value: int | None = self._typed(name, int, "integer", required=required)
        if value is None:
            return None
        self._check_choice(name, value, choices)
        return int(self._bounded(name, value, low, high))

    def number(self, name: str, *, low: float, high: float) -> float | None:
        """Return a number within limits."""
        value = self._typed(name, (int, float), "number")
        return None if value is None else float(self._bounded(name, value, low, high))

    def flag(self, name: str) -> bool | None:
        """Return a boolean."""
        value: bool | None = self._typed(name, bool, "boolean")
        return value

    def urls(
        self,
        name: str,
        *,
        min_items: int = 0,
        max_items: int | None = None,
        valid: Callable[[object], bool] = is_http_url,
    ) -> list[str] | None:
        """Return an array of URLs."""
        value = self.raw(name)
        if value is None and name not in self._data:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(name, "must be an array of strings", "type", "string[]")
        if max_items is not None and len(value) > max_items:
            raise self.error(name, f"takes at most {max_items} URLs", "max_items", max_items)
        if len(value) < min_items:
            raise self.error(name, f"takes at least {min_items} URLs", "min_items", min_items)
        if not all(valid(item) for item in value):
            raise self.error(name, "must hold valid image URLs", "url")
        return list(value)

    def url(self, name: str) -> str | None:
        """Return a URL."""
        value = self.text(name)
        if value is not None and not is_http_url(value):
            raise self.error(name, "must be an http or https URL", "url")
        return value

    def callback(self, name: str) -> str | None:
        """Return a callback URL: a public one, as documented, or one on this machine."""
        value = self.url(name)
        if value is not None and is_private(value) and not is_loopback(value):
            raise self.error(name, "must be publicly reachable", "public")
        return value


def _without(value: Any, names: frozenset[str]) -> Any:
    """Return a JSON value without fields of these names, and without these error codes."""
    if isinstance(value, list):
        return [_without(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _without(item, names)
        for name, item in value.items()
        if name not in names and not (name == "code" and isinstance(item, str) and item in names)
    }


class Service(ABC):
    """An emulated service; all services share the backend and the store of files."""

    api: ClassVar[str]
    #: Method, pattern of the path and kind of each endpoint; the group ``id`` is the generation.
    routes: ClassVar[tuple[tuple[str, str, str], ...]]
    #: Fields, headers and error codes of replies that no document of the service has.
    undocumented: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, *, backend: Backend, media: MediaStore) -> None:
        self.backend = backend
        self.media = media

    @property
    def prefix(self) -> str:
        """Path of the service on the emulator."""
        return SERVICE_PREFIXES[self.api]

    @property
    def shape(self) -> str:
        """Form of the replies; see :class:`SeedanceEmulator`."""
        return self.backend.options.shape

    @property
    def strict(self) -> bool:
        """True if replies have documented fields only; see :class:`SeedanceEmulator`."""
        return self.backend.options.strict

    def route(self, call: Call) -> Route:
        """Return the purpose of a request; ``other`` for an unknown path or method."""
        for method, pattern, kind in self.routes:
            if call.method == method and (match := re.fullmatch(pattern, call.path)):
                return Route(kind=kind, generation_id=match.groupdict().get("id"))
        return Route()

    @abstractmethod
    def dispatch(self, call: Call, route: Route) -> Reply:
        """Serve an authenticated request, or raise the :class:`ApiError` of a refused one."""

    @abstractmethod
    def error_body(self, error: ApiError) -> Any:
        """Return an error in the service's own form."""

    def callback_body(self, generation: EmulatedGeneration) -> dict[str, Any]:
        """Return the body of a callback, for a service that has callbacks."""
        raise NotImplementedError

    def callback_headers(self, generation: EmulatedGeneration, body: bytes) -> dict[str, str]:
        """Return the headers in which the service signs a callback."""
        return {}

    def callback_due(self, generation: EmulatedGeneration) -> bool:
        """Return whether the service sends a callback for the current status."""
        return generation.status in ("succeeded", "failed", "expired")

    def prompt_of(self, body: Any) -> str | None:
        """Return the prompt of a submit body, valid or not, for faults by prompt."""
        prompt = body.get("prompt") if isinstance(body, dict) else None
        return prompt if isinstance(prompt, str) else None

    def handle(self, call: Call) -> Reply:
        """Serve a request, errors included."""
        return self.documented(self._answer(call))

    def documented(self, reply: Reply) -> Reply:
        """Return a reply without :attr:`undocumented` if the emulator is strict."""
        if not self.strict or not self.undocumented:
            return reply
        headers = {name: value for name, value in reply.headers.items() if name not in self.undocumented}
        if headers.get("Content-Type") != "application/json":
            return replace(reply, headers=headers)
        body = _without(json.loads(reply.body), self.undocumented)
        return replace(reply, headers=headers, body=json.dumps(body, ensure_ascii=False).encode())

    def _answer(self, call: Call) -> Reply:
        try:
            self.authenticate(call)
            route = self.route(call)
            if route.kind == "other":
                raise ApiError(f"No such endpoint: {call.method} {call.path}", status=404)
            return self.dispatch(call, route)
        except OutOfCreditsError:
            return self.error(self.out_of_credits())
        except ApiError as error:
            return self.error(error)

    def authenticate(self, call: Call) -> None:
        """Check the key."""
        if call.headers.get("authorization", "") != f"Bearer {self.backend.options.key}":
            raise ApiError("API key is invalid or expired", status=401)

    def out_of_credits(self) -> ApiError:
        """Return the error for too few credits."""
        return ApiError("Insufficient credits for this request", status=402)

    def error(self, error: ApiError) -> Reply:
        """Return the reply to a refused request."""
        return json_reply(self.error_body(error), status=error.status)

    def body(self, call: Call) -> Any:
        """Return the decoded body of a POST."""
        content_type = call.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise ApiError("The Content-Type must be application/json", constraint="content_type")
        decoded = call.json()
        if decoded is None:
            raise ApiError("The request body is not valid JSON", constraint="json")
        return decoded

    def find(self, generation_id: str | None) -> EmulatedRender:
        """Return the render that a request names."""
        render = self.backend.find(self.api, generation_id or "")
        if render is None:
            raise ApiError(f"Task {generation_id} was not found", status=404)
        return render

    def wait(self, render: EmulatedRender) -> EmulatedGeneration:
        """Block until a render has ended, for synchronous replies; refund one that has not succeeded."""
        generation = self.backend.wait(render)
        if generation.ended_at is None:
            raise ApiError("The service is shutting down", status=503)
        if generation.status != "succeeded":
            self.backend.refund(render)
            code = generation.failure.code if generation.failure else None
            status = 400 if self.is_refusal(code) else 500
            raise ApiError(generation.failure_message, status=status, code=code)
        return generation

    def is_refusal(self, code: str | None) -> bool:
        """Return whether a failure of this code is the client's, such as a refused prompt."""
        return code is not None
