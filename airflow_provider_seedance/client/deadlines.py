"""
Bounds of time and memory for the replies of a server.

The timeouts of HTTP libraries apply between two bytes. A server that sends a byte now and then, or one interim
response after the other, never exceeds them and would hold a worker without end; a few kilobytes of compressed
zeros become gigabytes. So a call has a :class:`NetworkTimeout`, which every read and write of its connection
counts against, and a :class:`ReplyBody` is decompressed piece by piece, within bounds. On an event loop, thousands of
tiny chunks or header lines that arrive together must not stop everything else (:class:`YieldingStream`).
"""

from __future__ import annotations

import asyncio
import re
import time
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import httpcore

#: Phases of a call, each of which may take its timeout: connecting, waiting for the answer, reading it.
PHASES_OF_A_CALL = 3

#: Timeout for sending a request: inputs can be large and uplinks slow.
MIN_SEND_TIMEOUT_SECONDS = 600.0

#: Bytes that are written before the timeout is checked again.
_WRITE_CHUNK_BYTES = 64 * 1024

#: Bytes that are decompressed at once.
_INFLATE_CHUNK_BYTES = 1024 * 1024

#: Bytes that an event loop parses at once: they may be a thousand chunks or interim responses.
_READ_BYTES = 8 * 1024

#: Limit of the headers of a reply, with those of its interim responses; their lines may be of four bytes.
MAX_HEAD_BYTES = 16 * 1024

_HEAD_END = re.compile(rb"\n\r?\n")
_INTERIM_RESPONSE = re.compile(rb"HTTP/1\.\d 1")


class NetworkTimeout:
    """
    Time that the network operations of a call may take together; time between them does not count.

    :param seconds: Time until the timeout.
    """

    def __init__(self, seconds: float) -> None:
        self.remaining = seconds

    def restart(self, seconds: float) -> None:
        """Start a new phase of the call."""
        self.remaining = seconds

    @contextmanager
    def measure(self, timeout: float | None, error: type[Exception]) -> Iterator[float | None]:
        """
        Count one operation, and return the timeout that is left for it.

        :raises httpcore.TimeoutException: no time is left.
        """
        if self.remaining <= 0:
            raise error("it went on for too long")
        started = time.monotonic()
        try:
            yield self.remaining if timeout is None else min(timeout, self.remaining)
        finally:
            self.remaining -= time.monotonic() - started


_current: ContextVar[NetworkTimeout | None] = ContextVar("seedance_network_timeout", default=None)


@contextmanager
def enforce(timeout: NetworkTimeout) -> Iterator[None]:
    """Count the reads and writes of :class:`TimedBackend` connections in this block against a timeout."""
    token = _current.set(timeout)
    try:
        yield
    finally:
        _current.reset(token)


def _measured(timeout: float | None, error: type[Exception]) -> AbstractContextManager[float | None]:
    current = _current.get()
    return current.measure(timeout, error) if current else nullcontext(timeout)


class TimedStream(httpcore.NetworkStream):
    """Connection whose operations count against the :class:`NetworkTimeout` of the call that makes them."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _measured(timeout, httpcore.ReadTimeout) as remaining:
            return self._stream.read(max_bytes, remaining)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write in chunks, so that a peer that accepts a byte now and then runs into the timeout."""
        for start in range(0, len(buffer), _WRITE_CHUNK_BYTES):
            with _measured(timeout, httpcore.WriteTimeout) as remaining:
                self._stream.write(buffer[start : start + _WRITE_CHUNK_BYTES], remaining)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        with _measured(timeout, httpcore.ConnectTimeout) as remaining:
            return TimedStream(self._stream.start_tls(ssl_context, server_hostname, remaining))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class TimedBackend(httpcore.NetworkBackend):
    """Network backend of connections that count against a timeout (:func:`enforce`)."""

    def __init__(self, backend: httpcore.NetworkBackend | None = None) -> None:
        self._backend = backend or httpcore.SyncBackend()

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **options: Any
    ) -> httpcore.NetworkStream:
        with _measured(timeout, httpcore.ConnectTimeout) as remaining:
            stream = self._backend.connect_tcp(host, port, remaining, *args, **options)
            return TimedStream(stream)


class YieldingStream(httpcore.AsyncNetworkStream):
    """Connection that lets the event loop go on between small reads, and bounds the headers of a reply."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        #: Received bytes of the headers of the present reply; ``None`` after them.
        self._head: bytes | None = None
        self._head_bytes = 0

    # The signatures are httpcore's.
    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        data = await self._stream.read(min(max_bytes, _READ_BYTES), timeout)
        self._count_head(data)
        await asyncio.sleep(0)
        return data

    def _count_head(self, data: bytes) -> None:
        if self._head is None:
            return
        self._head += data
        while self._head is not None and (end := _HEAD_END.search(self._head)):
            self._head_bytes += end.end()
            self._head = self._head[end.end() :] if _INTERIM_RESPONSE.match(self._head) else None
        if self._head_bytes + len(self._head or b"") > MAX_HEAD_BYTES:
            raise httpcore.RemoteProtocolError(f"the headers are longer than {MAX_HEAD_BYTES} bytes")

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        self._head, self._head_bytes = b"", 0
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        return YieldingStream(await self._stream.start_tls(*args, **options))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class YieldingBackend(httpcore.AnyIOBackend):
    """Network backend of :class:`YieldingStream` connections."""

    async def connect_tcp(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        return YieldingStream(await super().connect_tcp(*args, **options))


def is_socks_error(error: Exception) -> bool:
    """Return whether ``socksio``, an optional library whose errors httpcore does not translate, raised an error."""
    return type(error).__module__.startswith("socksio")


class ReplyLimitError(Exception):
    """The body of a reply exceeds its size or its time."""


class ReplyBody:
    """
    Body of a reply, collected and decompressed as it is received.

    :param encoding: The ``Content-Encoding``: ``gzip`` or none. Nested encodings, which multiply what a
        decompression bomb expands to, are refused; no service sends them.
    :param max_bytes: Size limit after decompression.
    :param timeout: Seconds until it has to be complete.
    """

    def __init__(self, encoding: str, *, max_bytes: int, timeout: float) -> None:
        self.timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._max_bytes = max_bytes
        self._bytes = bytearray()
        self._encoding = encoding.strip().lower()
        self._inflater = zlib.decompressobj(31) if self._encoding in ("gzip", "x-gzip") else None

    def add(self, chunk: bytes) -> None:
        """
        Add a chunk.

        :raises ReplyLimitError: the body is too large, or the timeout has passed.
        :raises ValueError: it cannot be decompressed.
        """
        if self._inflater is not None:
            self._inflate(self._inflater, chunk)
        elif self._encoding in ("", "identity"):
            self._bytes += chunk
        else:
            raise ValueError(f"the answer has the encoding {self._encoding[:40]!r}, which was not requested")
        if len(self._bytes) > self._max_bytes:
            raise ReplyLimitError(f"the answer is longer than {self._max_bytes} bytes")
        if self.timed_out:
            raise self.timeout_error()

    def _inflate(self, inflater: Any, chunk: bytes) -> None:
        try:
            # In pieces: the decompressed chunk would be in memory twice.
            while room := min(_INFLATE_CHUNK_BYTES, self._max_bytes + 1 - len(self._bytes)):
                piece = inflater.decompress(chunk, room)
                self._bytes += piece
                chunk = inflater.unconsumed_tail
                if len(piece) < room and not chunk:
                    break
        except zlib.error as error:
            raise ValueError(f"the answer cannot be decompressed: {error}") from None

    @property
    def timed_out(self) -> bool:
        """True after the timeout."""
        return time.monotonic() >= self._deadline

    def timeout_error(self) -> ReplyLimitError:
        """Return the error for a body that was not complete in time."""
        return ReplyLimitError(f"the answer was not complete {self.timeout:g} seconds after it began")

    def detach(self) -> bytes:
        """Return the bytes received so far, and release them: they may be many."""
        received, self._bytes = self._bytes, bytearray()
        return bytes(received)
