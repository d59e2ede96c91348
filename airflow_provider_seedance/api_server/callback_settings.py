"""Settings of the connections that callback tokens name."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf
from typing import NamedTuple

from airflow.models.connection import Connection
from airflow.models.team import Team
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_seedance.api_server.callback_limits import DEFAULT_LIMITS, CallbackLimits
from airflow_provider_seedance.exceptions import SeedanceError
from airflow_provider_seedance.settings import Settings, read_settings

log = logging.getLogger(__name__)


def read_connection(conn_id: str, team: str = "") -> Settings | None:
    """Return the settings of a connection as a team, if any, sees it; ``None`` if missing or of another type."""
    # Airflow gives a team that does not exist the connections without a team: each forged name would be a known one.
    if team and Team.get_name_if_exists(team) is None:
        return None
    try:
        connection = Connection.get_connection_from_secrets(conn_id, **({"team_name": team} if team else {}))
    except AirflowNotFoundException:
        return None
    return read_settings(conn_id, connection) if connection.conn_type == "seedance" else None


class TooManyLookups(Exception):
    """Too many tokens name connections that are not known to exist."""


class _Entry(NamedTuple):
    """Settings, or ``None`` for a missing connection; times by the monotonic clock."""

    expires: float
    settings: Settings | None
    usable_until: float


_Key = tuple[str, str]  # connection id and team
_UNKNOWN = _Entry(expires=-inf, settings=None, usable_until=-inf)


class SettingsCache:
    """
    Cache of settings by connection id and team.

    Both come from tokens that are not verified yet: an attacker can send any number of them. Lookups therefore have
    threads of their own, and those of unknown ids a limited rate.
    """

    def __init__(
        self,
        limits: CallbackLimits = DEFAULT_LIMITS,
        *,
        read: Callable[[str, str], Settings | None] = read_connection,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits, self._read, self._clock = limits, read, clock
        self._cached: dict[_Key, _Entry] = {}
        self._lookups: dict[_Key, asyncio.Task[Settings | None]] = {}
        self._tokens, self._refilled_at = float(limits.unknown_lookup_burst), clock()
        # Unknown ids must not delay known ones.
        self._known_threads = ThreadPoolExecutor(limits.max_lookups, "seedance-connections")
        self._unknown_threads = ThreadPoolExecutor(limits.max_lookups, "seedance-unknown-connections")

    async def get(self, conn_id: str, team: str = "") -> Settings | None:
        """Return the settings of a connection, ``None`` if they cannot be had; raises :class:`TooManyLookups`."""
        now, key = self._clock(), (conn_id, team)
        entry = self._cached.get(key, _UNKNOWN)
        if entry.expires > now:
            return entry.settings
        lookup = self._lookups.get(key)
        if lookup is None:
            if entry.settings is None:
                self._take_token(now)
            threads = self._unknown_threads if entry.settings is None else self._known_threads
            lookup = self._lookups[key] = asyncio.create_task(self._look_up(key, threads))
            lookup.add_done_callback(lambda _: self._lookups.pop(key, None))
        return await asyncio.shield(lookup)

    def _take_token(self, now: float) -> None:
        limits = self._limits
        refill = (now - self._refilled_at) * limits.unknown_lookups_per_second
        self._tokens, self._refilled_at = min(self._tokens + refill, limits.unknown_lookup_burst), now
        if self._tokens < 1:
            raise TooManyLookups
        self._tokens -= 1

    async def _look_up(self, key: _Key, threads: ThreadPoolExecutor) -> Settings | None:
        found = None
        try:
            found = await asyncio.get_running_loop().run_in_executor(threads, self._read, *key)
        except SeedanceError as error:
            log.warning("Callbacks cannot be verified: %s", error.message)
        except Exception as error:
            log.warning("Callbacks of connection %r cannot be verified: %s", key[0], type(error).__name__)
        return self._store(key, found)

    def _store(self, key: _Key, found: Settings | None) -> Settings | None:
        limits, now = self._limits, self._clock()
        if len(self._cached) >= limits.max_connections:
            # Unknown ids could be any number. Known ones are as many as the deployment has, and stay.
            self._cached = {name: entry for name, entry in self._cached.items() if entry.settings}
        if found is not None:
            expires = now + limits.connection_ttl
            entry = _Entry(expires, found, usable_until=expires + limits.stale_connection_ttl)
        else:
            known = self._cached.get(key, _UNKNOWN)
            entry = known if now < known.usable_until else _UNKNOWN
            entry = entry._replace(expires=now + limits.missing_connection_ttl)
        self._cached[key] = entry
        return entry.settings
