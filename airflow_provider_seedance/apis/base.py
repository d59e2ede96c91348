"""
Base class of the service adapters: pure functions that build calls and read replies.

An adapter is a subclass of :class:`Api` in a module of its own, and a line in
:data:`airflow_provider_seedance.apis.registry.SERVICES`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis import parsing
from airflow_provider_seedance.apis.messages import (
    FlowTiming,
    HttpCall,
    HttpReply,
    JsonObject,
    Pause,
    TransportFailure,
)
from airflow_provider_seedance.apis.reply_reader import ReplyReader
from airflow_provider_seedance.apis.rules import Rule
from airflow_provider_seedance.generations import (
    Generation,
    GenerationRequest,
    GenerationStatus,
    ImageRequest,
    Media,
)

T = TypeVar("T")

#: Exchange with a service: yields calls and pauses, receives replies, returns a result. The synchronous and the
#: asynchronous client drive the same flows.
Flow = Generator[HttpCall | Pause, HttpReply | TransportFailure | None, T]


class Api(ReplyReader):
    """Adapter of a service, by its documentation."""

    #: Name of the service in messages.
    title: ClassVar[str]
    #: Base URL of a connection without a host.
    default_base_url: ClassVar[str]
    #: Page for people at the service that shows a generation, whose id replaces ``{}``, or else all of them.
    console_url: ClassVar[str | None] = None
    #: Further official base URLs.
    other_base_urls: ClassVar[tuple[str, ...]] = ()
    #: Values of ``auth_header`` that the service accepts; the first is the default.
    auth_headers: ClassVar[tuple[str, ...]] = ("authorization",)
    #: Word before the key in the ``Authorization`` header.
    auth_scheme: ClassVar[str] = "Bearer"
    #: Further hosts of the official service, by the beginning of the path.
    other_hosts: ClassVar[Mapping[str, str]] = {}
    #: Field of the request for a callback URL, or ``None``.
    callback_field: ClassVar[str | None] = None
    #: Header in which the service signs its callbacks by the scheme ``hmac-sha256-timestamp``, with a secret that the
    #: connection has to name.
    callback_signature_header: ClassVar[str | None] = None
    #: Path of the keys with which the service signs its callbacks, for :meth:`is_signed`; ``None`` without keys.
    callback_keys_path: ClassVar[str | None] = None
    #: Whether a lost submission can be looked up by its correlation value.
    can_look_up: ClassVar[bool] = False
    #: Field of the request for that value.
    correlation_field: ClassVar[str | None] = None
    #: Whether a queued generation can be cancelled.
    can_cancel: ClassVar[bool] = False
    #: Whether :meth:`list_flow` lists the videos of the account.
    can_list: ClassVar[bool] = False
    #: Generations that one request can read.
    max_ids_per_status_call: ClassVar[int] = 1
    #: Limit of an account for each way to read, ``read`` (one generation) and ``list`` (many), in calls per second. Where
    #: they are given, a 429 of one kind of call says nothing about the others.
    calls_per_second: ClassVar[Mapping[str, float]] = {}
    #: Pauses between the calls of an exchange.
    timing: ClassVar[FlowTiming] = FlowTiming()
    #: Documented limits of the submissions of an account, by pattern of :meth:`submission_kind`; images count one by one.
    submissions_per_minute: ClassVar[Mapping[str, float]] = {}
    #: Whether replies have rate-limit headers.
    reports_quota: ClassVar[bool] = False
    #: Requests that reading the status of a generation may take.
    requests_per_status: ClassVar[int] = 1
    #: Whether outputs below the base URL are downloaded with the key.
    outputs_need_key: ClassVar[bool] = False
    #: Whether the probe requests a generation that does not exist, so that "not found" proves that the key is valid.
    probe_misses: ClassVar[bool] = True
    #: Rule for each argument of a video, and of an image; empty where the service does not make this kind of media.
    video_rules: ClassVar[Mapping[str, Rule]] = {}
    image_rules: ClassVar[Mapping[str, Rule]] = {}
    #: Whether the number of images is a maximum, of which the model may make fewer.
    makes_groups: ClassVar[bool] = False
    #: Values for required arguments that the user may omit.
    video_defaults: ClassVar[Mapping[str, Any]] = {}
    image_defaults: ClassVar[Mapping[str, Any]] = {}
    #: Path of the submission of a video, and of an image.
    video_path: ClassVar[str]
    image_path: ClassVar[str] = ""
    #: Path of the status of a generation, without its id.
    status_path: ClassVar[str]

    def rules(self, request: GenerationRequest, base_url: str) -> Mapping[str, Rule]:
        """Return the rules for this request, where they depend on its model or on the host."""
        return self.image_rules if isinstance(request, ImageRequest) else self.video_rules

    def defaults(self, request: GenerationRequest, base_url: str) -> Mapping[str, Any]:
        """Return the defaults for this request, where they depend on the host."""
        return self.image_defaults if isinstance(request, ImageRequest) else self.video_defaults

    def cross_check(self, request: GenerationRequest, base_url: str) -> list[str]:
        """Return problems of arguments in combination."""
        return []

    def body(self, request: GenerationRequest) -> dict[str, Any]:
        """Return the body of a prepared request, without callback and ``extra_params``: the arguments by their names."""
        body = request.arguments()
        body.pop("extra_params", None)
        if "images" in body:
            body["images"] = [item.url for item in body["images"]]
        return body

    def prompt_optional(self, request: GenerationRequest) -> bool:
        """Return whether the prompt of this request may be empty."""
        return False

    def path_of(self, request: GenerationRequest) -> str:
        """Return the path of the submission of a prepared request."""
        return self.image_path if isinstance(request, ImageRequest) else self.video_path

    def submission_kind(self, request: GenerationRequest) -> str:
        """Return the name of the limit of the service that this request counts against: the model."""
        return request.model or ""

    def submit_call(
        self,
        request: GenerationRequest,
        *,
        callback_url: str | None = None,
        correlation: str | None = None,
        image_timeout: float | None = None,
    ) -> HttpCall:
        """
        Build the submission of a prepared request.

        :param correlation: Value that the service stores with the generation, where :attr:`can_look_up`.
        :param image_timeout: Timeout of a synchronous image reply, in seconds.
        """
        body = self.body(request)
        if callback_url and self.callback_field and self.takes_callback(request):
            body[self.callback_field] = callback_url
        self.add_extra(body, request.extra_params or {})
        if correlation and self.correlation_field and self.correlates(request):
            body.setdefault(self.correlation_field, correlation)
        images = isinstance(request, ImageRequest)
        return HttpCall(
            method="POST",
            path=self.path_of(request),
            json=body,
            timeout=image_timeout if images else None,
            images=images,
        )

    def takes_callback(self, request: GenerationRequest) -> bool:
        """Return whether :attr:`callback_field` applies to this kind of request."""
        return True

    def add_extra(self, body: dict[str, Any], extra: Mapping[str, Any]) -> None:
        """Add ``extra_params`` where the service expects its parameters."""
        body.update(extra)

    def status_flow(self, generation_id: str, media: Media, now: datetime) -> Flow[Generation]:
        """
        Read the status of a generation, in as few requests as the service allows.

        :raises SeedanceError: it could not be read, which proves nothing about the generation.
        """
        call = self.status_call(generation_id)
        reply = yield from self.fetch(call, generation_id, now)
        return self.read_state(reply, call, generation_id, media=media, now=now)

    def final_status_flow(self, generation_id: str, media: Media, now: datetime) -> Flow[Generation]:
        """Read a generation after the callback about its end, in as few requests as the service allows."""
        return self.status_flow(generation_id, media, now)

    def status_many_flow(
        self, generation_ids: Sequence[str], now: datetime
    ) -> Flow[Mapping[str, Generation]]:
        """
        Read the status of several videos in one request; only where :attr:`max_ids_per_status_call` allows it.

        A generation that is missing in the result may exist nevertheless.

        :raises SeedanceError: nothing could be read.
        """
        yield from ()
        return {}

    def list_flow(self, limit: int, now: datetime) -> Flow[list[Generation]]:
        """
        Read the latest videos of the account, newest first.

        :raises SeedanceConfigurationError: the service does not list them.
        """
        yield from ()
        raise errors.SeedanceConfigurationError(
            f"{self.name} does not list generations. `airflow seedance ledger list` lists those of a ledger."
        )

    def status_call(self, generation_id: str) -> HttpCall:
        """Build the request for the status of a generation."""
        return HttpCall(method="GET", path=f"{self.status_path}/{parsing.segment(generation_id)}")

    def fetch(self, call: HttpCall, generation_id: str | None, now: datetime) -> Flow[HttpReply]:
        """
        Make a call and return the reply, a JSON object without an error.

        :raises SeedanceError: anything else.
        """
        answer = yield call
        return self.check(answer, call, generation_id, now)

    def correlates(self, request: GenerationRequest) -> bool:
        """Return whether a submission of this request can carry a correlation value."""
        return self.can_look_up

    def probe_call(self, model: str | None = None) -> HttpCall:
        """Build a call that verifies the key and cannot cost money, for keys that may use only some models by ``model``."""
        return self.status_call("airflow-connection-test")

    def cancel_call(self, generation_id: str) -> HttpCall:
        """Build the request to cancel a generation; only where :attr:`can_cancel`."""
        raise errors.SeedanceConfigurationError(f"{self.name} cannot cancel a generation ({generation_id}).")

    def may_cancel(self, generation: Generation) -> bool:
        """Return whether it is safe and effective to cancel a generation with this status."""
        # Only with the service's own word: without one, "queued" is a default.
        queued = generation.status is GenerationStatus.QUEUED and generation.word is not None
        return self.can_cancel and queued

    def look_up_flow(
        self, correlation: str, since: datetime, now: datetime, model: str | None = None
    ) -> Flow[str | None]:
        """Return the id of the generation of a model with a correlation value; only where :attr:`can_look_up`."""
        yield from ()
        return None

    def full_id(self, callback_id: str, model: str | None) -> str:
        """Return the id of a generation of this model from the id in a callback, where the two differ."""
        return callback_id

    def is_signed(self, keys: JsonObject, headers: Mapping[str, str], body: bytes, now: float) -> bool:
        """
        Return whether the service signed a callback; only where :attr:`callback_keys_path`.

        :param keys: The reply with its keys.
        :param headers: Headers by lower-case name.
        :param body: The raw body.
        :param now: Seconds since 1970.
        """
        return True

    def url_of(self, call: HttpCall, base_url: str) -> str:
        """Return the URL of a call, without its query."""
        known = self.other_hosts.items() if base_url == self.default_base_url else ()
        host = next((host for prefix, host in known if call.path.startswith(prefix)), base_url)
        return host + call.path

    def base_url_for(self, url: str) -> str:
        """Add the path to an official base URL without one."""
        parts = urlsplit(url)
        for official in (self.default_base_url, *self.other_base_urls):
            if parts.netloc == urlsplit(official).netloc and not parts.path:
                return official
        return url
