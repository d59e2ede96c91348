"""The callback route: its responses to valid, forged and malformed requests."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from support import on_loop

from airflow_provider_seedance.api_server.callback_delivery import Outcome
from airflow_provider_seedance.callbacks.payload import MAX_BODY_BYTES, CallbackPayload
from airflow_provider_seedance.generations import GenerationStatus
from api_server.callback_server import (
    CLAIMS,
    SECRET,
    SIGNATURE_SECRET,
    SUCCEEDED,
    TOKEN,
    CallbackServer,
    token_for,
)


def test_a_callback_is_delivered(server: CallbackServer) -> None:
    answer = server.post()
    assert (answer.status_code, answer.content) == (202, b"")
    assert answer.headers["cache-control"] == "no-store"
    payload = CallbackPayload(generation_id="g1", status=GenerationStatus.SUCCEEDED)
    assert server.calls == [(CLAIMS, payload, False, None)]


def test_an_invalid_token_is_answered_404(server: CallbackServer) -> None:
    for token in [
        "x", "x.y", TOKEN.partition(".")[0], TOKEN + "A", "." + TOKEN.partition(".")[2],
        token_for("another secret"), token_for(""), token_for("none"),
        token_for(expires=int(time.time()) - 1), token_for(conn_id="no such connection"),
        token_for(conn_id="without"), token_for("none", conn_id="without"), token_for("", conn_id="without"),
        token_for(conn_id="broken"), token_for(conn_id="away"), "A" * 20_000 + ".x", "%00", "%ff%fe.%80",
        "%F0%9F%8E%AC",
    ]:  # fmt: skip
        answer = server.post(token)
        assert (answer.status_code, answer.content) == (404, b"")
        assert server.calls == []


def test_other_methods_are_refused(server: CallbackServer) -> None:
    for method in ["GET", "PUT", "DELETE", "HEAD"]:
        assert server.post(method=method).status_code == 405
        assert server.calls == []


def test_every_outcome_gets_the_same_response(server: CallbackServer) -> None:
    for kind in ["resumed", "retry", "stored", "ignored"]:
        server.outcomes = [Outcome(kind=kind)]
        answer = server.post()
        assert (answer.status_code, answer.content) == (202, b"")


def test_rubbish_is_accepted_and_dropped(server: CallbackServer) -> None:
    for body in [b"", b"null", b"\xff", b"[" * 9999, b'{"status": "running"}', b"{}"]:
        assert server.post(body=body).status_code == 202
        assert server.calls == []


@examples(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200), name=st.from_regex(r"\A[A-Za-z-]{1,20}\Z"), value=st.binary(max_size=50))
def test_any_bytes_are_answered(server: CallbackServer, body: bytes, name: str, value: bytes) -> None:
    framing = name.lower() in ("content-length", "transfer-encoding")
    headers = {} if framing else {name.encode(): value}
    assert server.post(body=body, headers=headers).status_code == 202


@examples(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    token=st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: t not in (".", ".."))
)
def test_any_other_token_is_answered_404(server: CallbackServer, token: str) -> None:
    assert server.post(quote(token, safe="")).status_code == 404
    assert server.calls == []


# ---------------------------------------------------------------------- bodies


def test_a_body_that_is_too_long_is_refused(server: CallbackServer) -> None:
    assert server.post(body=b" " * (MAX_BODY_BYTES + 1)).status_code == 413
    assert server.post(body=SUCCEEDED + b" " * (MAX_BODY_BYTES - len(SUCCEEDED))).status_code == 202
    assert len(server.calls) == 1


@pytest.mark.parametrize(
    ("token", "status", "most_read"), [(TOKEN, 413, 3 * MAX_BODY_BYTES), (TOKEN + "A", 404, 0)]
)
def test_an_endless_body_is_not_read_to_its_end(
    server: CallbackServer, token: str, status: int, most_read: int
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100 * MAX_BODY_BYTES:
            sent += 65536
            yield b" " * 65536

    assert server.post(token, endless()).status_code == status
    assert sent <= most_read


def send_messages(
    server: CallbackServer, messages: list[dict[str, Any]], headers: list[tuple[bytes, bytes]] | None = None
) -> int:
    """Send a request as an ASGI server does, message by message; returns the status of the response."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        path = f"/callbacks/{TOKEN}"
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http",
            "headers": headers or [], "server": ("airflow", 80), "client": ("1.2.3.4", 5),
        }  # fmt: skip
        await server.app(scope, receive, send)
        await server.drain()

    on_loop(run())
    return int(sent[0]["status"])


def test_a_body_that_does_not_end(server: CallbackServer) -> None:
    begun = {"type": "http.request", "body": b"{", "more_body": True}
    assert send_messages(server, [begun, {"type": "http.disconnect"}]) == 400
    server.start(body_timeout=0.01)
    assert send_messages(server, [begun]) == 408
    assert server.calls == []


def test_neither_a_wrong_content_length_nor_thousands_of_headers_matter(server: CallbackServer) -> None:
    lengths = [[(b"content-length", length)] for length in (b"1", b"-1", b"many", b"9" * 4000)]
    thousands = [(b"x-%d" % number, b"\xff" * 100) for number in range(5000)]
    for headers in (*lengths, thousands):
        whole = {"type": "http.request", "body": SUCCEEDED, "more_body": False}
        assert send_messages(server, [whole], headers) == 202
    assert len(server.calls) == 5


# ---------------------------------------------------------------------- signatures


def test_a_configured_signature_is_required(server: CallbackServer, caplog: pytest.LogCaptureFixture) -> None:
    token = token_for(conn_id="signed")
    for headers in ({}, {"X-Signature": ""}, {"X-Signature": "0" * 64}, {"X-Signature": "\x7f"}):
        answer = server.post(token, headers=headers)
        assert (answer.status_code, answer.content) == (404, b"")
    assert server.calls == []
    assert "its signature (connection 'signed') is missing or wrong" in caplog.text
    signature = hmac.new(SIGNATURE_SECRET.encode(), SUCCEEDED, hashlib.sha256).hexdigest()
    assert server.post(token, headers={"x-signature": signature}).status_code == 202
    assert len(server.calls) == 1


def test_neither_secrets_nor_tokens_are_logged(
    server: CallbackServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.outcomes = [RuntimeError("no")] * 1000
    server.post()
    assert "is given up" in caplog.text
    server.outcomes = []
    server.post(token_for(conn_id="signed"))
    server.post(token_for("another"))
    server.post(token_for(conn_id="broken"))
    ours = (record for record in caplog.records if record.name.startswith("airflow_prov"))
    text = "\n".join(record.getMessage() for record in ours)
    assert text
    for secret in (SECRET, SIGNATURE_SECRET, TOKEN, "callbacks/"):
        assert secret not in text
