"""Callbacks in flight: retries, backoff, and limits."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from airflow_provider_seedance.api_server.callback_delivery import Outcome
from airflow_provider_seedance.api_server.callback_limits import DEFAULT_LIMITS
from airflow_provider_seedance.callbacks.payload import CallbackPayload
from airflow_provider_seedance.submission.timing import TIMING
from api_server.callback_server import CLAIMS, SUCCEEDED, TOKEN, CallbackServer, token_for

WITHOUT_ID = b'{"status": "succeeded"}'
RETRY = Outcome(kind="retry")
AWAY = ConnectionError("connection refused")


def test_an_early_callback_is_retried_with_growing_pauses(server: CallbackServer) -> None:
    server.outcomes = [RETRY] * 4
    server.post()
    assert len(server.calls) == 5
    assert server.pauses == sorted(server.pauses)
    assert server.pauses[0] == DEFAULT_LIMITS.early_backoff


def test_a_known_moment_is_kept(server: CallbackServer) -> None:
    server.outcomes = [Outcome(kind="retry", seconds=1.25)]
    server.post()
    assert server.pauses == [1.25]


@pytest.mark.parametrize("body", [SUCCEEDED, WITHOUT_ID])
def test_a_database_that_is_away_for_a_while_loses_no_callback(server: CallbackServer, body: bytes) -> None:
    server.outcomes = [AWAY] * 11
    assert server.post(body=body).status_code == 202
    assert len(server.calls) == 12
    assert server.pauses == sorted(server.pauses)
    assert server.pauses[0] < 1
    assert server.pauses[-1] == DEFAULT_LIMITS.max_backoff
    assert 60 < sum(server.pauses) < DEFAULT_LIMITS.retry_timeout


@pytest.mark.parametrize(
    ("outcomes", "minimum"),
    [
        # A task whose reply was lost polls nothing: without the id its paid generation would be lost.
        ([AWAY] * 46, TIMING.callback_timeout),
        # The task has the full time to defer after errors of the database.
        ([*[AWAY] * 20, RETRY, RETRY], DEFAULT_LIMITS.retry_timeout),
    ],
    ids=["lost reply", "late deferral"],
)
def test_a_callback_with_an_id_outlasts_a_long_outage(
    server: CallbackServer, outcomes: list[Outcome | Exception], minimum: float
) -> None:
    server.outcomes = list(outcomes)
    server.post()
    assert len(server.calls) == len(outcomes) + 1
    assert sum(server.pauses) > minimum


@pytest.mark.parametrize(
    ("outcome", "body", "timeout", "warnings"),
    [
        (RETRY, SUCCEEDED, DEFAULT_LIMITS.retry_timeout, 0),
        (ImportError("no such module"), SUCCEEDED, DEFAULT_LIMITS.id_retry_timeout, 1),
        (ImportError("no such module"), WITHOUT_ID, DEFAULT_LIMITS.retry_timeout, 1),
    ],
    ids=["early", "error", "error without an id"],
)
def test_retries_end_and_a_lasting_error_is_logged_once(
    server: CallbackServer,
    caplog: pytest.LogCaptureFixture,
    outcome: Any,
    body: bytes,
    timeout: float,
    warnings: int,
) -> None:
    server.outcomes = [outcome] * 1000
    assert server.post(body=body).status_code == 202
    assert timeout < sum(server.pauses) <= timeout + DEFAULT_LIMITS.max_backoff
    assert caplog.text.count("is given up") == caplog.text.count("on_uncertain_submit") == warnings


def test_a_minimum_of_attempts_is_made_even_if_they_exceed_the_timeout(server: CallbackServer) -> None:
    server.start(id_retry_timeout=-1.0)
    server.outcomes = [AWAY] * (DEFAULT_LIMITS.min_attempts - 1)
    server.post()
    assert len(server.calls) == DEFAULT_LIMITS.min_attempts


def test_concurrent_duplicates_are_delivered_once(server: CallbackServer) -> None:
    async def do(http: httpx.AsyncClient) -> list[int]:
        answers = await asyncio.gather(
            *(http.post(f"/callbacks/{TOKEN}", content=SUCCEEDED) for _ in range(30))
        )
        return [answer.status_code for answer in answers]

    assert server.run(do) == [202] * 30
    assert len(server.calls) < 30


def test_too_many_payloads_for_one_submission_are_dropped_silently(server: CallbackServer) -> None:
    server.outcomes = [RETRY] * 100
    settings = server.read_connection("ours")
    assert settings is not None
    payloads = [CallbackPayload(generation_id=f"g{number}") for number in range(60)]

    async def do(http: httpx.AsyncClient) -> list[bool]:
        return [server.queue.enqueue(CLAIMS, payload, settings) for payload in payloads]

    assert server.run(do) == [True] * 60
    assert len({payload.generation_id for _, payload, *_ in server.calls}) == DEFAULT_LIMITS.max_payloads


def test_a_full_queue_is_answered_503(server: CallbackServer) -> None:
    server.start(max_in_flight=0)
    assert server.post().status_code == 503
    assert server.calls == []


def test_a_burst_is_answered_before_it_is_delivered(server: CallbackServer) -> None:
    server.start(quiet_period=0.01)

    async def do(http: httpx.AsyncClient) -> int:
        for number in range(20):
            body = json.dumps({"id": f"g{number % 8}", "status": "succeeded"})
            await http.post(f"/callbacks/{TOKEN}", content=body)
        await asyncio.sleep(0.05)  # deliveries would begin, but the clock stands still
        delivered = len(server.calls)
        server.pauses.append(1.0)
        return delivered

    assert server.run(do) == 0
    assert len(server.calls) == 8


# ---------------------------------------------------------------------- replays


def test_replays_start_workers_with_growing_pauses(server: CallbackServer) -> None:
    """A worker reads the status, finds the generation running, and defers again; the next replay must not repeat that."""
    resumed = Outcome(kind="resumed", trigger_kwargs={"generation_id": "g1"})
    for _ in range(6):
        server.outcomes = [resumed]
        server.post(body=b'{"id": "g1", "status": "failed"}')
    assert len(server.calls) == 6
    assert server.pauses == [15, 30, 60, 120, 240]


def test_other_submissions_and_unknown_ids_are_not_paused(server: CallbackServer) -> None:
    server.outcomes = [Outcome(kind="resumed", trigger_kwargs={"generation_id": "g1"})]
    server.post()
    server.post(token_for(nonce="n2"))
    # After a lost reply the id is unknown, and any callback may have it.
    server.outcomes = [Outcome(kind="resumed", trigger_kwargs={"generation_id": None})] * 2
    server.post(token_for(nonce="n3"))
    server.post(token_for(nonce="n3"), body=b'{"id": "g2", "status": "failed"}')
    assert server.pauses == []
