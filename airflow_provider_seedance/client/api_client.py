"""
HTTP clients of the services; the only module that imports httpx.

The flows (:mod:`airflow_provider_seedance.client.flows`) decide what to send; a client sends it. :class:`Client` and
:class:`AsyncClient` differ in a few ``await`` only. Whether the first byte of a request was sent before it failed is
taken from the transport, not from the kind of exception: it distinguishes *not accepted* from *uncertain*.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Generic, Protocol, Self, TypeVar

import httpx

from airflow_provider_seedance import __version__
from airflow_provider_seedance.apis.base import Flow
from airflow_provider_seedance.apis.messages import (
    MAX_JSON_VALUES,
    MAX_READ_JSON_VALUES,
    HttpCall,
    HttpReply,
    Pause,
    TransportFailure,
)
from airflow_provider_seedance.apis.rate_limits import RateLimit, read_rate_limit
from airflow_provider_seedance.client import deadlines
from airflow_provider_seedance.exceptions import SeedanceConfigurationError
from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.observability import metrics
from airflow_provider_seedance.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")
C = TypeVar("C", bound=httpx.Client | httpx.AsyncClient)

#: Identifies this package: proxies in front of the services refuse the default names of HTTP libraries.
USER_AGENT = f"airflow-provider-seedance/{__version__}"

#: Decompressed size of the reply to a submission.
MAX_BODY_BYTES = 64 * 1024 * 1024
#: Decompressed size of the reply to a read: 500 renders of a list are 700 KiB.
MAX_READ_BODY_BYTES = 1024 * 1024
#: Size of a reply that is read on the event loop; a larger one would stop it, a mebibyte for tenths of a second.
MAX_LOOP_BODY_BYTES = 4 * 1024
#: Decompressed size of the reply to a submission of images, which may hold them in base64.
MAX_IMAGE_BODY_BYTES = 1024 * 1024 * 1024
#: Decompressed size of an error reply, of which only the message is used.
MAX_ERROR_BODY_BYTES = 1024 * 1024

#: Connections that all generations of one base URL and key share in a triggerer.
MAX_CONNECTIONS = 16

#: TLS contexts kept in memory, one for each value of ``verify``: reading the certificates takes a while.
MAX_TLS_CONTEXTS = 16

_TIMEOUT_MESSAGES: Mapping[type[Exception], str] = {
    httpx.ConnectTimeout: "connecting took too long",
    httpx.ReadTimeout: "no answer in time",
    httpx.WriteTimeout: "the request could not be sent in time",
    httpx.PoolTimeout: "no connection was free in time",
    TimeoutError: "no answer in time",
}

_READ_ERRORS = (httpx.HTTPError, deadlines.ReplyLimitError, OSError, ValueError)


class _RequestTrace:
    """Trace of one request through the transport, to know whether its first byte was sent."""

    def __init__(self, method: str, answer_timeout: float) -> None:
        self._method = method.encode()
        self._answer_timeout = answer_timeout
        self.sent = False
        #: The response, as soon as its headers were received.
        self.response: httpx.Response | None = None
        #: Timeout of the whole request in a synchronous client, ...
        self.network_timeout = deadlines.NetworkTimeout(
            max(deadlines.MIN_SEND_TIMEOUT_SECONDS, answer_timeout)
        )
        #: ... and on an event loop.
        self.timeout = asyncio.Timeout(None)

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(".send_request_headers.started"):
            request = info.get("request")
            # A proxy is sent a CONNECT first, which is not the request itself.
            self.sent = self.sent or request is None or request.method == self._method
        elif event.endswith(".send_request_body.complete"):
            self.network_timeout.restart(self._answer_timeout)

    async def atrace(self, event: str, info: Mapping[str, Any]) -> None:
        self.trace(event, info)
        if event.endswith(".send_request_body.complete"):
            self.timeout.reschedule(asyncio.get_running_loop().time() + self._answer_timeout)


def _body_of(response: httpx.Response, call: HttpCall) -> deadlines.ReplyBody:
    max_bytes = MAX_IMAGE_BODY_BYTES if call.images else MAX_BODY_BYTES
    if call.method == "GET":
        max_bytes = MAX_READ_BODY_BYTES
    return deadlines.ReplyBody(
        response.headers.get("content-encoding", ""),
        max_bytes=max_bytes if response.is_success else MAX_ERROR_BODY_BYTES,
        timeout=response.request.extensions["timeout"]["read"],
    )


class Observer(Protocol):
    """Observer of the requests of a client, which accounts for a quota."""

    def sent(self) -> None:
        """Count a request."""

    def answered(self, limit: RateLimit, *, refused: bool) -> None:
        """Record the rate limit that a reply reports."""


class _Base(Generic[C]):
    """
    Base of both clients: turns calls into requests, and failures into messages.

    :param library_client: Class of the client of httpx.
    :param transport: Makes its transport.
    """

    def __init__(
        self,
        settings: Settings,
        observer: Observer | None,
        library_client: Callable[..., C],
        transport: Callable[..., Any],
    ) -> None:
        self.settings = settings
        self._observer = observer
        self._tls = tls_context(settings)
        self._library_client = library_client
        self._transport = transport
        self._http = self._make()
        self._submissions: C | None = None

    def _make(self, *, fresh: bool = False) -> C:
        kept = 0 if fresh else MAX_CONNECTIONS
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=kept)
        try:
            transport = self._transport(
                proxy=self.settings.proxy, verify=self._tls, trust_env=False, limits=limits
            )
            return self._library_client(transport=transport, **self._options())
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            # The message of the library may contain a part of the password.
            why = str(error) if isinstance(error, ImportError) else "its address cannot be read"
            raise SeedanceConfigurationError(
                f"{self.settings.source}: no client can be made with its proxy: {why}"
            ) from None

    def _options(self) -> dict[str, Any]:
        settings = self.settings
        # Not every encoding that an installed codec supports: replies are decompressed within bounds.
        accepted = {"Accept": "application/json", "Accept-Encoding": "gzip"}
        return {
            "headers": {"User-Agent": USER_AGENT, **accepted, **settings.auth()},
            "timeout": settings.call_timeout,
            # A service could make every later request larger with cookies.
            "cookies": CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            "follow_redirects": False,
            "trust_env": False,
        }

    def _client_for(self, call: HttpCall) -> C:
        # The service may be closing a connection that is kept alive; a submission that fails on it would be
        # uncertain for no reason. So each submission opens a connection.
        if call.kind != "submit":
            return self._http
        if self._submissions is None:
            self._submissions = self._make(fresh=True)
        return self._submissions

    def _timeout(self, call: HttpCall) -> float:
        return call.timeout if call.timeout is not None else self.settings.call_timeout

    def _request(self, call: HttpCall) -> dict[str, Any]:
        return {
            "method": call.method,
            "url": self.settings.api.url_of(call, self.settings.base_url),
            "params": list(call.query) or None,
            "timeout": self._timeout(call),
            "json": call.json,
        }

    def _start_request(self, call: HttpCall) -> _RequestTrace:
        self._notify_observer(self._count, call)
        return _RequestTrace(call.method, deadlines.PHASES_OF_A_CALL * self._timeout(call))

    def _count(self, call: HttpCall) -> None:
        metrics.count_request(self.settings.api.name, call.kind)
        if self._observer:
            self._observer.sent()

    def _observe_response(self, response: httpx.Response) -> None:
        refused = response.status_code == 429
        if refused:
            metrics.count_refusal(self.settings.api.name)
        if self._observer:
            self._observer.answered(read_rate_limit(response.headers, utc_now()), refused=refused)

    def _notify_observer(self, notify: Callable[[T], None], subject: T) -> None:
        """Notify the observer; its errors are only logged, because the reply may be about a paid generation."""
        try:
            notify(subject)
        except Exception as error:
            reason = self.settings.redact(f"{type(error).__name__}: {error}")
            log.warning("Rate-limit accounting for %s failed: %s", self.settings.api.title, reason)

    def _failure(self, error: Exception, sent: bool) -> TransportFailure:
        """Return the failure for an error of the network; raise any other."""
        if not (isinstance(error, (*_READ_ERRORS, httpx.InvalidURL)) or deadlines.is_socks_error(error)):
            raise error
        why = _TIMEOUT_MESSAGES.get(type(error)) or self.settings.redact(str(error)) or type(error).__name__
        return TransportFailure(f"{self.settings.source}: the request failed: {why}.", sent=sent)

    def _reply(self, response: httpx.Response, body: bytes) -> HttpReply:
        return HttpReply(
            status=response.status_code,
            headers={name.lower(): value for name, value in response.headers.items()},
            body=body,
            source=self.settings.source,
            redact=self.settings.redact,
            max_values=MAX_READ_JSON_VALUES if response.request.method == "GET" else MAX_JSON_VALUES,
        )

    def _incomplete_reply(
        self, response: httpx.Response, body: deadlines.ReplyBody, error: Exception
    ) -> HttpReply | TransportFailure:
        """
        Return the reply whose body broke off where it can be used, else the failure.

        A refusal needs no body, and an acceptance that can be parsed contains the id of a paid generation.
        """
        reply = self._reply(response, body.detach())
        if 400 <= reply.status < 500 or (reply.ok and isinstance(reply.json, dict)):
            return reply
        return self._failure(body.timeout_error() if body.timed_out else error, sent=True)


class Client(_Base[httpx.Client]):
    """
    Client that drives flows with blocking calls.

    :param settings: The connection.
    :param observer: Notified of every request and reply.
    :param sleep: Replaces :func:`time.sleep`, for tests.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        observer: Observer | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(settings, observer, httpx.Client, _timed_transport)
        self._sleep = sleep

    def run(self, flow: Flow[T]) -> T:
        """
        Drive a flow to its end.

        :raises SeedanceError: the error of the flow.
        """
        answer: HttpReply | TransportFailure | None = None
        while True:
            step, ended = _advance(flow, answer)
            if ended:
                result: T = step
                return result
            answer = None
            if isinstance(step, Pause):
                self._sleep(step.seconds)
            else:
                answer = self.send(step)

    def send(self, call: HttpCall) -> HttpReply | TransportFailure:
        """Make one call. Never raises for failures of the network or the service."""
        trace = self._start_request(call)
        answer = self._exchange(call, trace)
        if trace.response is not None:
            self._notify_observer(self._observe_response, trace.response)
        return answer

    def _exchange(self, call: HttpCall, trace: _RequestTrace) -> HttpReply | TransportFailure:
        try:
            with (
                deadlines.enforce(trace.network_timeout),
                self._client_for(call).stream(
                    **self._request(call), extensions={"trace": trace.trace}
                ) as response,
            ):
                trace.response, body = response, _body_of(response, call)
                trace.network_timeout.restart(body.timeout)
                try:
                    for chunk in response.iter_raw():
                        body.add(chunk)
                except _READ_ERRORS as error:
                    return self._incomplete_reply(response, body, error)
            return self._reply(response, body.detach())
        except Exception as error:
            return self._failure(error, trace.sent)

    def close(self) -> None:
        self._http.close()
        if self._submissions is not None:
            self._submissions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class AsyncClient(_Base[httpx.AsyncClient]):
    """Client that drives flows on an event loop; see :class:`Client`."""

    def __init__(self, settings: Settings, *, observer: Observer | None = None) -> None:
        super().__init__(settings, observer, httpx.AsyncClient, _yielding_transport)
        # One thread: each would take its share of the interpreter from the event loop.
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="seedance-reader")

    async def run(self, flow: Flow[T]) -> T:
        """Drive a flow to its end."""
        answer: HttpReply | TransportFailure | None = None
        while True:
            if isinstance(answer, HttpReply) and len(answer.body) > MAX_LOOP_BODY_BYTES:
                loop = asyncio.get_running_loop()
                step, ended = await loop.run_in_executor(self._reader, _advance, flow, answer)
            else:
                step, ended = _advance(flow, answer)
            if ended:
                result: T = step
                return result
            answer = None
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            else:
                answer = await self.send(step)

    async def send(self, call: HttpCall) -> HttpReply | TransportFailure:
        """Make one call. Never raises for failures of the network or the service."""
        trace = self._start_request(call)
        answer = await self._exchange(call, trace)
        if trace.response is not None:
            self._notify_observer(self._observe_response, trace.response)
        return answer

    async def _exchange(self, call: HttpCall, trace: _RequestTrace) -> HttpReply | TransportFailure:
        try:
            trace.timeout = asyncio.timeout(trace.network_timeout.remaining)
            async with (
                trace.timeout,
                self._client_for(call).stream(
                    **self._request(call), extensions={"trace": trace.atrace}
                ) as response,
            ):
                trace.response, body = response, _body_of(response, call)
                trace.timeout.reschedule(None)
                try:
                    async with asyncio.timeout(body.timeout):
                        async for chunk in response.aiter_raw():
                            body.add(chunk)
                except _READ_ERRORS as error:
                    return self._incomplete_reply(response, body, error)
            return self._reply(response, body.detach())
        except Exception as error:
            return self._failure(error, trace.sent)

    async def close(self) -> None:
        self._reader.shutdown(wait=False, cancel_futures=True)
        await self._http.aclose()
        if self._submissions is not None:
            await self._submissions.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


def _advance(flow: Flow[Any], answer: HttpReply | TransportFailure | None) -> tuple[Any, bool]:
    """Return the next step of a flow, or its result and ``True``: StopIteration cannot leave a thread."""
    try:
        return flow.send(answer), False
    except StopIteration as stop:
        return stop.value, True


def _timed_transport(**options: Any) -> httpx.HTTPTransport:
    transport = httpx.HTTPTransport(**options)
    # httpx has no public option for this. If the attribute moves, slow servers hold a worker longer, and the tests
    # with such servers fail.
    transport._pool._network_backend = deadlines.TimedBackend()
    # A signal such as execution_timeout may raise between the acquisition of this lock and its with block, so that it is
    # never released: the same thread can still close the pool. httpcore has it since 1.0.3.
    if lock := getattr(transport._pool, "_optional_thread_lock", None):
        lock._lock = threading.RLock()
    return transport


def _yielding_transport(**options: Any) -> httpx.AsyncHTTPTransport:
    transport = httpx.AsyncHTTPTransport(**options)
    transport._pool._network_backend = deadlines.YieldingBackend()  # as above
    return transport


def tls_context(settings: Settings) -> ssl.SSLContext:
    """
    Return the TLS context for the connection's ``verify``, which clients share until the CA bundle changes.

    :raises SeedanceConfigurationError: the CA bundle cannot be read; nothing was sent.
    """
    verify = settings.verify
    try:
        return _load_tls_context(verify, os.stat(verify).st_mtime_ns if isinstance(verify, str) else 0)
    except OSError as error:
        raise SeedanceConfigurationError(
            f"{settings.source}: verify in the extra names {verify!r}, which is not a readable CA bundle: {error}. "
            "Nothing was sent."
        ) from error


@lru_cache(maxsize=MAX_TLS_CONTEXTS)
def _load_tls_context(verify: bool | str, _modified: int) -> ssl.SSLContext:
    if isinstance(verify, str):
        return ssl.create_default_context(cafile=verify)
    return httpx.create_ssl_context(verify=verify, trust_env=False)
