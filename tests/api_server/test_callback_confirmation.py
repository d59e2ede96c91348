"""Status requests to the service that callbacks lead to."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any, Self

import pytest
from support import emulator_settings, on_loop, submitted

from airflow_provider_seedance.api_server import callback_confirmation
from airflow_provider_seedance.api_server.callback_confirmation import StatusReader, SubmissionBackoff
from airflow_provider_seedance.api_server.callback_delivery import Outcome
from airflow_provider_seedance.api_server.callback_limits import DEFAULT_LIMITS
from airflow_provider_seedance.client.api_client import AsyncClient
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import Generation, GenerationStatus
from api_server.callback_server import CLAIMS, SECRET, CallbackServer


class Waiting:
    """A trigger that waits for a generation of the emulator, and the callbacks for it."""

    def __init__(self, server: CallbackServer, services: SeedanceEmulator) -> None:
        self.server, self.services = server, services
        services.hold()
        server.settings = emulator_settings(services, "ark", callback_secret=SECRET)
        self.generation_id = submitted(services, "ark")
        self.kwargs = {
            "generation_id": self.generation_id,
            "media": "video",
            "result_defaults": {"credits": 7},
        }

    def call_back(self, *, ends: bool = False, times: int = 1, **body: Any) -> None:
        """Send a callback whose delivery has to be confirmed; ``ends`` is that of the trigger."""
        kwargs = {**self.kwargs, "end_from_trigger": True} if ends else self.kwargs
        self.server.outcomes = [Outcome(kind="confirm", trigger_kwargs=kwargs)] * times
        self.server.post(body=json.dumps({"id": self.generation_id, **body}).encode())

    @property
    def deliveries(self) -> list[tuple[bool, Any]]:
        """Return where each delivery went, and its event."""
        return [(on_worker, event) for *_, on_worker, event in self.server.calls]


@pytest.fixture
def waiting(server: CallbackServer, services: SeedanceEmulator) -> Waiting:
    return Waiting(server, services)


def test_a_task_with_end_from_trigger_is_completed_with_the_result_of_the_service(waiting: Waiting) -> None:
    waiting.services.finish(waiting.generation_id)
    forged = {"video_url": "https://evil.example/1.mp4"}
    waiting.call_back(ends=True, status="succeeded", content=forged)
    (result,) = waiting.server.results
    assert Generation.from_result(result).status is GenerationStatus.SUCCEEDED
    assert result["credits"] == 7
    assert result["url"].startswith(waiting.services.url)
    assert waiting.services.ledger.count("status") == 1


def test_a_false_success_starts_no_worker(waiting: Waiting) -> None:
    waiting.call_back(ends=True, status="succeeded")
    assert waiting.server.results == []
    assert waiting.deliveries == [(False, None)]


def test_a_failed_generation_resumes_on_a_worker(waiting: Waiting) -> None:
    waiting.services.fail(waiting.generation_id, "no herons")
    waiting.call_back(ends=True, status="failed")
    assert waiting.server.results == []
    on_worker, event = waiting.deliveries[-1]
    assert on_worker
    assert (event["outcome"], event["error_message"]) == ("ended", "no herons")


@pytest.mark.parametrize("body", [{}, {"status": "succeeded"}], ids=["nothing", "an end"])
def test_a_worker_reads_the_status_of_a_reported_end_that_the_api_server_cannot_read(
    waiting: Waiting, body: dict[str, Any]
) -> None:
    waiting.services.fault("refuse", on="status", status=500, times=100)
    waiting.call_back(ends=bool(body), **body)
    assert waiting.deliveries[1:] == [(True, None)] * len(body)


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize(
    "body",
    [{}, {"id": "evt-1", "status": "succeeded", "content": {"video_url": "https://evil.example/1"}}],
    ids=["without a status", "another id"],
)
def test_a_status_request_for_the_known_generation_confirms_a_callback(
    waiting: Waiting, ended: bool, body: dict[str, Any]
) -> None:
    if ended:
        waiting.services.finish(waiting.generation_id)
    waiting.call_back(**body)
    (request,) = [request for request in waiting.services.ledger.requests if request.method == "GET"]
    assert waiting.generation_id in request.path
    assert len(waiting.deliveries) == 1 + ended
    if ended:
        on_worker, event = waiting.deliveries[-1]
        assert on_worker
        assert (event["outcome"], event["generation_id"]) == ("ended", waiting.generation_id)
        assert event["result"]["url"].startswith(waiting.services.url)


def test_repeated_callbacks_cause_status_requests_with_growing_pauses(waiting: Waiting) -> None:
    for _ in range(5):
        waiting.call_back(times=2)
    assert waiting.server.pauses == [15, 30, 60, 120]
    assert waiting.services.ledger.count("status") == 5


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
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
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
    settings = emulator_settings(waiting.services, "ark")

    async def read() -> None:
        reader = StatusReader()
        found = await asyncio.gather(*(reader.read_final(waiting.kwargs, settings) for _ in range(30)))
        assert {generation.generation_id for generation in found if generation} == {waiting.generation_id}

    on_loop(read())
    assert max(most) <= DEFAULT_LIMITS.max_status_requests
    assert not open_clients
    assert waiting.services.ledger.count("status") == 30


def test_a_client_that_cannot_be_made_reads_no_status(services: SeedanceEmulator) -> None:
    settings = emulator_settings(services, "ark", verify="/no/such/bundle.pem")
    reader = StatusReader()
    assert on_loop(reader.read_final({"generation_id": "g1", "media": "video"}, settings)) is None
