"""Triggers for comparison: an idle one, and a simple one with a client of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
from airflow.providers.common.compat.connection import get_async_connection
from airflow.triggers.base import BaseTrigger, TriggerEvent


class IdleTrigger(BaseTrigger):
    """Trigger that waits without end, to measure Airflow's own cost of a deferred task."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow needs to make the trigger again."""
        return "waiters.IdleTrigger", {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait."""
        await asyncio.Event().wait()
        yield TriggerEvent({})


class OwnClientTrigger(BaseTrigger):
    """
    Trigger that looks the connection up, makes a client, and polls at a fixed interval.

    :param conn_id: The Airflow connection.
    :param path: Path of the request.
    :param interval: Seconds between two requests.
    """

    def __init__(self, *, conn_id: str, path: str, interval: float) -> None:
        super().__init__()
        self.conn_id, self.path, self.interval = conn_id, path, interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow needs to make the trigger again."""
        return "waiters.OwnClientTrigger", {
            "conn_id": self.conn_id,
            "path": self.path,
            "interval": self.interval,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask until the render has succeeded."""
        connection = await get_async_connection(self.conn_id)
        headers = {"Authorization": f"Bearer {connection.password}"}
        async with httpx.AsyncClient(base_url=str(connection.host), headers=headers) as client:
            while (await client.get(self.path)).json()["status"] != "succeeded":  # noqa: ASYNC110 (as people do)
                await asyncio.sleep(self.interval)
        yield TriggerEvent({})
