"""The client against real sockets: what counts as sent, what is sent, and what never shows."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import struct
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from helpers import KEY, NOW, prepare, settings, video

from airflow_provider_seedance import __version__
from airflow_provider_seedance import exceptions as errors
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
from airflow_provider_seedance.apis.rate_limits import RateLimit
from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.client import api_client, flows
from airflow_provider_seedance.settings import Settings

GET = HttpCall(method="GET", path="/status", query=(("task_id", "a b&c"), ("task_id", "d")))
POST = HttpCall(method="POST", path="/generate", json={"prompt": "山 🎬"})

#: Speaks on one accepted connection; what it returns is kept with the server.
Script = Callable[[socket.socket], Any]


def receive(peer: socket.socket) -> bytes:
    """Read one whole request."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = peer.recv(65536)
        if not chunk:
            return data
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        ),
        0,
    )
    while len(body) < length:
        body += peer.recv(65536)
    return head + b"\r\n\r\n" + body


def answer(status: int = 200, body: bytes = b"{}", headers: str = "") -> bytes:
    """Write a response."""
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def says(raw: bytes) -> Script:
    """Answer one request and close."""

    def script(peer: socket.socket) -> bytes:
        request = receive(peer)
        peer.sendall(raw)
        return request

    return script


def keeps(*raw: bytes) -> Script:
    """Answer requests one after the other on one connection, as long as the client keeps it."""

    def script(peer: socket.socket) -> list[bytes]:
        requests = []
        for response in raw:
            request = receive(peer)
            if not request:
                break
            requests.append(request)
            peer.sendall(response)
        return requests

    return script


def reset(peer: socket.socket) -> None:
    """End a connection with a reset."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Server:
    """Listens on a port of its own and follows one script per connection; the last one repeats."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.seen: list[Any] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v2"
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
            thread = threading.Thread(target=self._serve, args=(peer, script), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: socket.socket, script: Script) -> None:
        with peer:
            peer.settimeout(5)
            try:
                seen = script(peer)
            except OSError as error:
                seen = error
            self.seen.append(seen)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        for thread in (self._thread, *self._threads):
            thread.join(10)
            assert not thread.is_alive()


@contextmanager
def serving(*scripts: Script) -> Iterator[Server]:
    server = Server(*scripts)
    try:
        yield server
    finally:
        server.close()


class Books:
    """Keeps what a client tells of its requests and replies."""

    def __init__(self) -> None:
        self.requests = 0
        self.told: list[tuple[RateLimit, bool]] = []

    def sent(self) -> None:
        self.requests += 1

    def answered(self, limit: RateLimit, *, refused: bool) -> None:
        self.told.append((limit, refused))


class Twin:
    """One of the two clients, behind the same three methods."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.observer: Any = None

    def send(self, found: Settings, *many: HttpCall) -> Any:
        """Send calls through one client; return the last answer."""
        return self.use(found, lambda it: [it.send(call) for call in many])[-1]

    def run(self, found: Settings, flow: Flow[Any]) -> Any:
        return self.use(found, lambda it: [it.run(flow)])[-1]

    def use(self, found: Settings, what: Callable[[Any], list[Any]]) -> list[Any]:
        if self.kind == "sync":
            with api_client.Client(found, observer=self.observer, sleep=lambda seconds: None) as one:
                return what(one)

        async def use() -> list[Any]:
            async with api_client.AsyncClient(found, observer=self.observer) as other:
                return [await item for item in what(other)]

        return asyncio.run(use())

    def observe(self, found: Settings, call: HttpCall) -> Books:
        """Send one call and return what an observer was told."""
        books = Books()
        if self.kind == "sync":
            with api_client.Client(found, observer=books) as one:
                one.send(call)
            return books

        async def use() -> None:
            async with api_client.AsyncClient(found, observer=books) as other:
                await other.send(call)

        asyncio.run(use())
        return books


@pytest.fixture(params=["sync", "async"])
def twin(request: pytest.FixtureRequest) -> Twin:
    return Twin(request.param)


def at(server: Server, **extra: Any) -> Settings:
    return settings(server.url, timeout=0.3, **extra)


def head_of(request: bytes) -> tuple[str, dict[str, str]]:
    lines = request.split(b"\r\n\r\n")[0].decode().split("\r\n")
    return lines[0], {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
    }


# ---------------------------------------------------------------------- what is sent


def test_a_read_as_it_goes_over_the_wire(twin: Twin) -> None:
    with serving(says(answer(200, b'{"a": 1}', "X-Thing: b\r\n"))) as server:
        got = twin.send(at(server), GET)
    assert isinstance(got, HttpReply)
    assert (got.status, got.json, got.headers["x-thing"]) == (200, {"a": 1}, "b")
    line, headers = head_of(server.seen[0])
    assert line in (
        "GET /v2/status?task_id=a+b%26c&task_id=d HTTP/1.1",
        "GET /v2/status?task_id=a%20b%26c&task_id=d HTTP/1.1",
    )
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["user-agent"] == f"airflow-provider-seedance/{__version__}"
    assert headers["accept"] == "application/json"
    assert "x-api-key" not in headers
    assert "content-type" not in headers


def test_a_submission_as_it_goes_over_the_wire(twin: Twin) -> None:
    with serving(says(answer())) as server:
        twin.send(at(server, api="seedance2api", auth_header="x-api-key"), POST)
    line, headers = head_of(server.seen[0])
    assert line == "POST /v2/generate HTTP/1.1"
    assert headers["x-api-key"] == KEY
    assert "authorization" not in headers
    assert headers["content-type"] == "application/json"
    assert json.loads(server.seen[0].split(b"\r\n\r\n", 1)[1]) == {"prompt": "山 🎬"}


def test_an_id_keeps_to_its_segment_of_the_path(twin: Twin) -> None:
    with serving(says(answer())) as server:
        twin.send(at(server), get_api("ark").status_call("a/../b?c#d"))
    line, _ = head_of(server.seen[0])
    assert line == "GET /v2/contents/generations/tasks/a%2F..%2Fb%3Fc%23d HTTP/1.1"


def test_reads_share_a_connection_and_a_submission_gets_one_of_its_own(twin: Twin) -> None:
    with serving(keeps(*[answer()] * 9)) as server:
        assert twin.send(at(server), GET, POST, GET, POST, GET).status == 200
    methods = [[head_of(request)[0].split()[0] for request in requests] for requests in server.seen]
    assert sorted(methods) == [["GET", "GET", "GET"], ["POST"], ["POST"]]


def test_redirects_are_not_followed(twin: Twin) -> None:
    with serving(says(answer(307, b"", "Location: /v2/elsewhere\r\n"))) as server:
        got = twin.send(at(server), POST)
    assert got.status == 307
    assert len(server.seen) == 1


def test_proxies_of_the_environment_are_not_used(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with serving(says(answer())) as server:
        assert twin.send(at(server), GET).status == 200


def test_a_proxy_of_the_connection_is_used(twin: Twin) -> None:
    with serving(says(answer())) as proxy:
        found = settings("http://service.invalid/v2", timeout=0.3, proxy=f"http://127.0.0.1:{proxy.port}")
        assert twin.send(found, POST).status == 200
    assert head_of(proxy.seen[0])[0] == "POST http://service.invalid/v2/generate HTTP/1.1"


# ---------------------------------------------------------------------- what never arrived


def unsent(got: Any) -> None:
    assert isinstance(got, TransportFailure)
    assert not got.sent


def sent(got: Any) -> None:
    assert isinstance(got, TransportFailure)
    assert got.sent


@pytest.mark.parametrize("call", [GET, POST], ids=["GET", "POST"])
def test_a_refused_connection_is_unsent(twin: Twin, call: HttpCall) -> None:
    with socket.socket() as bound:  # and not listening; kept open, so that no other process gets the port
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        unsent(twin.send(settings(f"http://127.0.0.1:{port}", timeout=0.3), call))


def test_a_name_that_does_not_resolve_is_unsent(twin: Twin) -> None:
    unsent(twin.send(settings("http://seedance.invalid", timeout=2), POST))


def test_a_failed_tls_handshake_is_unsent(twin: Twin) -> None:
    with serving(lambda peer: peer.sendall(b"HTTP/1.1 400 no TLS here\r\n\r\n")) as server:
        unsent(twin.send(settings(f"https://127.0.0.1:{server.port}", timeout=1), POST))


def test_silence_during_the_tls_handshake_is_unsent(twin: Twin) -> None:
    with serving(lambda peer: peer.recv(65536) and peer.recv(65536)) as server:
        unsent(twin.send(settings(f"https://127.0.0.1:{server.port}", timeout=0.3), POST))


@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_proxy_that_makes_no_tunnel_is_unsent(twin: Twin, status: int) -> None:
    with serving(says(answer(status, b"no"))) as proxy:
        found = settings("https://service.invalid/v2", timeout=0.5, proxy=f"http://127.0.0.1:{proxy.port}")
        unsent(twin.send(found, POST))
    assert head_of(proxy.seen[0])[0].startswith("CONNECT service.invalid:443")
    assert KEY.encode() not in proxy.seen[0]


def test_a_proxy_that_hangs_up_is_unsent(twin: Twin) -> None:
    with serving(receive) as proxy:
        found = settings("https://service.invalid/v2", timeout=0.5, proxy=f"http://127.0.0.1:{proxy.port}")
        unsent(twin.send(found, POST))


def test_a_plain_proxy_that_hangs_up_has_the_request(twin: Twin) -> None:
    with serving(receive) as proxy:
        found = settings("http://service.invalid/v2", timeout=0.5, proxy=f"http://127.0.0.1:{proxy.port}")
        sent(twin.send(found, POST))


def hang_up(peer: socket.socket) -> None:
    receive(peer)


def reset_after_request(peer: socket.socket) -> None:
    receive(peer)
    reset(peer)


def reset_at_once(peer: socket.socket) -> None:
    reset(peer)


def silent(peer: socket.socket) -> None:
    receive(peer)
    peer.recv(1)


def silent_after_headers(peer: socket.socket) -> None:
    receive(peer)
    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    peer.recv(1)


def truncated(peer: socket.socket) -> None:
    receive(peer)
    peer.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"task_id"')


def truncated_chunks(peer: socket.socket) -> None:
    receive(peer)
    peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}  \n\r\n9\r\n{")


def not_http(peer: socket.socket) -> None:
    receive(peer)
    peer.sendall(b"\x00\x01\x02 what?\r\n\r\n")


def bad_encoding(peer: socket.socket) -> None:
    receive(peer)
    peer.sendall(answer(200, b"not gzip at all", "Content-Encoding: gzip\r\n"))


@pytest.mark.parametrize(
    "script",
    [
        hang_up,
        reset_after_request,
        silent,
        silent_after_headers,
        truncated,
        truncated_chunks,
        not_http,
        bad_encoding,
    ],
)
@pytest.mark.parametrize("call", [GET, POST], ids=["GET", "POST"])
def test_whatever_breaks_after_the_first_byte_counts_as_sent(
    twin: Twin, script: Script, call: HttpCall
) -> None:
    with serving(script) as server:
        sent(twin.send(at(server), call))


def test_a_reset_right_after_connecting_is_not_taken_for_unsent_once_writing_began(twin: Twin) -> None:
    with serving(reset_at_once) as server:
        got = twin.send(at(server), POST)
    assert isinstance(got, TransportFailure)


def test_a_body_that_does_not_end_is_cut(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_client, "LONGEST_BODY", 1000)
    with serving(says(answer(200, b"x" * 1001))) as server:
        got = twin.send(at(server), GET)
        sent(got)
        assert "longer than 1000 bytes" in got.message
    with serving(says(answer(200, b"x" * 1000))) as server:
        assert len(twin.send(at(server), GET).body) == 1000


IMAGES = HttpCall(method="POST", path="/images", json={}, images=True)


@pytest.mark.parametrize(
    ("call", "status", "longest"), [(GET, 200, 300), (POST, 200, 300), (IMAGES, 200, 400), (IMAGES, 500, 200)]
)
def test_only_replies_that_may_hold_images_may_be_very_long(
    twin: Twin, monkeypatch: pytest.MonkeyPatch, call: HttpCall, status: int, longest: int
) -> None:
    for name, bound in (("LONGEST_BODY", 300), ("LONGEST_IMAGE_BODY", 400), ("LONGEST_ERROR_BODY", 200)):
        monkeypatch.setattr(api_client, name, bound)
    with serving(says(answer(status, b"x" * longest))) as server:
        assert len(twin.send(at(server), call).body) == longest
    with serving(says(answer(status, b"x" * (longest + 1)))) as server:
        sent(twin.send(at(server), call))


def test_a_refusal_without_an_end_is_one(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_client, "LONGEST_ERROR_BODY", 200)
    with serving(says(answer(400, b"x" * 10_000))) as server:
        assert twin.send(at(server), POST).status == 400


def dripping(peer: socket.socket) -> None:
    receive(peer)
    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    gap = threading.Event()
    for _ in range(1000):
        peer.sendall(b" ")
        gap.wait(0.05)


def test_a_body_that_drips_does_not_hold_the_caller_for_ever(twin: Twin) -> None:
    with serving(dripping) as server:
        got = twin.send(at(server), GET)
        sent(got)
        assert "not complete" in got.message


def test_a_request_that_cannot_be_written_is_unsent(twin: Twin) -> None:
    with serving(says(answer())) as server:
        unsent(twin.send(at(server), HttpCall(method="POST", path="/x", json={"a": float("nan")})))
    assert server.seen == []


def test_a_call_may_have_a_timeout_of_its_own(twin: Twin) -> None:
    with serving(silent) as server:
        found = settings(server.url, timeout=60)
        sent(twin.send(found, HttpCall(method="POST", path="/x", json={}, timeout=0.2)))


# ---------------------------------------------------------------------- flows, quota, secrets


def test_a_flow_is_driven_to_its_end(twin: Twin) -> None:
    def flow() -> Flow[int]:
        first = yield GET
        assert isinstance(first, HttpReply)
        nothing = yield Pause(0)
        assert nothing is None
        second = yield GET
        assert isinstance(second, HttpReply)
        return first.status + second.status

    with serving(keeps(answer(200), answer(201))) as server:
        assert twin.run(at(server), flow()) == 401


def test_an_error_of_a_flow_comes_out_of_it(twin: Twin) -> None:
    with serving(says(answer(404, b'{"code": "TASK_NOT_FOUND", "message": "m"}'))) as server:
        found = at(server)
        with pytest.raises(errors.SeedanceNotFoundError) as caught:
            twin.run(found, flows.status_flow(found.api, "g1", "video", lambda: NOW))
    assert caught.value.generation_id == "g1"


def test_an_observer_is_told_of_every_request_and_reply(twin: Twin) -> None:
    headers = "X-RateLimit-Limit: 1000\r\nX-RateLimit-Remaining: 999\r\nX-RateLimit-Reset: 1705315200\r\n"
    with serving(says(answer(200, b"{}", headers))) as server:
        books = twin.observe(at(server), GET)
    [(limit, refused)] = books.told
    assert (limit.limit, limit.remaining, refused, books.requests) == (1000, 999, False, 1)
    with serving(says(answer(429, b"", "Retry-After: 5\r\n"))) as server:
        [(limit, refused)] = twin.observe(at(server), GET).told
    assert (limit.retry_after, refused) == (5, True)
    with serving(says(answer())) as server:
        [(limit, refused)] = twin.observe(at(server), GET).told
    assert (limit.known, refused) == (False, False)


class Careless:
    """An observer that cannot write its books."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def sent(self) -> None:
        raise self.error(f"sent {KEY}")

    def answered(self, limit: RateLimit, *, refused: bool) -> None:
        raise self.error(f"answered {KEY}")


@pytest.mark.parametrize("error", [OSError, ValueError, TimeoutError, RuntimeError])
def test_trouble_with_the_books_decides_nothing(
    twin: Twin, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """The reply may hold the id of a paid generation."""
    request = prepare("seedanceapi-v2", video()).request
    twin.observer = Careless(error)
    with serving(says(answer(200, b'{"code": 200, "data": {"task_id": "paid-1"}}'))) as server:
        found = at(server)
        call = found.api.submit_call(request)
        outcome = twin.run(
            found, flows.submit_flow(found.api, call, request, lambda: NOW, retry_inline=False)
        )
    assert isinstance(outcome, Accepted)
    assert outcome.generation.generation_id == "paid-1"
    assert sum("are not kept" in line for line in caplog.messages) == 2
    assert KEY not in caplog.text


def test_a_request_that_fails_is_counted_too(twin: Twin) -> None:
    with serving(says(b"")) as server:
        books = twin.observe(at(server), GET)
    assert (books.requests, books.told) == (1, [])


ECHO = json.dumps({"code": f"BAD {KEY}", "message": f"the key {KEY} is not known"}).encode()


def everything(error: BaseException | None) -> str:
    """Return all that a log could show of an error and of what caused it."""
    shown = ""
    while error is not None:
        shown += f"{error} {error!r} {error.args} {vars(error)}"
        error = error.__cause__ or error.__context__
    return shown


@pytest.mark.parametrize("status", [200, 401, 500, 503])
def test_a_service_that_repeats_the_key_does_not_make_it_show(twin: Twin, status: int) -> None:
    request = prepare("seedanceapi-v2", video()).request
    with serving(says(answer(status, ECHO))) as server:
        found = at(server)
        call = found.api.submit_call(request)
        outcome = twin.run(
            found, flows.submit_flow(found.api, call, request, lambda: NOW, retry_inline=False)
        )
        assert KEY not in everything(outcome.error)
        assert "***" in outcome.error.message
        with pytest.raises(errors.SeedanceError) as caught:
            flows.raise_outcome(outcome)
        assert KEY not in everything(caught.value)
        with pytest.raises(errors.SeedanceError) as caught:
            twin.run(found, flows.status_flow(found.api, "g1", "video", lambda: NOW, once=True))
        assert KEY not in everything(caught.value)


def test_nor_does_an_attempt_to_cancel_or_the_reason_of_a_failure(twin: Twin) -> None:
    refusal = json.dumps({"error": {"code": "AccessDenied", "message": KEY}}).encode()
    with serving(says(answer(403, refusal))) as server:
        found = at(server, api="ark")
        result = twin.run(found, flows.cancel_flow(found.api, "g1", "video", lambda: NOW))
        assert "***" in result.reason
        assert KEY not in result.reason
    failed = json.dumps({"id": "g1", "status": "failed", "error": {"code": "X", "message": KEY}}).encode()
    with serving(says(answer(200, failed))) as server:
        found = at(server, api="ark")
        generation = twin.run(found, flows.status_flow(found.api, "g1", "video", lambda: NOW))
        assert generation.error_message == "***"


def test_a_lost_submission_ends_as_uncertain(twin: Twin) -> None:
    request = prepare("seedanceapi-v2", video()).request
    with serving(silent) as server:
        found = at(server)
        call = found.api.submit_call(request)
        outcome = twin.run(found, flows.submit_flow(found.api, call, request, lambda: NOW))
        assert isinstance(outcome, Uncertain)
        assert "no answer in time" in outcome.error.message
    assert len(server.seen) == 1


def test_a_refused_submission_ends_as_refused(twin: Twin) -> None:
    request = prepare("seedanceapi-v2", video()).request
    with serving(says(answer(402, b'{"code": "INSUFFICIENT_CREDITS", "message": "m"}'))) as server:
        found = at(server)
        call = found.api.submit_call(request)
        outcome = twin.run(found, flows.submit_flow(found.api, call, request, lambda: NOW))
    assert isinstance(outcome, Refused)
    assert len(server.seen) == 1


NOT_GZIP = "Content-Encoding: gzip\r\n"


def cut(status: int, body: bytes, headers: str = "") -> bytes:
    """Write a response that announces more than it holds."""
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body) + 50}\r\n{headers}\r\n".encode() + body


@pytest.mark.parametrize(
    "raw",
    [cut(402, b'{"code": "INSUFF'), answer(400, b"not gzip at all", NOT_GZIP), cut(404, b"")],
    ids=["cut", "gzip", "empty"],
)
def test_a_refusal_is_one_whatever_becomes_of_its_body(twin: Twin, raw: bytes) -> None:
    request = prepare("seedanceapi-v2", video()).request
    with serving(says(raw)) as server:
        found = at(server)
        call = found.api.submit_call(request)
        outcome = twin.run(found, flows.submit_flow(found.api, call, request, lambda: NOW))
    assert isinstance(outcome, Refused)
    assert len(server.seen) == 1


def test_a_refusal_for_quota_keeps_its_wait_whatever_becomes_of_its_body(twin: Twin) -> None:
    request = prepare("seedanceapi-v2", video()).request
    with serving(says(cut(429, b"{", "Retry-After: 1800\r\n"))) as server:
        found = at(server)
        call = found.api.submit_call(request)
        outcome = twin.run(found, flows.submit_flow(found.api, call, request, lambda: NOW))
    assert isinstance(outcome, NotAccepted)
    assert outcome.retry_after == 1800


def test_the_id_of_a_paid_generation_is_not_lost_with_the_end_of_its_reply(twin: Twin) -> None:
    request = prepare("seedanceapi-v2", video()).request
    whole = b'{"code": 200, "data": {"task_id": "paid-1", "status": "IN_PROGRESS"}}'
    for raw, kind in ((cut(200, whole), Accepted), (cut(200, whole[:-1]), Uncertain)):
        with serving(says(raw)) as server:
            found = at(server)
            call = found.api.submit_call(request)
            outcome = twin.run(found, flows.submit_flow(found.api, call, request, lambda: NOW))
        assert isinstance(outcome, kind)


def test_the_key_does_not_show_where_a_long_answer_is_cut(twin: Twin) -> None:
    for before in range(300 - len(KEY) - 5, 305):
        with serving(says(answer(500, b"x" * before + KEY.encode() + b"y" * 400))) as server:
            found = at(server)
            with pytest.raises(errors.SeedanceError) as caught:
                twin.run(found, flows.status_flow(found.api, "g1", "video", lambda: NOW, once=True))
        assert KEY[:6] not in everything(caught.value)


def test_the_key_does_not_show_in_what_an_error_came_from(twin: Twin) -> None:
    done = json.dumps({"task_id": "g1", "status": "completed"}).encode()
    broken = json.dumps({"status": "error", "error": {"code": "X", "message": f"Bearer {KEY}"}}).encode()
    with serving(keeps(answer(200, done), answer(500, broken))) as server:
        found = at(server, api="seedance2api")
        with pytest.raises(errors.SeedanceError) as caught:
            twin.run(found, flows.status_flow(found.api, "g1", "video", lambda: NOW, once=True))
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_the_password_of_a_proxy_does_not_show(twin: Twin) -> None:
    found = dataclasses.replace(settings(), proxy="http://user:sEcretPw/x@proxy:3128")
    with pytest.raises(errors.SeedanceConfigurationError) as caught:
        twin.use(found, lambda it: [])
    assert "sEcretPw" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "wrong", [{"verify": "/no/such/bundle.pem"}, {"verify": __file__}, {"proxy": "http://h:port"}]
)
def test_what_no_client_can_be_made_of_is_a_configuration_error(twin: Twin, wrong: dict[str, Any]) -> None:
    found = dataclasses.replace(settings(), **wrong)
    with pytest.raises(errors.SeedanceConfigurationError):
        twin.use(found, lambda it: [])


def test_tls_is_verified_unless_the_connection_says_otherwise() -> None:
    assert api_client.tls_context(True).check_hostname is True
    assert api_client.tls_context(False).check_hostname is False
