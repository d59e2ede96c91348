"""
Base class of the service adapters: pure functions that build calls and read replies.

An adapter is a subclass of :class:`Api` in a module of its own, and a line in
:data:`airflow_provider_seedance.apis.registry.SERVICES`. The base class decides between the four outcomes of a
submission (design: *submitting at most once*), and turns error replies into errors.
"""

from __future__ import annotations

import abc
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis import parsing
from airflow_provider_seedance.apis.messages import (
    MAX_WORD_CHARS,
    Accepted,
    HttpCall,
    HttpReply,
    NotAccepted,
    Pause,
    Refused,
    SubmitOutcome,
    TransportFailure,
    Uncertain,
    VendorError,
)
from airflow_provider_seedance.apis.rate_limits import read_rate_limit, read_retry_after
from airflow_provider_seedance.apis.rules import Rule
from airflow_provider_seedance.generations import (
    Estimate,
    Generation,
    GenerationRequest,
    GenerationStatus,
    ImageRequest,
    Media,
    ResultDefaults,
    read_number,
    read_time,
)

T = TypeVar("T")

#: Exchange with a service: yields calls and pauses, receives replies, returns a result. The synchronous and the
#: asynchronous client drive the same flows.
Flow = Generator[HttpCall | Pause, HttpReply | TransportFailure | None, T]


class Api(abc.ABC):
    """Adapter of a service, by its documentation."""

    #: The value of ``api`` in the connection's extra.
    name: ClassVar[str]
    #: Name of the service in messages.
    title: ClassVar[str]
    #: Base URL of a connection without a host.
    default_base_url: ClassVar[str]
    #: Further official base URLs.
    other_base_urls: ClassVar[tuple[str, ...]] = ()
    #: Values of ``auth_header`` that the service accepts; the first is the default.
    auth_headers: ClassVar[tuple[str, ...]] = ("authorization",)
    #: Whether the service publishes prices, which ``max_credits`` needs.
    publishes_prices: ClassVar[bool] = False
    #: Field of the request for a callback URL, or ``None``.
    callback_field: ClassVar[str | None] = None
    #: Whether a lost submission can be looked up by its correlation value.
    can_look_up: ClassVar[bool] = False
    #: Whether a queued generation can be cancelled.
    can_cancel: ClassVar[bool] = False
    #: Generations that one request can read.
    max_ids_per_status_call: ClassVar[int] = 1
    #: Requests that reading the status of a generation may take.
    requests_per_status: ClassVar[int] = 1
    #: Whether the probe requests a generation that does not exist, so that "not found" proves that the key is valid.
    probe_misses: ClassVar[bool] = True
    #: Fields of a reply for the id of a generation, in order of preference.
    id_fields: ClassVar[tuple[str, ...]] = ("task_id", "id", "run_id")

    #: Values of ``status`` that are about the call, in a body without an envelope.
    envelope_words: ClassVar[tuple[str, ...]] = ()

    # ------------------------------------------------------------------ requests

    @abc.abstractmethod
    def rules(self, request: GenerationRequest, base_url: str) -> Mapping[str, Rule]:
        """
        Return the rule for each argument that the service accepts for this kind of request.

        Empty where the service does not make this kind of media.
        """

    def defaults(self, request: GenerationRequest, base_url: str) -> Mapping[str, Any]:
        """Return values for required arguments that the user may omit."""
        return {}

    def cross_check(self, request: GenerationRequest, base_url: str) -> list[str]:
        """Return problems of arguments in combination."""
        return []

    @abc.abstractmethod
    def body(self, request: GenerationRequest) -> dict[str, Any]:
        """Return the body of a prepared request, without callback and ``extra_params``."""

    @abc.abstractmethod
    def submit_path(self, request: GenerationRequest) -> str:
        """Return the path of the submission."""

    def price(self, request: GenerationRequest) -> Estimate | None:
        """Return the cost of the request by the published prices, or ``None`` where none applies."""
        return None

    def result_defaults(self, request: GenerationRequest) -> ResultDefaults:
        """Return the values of the result that a prepared request determines."""
        price = self.price(request)
        return ResultDefaults(
            model=request.model,
            duration=read_number(getattr(request, "duration", None)),
            resolution=request.resolution,
            credits=price.credits if price else None,
            cost_usd=price.cost_usd if price else None,
        )

    def prompt_optional(self, request: GenerationRequest) -> bool:
        """Return whether the prompt of this request may be empty."""
        return False

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

        :param callback_url: URL that the service calls when the generation ends.
        :param correlation: Value that the service stores with the generation, where :attr:`can_look_up`.
        :param image_timeout: Timeout of a synchronous image reply, in seconds.
        """
        body = self.body(request)
        if callback_url and self.callback_field and self.takes_callback(request):
            body[self.callback_field] = callback_url
        self.add_extra(body, request.extra_params or {})
        if correlation and self.correlates(request):
            self.correlate(body, correlation)
        images = isinstance(request, ImageRequest)
        timeout, path = image_timeout if images else None, self.submit_path(request)
        return HttpCall(method="POST", path=path, json=body, timeout=timeout, images=images)

    def takes_callback(self, request: GenerationRequest) -> bool:
        """Return whether :attr:`callback_field` applies to this kind of request."""
        return True

    def add_extra(self, body: dict[str, Any], extra: Mapping[str, Any]) -> None:
        """Add ``extra_params`` where the service expects its parameters."""
        body.update(extra)

    def correlate(self, body: dict[str, Any], correlation: str) -> None:
        """Add the correlation value to the body."""
        return

    # ------------------------------------------------------------------ replies to a submission

    def read_submit(
        self,
        answer: HttpReply | TransportFailure,
        call: HttpCall,
        request: GenerationRequest,
        now: datetime,
    ) -> SubmitOutcome:
        """
        Return which of the four outcomes a submission has.

        Only a submission that the service certainly did not accept may be repeated; one that is not clearly
        accepted, refused or unsent is uncertain.
        """
        if isinstance(answer, TransportFailure):
            failure = errors.SeedanceConnectionError(answer.message, method=call.method, path=call.path)
            return Uncertain(failure) if answer.sent else NotAccepted(failure)
        body = answer.json if isinstance(answer.json, Mapping) else None
        vendor = self.read_error(body) if body is not None else None
        if answer.ok:
            if body is not None and (generation := self.read_created(body, request, now)):
                return Accepted(answer.clean(generation))
            if vendor:
                return Refused(self._refusal(answer, call, vendor, now))
            return Uncertain(self._unexpected_reply(answer, call, "carries neither an id nor an output"))
        error = self.error_for(answer, call, now=now)
        if isinstance(error, errors.SeedanceRateLimitError) or (
            answer.status == 503 and body is not None and self.is_service_error(body)
        ):
            return NotAccepted(error, error.retry_after)
        if 400 <= answer.status < 500 and answer.status not in parsing.UNCERTAIN_4XX:
            return Refused(error)
        return Uncertain(error)

    def read_created(
        self, body: Mapping[str, Any], request: GenerationRequest, now: datetime
    ) -> Generation | None:
        """Read the generation from a 2xx reply to a submission; ``None`` if there is neither id nor output."""
        payload = parsing.unwrap(body)
        urls = self.outputs(payload)
        generation_id = self.find_id(body)
        if generation_id is None and not urls:
            return None
        if isinstance(body.get("error"), Mapping) and not (payload.get("status") or urls):
            # An error without a status: the id may be that of the request.
            return None
        generation = self.read_generation(
            body, generation_id or parsing.local_id(body), media=request.media, now=now
        )
        if generation.status is GenerationStatus.SUCCEEDED and not generation.urls:
            # "success" is about the submission; the output follows.
            generation = replace(generation, status=GenerationStatus.QUEUED)
        return generation.with_defaults(self.result_defaults(request).as_dict())

    def find_id(self, body: Mapping[str, Any]) -> str | None:
        """Find the id of a generation in a flat or enveloped reply."""
        return next(iter(self._ids(body)), None)

    def _ids(self, body: Mapping[str, Any]) -> list[str]:
        return [
            found
            for source in (parsing.unwrap(body), body)
            for name in self.id_fields
            if (found := parsing.identifier(source.get(name)))
        ]

    def _refusal(
        self, answer: HttpReply, call: HttpCall, vendor: VendorError, now: datetime
    ) -> errors.SeedanceError:
        error = self.error_for(answer, call, now=now)
        if isinstance(error, errors.SeedanceServerError):
            # A 2xx with an error body is a refusal, even if its code is that of a server error.
            return errors.SeedanceRequestError(
                f"{self.name} refused the submission: {answer.line(vendor.message or vendor.code or '')}",
                **error.details(),
            )
        return error

    # ------------------------------------------------------------------ status

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

    def read_state(
        self, reply: HttpReply, call: HttpCall, generation_id: str, *, media: Media, now: datetime
    ) -> Generation:
        """
        Read the reply to a status request.

        :raises SeedanceServerError: it contains no status; to treat the generation as queued or failed could
            cancel or repeat a paid one.
        """
        self.check_identity(reply, call, generation_id)
        body: Mapping[str, Any] = reply.json
        payload = parsing.unwrap(body)
        word = payload.get("status")
        known = isinstance(word, str) and bool(word.strip())
        if known and payload is body and str(word).strip().lower() == "error":
            known = self.find_id(body) is not None  # else it is about the call
        if not known and not self.outputs(payload):
            raise self._unexpected_reply(
                reply, call, "does not contain the status of the generation", generation_id
            )
        return reply.clean(self.read_generation(body, generation_id, media=media, now=now))

    def check_identity(self, reply: HttpReply, call: HttpCall, generation_id: str) -> None:
        """
        Verify that a reply is about the requested generation, where the id is sent in the query.

        A cache that ignores queries would return another generation. With an id in the path each of them is a
        resource of its own.

        :raises SeedanceServerError: every id in it is another one; the output would be another user's video.
        """
        if not call.query:
            return
        ids = {found.strip() for found in self._ids(reply.json)}
        if ids and generation_id.strip() not in ids:
            raise self._unexpected_reply(reply, call, "is about another generation", generation_id)

    @abc.abstractmethod
    def status_call(self, generation_id: str) -> HttpCall:
        """Build the request for the status of a generation."""

    def read_generation(
        self, body: Mapping[str, Any], generation_id: str, *, media: Media, now: datetime
    ) -> Generation:
        """Read a generation from a body of any documented shape. Never raises."""
        payload = parsing.unwrap(body)
        urls = self.outputs(payload)
        status, documented, word = parsing.status_of(
            payload.get("status"), urls, self.envelope_words if payload is body else ()
        )
        succeeded = status is GenerationStatus.SUCCEEDED
        failed = status.terminal and not succeeded
        message, code = parsing.failure_message(payload, body) if failed else (None, None)
        common: dict[str, Any] = {
            "model": parsing.text(payload.get("model")),
            "duration": read_number(payload.get("duration")),
            "resolution": parsing.text(payload.get("resolution")),
            "created_at": read_time(payload.get("created_at")),
            "completed_at": read_time(payload.get("completed_at")),
        }
        return Generation(
            generation_id=generation_id,
            api=self.name,
            media=media,
            status=status,
            documented=documented,
            word=word,
            urls=urls if succeeded else (),
            error_message=message,
            error_code=code,
            **{**common, **self.details(payload, status, now)},
        )

    def details(
        self, payload: Mapping[str, Any], status: GenerationStatus, now: datetime
    ) -> Mapping[str, Any]:
        """Return fields of :class:`Generation` that the service reports in its own way."""
        return {}

    @abc.abstractmethod
    def outputs(self, payload: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the output URLs of an unwrapped body."""

    def fetch(self, call: HttpCall, generation_id: str | None, now: datetime) -> Flow[HttpReply]:
        """
        Make a call and return the reply, a JSON object without an error.

        :raises SeedanceError: anything else.
        """
        answer = yield call
        return self.check(answer, call, generation_id, now)

    def check(
        self,
        answer: HttpReply | TransportFailure | None,
        call: HttpCall,
        generation_id: str | None,
        now: datetime,
    ) -> HttpReply:
        """Return the reply to a read, or raise its error, as :meth:`fetch` does."""
        if isinstance(answer, TransportFailure):
            raise errors.SeedanceConnectionError(
                answer.message, method=call.method, path=call.path, generation_id=generation_id
            )
        if answer is None:
            raise RuntimeError("the driver has to answer a call")
        body = answer.json
        if answer.ok and isinstance(body, Mapping):
            if self.read_error(body) is None or self.reports_generation(body):
                return answer
            raise self.error_for(answer, call, now=now, generation_id=generation_id)
        if answer.ok:
            raise self._unexpected_reply(answer, call, "is not a JSON object", generation_id)
        raise self.error_for(answer, call, now=now, generation_id=generation_id)

    def reports_generation(self, body: Mapping[str, Any]) -> bool:
        """Return whether a body with an error describes a failed generation, not a failed call."""
        word = parsing.unwrap(body).get("status")
        if not isinstance(word, str):
            return False
        return self.find_id(body) is not None or word.lower() not in parsing.ENVELOPE_WORDS

    # ------------------------------------------------------------------ errors

    @abc.abstractmethod
    def read_error(self, body: Mapping[str, Any]) -> VendorError | None:
        """Return the error in a body of the service, or ``None``."""

    def is_service_error(self, body: Mapping[str, Any]) -> bool:
        """
        Return whether the service itself wrote an error body, not a gateway in front of it.

        Strict, because a submission is repeated because of it.
        """
        return self.read_error(body) is not None

    def classify(self, status: int, code: str | None) -> type[errors.SeedanceError] | None:
        """Return the error class for a code that says more than its HTTP status, or ``None``."""
        return None

    def permanent_rate_limit(self, vendor: VendorError) -> str | None:
        """Return who has to do what after a 429 that no waiting ends, or ``None`` for any other 429."""
        return None

    def error_for(
        self, reply: HttpReply, call: HttpCall, *, now: datetime, generation_id: str | None = None
    ) -> errors.SeedanceError:
        """Return the error to raise for an error reply, by its HTTP status first, then by the service's code."""
        body = reply.json
        vendor = (self.read_error(body) if isinstance(body, Mapping) else None) or VendorError()
        status = reply.status
        if reply.ok:
            status = vendor.status or parsing.STATUS_BY_CODE.get(str(vendor.code).upper(), 500)
        # On a read these statuses are sufficient; a code only refines other ones.
        plain = call.method == "GET" and (reply.status in (401, 404, 429) or reply.status >= 500)
        code = None if plain else vendor.code
        cls = self.classify(status, code) or parsing.class_for(status, code)
        wait = read_retry_after(reply.headers, now) if status == 503 else None
        if status == 429:  # every reply has the headers, and only here they are a wait
            wait = read_rate_limit(reply.headers, now).retry_after
        message = parsing.error_message(self.name, reply, vendor)
        if status == 429 and call.method == "POST" and (solution := self.permanent_rate_limit(vendor)):
            cls, wait, message = errors.SeedanceForbiddenError, None, f"{message} {solution}"
        return cls(
            message,
            http_status=reply.status,
            vendor_code=reply.line(vendor.code, MAX_WORD_CHARS) if vendor.code else None,
            method=call.method,
            path=call.path,
            generation_id=generation_id,
            retry_after=wait,
        )

    def _unexpected_reply(
        self, reply: HttpReply, call: HttpCall, problem: str, generation_id: str | None = None
    ) -> errors.SeedanceServerError:
        return errors.SeedanceServerError(
            f"{self.name} answered {reply.status}, but the answer {problem}: {reply.excerpt()}",
            http_status=reply.status,
            method=call.method,
            path=call.path,
            generation_id=generation_id,
        )

    def correlates(self, request: GenerationRequest) -> bool:
        """Return whether a submission of this request can carry a correlation value."""
        return self.can_look_up

    def probe_call(self) -> HttpCall:
        """Build a call that verifies the key and cannot cost money."""
        return self.status_call("airflow-connection-test")

    def cancel_call(self, generation_id: str) -> HttpCall:
        """Build the request to cancel a generation; only where :attr:`can_cancel`."""
        raise errors.SeedanceConfigurationError(f"{self.name} cannot cancel a generation ({generation_id}).")

    def may_cancel(self, generation: Generation) -> bool:
        """Return whether it is safe and effective to cancel a generation with this status."""
        # Only with the service's own word: without one, "queued" is a default.
        queued = generation.status is GenerationStatus.QUEUED and generation.word is not None
        return self.can_cancel and queued

    def look_up_flow(self, correlation: str, since: datetime, now: datetime) -> Flow[str | None]:
        """Return the id of the generation with a correlation value; only where :attr:`can_look_up`."""
        yield from ()
        return None

    def base_url_for(self, url: str) -> str:
        """Add the path to an official base URL without one."""
        parts = urlsplit(url)
        for official in (self.default_base_url, *self.other_base_urls):
            if parts.netloc == urlsplit(official).netloc and not parts.path:
                return official
        return url
