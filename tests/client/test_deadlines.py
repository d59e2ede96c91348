"""Network timeouts and bounded bodies by themselves; servers that exceed them are in ``tests/hostile``."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Awaitable
from typing import Any
from unittest.mock import Mock

import httpcore
import pytest
from helpers import settings
from scripted_server import replies, serving

from airflow_provider_seedance.apis.messages import HttpCall
from airflow_provider_seedance.client.api_client import AsyncClient
from airflow_provider_seedance.client.deadlines import (
    NetworkTimeout,
    ReplyBody,
    ReplyLimitError,
    TimedBackend,
    YieldingStream,
    enforce,
)
from airflow_provider_seedance.settings import Settings


def test_every_operation_counts_against_the_timeout_of_its_call() -> None:
    backend = Mock()
    plain = backend.connect_tcp.return_value
    plain.start_tls.return_value = plain
    with enforce(NetworkTimeout(2.0)):
        stream = TimedBackend(backend).connect_tcp("a", 1, 60.0).start_tls(None, "a", 60.0)
        stream.read(1, 60.0)
        stream.write(b"b" * 200_000, 60.0)
    timeouts = [call.args[-1] for call in backend.mock_calls]
    assert len(timeouts) == 7  # four of them are pieces of what was written
    assert all(timeout <= 2.0 for timeout in timeouts)
    assert b"".join(call.args[0] for call in plain.write.mock_calls) == b"b" * 200_000
    stream.read(1, 60.0)
    plain.read.assert_called_with(1, 60.0)
    with enforce(over := NetworkTimeout(0.0)):
        for operation in (lambda: stream.read(1), lambda: stream.write(b"a"), lambda: stream.start_tls(None)):
            with pytest.raises(httpcore.TimeoutException):
                operation()
        over.restart(5.0)
        stream.read(1, 60.0)
    plain.read.assert_called_with(1, 5.0)
    assert over.remaining < 5.0
    assert stream.get_extra_info("socket") is plain.get_extra_info.return_value
    stream.close()
    plain.close.assert_called_once_with()


def body(encoding: str = "", max_bytes: int = 1000, timeout: float = 60.0) -> ReplyBody:
    return ReplyBody(encoding, max_bytes=max_bytes, timeout=timeout)


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_a_body_without_encoding(encoding: str) -> None:
    whole = body(encoding)
    whole.add(b"a" * 600)
    whole.add(b"b" * 400)
    assert whole.detach() == b"a" * 600 + b"b" * 400
    assert whole.detach() == b""  # nothing is kept twice
    whole.add(b"d" * 1000)
    with pytest.raises(ReplyLimitError, match="longer than 1000 bytes"):
        whole.add(b"c")


def test_a_compressed_body_in_pieces() -> None:
    whole, raw = body("GZIP"), gzip.compress(bytes(range(256)) * 3)
    for number in range(len(raw)):
        whole.add(raw[number : number + 1])
    assert whole.detach() == bytes(range(256)) * 3


def test_a_decompression_bomb_stops_at_the_limit() -> None:
    whole = body("gzip")
    with pytest.raises(ReplyLimitError):
        whole.add(gzip.compress(b"\0" * 3_000_000))
    assert len(whole.detach()) == 1001


@pytest.mark.parametrize("size", [0, 1024 * 1024 - 1, 1024 * 1024, 2 * 1024 * 1024 + 1])
def test_decompression_in_pieces_is_complete(size: int) -> None:
    whole = body("gzip", max_bytes=5_000_000)
    whole.add(gzip.compress(b"\0" * size))
    assert whole.detach() == b"\0" * size


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip", "x" * 1000])
def test_an_encoding_that_was_not_requested(encoding: str) -> None:
    with pytest.raises(ValueError, match="which was not requested") as caught:
        body(encoding).add(zlib.compress(b"a"))
    assert len(str(caught.value)) < 200
    with pytest.raises(ValueError, match="cannot be decompressed"):
        body("gzip").add(b"not gzip at all")


def test_a_body_that_is_not_complete_in_time() -> None:
    whole = body(timeout=0.0)
    assert whole.timed_out
    with pytest.raises(ReplyLimitError, match="not complete 0 seconds after it began"):
        whole.add(b"a")


# ---------------------------------------------------------------------- event loops


async def rounds_during(work: Awaitable[Any]) -> tuple[Any, int]:
    """Await work, and return its result and how often something else had its turn on the loop."""
    rounds = 0

    async def other() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    result = await work
    task.cancel()
    return result, rounds


class AsyncStream(httpcore.AsyncNetworkStream):
    """Has received this."""

    received = b""

    async def read(self, max_bytes: int, *_: Any) -> bytes:
        piece, self.received = self.received[:max_bytes], self.received[max_bytes:]
        return piece

    async def write(self, buffer: bytes, *_: Any) -> None:
        pass


def read_all(*replies: bytes) -> list[int]:
    """Return the sizes of the reads, while something else runs on the loop after each."""
    received, sizes = AsyncStream(), list[int]()

    async def read() -> None:
        stream = YieldingStream(received)
        for reply in replies:
            await stream.write(b"GET")
            received.received = reply
            while data := await stream.read(2**16):
                sizes.append(len(data))

    _, rounds = asyncio.run(rounds_during(read()))
    assert rounds >= len(sizes)
    return sizes


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
INTERIM = b"HTTP/1.1 100 \r\n\r\n"


def test_an_event_loop_goes_on_between_small_reads() -> None:
    body = b"\r\n\r\n" * 25_000
    sizes = read_all(HEAD + body, INTERIM * 3 + HEAD + body)
    assert max(sizes) == 8 * 1024
    assert sum(sizes) == 2 * len(HEAD + body) + 3 * len(INTERIM)


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * 5_000,
        INTERIM * 1_000,
        INTERIM + b"HTTP/1.1 200\n" + b"a:\n" * 6_000,
    ],
)
def test_the_headers_of_a_reply_are_bounded(reply: bytes) -> None:
    with pytest.raises(httpcore.RemoteProtocolError, match="longer than 16384 bytes"):
        read_all(HEAD, reply)


def test_tiny_chunks_stop_nothing_else_on_an_event_loop() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n1\r\n" * 10_000 + b"0\r\n\r\n"

    async def get(found: Settings) -> Any:
        async with AsyncClient(found) as client:
            return await client.send(HttpCall(method="GET", path="/a"))

    with serving(replies(chunked)) as server:
        reply, rounds = asyncio.run(rounds_during(get(settings(server.url))))
    assert len(reply.body) == 10_000
    assert rounds >= len(chunked) / (8 * 1024)
