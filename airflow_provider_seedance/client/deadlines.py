"""
How long and how much: what the other side of a connection may make us wait for, and hold in memory.

The timeouts of HTTP libraries are between two bytes. A server that sends one byte now and then, or one
interim response after the other, never breaks them and would hold a worker for ever; a few kilobytes of
compressed zeros become gigabytes. So a call has a :class:`Budget` of time, which every read and write of
its connection draws on, and a :class:`Body` is unpacked here, piece by piece, within bounds.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http.cookiejar import CookieJar
from typing import Any

import httpcore

#: A call may take so many times its timeout: to connect, to wait for the answer, and to read it.
PHASES = 3

#: Seconds that sending a request may take at the least; inputs can be large and uplinks slow.
SENDING = 600.0

#: Bytes that are written between two looks at the budget.
_PIECE = 64 * 1024

#: Bytes that are unpacked at once.
_UNPACKED = 1024 * 1024


class Budget:
    """
    Seconds that may be spent on the network.

    :param seconds: How many.
    """

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def renew(self, seconds: float) -> None:
        """Begin a new phase with so many seconds."""
        self.left = seconds

    @contextmanager
    def spend(self, timeout: float | None, error: type[Exception]) -> Iterator[float]:
        """
        Spend time on one operation, which is given the timeout that is left to it.

        :raises httpcore.TimeoutException: nothing is left.
        """
        if self.left <= 0:
            raise error("it went on for too long")
        began = time.monotonic()
        try:
            yield self.left if timeout is None else min(timeout, self.left)
        finally:
            self.left -= time.monotonic() - began


_budget: ContextVar[Budget | None] = ContextVar("seedance_network_budget", default=None)


@contextmanager
def within(budget: Budget) -> Iterator[None]:
    """Let what is read and written by :class:`TimedBackend` connections meanwhile draw on a budget."""
    token = _budget.set(budget)
    try:
        yield
    finally:
        _budget.reset(token)


@contextmanager
def _spend(timeout: float | None, error: type[Exception]) -> Iterator[float | None]:
    budget = _budget.get()
    if budget is None:
        yield timeout
        return
    with budget.spend(timeout, error) as left:
        yield left


class TimedStream(httpcore.NetworkStream):
    """A connection whose reads and writes draw on the budget of the call that makes them."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what is there."""
        with _spend(timeout, httpcore.ReadTimeout) as left:
            return self._stream.read(max_bytes, left)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write, in pieces: a peer that takes a byte now and then is one that hangs."""
        for start in range(0, len(buffer), _PIECE):
            with _spend(timeout, httpcore.WriteTimeout) as left:
                self._stream.write(buffer[start : start + _PIECE], left)

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Go on in TLS."""
        with _spend(timeout, httpcore.ConnectTimeout) as left:
            return TimedStream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        """Return what the connection tells of itself."""
        return self._stream.get_extra_info(info)


class TimedBackend(httpcore.NetworkBackend):
    """Makes connections that draw on the budget of the call that uses them (:func:`within`)."""

    def __init__(self, backend: httpcore.NetworkBackend | None = None) -> None:
        self._backend = backend or httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect."""
        with _spend(timeout, httpcore.ConnectTimeout) as left:
            return TimedStream(self._backend.connect_tcp(host, port, left, local_address, socket_options))


def of_a_proxy(error: Exception) -> bool:
    """Whether a SOCKS proxy spoke nonsense: the one library (an optional one) whose errors nobody translates."""
    return type(error).__module__.startswith("socksio")


class TooLong(Exception):
    """A reply went on beyond any documented length, or for too long."""


class NoCookies(CookieJar):
    """Keeps none: a service could make every later request larger, and a triggerer's memory with them."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        """Keep nothing."""


class Body:
    """
    Collects the body of a reply as it comes from the wire.

    :param encoding: The ``Content-Encoding``: ``gzip`` or none. Several of them, one around the other,
        multiply what a bomb weighs, and no service sends them.
    :param longest: Most bytes, unpacked.
    :param seconds: Most seconds until it is complete.
    """

    def __init__(self, encoding: str, *, longest: int, seconds: float) -> None:
        self.seconds = seconds
        self._until = time.monotonic() + seconds
        self._longest = longest
        self._bytes = bytearray()
        self._encoding = encoding.strip().lower()
        self._unpack = zlib.decompressobj(31) if self._encoding in ("gzip", "x-gzip") else None

    def add(self, chunk: bytes) -> None:
        """
        Take in what came.

        :raises TooLong: it is too much, or too late.
        :raises ValueError: it cannot be unpacked.
        """
        if self._unpack is not None:
            self._inflate(self._unpack, chunk)
        elif self._encoding in ("", "identity"):
            self._bytes += chunk
        else:
            raise ValueError(f"the answer is packed as {self._encoding[:40]!r}, which nobody asked for")
        if len(self._bytes) > self._longest:
            raise TooLong(f"the answer is longer than {self._longest} bytes")
        if self.late:
            raise self.too_late()

    def _inflate(self, unpack: Any, chunk: bytes) -> None:
        try:
            # In pieces: at once there would be two copies of all that a few bytes become.
            while room := min(_UNPACKED, self._longest + 1 - len(self._bytes)):
                piece = unpack.decompress(chunk, room)
                self._bytes += piece
                chunk = unpack.unconsumed_tail
                if len(piece) < room and not chunk:
                    break
        except zlib.error as error:
            raise ValueError(f"the answer cannot be unpacked: {error}") from None

    @property
    def late(self) -> bool:
        """Whether it should be complete by now."""
        return time.monotonic() >= self._until

    def too_late(self) -> TooLong:
        """Return the error that says so."""
        return TooLong(f"the answer was not complete {self.seconds:g} seconds after it began")

    def take(self) -> bytes:
        """Return what has come, and keep nothing of it: it may be large."""
        taken, self._bytes = self._bytes, bytearray()
        return bytes(taken)
