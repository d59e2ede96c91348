"""The client driving flows: observers, redaction, and submissions whose reply breaks off."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import traceback
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import certifi
import pytest
from either_client import GET, EitherClient
from helpers import KEY, NOW, everything_in, prepare, settings, video
from scripted_server import answer, at, keeps, replies, serving

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.base import Flow
from airflow_provider_seedance.apis.messages import (
    Accepted,
    HttpReply,
    NotAccepted,
    Pause,
    Refused,
    Uncertain,
)
from airflow_provider_seedance.client import api_client, flows


def submit(either_client: EitherClient, raw: bytes, **options: Any) -> Any:
    """Submit a request that is answered once; return the outcome."""
    request = prepare("seedanceapi-v2", video()).request
    with serving(replies(raw)) as server:
        found = at(server)
        flow = flows.submit_flow(found.api, found.api.submit_call(request), request, lambda: NOW, **options)
        outcome = either_client.run(found, flow)
    assert len(server.seen) == 1
    return outcome


def read(either_client: EitherClient, *raw: bytes, once: bool = True, **extra: Any) -> Any:
    with serving(keeps(*raw)) as server:
        found = at(server, **extra)
        return either_client.run(found, flows.status_flow(found.api, "g1", "video", lambda: NOW, once=once))


def failed_read(either_client: EitherClient, *raw: bytes, **extra: Any) -> errors.SeedanceError:
    with pytest.raises(errors.SeedanceError) as caught:
        read(either_client, *raw, **extra)
    return caught.value


# ---------------------------------------------------------------------- flows and observers


def test_a_flow_is_driven_to_its_end(either_client: EitherClient) -> None:
    def flow() -> Flow[int]:
        first = yield GET
        assert isinstance(first, HttpReply)
        nothing = yield Pause(0)
        assert nothing is None
        second = yield GET
        assert isinstance(second, HttpReply)
        return first.status + second.status

    with serving(keeps(answer(200), answer(201))) as server:
        assert either_client.run(at(server), flow()) == 401


def test_an_error_of_a_flow_comes_out_of_it(either_client: EitherClient) -> None:
    missing = answer(404, b'{"code": "TASK_NOT_FOUND", "message": "m"}')
    error = failed_read(either_client, missing, once=False)
    assert type(error) is errors.SeedanceNotFoundError
    assert error.generation_id == "g1"


def test_an_observer_is_notified_of_every_request_and_reply(either_client: EitherClient) -> None:
    headers = "X-RateLimit-Limit: 1000\r\nX-RateLimit-Remaining: 999\r\nX-RateLimit-Reset: 1705315200\r\n"
    seen = []
    for raw in (answer(200, b"{}", headers), answer(429, b"", "Retry-After: 5\r\n"), answer()):
        with serving(replies(raw)) as server:
            observer = either_client.observe(at(server), GET)
        assert observer.requests == 1
        seen += observer.replies
    (first, refused), (second, limited), (third, unknown) = seen
    assert (first.limit, first.remaining, refused) == (1000, 999, False)
    assert (second.retry_after, limited) == (5, True)
    assert (third.known, unknown) == (False, False)
    with serving(replies(b"")) as server:
        observer = either_client.observe(at(server), GET)
    assert (observer.requests, observer.replies) == (1, [])


@pytest.mark.parametrize("error", [OSError, TimeoutError])
def test_a_failing_observer_does_not_lose_a_reply(
    either_client: EitherClient, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """The reply may hold the id of a paid generation."""
    either_client.observer = Mock(sent=Mock(side_effect=error(KEY)), answered=Mock(side_effect=error(KEY)))
    accepted = answer(200, b'{"code": 200, "data": {"task_id": "paid-1"}}')
    outcome = submit(either_client, accepted, retry_inline=False)
    assert isinstance(outcome, Accepted)
    assert outcome.generation.generation_id == "paid-1"
    assert sum("accounting" in line for line in caplog.messages) == 2
    assert KEY not in caplog.text


# ---------------------------------------------------------------------- secrets

ECHO = json.dumps({"code": f"BAD {KEY}", "message": f"the key {KEY} is not known"}).encode()


@pytest.mark.parametrize("status", [200, 401, 500, 503])
def test_a_service_that_repeats_the_key_does_not_make_it_show(
    either_client: EitherClient, status: int
) -> None:
    outcome = submit(either_client, answer(status, ECHO), retry_inline=False)
    assert KEY not in everything_in(outcome.error)
    assert "***" in outcome.error.message
    with pytest.raises(errors.SeedanceError) as caught:
        flows.raise_outcome(outcome)
    assert KEY not in everything_in(caught.value)
    assert KEY not in everything_in(failed_read(either_client, answer(status, ECHO)))


def test_nor_does_an_attempt_to_cancel_or_the_reason_of_a_failure(either_client: EitherClient) -> None:
    refusal = json.dumps({"error": {"code": "AccessDenied", "message": KEY}}).encode()
    with serving(replies(answer(403, refusal))) as server:
        found = at(server, api="ark")
        result = either_client.run(found, flows.cancel_flow(found.api, "g1", "video", lambda: NOW))
        assert "***" in result.reason
        assert KEY not in result.reason
    failed = json.dumps({"id": "g1", "status": "failed", "error": {"code": "X", "message": KEY}}).encode()
    assert read(either_client, answer(200, failed), api="ark").error_message == "***"


def test_the_key_does_not_show_where_a_long_answer_is_cut(either_client: EitherClient) -> None:
    for before in range(300 - len(KEY) - 5, 305, 3):
        error = failed_read(either_client, answer(500, b"x" * before + KEY.encode() + b"y" * 400))
        assert KEY[:6] not in everything_in(error)


def test_the_key_does_not_show_in_the_cause_of_an_error(either_client: EitherClient) -> None:
    done = json.dumps({"task_id": "g1", "status": "completed"}).encode()
    broken = json.dumps({"status": "error", "error": {"code": "X", "message": f"Bearer {KEY}"}}).encode()
    error = failed_read(either_client, answer(200, done), answer(500, broken), api="seedance2api")
    assert KEY not in everything_in(error)


# ---------------------------------------------------------------------- incomplete replies to submissions


def cut(status: int, body: bytes, headers: str = "") -> bytes:
    """Write a response that announces more than it holds."""
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body) + 50}\r\n{headers}\r\n".encode() + body


@pytest.mark.parametrize(
    "raw",
    [
        answer(402, b'{"code": "INSUFFICIENT_CREDITS", "message": "m"}'),
        cut(402, b'{"code": "INSUFF'),
        answer(400, b"not gzip at all", "Content-Encoding: gzip\r\n"),
        cut(404, b""),
        answer(400, b"x" * (api_client.MAX_ERROR_BODY_BYTES + 1)),
    ],
    ids=["complete", "cut", "gzip", "empty", "too long"],
)
def test_a_refusal_is_one_however_much_of_its_body_arrives(either_client: EitherClient, raw: bytes) -> None:
    assert isinstance(submit(either_client, raw), Refused)


def test_a_rate_limit_with_an_incomplete_body_keeps_its_wait(either_client: EitherClient) -> None:
    outcome = submit(either_client, cut(429, b"{", "Retry-After: 1800\r\n"))
    assert isinstance(outcome, NotAccepted)
    assert outcome.error.retry_after == 1800


@pytest.mark.parametrize(("missing", "kind"), [(0, Accepted), (1, Uncertain)])
def test_the_id_of_a_paid_generation_is_not_lost_with_the_end_of_its_reply(
    either_client: EitherClient, missing: int, kind: type
) -> None:
    whole = b'{"code": 200, "data": {"task_id": "paid-1", "status": "IN_PROGRESS"}}'
    assert isinstance(submit(either_client, cut(200, whole[: len(whole) - missing])), kind)


# ---------------------------------------------------------------------- hostile replies to submissions


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"data": ' + b"[" * 500 + b"]" * 500 + b"}",
        b"[" + b"{}," * 1_200_000 + b"{}]",
        b'{"task_id": ' + b"9" * 5000 + b"}",
        # Ids that no request can contain.
        b'{"code": 200, "data": {"task_id": "a\\ud800"}}',
        b'{"code": 200, "data": {"task_id": "a\\u0000b"}}',
        b'{"code": 200, "data": {"task_id": "a\\u202eb"}}',
        b'{"code": 200, "data": {"task_id": "a\\nb"}}',
        b'{"code": 200, "data": {"task_id": "' + b"x" * 1001 + b'"}}',
    ],
    ids=["open", "deep", "nested", "wide", "number", "surrogate", "NUL", "direction", "line", "long"],
)
def test_a_reply_without_a_usable_id_is_an_uncertain_submission(
    either_client: EitherClient, body: bytes
) -> None:
    assert isinstance(submit(either_client, answer(200, body)), Uncertain)


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
    generation = submit(either_client, answer(200, body)).generation
    assert generation.generation_id == "paid-1"
    text = json.dumps(generation.result(), ensure_ascii=False)
    text.encode()
    assert "\\u0000" not in text
    assert "\x1b" not in text


def test_a_message_of_the_service_becomes_one_short_line(either_client: EitherClient) -> None:
    message = "no\nERROR forged line\x1b[2J" + "x" * 100_000
    body = json.dumps({"code": "A" * 5000, "message": message}).encode()
    refused = submit(either_client, answer(400, body))
    assert "\n" not in refused.error.message
    assert "\x1b" not in refused.error.message
    assert len(str(refused.error)) < 10_000


# ---------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    "wrong",
    [
        {"verify": "/no/such/bundle.pem"},
        {"verify": __file__},
        {"proxy": "http://h:port"},
        {"proxy": "http://user:sEcretPw/x@proxy:3128"},
    ],
)
def test_unusable_settings_are_a_configuration_error_without_the_password_of_a_proxy(
    either_client: EitherClient, wrong: dict[str, Any]
) -> None:
    with pytest.raises(errors.SeedanceConfigurationError) as caught:
        either_client.use(dataclasses.replace(settings(), **wrong), lambda it: [])
    assert "sEcretPw" not in "".join(traceback.format_exception(caught.value))


def test_clients_share_a_tls_context_until_the_bundle_changes(tmp_path: Path) -> None:
    verifying = api_client.tls_context(settings())
    assert verifying.check_hostname
    assert api_client.tls_context(settings()) is verifying
    assert not api_client.tls_context(dataclasses.replace(settings(), verify=False)).check_hostname
    bundle = tmp_path / "bundle.pem"
    shutil.copy(certifi.where(), bundle)
    found = dataclasses.replace(settings(), verify=str(bundle))
    first = api_client.tls_context(found)
    assert api_client.tls_context(found) is first
    os.utime(bundle, ns=(0, 0))
    assert api_client.tls_context(found) is not first
