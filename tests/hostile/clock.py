"""Simulated time, which moves where a machine moves it, and a little with each look at it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, tzinfo
from unittest.mock import patch

from airflow_provider_seedance import generations

#: Seconds that pass with each look, so that two moments differ.
_TICK_SECONDS = 0.001


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.reset()

    def reset(self) -> None:
        self.now = datetime(2026, 2, 7, tzinfo=UTC).timestamp()

    def time(self) -> float:
        self.now += _TICK_SECONDS
        return self.now

    def advance_to(self, moment: float) -> None:
        self.now = max(self.now, moment)

    @contextmanager
    def installed(self) -> Iterator[None]:
        clock = self

        class SimulatedDatetime(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime.fromtimestamp(clock.time(), tz or UTC)

        with ExitStack() as stack:
            stack.enter_context(patch.object(time, "time", self.time))
            stack.enter_context(patch.object(generations, "datetime", SimulatedDatetime))
            yield


#: The clock of all machines.
CLOCK = Clock()
