"""
Downloads of generated media, from public https hosts only.

A result URL is untrusted: it may lead into the own network, by its text, by the addresses of its name, or by a
redirect. So for every hop the text (:func:`media_url_problem`) and all addresses of the name
(:func:`address_problem`) are checked, and the connection is made to a checked address, so that the name cannot
resolve to another one in between; TLS still verifies the host's name. Hosts named in ``media_hosts`` are trusted
by name, independent of their addresses.

With ``proxy`` the proxy resolves names: only the text of the URL is checked, and the proxy has to restrict what
names resolve to.

Requests carry no API key, no cookies, and no user info of the URL.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote, unquote, urljoin, urlsplit

import httpcore

from airflow_provider_seedance.client import api_client, deadlines
from airflow_provider_seedance.exceptions import SeedanceConfigurationError
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.urls import MediaHosts, address_problem, media_url_problem, redact_url

MAX_REDIRECTS = 5

#: Network time after which a download fails that has received less than :data:`MIN_BYTES_PER_STALL_TIMEOUT` in it.
#: The time for storing the bytes does not count.
STALL_TIMEOUT_SECONDS = 120.0
MIN_BYTES_PER_STALL_TIMEOUT = 128 * 1024

_NETWORK_ERRORS = (
    *(httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError),
    *(httpcore.UnsupportedProtocol, OSError),
)

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

#: Printable ASCII is not quoted again: that would invalidate the signature of a URL.
_KEPT = "".join(chr(code) for code in range(33, 127))


class MediaAddressError(Exception):
    """Media may not be downloaded from this URL, or from an address it leads to. Nothing was sent there."""


class MediaConnectionError(Exception):
    """A media host could not be reached, or the connection broke. A retry helps."""


class MediaTooSlowError(MediaConnectionError):
    """A media host sends too little (:data:`MIN_BYTES_PER_STALL_TIMEOUT`)."""


@dataclass(frozen=True)
class ContentRange:
    """
    Range of a partial reply.

    :param start: First byte, or ``None`` where the range was refused.
    :param total: Size of the whole file in bytes, or ``None`` where the server does not send it.
    """

    start: int | None
    total: int | None


class MediaStream:
    """
    Reply of a media host, whose body is read in chunks. Close it after use.

    :param url: URL of the reply, after redirects.
    """

    def __init__(self, url: str, response: httpcore.Response, settings: Settings) -> None:
        self.url = url
        self.status: int = response.status
        #: Header fields by lower-case name.
        self.headers: Mapping[str, str] = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers
        }
        self._response = response
        self._settings = settings

    @property
    def content_type(self) -> str:
        """Media type in lower case, without parameters; empty where none was sent."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def content_encoding(self) -> str | None:
        """Encoding of the body, although none was requested; ``None`` if there is none."""
        encoding = self.headers.get("content-encoding", "").strip().lower()
        return None if encoding in ("", "identity") else encoding

    @property
    def content_length(self) -> int | None:
        """Size of this body by its header, or ``None``."""
        text = self.headers.get("content-length", "")
        return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None

    @property
    def content_range(self) -> ContentRange | None:
        """Range of the file in this body, or ``None`` without a valid header."""
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
        """Value for ``If-Range``: a strong ETag, or the date of the last change."""
        etag = self.headers.get("etag", "").strip()
        return etag if etag.startswith('"') else self.headers.get("last-modified") or None

    def chunks(self) -> Iterator[bytes]:
        """
        Yield the body in chunks of at most 64 KiB.

        :raises MediaConnectionError: the connection broke, or the body is shorter than announced.
        :raises MediaTooSlowError: the host sends too little.
        """
        body = iter(self._response.iter_stream())
        timeout, received = deadlines.NetworkTimeout(STALL_TIMEOUT_SECONDS), 0
        while True:
            with _network_errors(self._settings, self.url, timeout), deadlines.enforce(timeout):
                chunk = next(body, None)
            if chunk is None:
                return
            received += len(chunk)
            if received >= MIN_BYTES_PER_STALL_TIMEOUT:
                timeout.restart(STALL_TIMEOUT_SECONDS)
                received = 0
            if chunk:
                yield chunk

    def close(self) -> None:
        """Close the reply, and its connection if the body was not read to its end."""
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class MediaClient:
    """
    Client for downloads of one connection, safe to share between threads.

    :param settings: The connection: ``media_hosts``, ``proxy``, ``verify`` and ``timeout`` apply.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool = _pool(settings)

    def open(self, url: str, *, offset: int = 0, validator: str | None = None) -> MediaStream:
        """
        Request a file, following redirects, and return the reply with any status.

        :param offset: First byte to request.
        :param validator: :attr:`MediaStream.validator` of an earlier reply; a file that has changed since is sent
            from its first byte.
        :raises MediaAddressError: media may not be downloaded from there.
        :raises MediaConnectionError: the host could not be reached.
        """
        headers = {"User-Agent": api_client.USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if validator:
                headers["If-Range"] = validator
        for _ in range(MAX_REDIRECTS + 1):
            address = _Address.of(url)
            if reason := media_url_problem(address.url, self._settings.media_hosts):
                raise MediaAddressError(reason)
            # Not for the host of a redirect.
            stream = self._send(address, {**headers, **self._settings.media_auth(address.url)})
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
        with (
            _network_errors(self._settings, address.url),
            deadlines.enforce(deadlines.NetworkTimeout(deadlines.PHASES_OF_A_CALL * seconds)),
        ):
            return MediaStream(address.url, self._pool.handle_request(request), self._settings)

    @property
    def max_bytes(self) -> int:
        """Size limit of a file."""
        return self._settings.max_media_bytes

    def close(self) -> None:
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Address:
    """URL that is parsed once, so that the checked address and the one connected to are the same."""

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
        if not host:  # put together again, the path would become the host
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
        # Header values are decoded as Latin-1; a location beyond ASCII is UTF-8 in practice.
        location = location.encode("latin-1").decode("utf-8")
        return urljoin(url, location)
    except ValueError:
        raise MediaAddressError(f"{redact_url(url)} redirects to something that is not a URL") from None


class _GuardedBackend(deadlines.TimedBackend):
    """Network backend that connects to the addresses it has checked only."""

    def __init__(self, hosts: MediaHosts) -> None:
        super().__init__()
        self._hosts = hosts

    def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> httpcore.NetworkStream:
        addresses = _resolve(host, port)
        if reason := address_problem(host, port, addresses, self._hosts):
            raise MediaAddressError(reason)
        failure: Exception = httpcore.ConnectError(f"{host} resolves to no address")
        for address in addresses:
            try:
                return super().connect_tcp(address, port, *args, **options)
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
    # No connection is kept alive: files are few and long, and each connection is checked when it is made.
    options: dict[str, Any] = {
        "ssl_context": api_client.tls_context(settings),
        "max_connections": None,
        "max_keepalive_connections": 0,
    }
    if not settings.proxy:
        return httpcore.ConnectionPool(network_backend=_GuardedBackend(settings.media_hosts), **options)
    try:
        parts = urlsplit(settings.proxy)
        options["network_backend"] = deadlines.TimedBackend()
        options["proxy_url"] = httpcore.URL(
            scheme=parts.scheme.replace("socks5h", "socks5"),
            host=parts.hostname or "",
            port=parts.port or {"https": 443, "http": 80}.get(parts.scheme, 1080),
            target="/",
        )
        if parts.username:
            options["proxy_auth"] = (unquote(parts.username), unquote(parts.password or ""))
        is_socks = parts.scheme.startswith("socks5")
        return httpcore.SOCKSProxy(**options) if is_socks else httpcore.HTTPProxy(**options)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        # The message of the library may contain a part of the password.
        why = str(error) if isinstance(error, (ImportError, RuntimeError)) else "its address cannot be read"
        raise SeedanceConfigurationError(
            f"{settings.source}: media cannot be fetched through its proxy: {why}"
        ) from None


@contextmanager
def _network_errors(
    settings: Settings, url: str, timeout: deadlines.NetworkTimeout | None = None
) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not (isinstance(error, _NETWORK_ERRORS) or deadlines.is_socks_error(error)):
            raise
        host = urlsplit(url).hostname
        if timeout is not None and timeout.remaining <= 0:
            raise MediaTooSlowError(
                f"{host}: less than {MIN_BYTES_PER_STALL_TIMEOUT} bytes were received in {STALL_TIMEOUT_SECONDS:g} seconds"
            ) from error
        reason = settings.redact(str(error)) or type(error).__name__
        raise MediaConnectionError(f"{host}: {reason}") from error
