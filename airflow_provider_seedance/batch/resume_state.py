"""What one entry into a batch task hands on to the next of the same try, through the deferral."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_seedance import exceptions as errors

if TYPE_CHECKING:
    from airflow_provider_seedance.apis.base import Api
    from airflow_provider_seedance.submission.submitter import RetryLater

#: So many refusals of the same kind in a row are not about the items.
_IN_A_ROW = {errors.SeedanceForbiddenError: 3, errors.SeedanceUncertainSubmitError: 2}


@dataclass(frozen=True, kw_only=True)
class StopReason:
    """
    Why submitting has stopped.

    :param why: ``done`` (nothing waits), ``full`` (enough is in flight), ``quota`` or ``unreachable`` (the service
        takes none now), ``put_off`` (it has said so before), ``budget`` (the next could exceed ``max_credits``),
        ``halted`` (it takes none at all, see ``error``).
    """

    why: Literal["done", "full", "quota", "unreachable", "put_off", "budget", "halted"]
    error: errors.SeedanceError | None = None
    postponed: RetryLater | None = None


@dataclass(frozen=True, kw_only=True)
class ResumeState:
    """
    What an entry hands on to the next of the same try, in the deferral.

    :param entered_at: Seconds since 1970 at which the try began.
    :param ended_before: How many renders had ended by then.
    :param refusals: How often in a row the service took no submission.
    :param not_before: Seconds since 1970 before which none is tried again.
    :param refused: Why, as class name and message.
    :param since: Seconds since 1970 at which that began.
    :param halted: What stands against every further submission, as class name and message.
    :param carried: The records, below Airflow 3.3.
    """

    entered_at: float
    ended_before: int | None = None
    refusals: int = 0
    since: float | None = None
    not_before: float | None = None
    refused: list[str] | None = None
    halted: list[str] | None = None
    carried: list[dict[str, Any]] | None = None


def halted(stop: StopReason, course: ResumeState) -> ResumeState:
    """Return a course that knows what stands against every further submission."""
    if stop.why != "halted" or stop.error is None:
        return course
    return replace(course, halted=_told(stop.error))


def refused(stop: StopReason, course: ResumeState, now: float) -> ResumeState:
    """Return a course that knows until when no submission is tried, and that counts how often that was so."""
    if stop.why == "put_off":
        return course
    if stop.postponed is None or stop.error is None:
        return replace(course, refusals=0, since=None, not_before=None, refused=None)
    return replace(
        course,
        refusals=course.refusals + 1,
        since=course.since or now,
        not_before=now + stop.postponed.seconds(course.refusals),
        refused=_told(stop.error),
    )


def stopped(course: ResumeState, now: float, *, turn: bool) -> StopReason | None:
    """
    Return why nothing may be submitted, by what entries before found.

    :param turn: Whether the triggerer has waited for a turn in the quota, and this is it.
    """
    if course.halted:
        return StopReason(why="halted", error=_error(course.halted))
    if course.refused and course.not_before is not None and now < course.not_before and not turn:
        return StopReason(why="put_off", error=_error(course.refused, retry_after=course.not_before - now))
    return None


def circuit_breaker(
    row: Sequence[errors.SeedanceError], api: Api, *, last_submission_uncertain: bool
) -> StopReason | None:
    """
    Return why to stop after errors that were an item's each, and together are not.

    :param row: The latest ones, as long as they are of one kind.
    :param doubted: Whether the latest submissions before were of unknown fate: then one more is enough.
    """
    from airflow_provider_seedance.submission.submitter import RetryLater

    if not row:
        return None
    error = row[-1]
    most = next((count for kind, count in _IN_A_ROW.items() if isinstance(error, kind)), None)
    if isinstance(error, errors.SeedanceUncertainSubmitError) and last_submission_uncertain:
        most = 1
    if most is None or len(row) < most:
        return None
    if isinstance(error, errors.SeedanceForbiddenError):
        return StopReason(why="halted", error=error)
    # Every further submission could be billed without its id being known.
    unclear = errors.SeedanceServerError(
        f"{api.name} does not answer submissions ({len(row)} in a row): no more are sent for now.",
        http_status=error.http_status,
    )
    return StopReason(why="unreachable", error=unclear, postponed=RetryLater(unclear))


def _told(error: errors.SeedanceError) -> list[str]:
    return [type(error).__name__, error.message]


def _error(told: list[str], retry_after: float | None = None) -> errors.SeedanceError:
    name, message = told
    known = getattr(errors, name, None) if name in errors.__all__ else None
    return (known or errors.SeedanceError)(message, retry_after=retry_after)


def read_course(value: Any) -> ResumeState:
    """Read what the entry before handed on; a newer or older release may have handed on something else."""
    known = {name: value[name] for name in ResumeState.__dataclass_fields__ if name in value} if value else {}
    return ResumeState(**{"entered_at": time.time(), **known})
