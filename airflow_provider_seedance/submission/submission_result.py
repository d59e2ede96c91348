"""Results of a submission, at one connection and at all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.submission import timing
from airflow_provider_seedance.submission.records import Record


@dataclass(frozen=True)
class HasGeneration:
    """
    Result of a task that has a generation.

    :param generation: As far as it is known; terminal, or to be waited for.
    :param record: Its record, as last written.
    """

    generation: Generation
    record: Record


@dataclass(frozen=True)
class RetryLater:
    """
    Result of a submission that the service rejected for now (rate limited); nothing was billed.

    :param error: Error of the service, with the delay it named.
    :param record: Record of an earlier submission to go on with, where the store is not durable.
    :param conn_id: Connection whose quota is waited for, if it is known.
    """

    error: errors.SeedanceError
    record: Record | None = None
    conn_id: str | None = None

    def seconds(self, refusals: int) -> float:
        """
        Return the delay before the next attempt.

        :param refusals: Number of consecutive rejections before. The delay grows with it even if the service names
            a short one, because each rejection may count against the quota.
        """
        times = timing.TIMING
        named = times.retry_after if self.error.retry_after is None else self.error.retry_after
        if not refusals:
            return named
        return max(named, min(times.max_backoff, times.min_backoff * 2.0 ** min(refusals, 20)))


@dataclass(frozen=True, kw_only=True)
class AwaitingCallback:
    """
    Result of a submission whose fate is unknown, while the service may still call back about it.

    :param record: The intent.
    :param until: Seconds since 1970 until which to wait for the callback.
    :param callback_ids: Ids that callbacks have named, and that the service has not confirmed yet.
    """

    record: Record
    until: float
    callback_ids: tuple[str, ...] = ()


SubmissionResult = HasGeneration | RetryLater | AwaitingCallback


@dataclass(frozen=True)
class Reusable:
    """
    Generation of the same request that another task has paid for; nothing was submitted.

    :param record: Of its generation, as written for this task.
    """

    record: Record


@dataclass(frozen=True)
class NotTaken:
    """
    Answer of a connection that certainly took nothing: its service rejected the submission, or none was sent.

    :param error: Reason.
    :param record: Record of an earlier submission to go on with.
    :param waits: Whether the submission may be deferred until the error's ``retry_after``.
    :param gives_way: Whether the connection will not take it soon.
    """

    conn_id: str
    error: errors.SeedanceError
    record: Record | None
    waits: bool
    gives_way: bool

    @property
    def passes_on(self) -> bool:
        """Return whether the next connection may be tried: not while an earlier submission may have been paid."""
        return self.gives_way and (self.record is None or not self.record.has_unknown_outcome)


ConnectionResult = SubmissionResult | NotTaken | Reusable


def wait_or_raise(refusals: Sequence[NotTaken], reasons: Mapping[str, errors.SeedanceError]) -> RetryLater:
    """Return the shortest wait, or raise the error of the task that no connection took."""
    chosen = refusals[-1]
    if chosen.passes_on or chosen.waits:
        waits = [found for found in refusals if found.waits]
        curable = [found for found in refusals if found.error.retry_helps]
        if waits:
            chosen = min(waits, key=lambda found: RetryLater(found.error).seconds(0))
        elif curable:
            chosen = curable[0]
    error = chosen.error if len(reasons) == 1 else combined(chosen.error, reasons)
    if chosen.waits:
        return RetryLater(error, chosen.record, chosen.conn_id)
    raise error


def combined(
    error: errors.SeedanceError, reasons: Mapping[str, errors.SeedanceError]
) -> errors.SeedanceError:
    """Return the error of a task that no connection took, with the reason of each."""
    every = " ".join(f"Connection {conn_id!r}: {reason.message}" for conn_id, reason in reasons.items())
    return type(error)(f"No connection took the render. {every}", **error.details())
