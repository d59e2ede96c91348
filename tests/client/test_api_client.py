"""The client on real sockets: requests and replies, and failures before and after the first byte was sent."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from either_client import GET, POST, EitherClient
from helpers import KEY, settings
from hostile.certificates import self_signed, speaking_tls
from hostile.fake_transports import BOMBS, SLOW, STEPS, WRONG, head, packed, sends
from scripted_server import (
    Script,
    Server,
    answer,
    at,
    at_once,
    head_of,
    keeps,
    receive,
    replies,
    reset,
    serving,
    silent,
)

from airflow_provider_seedance import __version__
from airflow_provider_seedance.apis.base import Flow
from airflow_provider_seedance.apis.messages import HttpCall, HttpReply, TransportFailure
from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.client import api_client, deadlines
from airflow_provider_seedance.exceptions import SeedanceServerError
from airflow_provider_seedance.settings import Settings


def exchange(either_client: EitherClient, script: Script | bytes, *calls: HttpCall, **extra: Any) -> Any:
    """Send calls to a server that follows a script or sends one reply; return the last answer and what came."""
    with serving(replies(script) if isinstance(script, bytes) else script) as server:
        got = either_client.send(at(server, **extra), *calls)
    return got, server.seen


# ---------------------------------------------------------------------- requests


def test_a_read_as_it_goes_over_the_wire(either_client: EitherClient) -> None:
    packed_reply = answer(200, gzip.compress(b'{"a": 1}'), "X-Thing: b\r\nContent-Encoding: gzip\r\n")
    got, (request,) = exchange(either_client, packed_reply, GET)
    assert (got.status, got.json, got.headers["x-thing"]) == (200, {"a": 1}, "b")
    line, headers = head_of(request)
    assert line in (
        "GET /v2/status?task_id=a+b%26c&task_id=d HTTP/1.1",
        "GET /v2/status?task_id=a%20b%26c&task_id=d HTTP/1.1",
    )
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["user-agent"] == f"airflow-provider-seedance/{__version__}"
    assert headers["accept"] == "application/json"
    assert "x-api-key" not in headers
    assert "content-type" not in headers


def test_a_submission_as_it_goes_over_the_wire(either_client: EitherClient) -> None:
    header = {"api": "seedance2api", "auth_header": "x-api-key"}
    _, (request,) = exchange(either_client, answer(), POST, **header)
    line, headers = head_of(request)
    assert line == "POST /v2/generate HTTP/1.1"
    assert headers["x-api-key"] == KEY
    assert "authorization" not in headers
    assert headers["content-type"] == "application/json"
    assert json.loads(request.split(b"\r\n\r\n", 1)[1]) == {"prompt": "山 🎬"}


def test_an_id_keeps_to_its_segment_of_the_path(either_client: EitherClient) -> None:
    _, (request,) = exchange(either_client, answer(), get_api("ark").status_call("a/../b?c#d"))
    assert head_of(request)[0] == "GET /v2/contents/generations/tasks/a%2F..%2Fb%3Fc%23d HTTP/1.1"


def test_reads_share_a_connection_and_a_submission_gets_one_of_its_own(either_client: EitherClient) -> None:
    got, seen = exchange(either_client, keeps(*[answer()] * 9), GET, POST, GET, POST, GET)
    assert got.status == 200
    methods = [[head_of(request)[0].split()[0] for request in requests] for requests in seen]
    assert sorted(methods) == [["GET", "GET", "GET"], ["POST"], ["POST"]]


def test_cookies_are_neither_kept_nor_returned(either_client: EitherClient) -> None:
    script = keeps(*[answer(headers="Set-Cookie: a=b; Path=/\r\n")] * 2)
    _, ((_, second),) = exchange(either_client, script, GET, GET)
    assert b"cookie" not in second.lower()


def test_a_second_reply_does_not_answer_the_next_request(either_client: EitherClient) -> None:
    """Bytes that follow a reply are dropped with their connection."""
    twice = 2 * head("204 No Content", "Content-Length: 0")
    for calls in ([GET], [GET, GET]):
        assert isinstance(exchange(either_client, twice, *calls)[0], (HttpReply, TransportFailure))


def test_redirects_are_not_followed(either_client: EitherClient) -> None:
    got, seen = exchange(either_client, answer(307, b"", "Location: /v2/elsewhere\r\n"), POST)
    assert (got.status, len(seen)) == (307, 1)


def test_proxies_of_the_environment_are_not_used(
    either_client: EitherClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert exchange(either_client, answer(), GET)[0].status == 200


def through(proxy: Server, scheme: str = "https") -> Settings:
    return settings(f"{scheme}://service.invalid/v2", timeout=10, proxy=f"http://127.0.0.1:{proxy.port}")


def test_a_proxy_of_the_connection_is_used(either_client: EitherClient) -> None:
    with serving(replies(answer())) as proxy:
        assert either_client.send(through(proxy, "http"), POST).status == 200
    assert head_of(proxy.seen[0])[0] == "POST http://service.invalid/v2/generate HTTP/1.1"


# ---------------------------------------------------------------------- failures before and after the first byte


def unsent(got: Any) -> None:
    assert isinstance(got, TransportFailure)
    assert not got.sent


def sent(got: Any) -> None:
    assert isinstance(got, TransportFailure)
    assert got.sent
    assert len(got.message) < 1000


@pytest.mark.parametrize("call", [GET, POST], ids=["GET", "POST"])
def test_a_refused_connection_and_an_unknown_name_are_unsent(
    either_client: EitherClient, call: HttpCall
) -> None:
    with socket.socket() as bound:  # and not listening; kept open, so that no other process gets the port
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        unsent(either_client.send(settings(f"http://127.0.0.1:{port}", timeout=0.3), call))
    unsent(either_client.send(settings("http://seedance.invalid", timeout=2), call))


@pytest.mark.parametrize(
    "script",
    [
        lambda peer: peer.sendall(b"HTTP/1.1 400 no TLS here\r\n\r\n"),
        lambda peer: peer.recv(65536) and peer.recv(65536),
    ],
    ids=["no TLS", "silence"],
)
def test_a_failed_tls_handshake_is_unsent(either_client: EitherClient, script: Script) -> None:
    with serving(script) as server:
        unsent(either_client.send(settings(f"https://127.0.0.1:{server.port}", timeout=0.1), POST))


@pytest.mark.parametrize(
    ("host", "expired", "trusted", "accepted"),
    [
        ("127.0.0.1", False, True, True),
        ("127.0.0.1", False, False, False),
        ("other.example", False, True, False),
        ("127.0.0.1", True, True, False),
    ],
    ids=["trusted", "untrusted", "of another host", "expired"],
)
def test_the_key_is_sent_only_if_the_certificate_is_trusted_and_valid(
    either_client: EitherClient, tmp_path: Path, host: str, expired: bool, trusted: bool, accepted: bool
) -> None:
    certificate = self_signed(tmp_path / "one.pem", host, expired=expired)
    verify = str(certificate) if trusted else True
    with serving(speaking_tls(certificate, replies(answer()))) as server:
        found = settings(f"https://127.0.0.1:{server.port}", timeout=5, verify=verify)
        got = either_client.send(found, POST)
    if accepted:
        assert got.json == {}
        return
    unsent(got)
    assert "certificate" in got.message
    (received,) = server.seen
    assert isinstance(received, OSError)  # the handshake failed


@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_proxy_that_makes_no_tunnel_is_unsent(either_client: EitherClient, status: int) -> None:
    with serving(replies(answer(status, b"no"))) as proxy:
        unsent(either_client.send(through(proxy), POST))
    assert head_of(proxy.seen[0])[0].startswith("CONNECT service.invalid:443")
    assert KEY.encode() not in proxy.seen[0]


def test_a_proxy_that_hangs_up_has_the_request_only_without_a_tunnel(either_client: EitherClient) -> None:
    with serving(receive) as proxy:
        unsent(either_client.send(through(proxy), POST))
        sent(either_client.send(through(proxy, "http"), POST))


def reset_after_request(peer: socket.socket) -> None:
    receive(peer)
    reset(peer)


def silent_after_the_headers(peer: socket.socket) -> None:
    replies(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")(peer)
    peer.recv(1)


INVALID: dict[str, Script] = {
    "hangs up": receive,
    "resets at once": reset,
    "resets": reset_after_request,
    "truncates the body": replies(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"task_id"'),
    "truncates the chunks": replies(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}  \n\r\n9\r\n{"
    ),
    "sends no HTTP": replies(b"\x00\x01\x02 what?\r\n\r\n"),
    "sends no gzip": replies(answer(200, b"not gzip at all", "Content-Encoding: gzip\r\n")),
    "sends a torn gzip": packed(gzip.compress(b'{"a": 1}' * 1000)[:-20], "gzip"),
    "sends an endless body": sends(head(), *[b" " * 10_000] * (STEPS * 10)),
    **WRONG,
}
#: These may be replies.
READABLE = ("short body", "switched protocol", "sends a torn gzip")
SILENT: dict[str, Script] = {
    "is silent": silent,
    "is silent after the headers": silent_after_the_headers,
    **SLOW,
}


@pytest.mark.parametrize(("scripts", "timeout"), [(INVALID, 10), (SILENT, 0.5)], ids=["invalid", "slow"])
def test_a_failure_after_the_first_byte_counts_as_sent(
    either_client: EitherClient, monkeypatch: pytest.MonkeyPatch, scripts: Any, timeout: float
) -> None:
    # As long to wait, and more time to connect on a busy machine.
    monkeypatch.setattr(deadlines, "PHASES_OF_A_CALL", 1)
    monkeypatch.setattr(api_client, "MAX_BODY_BYTES", 10_000_000)

    def check(case: tuple[str, HttpCall]) -> None:
        name, call = case
        got, _ = exchange(either_client, scripts[name], call, timeout=timeout)
        if name in ("another protocol", "resets at once"):  # which may be before the request is sent
            assert isinstance(got, TransportFailure)
        elif name in READABLE and isinstance(got, HttpReply):
            assert name == "short body" or got.json is None
        else:
            sent(got)

    cases = [(name, call) for name in scripts for call in (GET, POST)]
    at_once(check, {f"{name}, {call.method}": (name, call) for name, call in cases})


# ---------------------------------------------------------------------- limits of replies


IMAGES = HttpCall(method="POST", path="/images", json={}, images=True)


@pytest.mark.parametrize(
    ("call", "status", "longest"), [(GET, 200, 100), (POST, 200, 300), (IMAGES, 200, 400), (IMAGES, 500, 200)]
)
def test_only_replies_that_may_hold_images_may_be_very_long(
    either_client: EitherClient, monkeypatch: pytest.MonkeyPatch, call: HttpCall, status: int, longest: int
) -> None:
    for name, bound in (
        ("MAX_READ_BODY_BYTES", 100),
        ("MAX_BODY_BYTES", 300),
        ("MAX_IMAGE_BODY_BYTES", 400),
        ("MAX_ERROR_BODY_BYTES", 200),
    ):
        monkeypatch.setattr(api_client, name, bound)
    got, _ = exchange(either_client, answer(status, b"x" * longest), call)
    assert len(got.body) == longest
    got, _ = exchange(either_client, answer(status, b"x" * (longest + 1)), call)
    sent(got)
    assert f"longer than {longest} bytes" in got.message


@pytest.mark.parametrize(
    ("body", "parsed"),
    [
        (b'{"a": "' + b"x" * (1024 * 1024 - 12) + b'"}', True),
        (b'{"a": "' + b"x" * 2 * 1024 * 1024 + b'"}', False),
        (b'{"a": [' + b"1," * 49_000 + b"1]}", True),
        (b'{"a": [' + b"1," * 51_000 + b"1]}", False),
    ],
    ids=["a mebibyte", "more", "50,000 values", "more values"],
)
def test_a_status_reply_is_limited(either_client: EitherClient, body: bytes, parsed: bool) -> None:
    """Parsing a larger one would block the event loop of a triggerer for a second."""
    got, _ = exchange(either_client, answer(200, body), GET)
    assert (isinstance(got, HttpReply) and got.json is not None) is parsed
    assert exchange(either_client, answer(200, body), POST)[0].json is not None


@pytest.mark.parametrize("script", [*BOMBS.values(), packed(b"{}", "zstd")], ids=[*BOMBS, "unknown codec"])
def test_a_decompression_bomb_takes_little_memory(either_client: EitherClient, script: Script) -> None:
    tracemalloc.start()
    try:
        sent(exchange(either_client, script, GET)[0])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60_000_000


def test_a_request_that_cannot_be_written_is_unsent(either_client: EitherClient) -> None:
    call = HttpCall(method="POST", path="/x", json={"a": float("nan")})
    got, seen = exchange(either_client, answer(), call)
    unsent(got)
    assert seen == []


def test_a_call_may_have_a_timeout_of_its_own(either_client: EitherClient) -> None:
    got, _ = exchange(either_client, silent, HttpCall(method="POST", path="/x", json={}, timeout=0.5))
    sent(got)
    assert "no answer in time" in got.message


def test_a_client_closes_although_a_signal_left_the_lock_of_its_pool_acquired() -> None:
    transport = api_client._timed_transport()

    def close() -> None:
        transport._pool._optional_thread_lock.__enter__()  # then the handler of the signal raises
        transport.close()

    thread = threading.Thread(target=close, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def reading_thread() -> Flow[int]:
    yield GET
    return threading.get_ident()


@pytest.mark.parametrize(("size", "on_the_loop"), [(4 * 1024, True), (4 * 1024 + 1, False)])
def test_a_large_reply_is_read_off_the_event_loop(
    either_client: EitherClient, size: int, on_the_loop: bool
) -> None:
    """A triggerer waits for thousands of renders on one loop, which a mebibyte of JSON would stop."""
    with serving(replies(answer(200, b"x" * size))) as server:
        thread = either_client.run(at(server), reading_thread())
    assert (thread == threading.get_ident()) is (on_the_loop or either_client.kind == "sync")


def test_an_error_of_a_large_reply_reaches_the_caller(either_client: EitherClient) -> None:
    def flow() -> Flow[None]:
        yield GET
        raise SeedanceServerError("the reply is wrong")

    with (
        serving(replies(answer(200, b"x" * 5000))) as server,
        pytest.raises(SeedanceServerError, match="the reply is wrong"),
    ):
        either_client.run(at(server), flow())
