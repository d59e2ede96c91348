"""The client and a hostile service, on real sockets: every call ends, within limits, as a reply or a failure."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from either_client import GET, POST, EitherClient
from helpers import NOW, prepare, settings, video
from scripted_server import answer, at_once, keeps, replies, serving

from airflow_provider_seedance.apis.messages import Accepted, HttpReply, TransportFailure, Uncertain
from airflow_provider_seedance.client import api_client, deadlines, flows
from airflow_provider_seedance.settings import Settings

from . import fake_transports
from .certificates import self_signed, speaking_tls
from .fake_transports import BOMBS, SLOW, WRONG, Script, packed


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_client, "MAX_BODY_BYTES", 10_000_000)
    monkeypatch.setattr(api_client, "MAX_IMAGE_BODY_BYTES", 10_000_000)
    monkeypatch.setattr(deadlines, "MIN_SEND_TIMEOUT_SECONDS", 2.0)
    # As long to wait, and more time to connect on a busy machine.
    monkeypatch.setattr(deadlines, "PHASES_OF_A_CALL", 1)


def at(url: str) -> Settings:
    return settings(url, timeout=0.5)


def check_failure(got: Any) -> None:
    """Check that a call failed after its request was sent."""
    assert isinstance(got, TransportFailure), got
    assert got.sent
    assert len(got.message) < 1000


def test_slow_replies_time_out(either_client: EitherClient) -> None:
    def check(script: Script) -> None:
        with serving(script) as server:
            check_failure(either_client.send(at(server.url), GET))

    at_once(check, SLOW)


@pytest.mark.parametrize("fault", WRONG)
def test_an_invalid_reply_is_a_failure(either_client: EitherClient, fault: str) -> None:
    for call in (GET, POST):
        with serving(WRONG[fault]) as server:
            got = either_client.send(at(server.url), call)
        if fault == "another protocol":  # its greeting may arrive before the request is sent
            assert isinstance(got, TransportFailure)
        elif isinstance(got, HttpReply):
            # A short body may be a readable reply.
            assert fault == "short body" or got.status == 101
        else:
            check_failure(got)


def test_an_endless_body_is_a_failure(either_client: EitherClient) -> None:
    with serving(fake_transports.endless_body) as server:
        check_failure(either_client.send(at(server.url), GET))


@pytest.mark.parametrize("script", [*BOMBS.values(), packed(b"{}", "zstd")], ids=[*BOMBS, "unknown codec"])
def test_a_decompression_bomb_takes_little_memory(either_client: EitherClient, script: Script) -> None:
    with serving(script) as server:
        tracemalloc.start()
        try:
            check_failure(either_client.send(at(server.url), GET))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 60_000_000


def test_a_gzip_reply_is_read_unless_it_is_torn(either_client: EitherClient) -> None:
    raw = answer(200, gzip.compress(b'{"a": 1}'), "Content-Encoding: gzip\r\n")
    with serving(replies(raw)) as server:
        assert either_client.send(at(server.url), GET).json == {"a": 1}
    with serving(fake_transports.torn_gzip) as server:
        got = either_client.send(at(server.url), GET)
    assert isinstance(got, TransportFailure) or got.json is None


def test_cookies_are_neither_kept_nor_returned(either_client: EitherClient) -> None:
    with serving(keeps(*[answer(headers="Set-Cookie: a=b; Path=/\r\n")] * 2)) as server:
        either_client.send(at(server.url), GET, GET)
    (seen,) = server.seen
    assert len(seen) == 2
    assert b"cookie" not in seen[1].lower()


def test_a_second_reply_does_not_answer_the_next_request(either_client: EitherClient) -> None:
    """Bytes that follow a reply are dropped with their connection."""
    with serving(fake_transports.two_replies) as server:
        for calls in ([GET], [GET, GET]):
            assert isinstance(either_client.send(at(server.url), *calls), (HttpReply, TransportFailure))


# ---------------------------------------------------------------------- TLS


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
    extra: dict[str, Any] = {"timeout": 5, "verify": str(certificate) if trusted else True}
    with serving(speaking_tls(certificate, replies(answer()))) as server:
        got = either_client.send(settings(f"https://127.0.0.1:{server.port}", **extra), POST)
    if accepted:
        assert got.json == {}
        return
    assert isinstance(got, TransportFailure)
    assert not got.sent
    assert "certificate" in got.message
    (received,) = server.seen
    assert isinstance(received, OSError)  # the handshake failed


# ---------------------------------------------------------------------- replies to submissions


def outcome(either_client: EitherClient, body: bytes, status: int = 200) -> Any:
    request = prepare("seedanceapi-v2", video()).request
    with serving(replies(answer(status, body))) as server:
        found = settings(server.url, timeout=2)
        call = found.api.submit_call(request)
        return either_client.run(
            found, flows.submit_flow(found.api, call, request, lambda: NOW, retry_inline=False)
        )


def test_deep_and_wide_json_is_an_uncertain_submission(either_client: EitherClient) -> None:
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
def test_an_id_that_no_request_can_contain_is_an_uncertain_submission(
    either_client: EitherClient, damaged: str
) -> None:
    body = f'{{"code": 200, "data": {{"task_id": "{damaged}"}}}}'.encode()
    assert isinstance(outcome(either_client, body), Uncertain)


def test_a_message_of_the_service_becomes_one_short_line(either_client: EitherClient) -> None:
    message = "no\nERROR forged line\x1b[2J" + "x" * 100_000
    refused = outcome(either_client, json.dumps({"code": "A" * 5000, "message": message}).encode(), 400)
    assert "\n" not in refused.error.message
    assert "\x1b" not in refused.error.message
    assert len(str(refused.error)) < 10_000
