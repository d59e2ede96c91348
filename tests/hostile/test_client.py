"""The client and a service gone bad, on real sockets: every call ends, in bounds, as an answer or a failure."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from either_client import GET, POST, EitherClient
from helpers import KEY, NOW, connection, prepare, settings, video
from scripted_server import answer, replies, serving

from airflow_provider_seedance.apis.messages import Accepted, HttpReply, TransportFailure, Uncertain
from airflow_provider_seedance.client import api_client, flows
from airflow_provider_seedance.settings import Settings, read_settings

from . import fake_transports
from .certificates import listening, self_signed


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_client, "MAX_BODY_BYTES", 10_000_000)
    monkeypatch.setattr(api_client, "MAX_IMAGE_BODY_BYTES", 10_000_000)
    monkeypatch.setattr(api_client, "MIN_SEND_TIMEOUT_SECONDS", 2.0)


def at(url: str) -> Settings:
    return settings(url, timeout=0.25)


def broke(got: Any) -> TransportFailure:
    """An answer that is none; the request had left."""
    assert isinstance(got, TransportFailure), got
    assert got.sent
    assert len(got.message) < 1000
    return got


@pytest.mark.parametrize("script", fake_transports.SLOW, ids=lambda script: script.__name__)
def test_no_silence_is_too_long_and_yet_it_ends(
    either_client: EitherClient, script: fake_transports.Script
) -> None:
    with serving(script) as server:
        broke(either_client.send(at(server.url), GET))


@pytest.mark.parametrize("script", fake_transports.WRONG, ids=lambda script: script.__name__)
@pytest.mark.parametrize("call", [GET, POST], ids=["GET", "POST"])
def test_what_is_no_answer_is_a_failure(
    either_client: EitherClient, script: fake_transports.Script, call: Any
) -> None:
    with serving(script) as server:
        got = either_client.send(at(server.url), call)
    # A protocol of its own may speak before it was spoken to.
    if script is fake_transports.another_protocol:
        assert isinstance(got, TransportFailure)
    elif isinstance(got, HttpReply):
        # What breaks off in the middle of a readable answer is that answer.
        assert script is fake_transports.says_more_than_it_sends or got.status == 101
    else:
        broke(got)


def test_a_body_without_an_end(either_client: EitherClient) -> None:
    with serving(fake_transports.endless_body) as server:
        broke(either_client.send(at(server.url), GET))


@pytest.mark.parametrize(
    "script", [fake_transports.gzip_bomb, fake_transports.gzip_in_gzip, fake_transports.an_unknown_codec]
)
def test_a_bomb_does_not_go_off(either_client: EitherClient, script: fake_transports.Script) -> None:
    with serving(script) as server:
        tracemalloc.start()
        try:
            broke(either_client.send(at(server.url), GET))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 60_000_000


def test_a_packed_answer_is_read(either_client: EitherClient) -> None:
    raw = answer(200, gzip.compress(b'{"a": 1}'), "Content-Encoding: gzip\r\n")
    with serving(replies(raw)) as server:
        assert either_client.send(at(server.url), GET).json == {"a": 1}


def test_an_answer_whose_packing_is_torn_is_no_result(either_client: EitherClient) -> None:
    with serving(fake_transports.torn_gzip) as server:
        got = either_client.send(at(server.url), GET)
    assert isinstance(got, TransportFailure) or got.json is None


def test_cookies_are_neither_kept_nor_returned(either_client: EitherClient) -> None:
    seen: list[bytes] = []

    def script(peer: Any) -> None:
        for number in range(2):
            request = b""
            while b"\r\n\r\n" not in request:
                request += peer.recv(65536)
            seen.append(request)
            peer.sendall(answer(200, b"{}", f"Set-Cookie: a{number}={'x' * 1000}; Path=/\r\n"))

    with serving(script) as server:
        either_client.send(at(server.url), GET, GET)
    assert len(seen) == 2
    assert b"cookie" not in seen[1].lower()


def test_a_second_reply_is_not_taken_for_the_next_one(either_client: EitherClient) -> None:
    """Bytes that follow an answer are dropped with their connection."""
    with serving(fake_transports.two_answers) as server:
        first = either_client.send(at(server.url), GET)
        assert isinstance(first, (HttpReply, TransportFailure))
        again = either_client.send(at(server.url), GET, GET)
        assert isinstance(again, (HttpReply, TransportFailure))


# ---------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls") / "one.pem", "127.0.0.1")


@pytest.fixture(scope="module")
def of_another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls") / "other.pem", "other.example")


@pytest.fixture(scope="module")
def expired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls") / "old.pem", "127.0.0.1", expired=True)


@pytest.fixture
def secure(certificate: Path) -> Iterator[str]:
    with listening(certificate) as (url, _):
        yield url


def test_an_untrusted_certificate_is_refused_and_the_key_is_not_sent(
    either_client: EitherClient, certificate: Path
) -> None:
    with listening(certificate) as (url, seen):
        got = either_client.send(read_settings("c", connection(host=url, extra={"timeout": 2})), POST)
    assert isinstance(got, TransportFailure)
    assert not got.sent
    assert "certificate" in got.message
    assert KEY.encode() not in b"".join(seen)


@pytest.mark.parametrize("which", ["of_another", "expired"])
def test_so_is_one_that_is_trusted_but_not_good(
    either_client: EitherClient, which: str, request: pytest.FixtureRequest
) -> None:
    pem = request.getfixturevalue(which)
    with listening(pem) as (url, seen):
        extra = {"timeout": 2, "verify": str(pem)}
        got = either_client.send(read_settings("c", connection(host=url, extra=extra)), POST)
    assert isinstance(got, TransportFailure)
    assert not got.sent
    assert seen == []


def test_a_certificate_that_is_trusted(either_client: EitherClient, secure: str, certificate: Path) -> None:
    extra = {"timeout": 5, "verify": str(certificate)}
    got = either_client.send(read_settings("c", connection(host=secure, extra=extra)), GET)
    assert isinstance(got, HttpReply)
    assert got.json == {}


# ---------------------------------------------------------------------- what is read of it


def outcome(either_client: EitherClient, body: bytes, status: int = 200) -> Any:
    request = prepare("seedanceapi-v2", video()).request
    with serving(replies(answer(status, body))) as server:
        found = settings(server.url, timeout=2)
        call = found.api.submit_call(request)
        return either_client.run(
            found, flows.submit_flow(found.api, call, request, lambda: NOW, retry_inline=False)
        )


def test_deep_and_wide_json(either_client: EitherClient) -> None:
    for body in (
        b"[" * 1_000_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"data": ' + b"[" * 500 + b"]" * 500 + b"}",
        b"[" + b"{}," * 1_200_000 + b"{}]",
        b'{"task_id": ' + b"9" * 5000 + b"}",
    ):
        assert isinstance(outcome(either_client, body), Uncertain)


@pytest.mark.parametrize(
    "body",
    [
        '{"code": 200, "data": {"task_id": "paid-1", "model": "caf\xe9"}}'.encode("latin-1"),
        b'{"code": 200, "data": {"task_id": "paid-1", "model": "a\\ud800b\\u0000c\\u001b[2J"}}',
        b'\xef\xbb\xbf{"code": 200, "data": {"task_id": "paid-1"}}',
        '{"code": 200, "data": {"task_id": "paid-1"}}'.encode("utf-16"),
    ],
    ids=["latin-1", "escapes", "bom", "utf-16"],
)
def test_the_id_of_a_paid_generation_is_found_beside_any_other_value(
    either_client: EitherClient, body: bytes
) -> None:
    accepted = outcome(either_client, body)
    assert isinstance(accepted, Accepted)
    assert accepted.generation.generation_id == "paid-1"
    text = json.dumps(accepted.generation.result(), ensure_ascii=False)
    text.encode()
    assert "\\u0000" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize("damaged", ["a\\ud800", "a\\u0000b", "x" * 1001, "a\\u202eb", "a\\nb"])
def test_an_id_that_no_request_can_carry_is_none(either_client: EitherClient, damaged: str) -> None:
    body = f'{{"code": 200, "data": {{"task_id": "{damaged}"}}}}'.encode()
    assert isinstance(outcome(either_client, body), Uncertain)


def test_what_a_service_says_is_one_line_of_a_sane_length(either_client: EitherClient) -> None:
    said = "no\nERROR forged line\x1b[2J" + "x" * 100_000
    refused = outcome(either_client, json.dumps({"code": "A" * 5000, "message": said}).encode(), 400)
    assert "\n" not in refused.error.message
    assert "\x1b" not in refused.error.message
    assert len(str(refused.error)) < 10_000


def test_the_key_does_not_show_in_words_about_a_paid_generation(either_client: EitherClient) -> None:
    body = {"code": 200, "data": {"task_id": "paid-1", "status": f"x {KEY}", "model": KEY}}
    accepted = outcome(either_client, json.dumps(body).encode())
    assert isinstance(accepted, Accepted)
    assert KEY not in repr(accepted)
