"""State that a batch task carries across its deferrals (within one try), and the reasons to stop submitting."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.base import Api
from airflow_provider_seedance.submission.submitter import RetryLater

#: Consecutive item errors of one class that open the circuit breaker: together they are not about the items.
BREAKER_THRESHOLDS: dict[type[errors.SeedanceError], int] = {
    errors.SeedanceForbiddenError: 3,
    errors.SeedanceUncertainSubmitError: 2,
}


@dataclass(frozen=True, kw_only=True)
class StopReason:
    """
    Reason to stop submitting.

    :param kind: ``done`` (no item waits), ``full`` (``max_in_flight`` is reached), ``rate_limited`` or
        ``unreachable`` (the service accepts no submission now), ``backing_off`` (an earlier refusal still holds),
        ``over_limit`` (the next item could exceed ``max_credits`` or ``max_cost_usd``), ``fatal`` (the account cannot
        submit, see ``error``).
    """

    kind: Literal["done", "full", "rate_limited", "unreachable", "backing_off", "over_limit", "fatal"]
    error: errors.SeedanceError | None = None
    retry_later: RetryLater | None = None

    @property
    def final(self) -> bool:
        """True if this try submits nothing more."""
        return self.kind in ("done", "over_limit", "fatal")


@dataclass(frozen=True, kw_only=True)
class ResumeState:
    """
    State that an entry into the task hands on to the next one of the same try.

    :param started_at: Seconds since 1970 at which the try started.
    :param reattached_at: Seconds since 1970 from which timeouts count; 0 after a deferral without an event, which
        must not extend them.
    :param ended_before: Number of generations that had ended by then.
    :param refusals: Number of consecutive refusals to accept a submission.
    :param refused_since: Seconds since 1970 of the first of them.
    :param not_before: Seconds since 1970 before which the next submission is not tried.
    :param refusal: The latest refusal, as class name and message.
    :param fatal: Error that rules out every further submission, as class name and message.
    :param records: The records that the store does not hold (below Airflow 3.3: all of them).
    """

    started_at: float
    reattached_at: float
    ended_before: int | None = None
    refusals: int = 0
    refused_since: float | None = None
    not_before: float | None = None
    refusal: list[str] | None = None
    fatal: list[str] | None = None
    records: list[dict[str, Any]] | None = None

    @classmethod
    def from_kwargs(cls, value: Any) -> ResumeState:
        """Read the state from the arguments of a deferral, which another release may have written."""
        known = {item.name: value[item.name] for item in fields(cls) if item.name in value} if value else {}
        return cls(**{"started_at": time.time(), "reattached_at": time.time(), **known})

    @property
    def last_submission_uncertain(self) -> bool:
        """True if submitting stopped because the outcome of the latest submissions was unknown."""
        return self.refusal is not None and self.refusal[0] == errors.SeedanceServerError.__name__

    def after(self, stop: StopReason, now: float) -> ResumeState:
        """Return the state after submitting has stopped: how long to back off, or that the account cannot submit."""
        if stop.kind == "backing_off":
            return self
        state = replace(self, fatal=_stored(stop.error)) if stop.kind == "fatal" and stop.error else self
        if stop.retry_later is None or stop.error is None:
            return replace(state, refusals=0, refused_since=None, not_before=None, refusal=None)
        return replace(
            state,
            refusals=self.refusals + 1,
            refused_since=self.refused_since or now,
            not_before=now + stop.retry_later.seconds(self.refusals),
            refusal=_stored(stop.error),
        )

    def stop_reason(self, now: float, *, granted: bool) -> StopReason | None:
        """
        Return why nothing may be submitted yet, from what earlier entries found.

        :param granted: Whether the triggerer has just granted a submission.
        """
        if self.fatal:
            return StopReason(kind="fatal", error=_restored(self.fatal))
        if self.refusal and self.not_before is not None and now < self.not_before and not granted:
            return StopReason(kind="backing_off", error=_restored(self.refusal, self.not_before - now))
        return None


def circuit_breaker(
    consecutive: Sequence[errors.SeedanceError], api: Api, *, last_submission_uncertain: bool
) -> StopReason | None:
    """
    Return why to stop after errors that were about single items, and together are not.

    :param consecutive: The latest errors, as long as they are of one class.
    :param last_submission_uncertain: Whether the outcome of the submissions before was unknown: then one more opens it.
    """
    if not consecutive:
        return None
    error = consecutive[-1]
    uncertain = isinstance(error, errors.SeedanceUncertainSubmitError)
    threshold = next((count for cls, count in BREAKER_THRESHOLDS.items() if isinstance(error, cls)), None)
    if uncertain and last_submission_uncertain:
        threshold = 1
    if threshold is None or len(consecutive) < threshold:
        return None
    if not uncertain:
        return StopReason(kind="fatal", error=error)
    # Every further submission could be billed without its id being known.
    silent = errors.SeedanceServerError(
        f"{api.name} does not answer submissions ({len(consecutive)} in a row): no more are sent for now.",
        http_status=error.http_status,
    )
    return StopReason(kind="unreachable", error=silent, retry_later=RetryLater(silent))


def _stored(error: errors.SeedanceError) -> list[str]:
    return [type(error).__name__, error.message]


def _restored(stored: list[str], retry_after: float | None = None) -> errors.SeedanceError:
    name, message = stored
    known = getattr(errors, name, None) if name.startswith("Seedance") else None
    return (known or errors.SeedanceError)(message, retry_after=retry_after)
