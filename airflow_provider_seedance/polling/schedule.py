"""
When to ask a service about a generation: a pure function of what is known about it.

This is the one place that decides. It knows nothing of clocks, tasks or event loops. How long such
renders take is a :class:`~airflow_provider_seedance.polling.duration_model.DurationModel`; progress that the service
reports narrows it down for this one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from airflow_provider_seedance.polling.duration_model import DurationModel, unlearned
from airflow_provider_seedance.polling.progress import next_by_progress

#: Shortest wait, in seconds, but for the user's own interval.
SHORTEST = 2.0
#: Longest wait, in seconds, ...
LONGEST = 300.0
#: ... or this share of the time that has passed, if that is more.
LONGEST_SHARE = 0.25
#: Longest wait after failures of the status call, in seconds.
LONGEST_AFTER_FAILURE = 60.0

#: So many of the latest readings with progress are of use.
KEPT_PROGRESS = 6

#: Where the service calls back, polls only make up for calls that got lost: the first comes so many times after
#: nearly all such renders (this share of them) have ended, and never sooner than so many seconds; ...
SAFETY_FACTOR = 1.5
SAFETY_SHARE = 0.95
SAFETY_FIRST = 60.0
#: ... the next ones are so far apart, in seconds and as a share of the time that has passed, ...
SAFETY_GAP = 120.0
SAFETY_GROWTH = 0.5
#: ... and never further than this.
SAFETY_LONGEST = 3600.0

#: Waits are spread by this share, so that what was submitted together is not asked for in step.
JITTER = 0.03

#: Exponents end here, where every wait is at its longest: a wait of days asks thousands of times.
_MANY = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Knowledge:
    """
    What is known about a generation that is being waited for.

    :param asked: How often its status was read.
    :param failures: How often in a row that failed.
    :param retry_after: Seconds the service told to stay away, if it did.
    :param estimated_wait: Seconds the service expected the render to take, at submission.
    :param poll_interval: The user's own interval; it wins over everything but ``retry_after``.
    :param called_back: Whether the service is to call when the render has ended.
    :param progress: The latest readings that told one: seconds since the submission, and percent.
    """

    asked: int = 0
    failures: int = 0
    retry_after: float | None = None
    estimated_wait: float | None = None
    poll_interval: float | None = None
    called_back: bool = False
    progress: tuple[tuple[float, float], ...] = ()


def next_poll(
    known: Knowledge, *, elapsed: float, belief: DurationModel | None = None, jitter: float | None = None
) -> float:
    """
    Return the seconds until the next status request.

    :param elapsed: Seconds since the submission.
    :param belief: How long such renders take; without one, what holds for any.
    :param jitter: A number from 0 to 1 that spreads the requests of a batch; random by default.
    """
    jitter = random.random() if jitter is None else jitter  # noqa: S311 (spreads load, guards nothing)
    if known.poll_interval is not None:
        wait = known.poll_interval
    else:
        wait = _adaptive(known, max(0.0, elapsed), belief or unlearned())
        wait *= 1.0 + JITTER * (2.0 * jitter - 1.0)
    if known.failures:
        wait = max(wait, min(LONGEST_AFTER_FAILURE, 2.0 ** min(known.failures, _MANY)))
    if known.retry_after is not None:
        wait = max(wait, known.retry_after * (1 + 0.1 * jitter))
    return wait


def _adaptive(known: Knowledge, elapsed: float, belief: DurationModel) -> float:
    belief = belief.expecting(known.estimated_wait)
    if known.called_back:
        return _safety_net(elapsed, belief)
    at = next_by_progress(known.progress, elapsed, belief)
    if at is None:
        at = belief.after(elapsed)
    longest = max(LONGEST, LONGEST_SHARE * elapsed)
    return max(SHORTEST, min(longest, at - elapsed))


def _safety_net(elapsed: float, belief: DurationModel) -> float:
    first = max(SAFETY_FIRST, SAFETY_FACTOR * belief.by(SAFETY_SHARE))
    if elapsed < first:
        return first - elapsed
    return min(SAFETY_LONGEST, max(SAFETY_GAP, SAFETY_GROWTH * elapsed))
