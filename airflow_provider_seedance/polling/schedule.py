"""
When to ask a service about a generation: a pure function of what is known about it.

This is the one place that decides. It knows nothing of clocks, tasks or event loops.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

#: Seconds until the first look where nothing is known: no service renders quicker.
FIRST = 10.0
#: Each wait is longer than the one before by this factor,
GROWTH = 1.25
#: up to this many seconds.
LONGEST = 30.0
#: Longest wait after failures of the status call, in seconds.
LONGEST_AFTER_FAILURE = 60.0

#: Exponents end here, where every wait is at its longest: a wait of days asks thousands of times.
_MANY = 50


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """
    What is known about a generation that is being waited for.

    :param asked: How often its status was read.
    :param failures: How often in a row that failed.
    :param retry_after: Seconds the service told to stay away, if it did.
    :param estimated_wait: Seconds the service expected the render to take, at submission.
    :param poll_interval: The user's own interval; it wins over everything but ``retry_after``.
    """

    asked: int = 0
    failures: int = 0
    retry_after: float | None = None
    estimated_wait: float | None = None
    poll_interval: float | None = None


def next_poll(known: Knowledge, *, jitter: float | None = None) -> float:
    """
    Return the seconds until the next status request.

    :param jitter: A number from 0 to 1 that spreads the requests of a batch; random by default.
    """
    jitter = random.random() if jitter is None else jitter  # noqa: S311 (spreads load, guards nothing)
    if known.poll_interval is not None:
        wait = known.poll_interval
    elif known.asked == 0:
        wait = max(FIRST, (known.estimated_wait or 0.0)) * (0.9 + 0.2 * jitter)
    else:
        wait = min(LONGEST, FIRST * GROWTH ** min(known.asked, _MANY)) * (0.9 + 0.2 * jitter)
    if known.failures:
        wait = max(wait, min(LONGEST_AFTER_FAILURE, 2.0 ** min(known.failures, _MANY)))
    if known.retry_after is not None:
        wait = max(wait, known.retry_after * (1 + 0.1 * jitter))
    return wait
