"""Settings of the connections of an event loop, looked up once for all waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from airflow_provider_seedance.polling.wait_state import PollTiming
from airflow_provider_seedance.settings import Settings

log = logging.getLogger(__name__)

GetSettings = Callable[[str], Awaitable[Settings]]


@dataclass(slots=True)
class _Connection:
    """Latest settings of a connection, and the error of the look-ups since."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    settings: Settings | None = None
    looked_up_at: float = 0.0
    error: Exception | None = None
    failures: int = 0
    retry_at: float = 0.0


class Connections:
    """Settings of each connection id, looked up once for all waits of a loop."""

    def __init__(self, look_up: GetSettings, timing: PollTiming) -> None:
        #: Number of waits that use these connections.
        self.users = 0
        self._look_up = look_up
        self._timing = timing
        self._known: dict[str, _Connection] = {}

    def known(self, conn_id: str) -> Settings | None:
        """Return the latest settings, if any."""
        return found.settings if (found := self._known.get(conn_id)) else None

    async def get(self, conn_id: str, *, max_age: float | None = None) -> Settings:
        """
        Return the settings, looked up again if they are older than ``max_age`` seconds.

        While look-ups fail they are repeated with backoff, and the latest settings, if any, are returned.
        """
        age = self._timing.connection_lifetime if max_age is None else max_age
        known = self._known.setdefault(conn_id, _Connection())
        async with known.lock:
            now = asyncio.get_running_loop().time()
            stale = known.settings is None or now >= known.looked_up_at + age
            if stale and now >= known.retry_at:
                await self._refresh(conn_id, known, now)
        if known.settings is None:
            # Of each caller's own: an error that is raised again keeps the frames and contexts of all of them.
            raise LookupError(str(known.error)) from known.error
        return known.settings

    async def _refresh(self, conn_id: str, known: _Connection, now: float) -> None:
        try:
            known.settings = await self._look_up(conn_id)
        except Exception as error:
            if not known.failures:
                log.warning(
                    "Connection %r could not be looked up, which is repeated until it can: %s",
                    conn_id,
                    type(error).__name__,
                )
            known.error = error
            known.retry_at = now + self._timing.retry_delay(known.failures)
            known.failures += 1
        else:
            known.looked_up_at, known.failures, known.retry_at = now, 0, 0.0
