"""Status requests of the API server, because a callback does not prove the end of a generation."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool

from airflow_provider_seedance.api_server.callback_limits import DEFAULT_LIMITS, CallbackLimits
from airflow_provider_seedance.client import flows
from airflow_provider_seedance.client.api_client import AsyncClient
from airflow_provider_seedance.exceptions import SeedanceError
from airflow_provider_seedance.generations import Generation, utc_now
from airflow_provider_seedance.settings import Settings

log = logging.getLogger(__name__)


class StatusReader:
    """Reader of the final status of generations."""

    def __init__(self, limits: CallbackLimits = DEFAULT_LIMITS) -> None:
        #: By connection id.
        self._slots = defaultdict[str, asyncio.Semaphore](
            lambda: asyncio.Semaphore(limits.max_status_requests)
        )

    async def read_final(self, trigger_kwargs: Mapping[str, Any], settings: Settings) -> Generation | None:
        """Return the state of the generation of a waiting trigger; ``None`` if the service does not report it."""
        generation_id = trigger_kwargs["generation_id"]
        try:
            # In a thread: the first client of a process reads the certificates.
            async with (
                self._slots[settings.conn_id],
                await run_in_threadpool(AsyncClient, settings) as client,
            ):
                flow = flows.final_status_flow(settings.api, generation_id, trigger_kwargs["media"], utc_now)
                generation = await client.run(flow)
        except SeedanceError as error:
            log.info("The status of generation %s could not be read: %s", generation_id, error.message)
            return None
        return generation.with_defaults(trigger_kwargs.get("result_defaults") or {})


class SubmissionBackoff:
    """Doubling backoff between the reads for one submission that callbacks cause."""

    def __init__(self, limits: CallbackLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        #: By submission: time of the next read, and the pause after that.
        self._next: dict[Hashable, tuple[float, float]] = {}

    def reserve(self, submission: Hashable) -> float:
        """Return 0 and count a read, or return the seconds until one is allowed."""
        now, limits = self._clock(), self._limits
        for other in [key for key, (at, _) in self._next.items() if at + limits.max_status_backoff <= now]:
            del self._next[other]
        if (wait := self.remaining(submission)) > 0:
            return wait
        _, pause = self._next.get(submission, (now, limits.status_backoff))
        self._next[submission] = (now + pause, min(2 * pause, limits.max_status_backoff))
        return 0.0

    def remaining(self, submission: Hashable) -> float:
        """Return the seconds until a read is allowed."""
        now = self._clock()
        return self._next.get(submission, (now, 0.0))[0] - now
