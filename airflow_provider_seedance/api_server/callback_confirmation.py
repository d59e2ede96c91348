"""Asking the service what came of a render, from the API server, because a callback is only a hint."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Hashable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.concurrency import run_in_threadpool

from airflow_provider_seedance.client import flows
from airflow_provider_seedance.client.api_client import AsyncClient
from airflow_provider_seedance.exceptions import SeedanceError
from airflow_provider_seedance.generations import Generation, utc_now
from airflow_provider_seedance.settings import Settings

log = logging.getLogger(__name__)

#: So many questions to one service are open at once.
AT_ONCE = 8


class _Shared:
    """A client that all who ask at the same time have in common: to make one takes a while."""

    def __init__(self, settings: Settings) -> None:
        self.made = asyncio.create_task(run_in_threadpool(AsyncClient, settings))
        self.slots = asyncio.Semaphore(AT_ONCE)
        self.users = 0


_shared: dict[Hashable, _Shared] = {}


@asynccontextmanager
async def _client(settings: Settings) -> AsyncIterator[AsyncClient]:
    key = (asyncio.get_running_loop(), settings.conn_id, settings.identity)
    shared = _shared.get(key) or _shared.setdefault(key, _Shared(settings))
    shared.users += 1
    try:
        client = await asyncio.shield(shared.made)
        async with shared.slots:
            yield client
    finally:
        shared.users -= 1
        if not shared.users:
            del _shared[key]
            if shared.made.done() and not shared.made.exception():
                await shared.made.result().close()


async def read_end(waits: Mapping[str, Any], settings: Settings) -> Generation | None:
    """
    Ask the service what came of a render; ``None`` if it does not say.

    :param waits: The kwargs of the trigger that waits for it.
    """
    try:
        async with _client(settings) as client:
            flow = flows.final_status_flow(settings.api, waits["generation_id"], waits["media"], utc_now)
            generation = await client.run(flow)
    except SeedanceError as error:
        log.info("The end of generation %s could not be read: %s", waits["generation_id"], error.message)
        return None
    return generation.with_defaults(waits.get("result_defaults") or {})
