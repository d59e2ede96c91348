"""Settings of the connections that callback tokens name."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from airflow.models.connection import Connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from starlette.concurrency import run_in_threadpool

from airflow_provider_seedance.api_server.callback_limits import DEFAULT_LIMITS, CallbackLimits
from airflow_provider_seedance.exceptions import SeedanceError
from airflow_provider_seedance.settings import Settings, read_settings

log = logging.getLogger(__name__)


def read_connection(conn_id: str) -> Settings | None:
    """Return the settings of a Seedance connection; ``None`` if it is missing or of another type."""
    try:
        connection = Connection.get_connection_from_secrets(conn_id)
    except AirflowNotFoundException:
        return None
    return read_settings(conn_id, connection) if connection.conn_type == "seedance" else None


class SettingsCache:
    """
    Cache of settings by connection id: anyone can send any number of tokens.

    :param read: Returns the settings of a connection.
    """

    def __init__(
        self,
        limits: CallbackLimits = DEFAULT_LIMITS,
        *,
        read: Callable[[str], Settings | None] = read_connection,
        clock: Callable[[], float] = time.monotonic,
        run_in_thread: Callable[..., Awaitable[Any]] = run_in_threadpool,
    ) -> None:
        self._limits, self._read, self._clock, self._run_in_thread = limits, read, clock, run_in_thread
        #: Expiry by the monotonic clock, and settings or ``None`` for a missing connection.
        self._cached: dict[str, tuple[float, Settings | None]] = {}

    async def get(self, conn_id: str) -> Settings | None:
        """Return the settings of a connection, ``None`` if they cannot be had."""
        expires, settings = self._cached.get(conn_id, (0.0, None))
        if expires > self._clock():
            return settings
        try:
            found = await self._run_in_thread(self._read, conn_id)
        except SeedanceError as error:
            log.warning("Callbacks cannot be verified: %s", error.message)
            found = None
        except Exception as error:
            log.warning("Callbacks of connection %r cannot be verified: %s", conn_id, type(error).__name__)
            return None
        return self._store(conn_id, found)

    def _store(self, conn_id: str, found: Settings | None) -> Settings | None:
        if len(self._cached) >= self._limits.max_connections:
            # Made-up names must not evict real connections.
            self._cached = {name: entry for name, entry in self._cached.items() if entry[1] is not None}
        if len(self._cached) >= self._limits.max_connections:
            self._cached.clear()
        now = self._clock()
        expires, known = self._cached.get(conn_id, (0.0, None))
        if found is None and known is not None and now < expires + self._limits.stale_connection_ttl:
            return known
        ttl = self._limits.missing_connection_ttl if found is None else self._limits.connection_ttl
        self._cached[conn_id] = (now + ttl, found)
        return found
