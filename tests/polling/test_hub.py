"""The hub with the real client, over HTTP; :mod:`polling.test_hub_in_time` and its neighbours simulate time."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import patch

import pytest
from support import emulator_settings, on_loop, submitted

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.polling import hub as module
from polling.simulated import CONN, Connections, wait


def wait_in_real_time(look_up: Connections, ids: list[str], interval: float) -> list[Any]:
    """Wait for all generations, and return them; nothing of the hub is left after it."""

    async def main() -> list[Any]:
        async with asyncio.timeout(120):  # a test that hangs fails
            steps = await asyncio.gather(*(wait(look_up, one, CONN, interval=interval) for one in ids))
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return [step.state.last for step in steps]

    found: list[Any] = on_loop(main())
    assert (module._hubs, module._connections) == ({}, {})
    return found


def test_many_waits_share_one_client_and_one_look_up(
    services: SeedanceEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="airflow_provider_seedance")
    look_up = Connections(emulator_settings(services, "runbase"))
    ids = [submitted(services, "runbase") for _ in range(10)]
    close = patch.object(module.AsyncClient, "close", autospec=True, side_effect=module.AsyncClient.close)
    with close as closed:
        assert [last.generation_id for last in wait_in_real_time(look_up, ids, 0.01)] == ids
    assert (len(look_up.looked_up), closed.await_count) == (1, 1)
    assert services.ledger.count("status") == 10
    # No line per poll.
    assert [line for line in caplog.records if line.name.startswith("airflow_provider_seedance")] == []


def test_one_request_reads_many_where_the_service_can(services: SeedanceEmulator) -> None:
    ids = [submitted(services, "ark") for _ in range(15)]
    found = wait_in_real_time(Connections(emulator_settings(services, "ark")), ids, 0.05)
    assert [last.generation_id for last in found if last.urls] == ids
    assert services.ledger.count("status") <= 1
    assert services.ledger.count("list") < 10  # one, unless the machine is slow
