"""What all services share: requests and replies as values, validation, authentication.

A service reads its vendor's documents strictly: what they do not list is refused, in the shape and with
the codes that they give.
"""

from __future__ import annotations

import ipaddress
import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import urlsplit

from airflow_provider_seedance.emulator.media_encoder import MediaStore
from airflow_provider_seedance.emulator.models import Draft, Generation, Render
from airflow_provider_seedance.emulator.state import Backend, OutOfCreditsError


@dataclass(frozen=True, kw_only=True)
class Call:
    """One API request.

    :param path: below the service's prefix, such as ``/generate``.
    :param query: the values of each query parameter.
    :param headers: by lower-case name.
    """

    method: str
    path: str
    query: Mapping[str, list[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        """The decoded body, or ``None`` if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True, kw_only=True)
class Route:
    """What a request is for.

    :param kind: one of :data:`ledger.REQUEST_KINDS`.
    :param generation_id: the generation it names.
    """

    kind: str = "other"
    generation_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One reply.

    :param generation_id: the generation it is about, for the ledger.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    generation_id: str | None = None


class ApiError(Exception):
    """A request that the service refuses.

    :param code: the vendor's code, or ``None`` for the one that fits status, field and constraint.
    :param field: the field that is wrong, with ``value`` and the ``constraint`` it breaks (``type``,
        ``required``, ``unknown``, ``enum``, ``max_length``, ``max_items``, ``range`` …) and its ``limit``.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        field: str | None = None,
        value: Any = None,
        constraint: str | None = None,
        limit: Any = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.field = field
        self.value = value
        self.constraint = constraint
        self.limit = limit


def json_reply(
    body: Any,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    generation_id: str | None = None,
) -> Reply:
    """A reply with a JSON body."""
    return Reply(
        status=status,
        body=json.dumps(body, ensure_ascii=False).encode(),
        headers={"Content-Type": "application/json", **(headers or {})},
        generation_id=generation_id,
    )


def timestamp(seconds: float) -> str:
    """ISO 8601 in UTC, whole seconds, as the vendors write it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_http_url(value: object) -> bool:
    """Whether a value is an absolute http or https URL."""
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
        host = parts.hostname
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and not any(c.isspace() for c in value)


def is_private(url: str) -> bool:
    """Whether a URL's host is an address that a vendor cannot reach. Names are not resolved."""
    try:
        return not ipaddress.ip_address(urlsplit(url).hostname or "").is_global
    except ValueError:
        return False


class Fields:
    """The fields of a request, read strictly by name and type.

    Every method raises :class:`ApiError` for a value of another type or outside the limits, and returns
    ``None`` for a field that is not there.

    :param data: the decoded object.
    :param at: the name of the object, for messages: ``input`` gives ``input.prompt``.
    :param nulls: whether ``null`` means the same as leaving the field out.
    """

    def __init__(self, data: Any, *, at: str = "", nulls: bool = False) -> None:
        if not isinstance(data, dict):
            where = f"{at} must" if at else "The request body must"
            raise ApiError(f"{where} be a JSON object", field=at or None, constraint="type", limit="object")
        self._at = f"{at}." if at else ""
        self._data = {name: value for name, value in data.items() if not (nulls and value is None)}

    def __contains__(self, name: str) -> bool:
        return name in self._data

    @property
    def given(self) -> dict[str, Any]:
        """A copy of what was sent."""
        return dict(self._data)

    def only(self, *names: str) -> None:
        """Refuse every field but these."""
        for name, value in self._data.items():
            if name not in names:
                raise ApiError(
                    f"Unknown parameter {self._at}{name}",
                    field=f"{self._at}{name}",
                    value=value,
                    constraint="unknown",
                )

    def error(self, name: str, message: str, constraint: str, limit: Any = None) -> ApiError:
        """The error that a field's value is wrong."""
        return ApiError(
            f"{self._at}{name} {message}",
            field=f"{self._at}{name}",
            value=self._data.get(name),
            constraint=constraint,
            limit=limit,
        )

    def raw(self, name: str, *, required: bool = False) -> Any:
        """The value as it is."""
        if name not in self._data:
            if required:
                raise self.error(name, "is required", "required")
            return None
        return self._data[name]

    def text(
        self,
        name: str,
        *,
        required: bool = False,
        longest: int | None = None,
        choices: Collection[str] | None = None,
    ) -> str | None:
        """A string; a required one may not be blank. ``longest`` is in characters."""
        value = self.raw(name, required=required)
        if value is None and name not in self._data:
            return None
        if not isinstance(value, str):
            raise self.error(name, "must be a string", "type", "string")
        if required and not value.strip():
            raise self.error(name, "must not be empty", "min_length", 1)
        if longest is not None and len(value) > longest:
            raise self.error(name, f"is too long (max {longest} characters)", "max_length", longest)
        if choices is not None and value not in choices:
            raise self.error(name, f"must be one of {', '.join(choices)}", "enum", list(choices))
        return value

    def prompt(self, *, longest: int | None = None) -> str:
        """The required prompt."""
        value = self.text("prompt", required=True, longest=longest)
        return value or ""

    def integer(
        self,
        name: str,
        *,
        required: bool = False,
        low: int | None = None,
        high: int | None = None,
        choices: Collection[int] | None = None,
    ) -> int | None:
        """An integer: a number in quotes or a boolean is none."""
        value = self.raw(name, required=required)
        if value is None and name not in self._data:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(name, "must be an integer", "type", "integer")
        if choices is not None and value not in choices:
            listed = ", ".join(str(choice) for choice in choices)
            raise self.error(name, f"must be one of {listed}", "enum", list(choices))
        if (low is not None and value < low) or (high is not None and value > high):
            raise self.error(name, f"must be from {low} to {high}", "range", [low, high])
        return value

    def number(self, name: str, *, low: float, high: float) -> float | None:
        """A number within limits."""
        value = self.raw(name)
        if value is None and name not in self._data:
            return None
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self.error(name, "must be a number", "type", "number")
        if not low <= value <= high:
            raise self.error(name, f"must be from {low} to {high}", "range", [low, high])
        return float(value)

    def flag(self, name: str) -> bool | None:
        """A boolean."""
        value = self.raw(name)
        if value is None and name not in self._data:
            return None
        if not isinstance(value, bool):
            raise self.error(name, "must be a boolean", "type", "boolean")
        return value

    def urls(
        self,
        name: str,
        *,
        least: int = 0,
        most: int | None = None,
        valid: Callable[[object], bool] = is_http_url,
    ) -> list[str] | None:
        """An array of URLs."""
        value = self.raw(name)
        if value is None and name not in self._data:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(name, "must be an array of strings", "type", "string[]")
        if most is not None and len(value) > most:
            raise self.error(name, f"takes at most {most} URLs", "max_items", most)
        if len(value) < least:
            raise self.error(name, f"takes at least {least} URLs", "min_items", least)
        if not all(valid(item) for item in value):
            raise self.error(name, "must hold valid image URLs", "url")
        return list(value)

    def url(self, name: str) -> str | None:
        """One URL."""
        value = self.text(name)
        if value is not None and not is_http_url(value):
            raise self.error(name, "must be an http or https URL", "url")
        return value

    def callback(self, name: str) -> str | None:
        """A callback URL: a public one, as the documents want it, or one on this machine."""
        value = self.url(name)
        if value is not None and is_private(value) and not is_loopback(value):
            raise self.error(name, "must be publicly reachable", "public")
        return value


class Service(ABC):
    """One emulated service.

    :param backend: the renders, shared by all services.
    :param media: makes the files.
    """

    api: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, *, backend: Backend, media: MediaStore) -> None:
        self.backend = backend
        self.media = media

    @property
    def shape(self) -> str:
        """Which of the documented shapes to answer with."""
        return self.backend.settings.shape

    @abstractmethod
    def route(self, call: Call) -> Route:
        """What a request is for; ``other`` for a path or method that doesn't exist."""

    @abstractmethod
    def dispatch(self, call: Call, route: Route) -> Reply:
        """Serve an authenticated request. Refuses with :class:`ApiError`."""

    @abstractmethod
    def error_body(self, error: ApiError) -> Any:
        """An error in the service's own shape."""

    @abstractmethod
    def callback_body(self, generation: Generation) -> dict[str, Any]:
        """What is posted to a callback URL."""

    def callback_due(self, generation: Generation) -> bool:
        """Whether a status is one of those that are reported to a callback URL."""
        return generation.status in ("succeeded", "failed", "expired")

    def prompt_of(self, body: Any) -> str | None:
        """The prompt in a submit body, valid or not: faults may be meant for it."""
        prompt = body.get("prompt") if isinstance(body, dict) else None
        return prompt if isinstance(prompt, str) else None

    def handle(self, call: Call) -> Reply:
        """Serve a request, errors included."""
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
        if call.headers.get("authorization", "") != f"Bearer {self.backend.settings.key}":
            raise ApiError("API key is invalid or expired", status=401)

    def out_of_credits(self) -> ApiError:
        """The error for an account that cannot pay."""
        return ApiError("Insufficient credits for this request", status=402)

    def error(self, error: ApiError) -> Reply:
        """The reply to a request that is refused."""
        return json_reply(self.error_body(error), status=error.status)

    def body(self, call: Call) -> Any:
        """The decoded body of a POST."""
        content_type = call.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise ApiError("The Content-Type must be application/json", constraint="content_type")
        decoded = call.json()
        if decoded is None:
            raise ApiError("The request body is not valid JSON", constraint="json")
        return decoded

    def find(self, generation_id: str | None) -> Render:
        """The render a request names."""
        render = self.backend.find(self.api, generation_id or "")
        if render is None:
            raise ApiError(f"Task {generation_id} was not found", status=404)
        return render

    def submit(self, draft: Draft) -> Render:
        """Accept and bill a request that is valid."""
        return self.backend.submit(draft)

    def wait(self, render: Render) -> Generation:
        """Block until a render has ended: for replies that hold the whole result."""
        generation = self.backend.wait(render)
        if generation.ended_at is None:
            raise ApiError("The service is shutting down", status=503)
        return generation

    def new_id(self) -> str:
        """An id nobody has had before."""
        return uuid.uuid4().hex
