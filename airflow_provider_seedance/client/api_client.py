"""
HTTP, and the one module that imports httpx.

The flows (:mod:`airflow_provider_seedance.client.flows`) decide what to send; a client sends it.
:class:`Client` and :class:`AsyncClient` differ in a few ``await`` only. Whether a request left this
machine before it failed is taken from the transport itself, not guessed from the kind of exception:
that is what tells *not accepted* from *uncertain*.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast

import httpx

from airflow_provider_seedance import __version__
from airflow_provider_seedance.apis.base import Flow
from airflow_provider_seedance.apis.messages import (
    Accepted,
    HttpCall,
    HttpReply,
    NotAccepted,
    Pause,
    Refused,
    TransportFailure,
    Uncertain,
)
from airflow_provider_seedance.apis.rate_limits import RateLimit, read_rate_limit
from airflow_provider_seedance.client.deadlines import (
    PHASES,
    SENDING,
    Body,
    Budget,
    NoCookies,
    TimedBackend,
    TooLong,
    of_a_proxy,
    within,
)
from airflow_provider_seedance.client.flows import Cancellation
from airflow_provider_seedance.closing import Closing
from airflow_provider_seedance.exceptions import SeedanceConfigurationError, SeedanceError
from airflow_provider_seedance.generations import Generation, utc_now
from airflow_provider_seedance.observability import metrics
from airflow_provider_seedance.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")
C = TypeVar("C", httpx.Client, httpx.AsyncClient)

#: Longest message of a service that is kept, in characters.
LONGEST_MESSAGE = 4000
#: Longest of the other words of a service that are shown and stored.
LONGEST_WORD = 200

#: An honest name: edges in front of the services refuse the default ones of HTTP libraries.
USER_AGENT = f"airflow-provider-seedance/{__version__}"

#: Longest body that is read of a reply.
LONGEST_BODY = 64 * 1024 * 1024

#: Longest body that is read of the reply to a submission of images: in base64 they stand nowhere else.
LONGEST_IMAGE_BODY = 1024 * 1024 * 1024

#: Longest body that is read of a reply that is no success: it holds words.
LONGEST_ERROR_BODY = 1024 * 1024

#: Connections that all generations of one base URL and key share in a triggerer.
POOL_SIZE = 16


class _Wire:
    """Follows one request through the transport and notes whether its first byte was sent."""

    def __init__(self, method: str, answered_in: float) -> None:
        self._method = method.encode()
        self._answered_in = answered_in
        self.sent = False
        #: What came back, as soon as its headers did.
        self.response: httpx.Response | None = None
        #: What is left of the time for this request.
        self.budget = Budget(max(SENDING, answered_in))
        #: The same on an event loop.
        self.timeout = asyncio.Timeout(None)

    def note(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(".send_request_headers.started"):
            request = info.get("request")
            # A proxy is sent a CONNECT first; that one is not ours.
            self.sent = self.sent or request is None or request.method == self._method
        elif event.endswith(".send_request_body.complete"):
            self.budget.renew(self._answered_in)

    async def anote(self, event: str, info: Mapping[str, Any]) -> None:
        self.note(event, info)
        if event.endswith(".send_request_body.complete"):
            self.timeout.reschedule(asyncio.get_running_loop().time() + self._answered_in)


_FAILURES: Mapping[type[Exception], str] = {
    httpx.ConnectTimeout: "connecting took too long",
    httpx.ReadTimeout: "no answer in time",
    httpx.WriteTimeout: "the request could not be sent in time",
    httpx.PoolTimeout: "no connection was free in time",
    TimeoutError: "no answer in time",
}


_READ_ERRORS = (httpx.HTTPError, TooLong, OSError, ValueError)


def _longest(response: httpx.Response, call: HttpCall) -> int:
    if not response.is_success:
        return LONGEST_ERROR_BODY
    return LONGEST_IMAGE_BODY if call.images else LONGEST_BODY


def _body_of(response: httpx.Response, call: HttpCall) -> Body:
    return Body(
        response.headers.get("content-encoding", ""),
        longest=_longest(response, call),
        seconds=response.request.extensions["timeout"]["read"],
    )


#: What a service says of a generation in words of its own.
_WORDS = ("model", "resolution", "error_code", "word")

_KINDS: Mapping[str, str] = {"POST": "submit", "DELETE": "cancel"}


class Observer(Protocol):
    """Somebody who keeps the books of a quota."""

    def sent(self) -> None:
        """Count a request."""

    def answered(self, limit: RateLimit, *, refused: bool) -> None:
        """Take in what a reply told of the quota."""


class _Base:
    """What both clients share: how a call becomes a request and a failure becomes words."""

    def __init__(self, settings: Settings, observer: Observer | None = None) -> None:
        self.settings = settings
        self._observer = observer
        self._tls = tls_context(settings.verify)

    def _make(self, kind: Callable[..., C], transport: Callable[..., Any], *, fresh: bool = False) -> C:
        try:
            return kind(**self._options(), transport=transport(**self._transport_options(fresh)))
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            # What the library says of a proxy may repeat a part of its password.
            why = str(error) if isinstance(error, ImportError) else "its address cannot be read"
            raise SeedanceConfigurationError(
                f"Connection {self.settings.conn_id!r}: no client can be made with its proxy: {why}"
            ) from None

    def _options(self) -> dict[str, Any]:
        settings = self.settings
        # What a body is unpacked from is decided here, not by the codecs that happen to be installed.
        accepted = {"Accept": "application/json", "Accept-Encoding": "gzip"}
        return {
            "headers": {"User-Agent": USER_AGENT, **accepted, **settings.auth()},
            "timeout": settings.call_timeout,
            "cookies": NoCookies(),
            "follow_redirects": False,
            "trust_env": False,
        }

    def _transport_options(self, fresh: bool) -> dict[str, Any]:
        kept = 0 if fresh else POOL_SIZE
        return {
            "proxy": self.settings.proxy,
            "verify": self._tls,
            "trust_env": False,
            "limits": httpx.Limits(max_connections=POOL_SIZE, max_keepalive_connections=kept),
        }

    def _request(self, call: HttpCall) -> dict[str, Any]:
        request: dict[str, Any] = {
            "method": call.method,
            "url": self.settings.base_url + call.path,
            "params": list(call.query) or None,
            "timeout": call.timeout if call.timeout is not None else self.settings.call_timeout,
        }
        if call.json is not None:
            request["json"] = call.json
        return request

    def _begin(self, call: HttpCall) -> _Wire:
        """Keep the books of a call that is about to be made."""
        self._keep_books(self._count, call)
        timeout = call.timeout if call.timeout is not None else self.settings.call_timeout
        return _Wire(call.method, PHASES * timeout)

    def _count(self, call: HttpCall) -> None:
        metrics.count_request(self.settings.api.name, _KINDS.get(call.method, "read"))
        if self._observer:
            self._observer.sent()

    def _told(self, response: httpx.Response) -> None:
        refused = response.status_code == 429
        if refused:
            metrics.count_refusal(self.settings.api.name)
        if self._observer:
            self._observer.answered(read_rate_limit(response.headers, utc_now()), refused=refused)

    def _keep_books(self, keep: Callable[[T], None], what: T) -> None:
        """Let books be kept; trouble with them decides nothing: the reply may be about a paid generation."""
        try:
            keep(what)
        except Exception as error:
            said = self.settings.redact(f"{type(error).__name__}: {error}")
            log.warning("The books about the requests to %s are not kept: %s", self.settings.api.title, said)

    def _failure(self, error: Exception, sent: bool) -> TransportFailure:
        name = _FAILURES.get(type(error))
        detail = self.settings.redact(str(error))
        said = name or detail or type(error).__name__
        where = f"the request to {self.settings.api.title} at {self.settings.base_url} failed"
        return TransportFailure(f"{where}: {said}.", sent=sent)

    def _reply(self, response: httpx.Response, body: bytes) -> HttpReply:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return HttpReply(status=response.status_code, headers=headers, body=body, redact=self.settings.redact)

    def _broken(self, response: httpx.Response, body: Body, error: Exception) -> HttpReply | TransportFailure:
        """
        Judge a reply whose body broke off.

        A refusal is one whatever its body; and an acceptance that can be read holds the id of a paid
        generation, whatever came after it.
        """
        reply = self._reply(response, body.take())
        if 400 <= reply.status < 500 or (reply.ok and isinstance(reply.json, dict)):
            return reply
        return self._failure(body.too_late() if body.late else error, sent=True)

    def _redacted(self, error: SeedanceError) -> SeedanceError:
        """Clean an error and what it came from, since tracebacks show both."""
        current: BaseException | None = error
        seen: set[int] = set()
        while current is not None and id(current) not in seen:
            seen.add(id(current))
            if isinstance(current, SeedanceError):
                self._clean_error(current)
            before = current.__cause__ or current.__context__
            if before is not None and not isinstance(before, SeedanceError):
                said = str(before)
                if self.settings.redact(said) != said:
                    # Not ours to rewrite.
                    current.__cause__ = current.__context__ = None
                    before = None
            current = before
        return error

    def _clean_error(self, error: SeedanceError) -> SeedanceError:
        error.message = self._cut(error.message, LONGEST_MESSAGE)
        error.vendor_code = self._cut(error.vendor_code, LONGEST_WORD) if error.vendor_code else None
        error.args = (error.message,)
        return error

    def _cut(self, text: str, longest: int) -> str:
        # Before it is cut: half a secret is a secret that no longer looks like one.
        text = self.settings.redact(text)
        return text if len(text) <= longest else text[:longest] + "…"

    def _clean(self, result: T) -> T:
        # What a flow returns instead of raising is shown to people later on.
        cleaned: Any = result
        if isinstance(result, (NotAccepted, Refused, Uncertain)):
            self._redacted(result.error)
        elif isinstance(result, Cancellation):
            cleaned = replace(result, reason=self._cut(result.reason, LONGEST_MESSAGE))
        elif isinstance(result, Accepted):
            cleaned = replace(result, generation=self._clean(result.generation))
        elif isinstance(result, Mapping):  # of a reading of many
            cleaned = {name: self._clean(value) for name, value in result.items()}
        elif isinstance(result, Generation):
            words = {"error_message": LONGEST_MESSAGE} | dict.fromkeys(_WORDS, LONGEST_WORD)
            told: dict[str, Any] = {
                name: self._cut(text, longest)
                for name, longest in words.items()
                if isinstance(text := getattr(result, name), str)
            }
            cleaned = replace(result, **told)
        return cast(T, cleaned)


class Client(_Base, Closing):
    """
    Drives flows with blocking calls.

    :param settings: The connection.
    :param observer: Who is told of every request and reply.
    :param sleep: Replaces :func:`time.sleep`, for tests.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        observer: Observer | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(settings, observer)
        self._sleep = sleep
        self._http = self._make(httpx.Client, _timed_transport)
        self._submissions: httpx.Client | None = None

    def run(self, flow: Flow[T]) -> T:
        """
        Drive a flow to its end.

        :raises SeedanceError: whatever the flow raises.
        """
        answer: HttpReply | TransportFailure | None = None
        try:
            while True:
                step = flow.send(answer)
                answer = None
                if isinstance(step, Pause):
                    self._sleep(step.seconds)
                else:
                    answer = self.send(step)
        except StopIteration as stop:
            result: T = stop.value
            return self._clean(result)
        except SeedanceError as error:
            raise self._redacted(error)  # noqa: B904 (the same error, its words cleaned)

    def send(self, call: HttpCall) -> HttpReply | TransportFailure:
        """Make one call. Never raises for what the network or the service does."""
        wire = self._begin(call)
        answer = self._exchange(call, wire)
        if wire.response is not None:
            self._keep_books(self._told, wire.response)
        return answer

    def _exchange(self, call: HttpCall, wire: _Wire) -> HttpReply | TransportFailure:
        try:
            http = self._for(call)
            with (
                within(wire.budget),
                http.stream(**self._request(call), extensions={"trace": wire.note}) as response,
            ):
                wire.response, body = response, _body_of(response, call)
                wire.budget.renew(body.seconds)
                try:
                    for chunk in response.iter_raw():
                        body.add(chunk)
                except _READ_ERRORS as error:
                    return self._broken(response, body, error)
            return self._reply(response, body.take())
        except (*_READ_ERRORS, httpx.InvalidURL) as error:
            return self._failure(error, wire.sent)
        except Exception as error:
            if not of_a_proxy(error):
                raise
            return self._failure(error, wire.sent)

    def _for(self, call: HttpCall) -> httpx.Client:
        # A connection kept from an earlier call may have been closed by the other side just now; a
        # submission that dies on it would be uncertain for no reason. So each gets one of its own.
        if call.method != "POST":
            return self._http
        if self._submissions is None:
            self._submissions = self._make(httpx.Client, _timed_transport, fresh=True)
        return self._submissions

    def close(self) -> None:
        """Close every connection."""
        self._http.close()
        if self._submissions is not None:
            self._submissions.close()


class AsyncClient(_Base):
    """Drives flows on an event loop; see :class:`Client`."""

    def __init__(self, settings: Settings, *, observer: Observer | None = None) -> None:
        super().__init__(settings, observer)
        self._http = self._make(httpx.AsyncClient, httpx.AsyncHTTPTransport)
        self._submissions: httpx.AsyncClient | None = None

    async def run(self, flow: Flow[T]) -> T:
        """
        Drive a flow to its end.

        :raises SeedanceError: whatever the flow raises.
        """
        answer: HttpReply | TransportFailure | None = None
        try:
            while True:
                step = flow.send(answer)
                answer = None
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                else:
                    answer = await self.send(step)
        except StopIteration as stop:
            result: T = stop.value
            return self._clean(result)
        except SeedanceError as error:
            raise self._redacted(error)  # noqa: B904 (the same error, its words cleaned)

    async def send(self, call: HttpCall) -> HttpReply | TransportFailure:
        """Make one call. Never raises for what the network or the service does."""
        wire = self._begin(call)
        answer = await self._exchange(call, wire)
        if wire.response is not None:
            self._keep_books(self._told, wire.response)
        return answer

    async def _exchange(self, call: HttpCall, wire: _Wire) -> HttpReply | TransportFailure:
        try:
            http = self._for(call)
            wire.timeout = asyncio.timeout(wire.budget.left)
            async with (
                wire.timeout,
                http.stream(**self._request(call), extensions={"trace": wire.anote}) as response,
            ):
                wire.response, body = response, _body_of(response, call)
                wire.timeout.reschedule(None)
                try:
                    async with asyncio.timeout(body.seconds):
                        async for chunk in response.aiter_raw():
                            body.add(chunk)
                except _READ_ERRORS as error:
                    return self._broken(response, body, error)
            return self._reply(response, body.take())
        except (*_READ_ERRORS, httpx.InvalidURL) as error:
            return self._failure(error, wire.sent)
        except Exception as error:
            if not of_a_proxy(error):
                raise
            return self._failure(error, wire.sent)

    def _for(self, call: HttpCall) -> httpx.AsyncClient:
        if call.method != "POST":
            return self._http
        if self._submissions is None:
            self._submissions = self._make(httpx.AsyncClient, httpx.AsyncHTTPTransport, fresh=True)
        return self._submissions

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()
        if self._submissions is not None:
            await self._submissions.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _timed_transport(**options: Any) -> httpx.HTTPTransport:
    transport = httpx.HTTPTransport(**options)
    # There is no public way to it. Should the attribute move, slow servers hold a worker longer; the tests
    # with such servers would tell.
    transport._pool._network_backend = TimedBackend()
    return transport


def tls_context(verify: bool | str) -> Any:
    """
    Return what httpx takes for ``verify``.

    :raises SeedanceConfigurationError: the CA bundle cannot be read; nothing was sent.
    """
    if isinstance(verify, bool):
        return httpx.create_ssl_context(
            verify=verify, trust_env=False
        )  # once: reading the certificates takes a while
    import ssl

    try:
        return ssl.create_default_context(cafile=verify)
    except OSError as error:
        raise SeedanceConfigurationError(
            f"verify in the connection's extra names {verify!r}, which is not a readable CA bundle: {error}"
        ) from error
