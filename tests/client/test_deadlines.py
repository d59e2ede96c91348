"""Budgets of time and bounded bodies by themselves; real servers that try them are in ``tests/hostile``."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from typing import Any

import httpcore
import pytest

from airflow_provider_seedance.client import deadlines
from airflow_provider_seedance.client.deadlines import Body, Budget, TimedBackend, TooLong, within


def test_a_budget_is_spent_and_renewed() -> None:
    budget = Budget(0.0)
    with pytest.raises(httpcore.ReadTimeout), budget.spend(None, httpcore.ReadTimeout):
        raise AssertionError("not reached")
    budget.renew(5.0)
    with budget.spend(None, httpcore.ReadTimeout) as left:
        assert left == 5.0
    with budget.spend(1.0, httpcore.ReadTimeout) as left:
        assert left == 1.0
    assert budget.left < 5.0


class Stream(httpcore.NetworkStream):
    """Notes the timeouts it is given."""

    def __init__(self) -> None:
        self.timeouts: list[float | None] = []
        self.written = b""
        self.closed = False

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.timeouts.append(timeout)
        return b"a"

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.timeouts.append(timeout)
        self.written += buffer

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> Any:
        self.timeouts.append(timeout)
        return self

    def close(self) -> None:
        self.closed = True

    def get_extra_info(self, info: str) -> Any:
        return info


class Backend(httpcore.NetworkBackend):
    def __init__(self) -> None:
        self.stream = Stream()

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *rest: Any
    ) -> httpcore.NetworkStream:
        self.stream.timeouts.append(timeout)
        return self.stream


def test_every_operation_draws_on_the_budget_of_its_call() -> None:
    backend = Backend()
    with within(Budget(2.0)):
        stream = TimedBackend(backend).connect_tcp("a", 1, 60.0).start_tls(None, "a", 60.0)
        stream.read(1, 60.0)
        stream.write(b"b" * 200_000, 60.0)
    assert len(backend.stream.timeouts) == 7  # four of them are pieces of what was written
    assert all(timeout is not None and timeout <= 2.0 for timeout in backend.stream.timeouts)
    assert backend.stream.written == b"b" * 200_000
    stream.read(1, 60.0)
    assert backend.stream.timeouts[-1] == 60.0
    with within(Budget(0.0)):
        for operation in (lambda: stream.read(1), lambda: stream.write(b"a"), lambda: stream.start_tls(None)):
            with pytest.raises(httpcore.TimeoutException):
                operation()
    assert stream.get_extra_info("socket") == "socket"
    stream.close()
    assert backend.stream.closed


def body(encoding: str = "", longest: int = 1000, seconds: float = 60.0) -> Body:
    return Body(encoding, longest=longest, seconds=seconds)


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_a_body_as_it_is(encoding: str) -> None:
    whole = body(encoding)
    whole.add(b"a" * 600)
    whole.add(b"b" * 400)
    assert whole.take() == b"a" * 600 + b"b" * 400
    assert whole.take() == b""  # nothing is kept twice
    whole.add(b"d" * 1000)
    with pytest.raises(TooLong, match="longer than 1000 bytes"):
        whole.add(b"c")


def test_a_packed_body_in_pieces() -> None:
    whole, raw = body("GZIP"), gzip.compress(bytes(range(256)) * 3)
    for number in range(len(raw)):
        whole.add(raw[number : number + 1])
    assert whole.take() == bytes(range(256)) * 3


def test_a_bomb_is_unpacked_as_far_as_there_is_room() -> None:
    whole = body("gzip")
    with pytest.raises(TooLong):
        whole.add(gzip.compress(b"\0" * 10_000_000))
    assert len(whole.take()) == 1001


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024 - 1, 1024 * 1024, 1024 * 1024 + 1, 5_000_000])
def test_what_is_unpacked_in_pieces_is_whole(size: int) -> None:
    whole = body("gzip", longest=5_000_000)
    whole.add(gzip.compress(b"\0" * size))
    assert whole.take() == b"\0" * size


def test_what_is_unpacked_is_not_held_twice() -> None:
    whole, raw = body("gzip", longest=40_000_000), gzip.compress(b"\0" * 40_000_000)
    tracemalloc.start()
    try:
        whole.add(raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60_000_000


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip", "x" * 1000])
def test_a_packing_nobody_asked_for(encoding: str) -> None:
    with pytest.raises(ValueError, match="nobody asked for") as caught:
        body(encoding).add(zlib.compress(b"a"))
    assert len(str(caught.value)) < 200


def test_what_cannot_be_unpacked() -> None:
    with pytest.raises(ValueError, match="cannot be unpacked"):
        body("gzip").add(b"not gzip at all")


def test_a_body_that_comes_too_late() -> None:
    whole = body(seconds=0.0)
    assert whole.late
    with pytest.raises(TooLong, match="not complete 0 seconds after it began"):
        whole.add(b"a")
    assert deadlines.PHASES > 1
