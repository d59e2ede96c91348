"""
Downloads of generated media, from public https hosts only.

A result URL is data from outside: it may name a host of the own network, by its text, by what its name
resolves to, or by a redirect. So every hop is judged by its text (:func:`media_url_problem`) and by all
addresses its name resolves to (:func:`address_problem`), and the connection goes to a judged address
itself, so that a name cannot resolve to another one in between; TLS still checks the host's name. Hosts
named in ``media_hosts`` are trusted by name, whatever they resolve to.

Behind ``proxy`` the proxy resolves names. There the text of the URL is judged, names and literal addresses,
and nothing else: what a name resolves to is for the proxy to police.

Nothing but the request for the file is sent: no API key, no cookies, no user info of the URL.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

import httpcore

from airflow_provider_seedance.client import api_client
from airflow_provider_seedance.client.deadlines import PHASES, Budget, TimedBackend, of_a_proxy, within
from airflow_provider_seedance.closing import Closing
from airflow_provider_seedance.exceptions import SeedanceConfigurationError
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.urls import MediaHosts, address_problem, media_url_problem, redact_url

MAX_REDIRECTS = 5

#: Seconds of waiting for a media host, in which less than :data:`LEAST_BYTES` must not come. What storing them
#: takes does not count.
PACE_SECONDS = 120.0
LEAST_BYTES = 128 * 1024

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

#: Everything of ASCII that a URL may hold already; a signature would not survive quoting anew.
_KEPT = "".join(chr(code) for code in range(33, 127))


class MediaAddressError(Exception):
    """A URL, or where it leads, is not one that media may come from. Nothing was sent there."""


class MediaConnectionError(Exception):
    """A media host could not be reached, or the connection broke. Another try may do better."""


class MediaTooSlowError(MediaConnectionError):
    """A media host sends next to nothing, and would go on like that for days."""


@dataclass(frozen=True)
class ContentRange:
    """
    What a partial reply holds.

    :param start: First byte, or ``None`` where a range was refused.
    :param total: Bytes of the whole file, or ``None`` where the server does not tell.
    """

    start: int | None
    total: int | None


class MediaStream(Closing):
    """
    One reply of a media host; its body is read piece by piece. Close it after use.

    :param url: Where the reply came from, after redirects.
    :param headers: Names in lower case.
    """

    def __init__(self, url: str, response: httpcore.Response, settings: Settings) -> None:
        self.url = url
        self.status: int = response.status
        self.headers: Mapping[str, str] = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers
        }
        self._response = response
        self._settings = settings

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters; empty where none was sent."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def content_encoding(self) -> str | None:
        """How the body is packed, although we asked for it as it is; ``None`` if it is not."""
        encoding = self.headers.get("content-encoding", "").strip().lower()
        return None if encoding in ("", "identity") else encoding

    @property
    def content_length(self) -> int | None:
        """Bytes of this body as announced, or ``None``."""
        text = self.headers.get("content-length", "")
        return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None

    @property
    def content_range(self) -> ContentRange | None:
        """What part of the file this is, or ``None`` where the server does not (intelligibly) tell."""
        match = re.fullmatch(
            r"bytes\s+(?:([0-9]{1,18})-[0-9]{1,18}|\*)/([0-9]{1,18}|\*)",
            self.headers.get("content-range", "").strip().lower(),
        )
        if not match:
            return None
        start, total = match.groups()
        return ContentRange(int(start) if start else None, int(total) if total != "*" else None)

    @property
    def validator(self) -> str | None:
        """What ``If-Range`` takes to tell whether the file is still the same: a strong ETag, or a date."""
        etag = self.headers.get("etag", "").strip()
        if etag.startswith('"'):
            return etag
        return self.headers.get("last-modified") or None

    def chunks(self) -> Iterator[bytes]:
        """
        Yield the body as it comes, in pieces of at most 64 KiB.

        :raises MediaConnectionError: the connection broke, or the body is shorter than announced.
        :raises MediaTooSlowError: the host does not get on with it.
        """
        pieces = iter(self._response.iter_stream())
        budget, received = Budget(PACE_SECONDS), 0
        while True:
            with _network_errors(self._settings, self.url, budget), within(budget):
                chunk = next(pieces, None)
            if chunk is None:
                return
            received += len(chunk)
            if received >= LEAST_BYTES:
                budget.renew(PACE_SECONDS)
                received = 0
            if chunk:
                yield chunk

    def close(self) -> None:
        """Close the reply, and its connection if the body was not read to its end."""
        self._response.close()


class MediaClient(Closing):
    """
    Fetches media for one connection. May be used by several threads at once.

    :param settings: The connection: ``media_hosts``, ``proxy``, ``verify`` and ``timeout`` apply.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool = _pool(settings)

    def open(self, url: str, *, offset: int = 0, validator: str | None = None) -> MediaStream:
        """
        Ask for a file, following redirects, and return the reply whatever its status.

        :param offset: First byte wanted.
        :param validator: Of an earlier reply; a file that changed since is sent from its first byte.
        :raises MediaAddressError: media may not come from there.
        :raises MediaConnectionError: the host could not be reached.
        """
        headers = {"User-Agent": api_client.USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if validator:
                headers["If-Range"] = validator
        for _ in range(MAX_REDIRECTS + 1):
            address = _Address.of(url)
            reason = media_url_problem(address.url, self._settings.media_hosts)
            if reason:
                raise MediaAddressError(reason)
            stream = self._send(address, headers)
            location = stream.headers.get("location")
            if stream.status not in _REDIRECTS or not location:
                return stream
            stream.close()
            url = _follow(address.url, location)
        raise MediaAddressError(f"more than {MAX_REDIRECTS} redirects, the last one to {redact_url(url)}")

    def _send(self, address: _Address, headers: Mapping[str, str]) -> MediaStream:
        seconds = self._settings.call_timeout
        request = httpcore.Request(
            "GET",
            address.target,
            headers=[("Host", address.host_header), *headers.items()],
            extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), seconds)},
        )
        budget = Budget(PHASES * seconds)
        with _network_errors(self._settings, address.url), within(budget):
            return MediaStream(address.url, self._pool.handle_request(request), self._settings)

    @property
    def max_bytes(self) -> int:
        """Most bytes that one file may have."""
        return self._settings.max_media_bytes

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()


@dataclass(frozen=True)
class _Address:
    """A URL taken apart once, so that what is judged is what is connected to."""

    url: str
    target: httpcore.URL = field(compare=False)
    host_header: str

    @classmethod
    def of(cls, url: str) -> _Address:
        try:
            parts = urlsplit(url.strip())
            host, port, scheme = parts.hostname or "", parts.port, parts.scheme.lower()
            if not host.isascii():
                host = host.encode("idna").decode("ascii")
        except ValueError:  # UnicodeError is one
            raise MediaAddressError(f"it is not a URL: {redact_url(url)!r}") from None
        if not host:  # put together again, its path would be taken for a host that nobody connects to
            raise MediaAddressError(f"it is not an http(s) URL: {redact_url(url)!r}")
        bracketed = f"[{host}]" if ":" in host else host
        netloc = f"{bracketed}:{port}" if port is not None else bracketed
        path = quote(parts.path or "/", safe=_KEPT)
        if parts.query:
            path += "?" + quote(parts.query, safe=_KEPT)
        target = httpcore.URL(scheme=scheme, host=host, port=port, target=path)
        return cls(url=f"{scheme}://{netloc}{path}", target=target, host_header=netloc)


def _follow(url: str, location: str) -> str:
    try:
        # Header values come as Latin-1; a location beyond ASCII is UTF-8 in practice.
        location = location.encode("latin-1").decode("utf-8")
        return urljoin(url, location)
    except ValueError:
        raise MediaAddressError(f"{redact_url(url)} redirects to something that is not a URL") from None


class _GuardedBackend(httpcore.NetworkBackend):
    """Connects to public addresses only, and to the very addresses it judged."""

    def __init__(self, hosts: MediaHosts) -> None:
        self._hosts = hosts
        self._sockets = TimedBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = _resolve(host, port)
        reason = address_problem(host, port, addresses, self._hosts)
        if reason:
            raise MediaAddressError(reason)
        failure: Exception = httpcore.ConnectError(f"{host} resolves to no address")
        for address in addresses:
            try:
                return self._sockets.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


def _resolve(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _pool(settings: Settings) -> httpcore.ConnectionPool:
    # No connection is kept: files are few and long, and each connection is judged when it is made.
    options: dict[str, Any] = {
        "ssl_context": api_client.tls_context(settings.verify),
        "max_connections": None,
        "max_keepalive_connections": 0,
    }
    if not settings.proxy:
        return httpcore.ConnectionPool(network_backend=_GuardedBackend(settings.media_hosts), **options)
    try:
        parts = urlsplit(settings.proxy)
        options["network_backend"] = TimedBackend()
        options["proxy_url"] = httpcore.URL(
            scheme=parts.scheme.replace("socks5h", "socks5"),
            host=parts.hostname or "",
            port=parts.port or {"https": 443, "http": 80}.get(parts.scheme, 1080),
            target="/",
        )
        if parts.username:
            options["proxy_auth"] = (unquote(parts.username), unquote(parts.password or ""))
        if parts.scheme.startswith("socks5"):
            return httpcore.SOCKSProxy(**options)
        return httpcore.HTTPProxy(**options)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        # What the library says of a proxy may repeat a part of its password.
        why = str(error) if isinstance(error, (ImportError, RuntimeError)) else "its address cannot be read"
        raise SeedanceConfigurationError(
            f"Connection {settings.conn_id!r}: media cannot be fetched through its proxy: {why}"
        ) from None


@contextmanager
def _network_errors(settings: Settings, url: str, budget: Budget | None = None) -> Iterator[None]:
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.UnsupportedProtocol,
        OSError,
    ) as error:
        host = urlsplit(url).hostname
        if budget is not None and budget.left <= 0:
            raise MediaTooSlowError(
                f"{host}: less than {LEAST_BYTES} bytes came in {PACE_SECONDS:g} seconds"
            ) from error
        said = settings.redact(str(error)) or type(error).__name__
        raise MediaConnectionError(f"{host}: {said}") from error
    except Exception as error:
        if not of_a_proxy(error):
            raise
        raise MediaConnectionError(f"{urlsplit(url).hostname}: {settings.redact(str(error))}") from error
