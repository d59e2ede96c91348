"""Clock of an event loop, which a changed wall clock does not stop, and the conversion of wall-clock times to it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime

from airflow_provider_seedance.apis.rate_limits import RateLimit

#: Maximum drift between wall clock and loop clock that is ignored, so that equal times stay equal after conversion.
MAX_CLOCK_DRIFT_SECONDS = 0.5


class LoopClock:
    """Clock of the running event loop."""

    def __init__(self) -> None:
        #: Returns the seconds by the clock of the loop.
        self.now = asyncio.get_running_loop().time
        self._offset = time.time() - self.now()

    def at(self, wall_time: float) -> float:
        """Convert seconds since 1970."""
        offset = time.time() - self.now()
        if abs(offset - self._offset) > MAX_CLOCK_DRIFT_SECONDS:
            self._offset = offset
        return wall_time - self._offset

    def converted(self, limit: RateLimit) -> RateLimit:
        """Convert the reset of a rate limit."""
        at = limit.reset_at and datetime.fromtimestamp(self.at(limit.reset_at.timestamp()), UTC)
        return replace(limit, reset_at=at)
