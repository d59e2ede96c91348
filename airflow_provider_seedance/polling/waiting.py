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
from airflow_provider_seedance.polling.schedule import Knowledge, next_poll

log = logging.getLogger(__name__)

#: So many answers of "not found" in a row end the wait: a service may know a new id a little late.
NOT_FOUND_LIMIT = 4

#: Seconds by which Airflow's own deferral timeout is later than ours, which knows what to say.
DEFERRAL_GRACE = 900.0

#: Seconds until the next look after a refusal for quota that names no time.
UNKNOWN_QUOTA_PAUSE = 60.0

#: Failed readings in a row after which the log says so, once.
TELL_AFTER = 3

#: So many undocumented words are warned about; a service that makes up more gets no more lines.
MOST_WORDS = 100

_told: set[tuple[str, str | None]] = set()


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """
    Where somebody stands who waits for a generation.

    :param deadline: Seconds since 1970 at which patience ends.
    :param known: What the schedule goes by.
    :param not_found: How often in a row the service did not know the generation.
    :param refused: Whether our quota kept us from the latest reading.
    :param last: The generation as it was last read.
    """

    generation_id: str
    media: Media
    deadline: float
    known: Knowledge
    not_found: int = 0
    refused: bool = False
    last: Generation | None = None


@dataclass(frozen=True)
class Next:
    """
    What follows from a reading.

    :param kind: ``ended`` (terminal generation in ``waiting.last``), ``unknown`` (the service does not
        know it), ``deadline`` (patience is over), or ``wait`` until ``at``.
    :param at: Seconds since 1970 of the next reading, or of the deadline.
    """

    kind: Literal["ended", "unknown", "deadline", "wait"]
    waiting: Waiting
    at: float = 0.0


def deferral_timeout(deadline: float, now: float) -> timedelta:
    """Return the timeout of a deferral that waits until a deadline: a safety net, never the first to act."""
    return timedelta(seconds=max(0.0, deadline - now) + DEFERRAL_GRACE)


def quota_pause(error: SeedanceRateLimitError) -> float:
    """Return the seconds until a reading that the quota refused is worth another try."""
    return error.retry_after or UNKNOWN_QUOTA_PAUSE


def begin(waiting: Waiting, now: float, *, not_before: float = 0.0) -> Next:
    """Return when to read for the first time; ``not_before`` keeps a trigger from firing too early."""
    return _wait(waiting, now, not_before=not_before)


def on_reading(waiting: Waiting, reading: Generation | SeedanceError, now: float) -> Next:
    """Return what follows from a reading."""
    known = waiting.known
    if isinstance(reading, Generation):
        _tell_unknown_word(reading)
        if known.failures >= TELL_AFTER:
            log.info("The status of generation %s can be read again.", waiting.generation_id)
        waiting = replace(
            waiting,
            last=reading,
            not_found=0,
            refused=False,
            known=replace(known, asked=known.asked + 1, failures=0, retry_after=None),
        )
        if reading.status.terminal:
            return Next("ended", waiting)
        return _wait(waiting, now)
    not_found = waiting.not_found + 1 if isinstance(reading, SeedanceNotFoundError) else 0
    refused = isinstance(reading, SeedanceRateLimitError)
    failures = known.failures + 1
    if failures == TELL_AFTER and not refused:
        log.warning(
            "The status of generation %s could not be read %s times in a row (%s); the render goes on, and so "
            "does the wait.",
            waiting.generation_id,
            failures,
            reading.message,
        )
    waiting = replace(
        waiting,
        not_found=not_found,
        refused=refused,
        known=replace(known, failures=failures, retry_after=reading.retry_after),
    )
    if not_found >= NOT_FOUND_LIMIT:
        return Next("unknown", waiting)
    return _wait(waiting, now)


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


def _wait(waiting: Waiting, now: float, *, not_before: float = 0.0) -> Next:
    at = now + max(next_poll(waiting.known), not_before)
    if now < waiting.deadline:
        return Next("wait", waiting, min(at, waiting.deadline))
    if waiting.refused:
        # The quota kept us from the last reading, which may find the render finished.
        return Next("wait", waiting, at)
    return Next("deadline", waiting)
