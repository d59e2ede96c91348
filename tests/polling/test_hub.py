"""The hub with the real client, over HTTP; :mod:`polling.test_hub_in_time` and its neighbours simulate time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from support import emulator_settings, on_loop, submitted

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.polling import hub as module
from airflow_provider_seedance.polling.hub import wait_for_generation
from airflow_provider_seedance.polling.shared_quota import SharedQuota
from airflow_provider_seedance.polling.wait_state import WaitState, WaitStep
from airflow_provider_seedance.settings import Settings

CONN = "seedance_default"


class Waits:
    """The waits for generations of one connection."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.look_ups = 0

    async def look_up(self, conn_id: str) -> Settings:
        self.look_ups += 1
        await asyncio.sleep(0)
        return self.settings

    def wait(self, generation_id: str, seconds: float, interval: float) -> Any:
        state = WaitState(
            generation_id=generation_id, media="video", deadline=time.time() + seconds, poll_interval=interval
        )
        return wait_for_generation(state, CONN, self.look_up, not_before=0.0)

    def run(self, *ids: str, seconds: float = 60, interval: float = 0.01) -> list[WaitStep]:
        """Wait for all generations; nothing of the hub is left after it."""

        async def main() -> list[WaitStep]:
            async with asyncio.timeout(120):  # a test that hangs fails
                steps = await asyncio.gather(*(self.wait(each, seconds, interval) for each in ids))
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return steps

        steps: list[WaitStep] = on_loop(main())
        assert (module._hubs, module._connections) == ({}, {})
        return steps


@pytest.fixture
def waits(services: SeedanceEmulator) -> Callable[[str], Waits]:
    return lambda api: Waits(emulator_settings(services, api))


def test_many_waits_share_one_client_and_one_look_up(
    services: SeedanceEmulator,
    waits: Callable[[str], Waits],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed: list[Any] = []
    close = module.AsyncClient.close

    async def count(client: Any) -> None:
        closed.append(client)
        await close(client)

    monkeypatch.setattr(module.AsyncClient, "close", count)
    caplog.set_level("INFO", logger="airflow_provider_seedance")
    runbase = waits("runbase")
    ids = [submitted(services, "runbase") for _ in range(10)]
    steps = runbase.run(*ids)
    assert [step.kind for step in steps] == ["ended"] * 10
    assert [step.state.last and step.state.last.generation_id for step in steps] == ids
    assert (runbase.look_ups, len(closed)) == (1, 1)
    assert services.ledger.count("status") == 10
    # No line per poll.
    assert [line for line in caplog.records if line.name.startswith("airflow_provider_seedance")] == []


def test_one_request_reads_many_where_the_service_can(
    services: SeedanceEmulator, waits: Callable[[str], Waits]
) -> None:
    ids = [submitted(services, "ark") for _ in range(150)]
    steps = waits("ark").run(*ids, interval=0.05)
    assert [step.state.last and step.state.last.generation_id for step in steps] == ids
    assert all(step.state.last and step.state.last.urls for step in steps)
    assert services.ledger.count("status") <= 1
    assert services.ledger.count("list") < 20  # one, unless the machine is slow


def test_the_quota_in_headers_is_learned(services: SeedanceEmulator, waits: Callable[[str], Waits]) -> None:
    services.set_rate_limit(30, 3600)
    seedance2api = waits("seedance2api")
    seedance2api.run(submitted(services, "seedance2api"))
    known = SharedQuota(seedance2api.settings.identity).read(time.time())
    assert (known.limit, known.remaining) == (30, 30 - len(services.ledger.requests))
