"""Status requests to the service that callbacks lead to."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any, Self

import pytest
from support import emulator_settings, on_loop, smallest

from airflow_provider_seedance.api_server import callback_confirmation
from airflow_provider_seedance.api_server.callback_confirmation import StatusReader, SubmissionBackoff
from airflow_provider_seedance.api_server.callback_delivery import Outcome
from airflow_provider_seedance.api_server.callback_limits import DEFAULT_LIMITS
from airflow_provider_seedance.apis.validation import prepare_request
from airflow_provider_seedance.client import flows
from airflow_provider_seedance.client.api_client import AsyncClient, Client
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import Generation, GenerationStatus, utc_now
from api_server.callback_server import CLAIMS, SECRET, CallbackServer


@pytest.fixture
def waiting(server: CallbackServer, services: SeedanceEmulator) -> dict[str, Any]:
    """The kwargs of a trigger that waits for a generation of the emulator."""
    services.hold()
    settings = server.settings = emulator_settings(services, "ark", callback_secret=SECRET)
    request = prepare_request(settings, smallest("ark")).request
    with Client(settings) as http:
        outcome = http.run(
            flows.submit_flow(settings.api, settings.api.submit_call(request), request, utc_now)
        )
    generation_id = outcome.generation.generation_id  # type: ignore[union-attr]
    return {"generation_id": generation_id, "media": "video", "result_defaults": {"credits": 7}}


def body(waiting: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"id": waiting["generation_id"], **more}).encode()


def completing(waiting: dict[str, Any]) -> Outcome:
    return Outcome(kind="confirm", trigger_kwargs={**waiting, "end_from_trigger": True})


def confirm(waiting: dict[str, Any]) -> Outcome:
    return Outcome(kind="confirm", trigger_kwargs=waiting)


def test_a_task_with_end_from_trigger_is_completed_with_the_result_of_the_service(
    server: CallbackServer, services: SeedanceEmulator, waiting: dict[str, Any]
) -> None:
    services.finish(waiting["generation_id"])
    server.outcomes = [completing(waiting)]
    server.post(body=body(waiting, status="succeeded", content={"video_url": "https://evil.example/1.mp4"}))
    (result,) = server.results
    assert Generation.from_result(result).status is GenerationStatus.SUCCEEDED
    assert result["credits"] == 7
    assert result["url"].startswith(services.url)
    assert services.ledger.count("status") == 1


def test_a_false_success_starts_no_worker(
    server: CallbackServer, services: SeedanceEmulator, waiting: dict[str, Any]
) -> None:
    server.outcomes = [completing(waiting)]
    server.post(body=body(waiting, status="succeeded"))
    assert server.results == []
    assert [(on_worker, event) for *_, on_worker, event in server.calls] == [(False, None)]


def test_a_failed_generation_resumes_on_a_worker(
    server: CallbackServer, services: SeedanceEmulator, waiting: dict[str, Any]
) -> None:
    services.fail(waiting["generation_id"], "no herons")
    server.outcomes = [completing(waiting)]
    server.post(body=body(waiting, status="failed"))
    assert server.results == []
    *_, on_worker, event = server.calls[-1]
    assert on_worker
    assert (event["outcome"], event["error_message"]) == ("ended", "no herons")


def test_a_worker_reads_the_status_that_the_api_server_cannot_read(
    server: CallbackServer, services: SeedanceEmulator, waiting: dict[str, Any]
) -> None:
    services.fault("refuse", on="status", status=500, times=100)
    server.outcomes = [completing(waiting)]
    server.post(body=body(waiting, status="succeeded"))
    assert [(on_worker, event) for *_, on_worker, event in server.calls][1:] == [(True, None)]


@pytest.mark.parametrize("ended", [True, False])
def test_an_id_without_a_status_is_confirmed(
    server: CallbackServer, services: SeedanceEmulator, waiting: dict[str, Any], ended: bool
) -> None:
    if ended:
        services.finish(waiting["generation_id"])
    server.outcomes = [confirm(waiting)]
    server.post(body=body(waiting))
    assert services.ledger.count("status") == 1
    assert len(server.calls) == 1 + ended
    if ended:
        *_, on_worker, event = server.calls[-1]
        assert on_worker
        assert event["outcome"] == "ended"


def test_an_unreadable_status_confirms_nothing(
    server: CallbackServer, services: SeedanceEmulator, waiting: dict[str, Any]
) -> None:
    services.fault("refuse", on="status", status=500, times=100)
    server.outcomes = [confirm(waiting)]
    server.post(body=body(waiting))
    assert len(server.calls) == 1


def test_repeated_callbacks_cause_status_requests_with_growing_pauses(
    server: CallbackServer, services: SeedanceEmulator, waiting: dict[str, Any]
) -> None:
    for _ in range(5):
        server.outcomes = [confirm(waiting)] * 2
        server.post(body=body(waiting))
    assert server.pauses == [pytest.approx(seconds, abs=5) for seconds in (15, 30, 60, 120)]
    assert services.ledger.count("status") == 5


@pytest.mark.parametrize("ended", [True, False])
def test_another_id_causes_a_status_request_for_the_known_one(
    server: CallbackServer, services: SeedanceEmulator, waiting: dict[str, Any], ended: bool
) -> None:
    if ended:
        services.finish(waiting["generation_id"])
    server.outcomes = [confirm(waiting)]
    server.post(
        body=b'{"id": "evt-1", "status": "succeeded", "content": {"video_url": "https://evil.example/1"}}'
    )
    (request,) = [request for request in services.ledger.requests if request.method == "GET"]
    assert waiting["generation_id"] in request.path
    assert len(server.calls) == 1 + ended
    if ended:
        *_, on_worker, event = server.calls[-1]
        assert on_worker
        assert event["generation_id"] == waiting["generation_id"]
        assert event["result"]["url"].startswith(services.url)


def test_the_backoff_doubles_and_is_forgotten() -> None:
    now = [0.0]
    backoff = SubmissionBackoff(DEFAULT_LIMITS, lambda: now[0])
    allowed = []
    while now[0] < 7200.0:
        if not backoff.reserve(CLAIMS):
            allowed.append(now[0])
        now[0] += 1.0
    assert allowed[:5] == [0.0, 15.0, 45.0, 105.0, 225.0]
    assert len(allowed) < 20
    other = replace(CLAIMS, nonce="n2")
    assert backoff.reserve(other) == 0.0
    now[0] += 3600.0
    assert [backoff.reserve(other) for _ in range(2)] == [0.0, 15.0]
    assert list(backoff._next) == [other]


def test_concurrent_status_requests_are_bounded_and_their_clients_closed(
    services: SeedanceEmulator, waiting: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_clients: list[Any] = []
    most: list[int] = []

    class CountedClient(AsyncClient):
        async def __aenter__(self) -> Self:
            open_clients.append(self)
            most.append(len(open_clients))
            return await super().__aenter__()

        async def close(self) -> None:
            open_clients.remove(self)
            await super().close()

    monkeypatch.setattr(callback_confirmation, "AsyncClient", CountedClient)
    settings = emulator_settings(services, "ark")

    async def read() -> None:
        reader = StatusReader()
        found = await asyncio.gather(*(reader.read_final(waiting, settings) for _ in range(30)))
        assert {generation.generation_id for generation in found if generation} == {waiting["generation_id"]}

    on_loop(read())
    assert max(most) <= DEFAULT_LIMITS.max_status_requests
    assert not open_clients
    assert services.ledger.count("status") == 30


def test_a_client_that_cannot_be_made_reads_no_status(services: SeedanceEmulator) -> None:
    settings = emulator_settings(services, "ark", verify="/no/such/bundle.pem")
    reader = StatusReader()
    assert on_loop(reader.read_final({"generation_id": "g1", "media": "video"}, settings)) is None
