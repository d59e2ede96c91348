"""Timing of submissions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmissionTiming:
    """
    Timing of submissions and of the look-up of lost ones. Durations are in seconds.

    :param write_backoff: Pauses between the attempts to write the id of a generation that is already billed.
    :param callback_timeout: Time after a submission within which a callback may still resolve its lost reply.
    :param confirm_interval: Interval of the attempts to read a generation that a callback named, while the service
        does not answer.
    :param late_id: Time after a submission within which "not found" may mean that the service does not know the id
        yet.
    :param not_found_backoff: Pauses before such an id is read again: as many replies as end a wait.
    :param reuse_backoff: Pauses while another task submits the same request, before this one is deferred.
    :param retry_after: Delay after a rate limit that names none.
    :param min_backoff: Minimum delay after repeated rate limits, doubled each time up to ``max_backoff``.
    """

    write_backoff: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    callback_timeout: float = 600.0
    confirm_interval: float = 30.0
    late_id: float = 300.0
    not_found_backoff: tuple[float, ...] = (2.0, 4.0, 8.0)
    reuse_backoff: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    retry_after: float = 60.0
    min_backoff: float = 15.0
    max_backoff: float = 3600.0


TIMING = SubmissionTiming()
