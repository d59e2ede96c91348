"""Keys with which services sign their callbacks, read from the services."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool

from airflow_provider_seedance.apis.messages import HttpCall, HttpReply
from airflow_provider_seedance.client.api_client import AsyncClient
from airflow_provider_seedance.settings import Settings

log = logging.getLogger(__name__)

#: Lifetime of the keys of a service; fal documents at most a day.
MAX_KEYS_AGE_SECONDS = 3600.0

#: Pause before keys are read again because a signature does not match, or because they could not be read.
MIN_READ_INTERVAL_SECONDS = 60.0


class SigningKeys:
    """
    Cache of the keys by connection.

    A service that changes its keys is noticed by the first signature that does not match.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: Keys, ``None`` if they could not be read, and the time of the attempt.
        self._cached: dict[tuple[str, str], tuple[Mapping[str, Any] | None, float]] = {}
        self._locks: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def verify(
        self, settings: Settings, headers: Mapping[str, str], body: bytes, now: float
    ) -> bool | None:
        """Return whether the service signed a callback, true where it signs none; ``None`` without its keys."""
        api, path = settings.api, settings.api.callback_keys_path
        if path is None:
            return True
        for max_age in (MAX_KEYS_AGE_SECONDS, MIN_READ_INTERVAL_SECONDS):
            keys = await self._get(settings, path, max_age)
            if keys is not None and api.is_signed(keys, headers, body, now):
                return True
        return None if keys is None else False

    async def _get(self, settings: Settings, path: str, max_age: float) -> Mapping[str, Any] | None:
        async with self._locks[settings.identity]:
            keys, read_at = self._cached.get(settings.identity, (None, float("-inf")))
            age = self._clock() - read_at
            if age >= (MIN_READ_INTERVAL_SECONDS if keys is None else max_age):
                keys = await _read(settings, path) or keys
                self._cached[settings.identity] = (keys, self._clock())
        return keys


async def _read(settings: Settings, path: str) -> Mapping[str, Any] | None:
    # In a thread: the first client of a process reads the certificates.
    async with await run_in_threadpool(AsyncClient, settings) as client:
        answer = await client.send(HttpCall(method="GET", path=path))
    if isinstance(answer, HttpReply) and answer.ok and isinstance(answer.json, Mapping):
        return answer.json
    why = f"status {answer.status}" if isinstance(answer, HttpReply) else answer.message
    log.warning(
        "The keys with which %s signs its callbacks cannot be read (connection %r): %s",
        settings.api.title,
        settings.conn_id,
        why,
    )
    return None
