"""
Rates of the kinds of calls that a service limits apart from each other.

Pure: times are passed in. The limits are of the account. Processes that share it learn of each other only by refusals: each
doubles its interval then, and shortens it again while its calls succeed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from airflow_provider_seedance import exceptions as errors

#: Interval between calls, as a multiple of the documented one: calls do not arrive as evenly as they are sent, and workers
#: make single calls, too.
_MARGIN = 1.2
#: Longest interval that refusals lead to.
MAX_INTERVAL_SECONDS = 60.0
#: Factor of the interval after a refusal, and after a success.
_REFUSED, _SUCCEEDED = 2.0, 0.98
#: Time for which a poll waits for the next list instead of a call of its own.
MAX_LIST_WAIT_SECONDS = 3.0
#: Maximum wait for the rate of reads before a cancellation: a queued render may start in the meantime, and is billed then.
MAX_CANCEL_WAIT_SECONDS = 2.0
#: Time without lists after one failed again: a relay may break them, and pass single reads on.
FAILED_LIST_PAUSE_SECONDS = 60.0


@dataclass(slots=True)
class CallRate:
    """
    Rate of one kind of call.

    :param per_second: Documented limit of the account.
    :param next_at: Time of the next call.
    """

    per_second: float = math.inf
    next_at: float = 0.0
    interval: float = field(init=False)

    def __post_init__(self) -> None:
        self.interval = self._shortest

    @property
    def _shortest(self) -> float:
        return _MARGIN / self.per_second

    def reserve(self, now: float, calls: int = 1, longest: float = math.inf) -> float:
        """Count calls that are not sent before there is room for them; return the seconds until then, or the longest wait."""
        starts_at = max(self.next_at, now)
        if starts_at - now > longest:
            return longest
        self.next_at = starts_at + calls * self.interval
        return starts_at - now

    def learn(self, reading: object, now: float, *, again: bool = False) -> None:
        """Adapt to the reply to a call, and pause calls that failed again."""
        if isinstance(reading, errors.SeedanceRateLimitError):
            self.refuse(reading.retry_after, now)
        elif again and isinstance(reading, errors.SeedanceError) and reading.scope == "service":
            self.next_at = max(self.next_at, now + FAILED_LIST_PAUSE_SECONDS)
        else:
            self.succeed()

    def refuse(self, retry_after: float | None, now: float) -> None:
        """Slow down after a refusal of this kind of call."""
        self.interval = min(MAX_INTERVAL_SECONDS, _REFUSED * max(self.interval, 1.0 / self.per_second))
        # Processes that were refused together must not return together.
        pause = self.interval * random.uniform(1.0, 1.5)  # noqa: S311
        self.next_at = max(self.next_at, now + max(pause, retry_after or 0.0))

    def succeed(self) -> None:
        """Speed up again after a call that was answered."""
        self.interval = max(self._shortest, _SUCCEEDED * self.interval)


@dataclass(slots=True)
class CallRates:
    """
    Rates of the two ways to read generations: one by one, and many in a list.

    :param apart: Whether the service limits them apart from each other and from submissions, so that a refusal of one
        stops only that one.
    """

    read: CallRate = field(default_factory=CallRate)
    list: CallRate = field(default_factory=CallRate)
    apart: bool = False

    @classmethod
    def of(cls, limits: Mapping[str, float]) -> CallRates:
        """Return the rates for the documented limits of a service, which has none of this kind if they are empty."""
        known = {kind: CallRate(per_second) for kind, per_second in limits.items()}
        return cls(**known, apart=bool(known))
