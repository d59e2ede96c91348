"""
What one status reading means for somebody who waits: the rules that the synchronous wait and the
triggerer's hub share.

A failed reading is never a failed render. The one exception is a service that keeps saying it does
not know the generation.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

from airflow_provider_seedance.exceptions import SeedanceError, SeedanceNotFoundError, SeedanceRateLimitError
from airflow_provider_seedance.generations import Generation, Media
from airflow_provider_seedance.polling.duration_model import DurationModel
from airflow_provider_seedance.polling.schedule import KEPT_PROGRESS, Knowledge, next_poll

log = logging.getLogger(__name__)

#: So many answers of "not found" in a row end the wait: a service may know a new id a little late.
NOT_FOUND_LIMIT = 4

#: Seconds by which Airflow's own deferral timeout is later than ours, which knows what to say.
DEFERRAL_GRACE = 900.0

#: Seconds past the deadline for which a quota may keep us from the last reading: more than any plan's period, with
#: all that wait for their turn in it. A service that answers nothing else for longer ends the wait.
QUOTA_PATIENCE = 86400.0

#: The same for somebody who holds a worker meanwhile: the quotas of the services are by the hour.
WORKER_QUOTA_PATIENCE = 2 * 3600.0

#: Seconds until the next look after a refusal for quota that names no time.
UNKNOWN_QUOTA_PAUSE = 60.0

#: A service that says a generation is older than this many seconds is not believed.
LONGEST_RENDER = 7 * 86400.0

#: Failed readings in a row after which the log says so, once.
TELL_AFTER = 3

#: So many undocumented words are warned about; a service that makes up more gets no more lines.
MOST_WORDS = 100

_told: set[tuple[str, str | None]] = set()


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitState:
    """
    Where somebody stands who waits for a generation.

    :param deadline: Seconds since 1970 at which patience ends.
    :param known: What the schedule goes by.
    :param submitted_at: Seconds since 1970 of the submission, or of the begin of the wait where nobody knows.
    :param told: Whether somebody does, so that others can learn from how long the render took.
    :param running_at: Seconds since 1970 of the latest reading that found the render not ended.
    :param not_found: How often in a row the service did not know the generation.
    :param refused: Whether our quota kept us from the latest reading.
    :param last: The generation as it was last read.
    :param quota_patience: Seconds past the deadline for which the quota may keep us from a reading;
        :data:`QUOTA_PATIENCE` by default.
    """

    generation_id: str
    media: Media
    deadline: float
    known: Knowledge
    submitted_at: float | None = None
    told: bool = False
    running_at: float | None = None
    not_found: int = 0
    refused: bool = False
    last: Generation | None = None
    quota_patience: float | None = None

    @property
    def end(self) -> float:
        """Seconds since 1970 at which even a quota that keeps us from reading ends the wait."""
        return self.deadline + (QUOTA_PATIENCE if self.quota_patience is None else self.quota_patience)


@dataclass(frozen=True, slots=True)
class WaitStep:
    """
    What follows from a reading.

    :param kind: ``ended`` (terminal generation in ``waiting.last``), ``unknown`` (the service does not
        know it), ``deadline`` (patience is over), or ``wait`` until ``at``.
    :param at: Seconds since 1970 of the next reading, or of the deadline.
    """

    kind: Literal["ended", "unknown", "deadline", "wait"]
    waiting: WaitState
    at: float = 0.0


def deferral_timeout(deadline: float, now: float, *, rate_limited: bool = False) -> timedelta:
    """
    Return the timeout of a deferral: a safety net, later than the deadline that the trigger keeps itself.

    :param rate_limited: Whether a rate limit extends the wait past the deadline.
    """
    extra = DEFERRAL_GRACE + (QUOTA_PATIENCE if rate_limited else 0.0)
    return timedelta(seconds=max(0.0, deadline - now) + extra)


def quota_pause(error: SeedanceRateLimitError) -> float:
    """Return the seconds until a reading that the quota refused is worth another try."""
    return error.retry_after or UNKNOWN_QUOTA_PAUSE


def begin(
    waiting: WaitState, now: float, *, not_before: float = 0.0, belief: DurationModel | None = None
) -> WaitStep:
    """
    Return when to read for the first time.

    :param not_before: Seconds that keep a trigger from firing too early.
    :param belief: What is known of how long such renders take.
    """
    if waiting.submitted_at is None:
        waiting = replace(waiting, submitted_at=now)
    return _wait(waiting, now, belief, not_before=not_before)


def on_poll(
    waiting: WaitState, reading: Generation | SeedanceError, now: float, belief: DurationModel | None = None
) -> WaitStep:
    """Return what follows from a reading."""
    if isinstance(reading, Generation):
        return _on_state(waiting, reading, now, belief)
    return _on_failure(waiting, reading, now, belief)


def _on_state(waiting: WaitState, reading: Generation, now: float, belief: DurationModel | None) -> WaitStep:
    known = waiting.known
    _tell_unknown_word(reading)
    if known.failures >= TELL_AFTER:
        log.info("The status of generation %s can be read again.", waiting.generation_id)
    waiting = replace(
        _dated(waiting, reading, now),
        last=reading,
        not_found=0,
        refused=False,
    )
    known = replace(known, asked=known.asked + 1, failures=0, retry_after=None)
    if reading.status.terminal:
        return WaitStep("ended", replace(waiting, known=known))
    if reading.progress is not None and waiting.submitted_at is not None:
        seen = (now - waiting.submitted_at, float(reading.progress))
        known = replace(known, progress=(*known.progress, seen)[-KEPT_PROGRESS:])
    return _wait(replace(waiting, known=known, running_at=now), now, belief)


def _dated(waiting: WaitState, reading: Generation, now: float) -> WaitState:
    """Take the service's word for the time of the submission where nobody here knows it."""
    if waiting.told or waiting.running_at is not None or reading.created_at is None:
        return waiting
    created = reading.created_at.timestamp()
    return replace(waiting, submitted_at=created) if 0 <= now - created <= LONGEST_RENDER else waiting


def _on_failure(
    waiting: WaitState, error: SeedanceError, now: float, belief: DurationModel | None
) -> WaitStep:
    not_found = waiting.not_found + 1 if isinstance(error, SeedanceNotFoundError) else 0
    refused = isinstance(error, SeedanceRateLimitError)
    failures = waiting.known.failures + 1
    if failures == TELL_AFTER and not refused:
        log.warning(
            "The status of generation %s could not be read %s times in a row (%s); the render goes on, and so "
            "does the wait.",
            waiting.generation_id,
            failures,
            error.message,
        )
    waiting = replace(
        waiting,
        not_found=not_found,
        refused=refused,
        known=replace(waiting.known, failures=failures, retry_after=error.retry_after),
    )
    if not_found >= NOT_FOUND_LIMIT:
        return WaitStep("unknown", waiting)
    return _wait(waiting, now, belief)


def _tell_unknown_word(generation: Generation) -> None:
    """Warn about a status word that nobody documented, once per word and process."""
    word = (generation.api, generation.word)
    if generation.documented or word in _told or len(_told) >= MOST_WORDS:
        return
    _told.add(word)
    log.warning(
        "%s reports the status %r for generation %s, which no document names; it counts as running.",
        generation.api,
        str(generation.word)[:80],
        generation.generation_id,
    )


def _wait(
    waiting: WaitState, now: float, belief: DurationModel | None, *, not_before: float = 0.0
) -> WaitStep:
    elapsed = max(0.0, now - waiting.submitted_at) if waiting.submitted_at is not None else 0.0
    at = now + max(next_poll(waiting.known, elapsed=elapsed, belief=belief), not_before)
    if now < waiting.deadline:
        return WaitStep("wait", waiting, min(at, waiting.deadline))
    if waiting.refused and now < waiting.end:
        # The quota kept us from the last reading, which may find the render finished.
        return WaitStep("wait", waiting, min(at, waiting.end))
    return WaitStep("deadline", waiting)
