"""State that a batch task carries across its deferrals (within one try): the refusals of its connections among it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.base import Api
from airflow_provider_seedance.submission.submission_result import NotTaken, RetryLater

#: Consecutive item errors of one class that open the circuit breaker: together they are not about the items.
BREAKER_THRESHOLDS: dict[type[errors.SeedanceError], int] = {
    errors.SeedanceForbiddenError: 3,
    errors.SeedanceUncertainSubmitError: 2,
}


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """
    The latest refusal of a connection to accept submissions.

    :param error: Error, as class name and message.
    :param since: Seconds since 1970 of the first of the consecutive refusals.
    :param count: Number of them.
    :param not_before: Seconds since 1970 before which the next submission is not tried; ``None`` is not in this try.
    :param gives_way: Whether items that wait are submitted to the next connection.
    :param unreachable: Whether the service names no wait.
    """

    error: list[str]
    since: float
    count: int = 1
    not_before: float | None = None
    gives_way: bool = True
    unreachable: bool = False

    @classmethod
    def of(
        cls,
        error: errors.SeedanceError,
        before: Refusal | None,
        *,
        final: bool = False,
        gives_way: bool = False,
        unreachable: bool = False,
    ) -> Refusal:
        """
        Return the refusal with an error.

        :param before: The latest refusal before, if nothing was accepted since.
        :param final: Whether the connection accepts nothing in this try.
        """
        now, count = time.time(), before.count if before else 0
        return cls(
            error=[type(error).__name__, error.message],
            since=before.since if before else now,
            count=count + 1,
            not_before=None if final else now + RetryLater(error).seconds(count),
            gives_way=final or gives_way,
            unreachable=unreachable,
        )

    def in_force(self, now: float) -> bool:
        """Return whether nothing is submitted yet."""
        return self.not_before is None or now < self.not_before

    def as_not_taken(self, conn_id: str, now: float) -> NotTaken:
        """Return the refusal as the answer to another submission."""
        name, message = self.error
        known = getattr(errors, name, None) if name.startswith("Seedance") else None
        left = None if self.not_before is None else self.not_before - now
        error = (known or errors.SeedanceError)(message, retry_after=left)
        return NotTaken(conn_id, error, None, waits=left is not None, gives_way=self.gives_way)


@dataclass(frozen=True, kw_only=True)
class StopReason:
    """
    Reason to stop submitting.

    :param kind: ``done`` (no item waits), ``full`` (``max_in_flight`` is reached), ``refused`` (until ``refusal`` ends),
        ``over_limit`` (the next item could exceed ``max_credits`` or ``max_cost_usd``), ``fatal`` (no connection accepts
        an item in this try, see ``error``).
    :param conn_id: The connection whose refusal ends first.
    """

    kind: Literal["done", "full", "refused", "over_limit", "fatal"]
    error: errors.SeedanceError | None = None
    conn_id: str | None = None
    refusal: Refusal | None = None

    @property
    def final(self) -> bool:
        """True if this try submits nothing more."""
        return self.kind in ("done", "over_limit", "fatal")

    @property
    def not_before(self) -> float | None:
        """Seconds since 1970 before which the next submission is not tried, if one is."""
        return self.refusal.not_before if self.refusal else None


@dataclass(frozen=True, kw_only=True)
class ResumeState:
    """
    State that an entry into the task hands on to the next one of the same try.

    :param started_at: Seconds since 1970 at which the try started.
    :param reattached_at: Seconds since 1970 from which timeouts count; 0 after a deferral without an event, which
        must not extend them.
    :param ended_before: Number of generations that had ended by then.
    :param refusals: Refusals of the connections that have accepted nothing since, by their ids.
    :param awaited: The connection that the trigger waits for to submit.
    :param records: The records that the store does not hold (below Airflow 3.3: all of them).
    """

    started_at: float
    reattached_at: float
    ended_before: int | None = None
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    awaited: str | None = None
    records: list[dict[str, Any]] | None = None

    @classmethod
    def from_kwargs(cls, value: Any) -> ResumeState:
        """Read the state from the arguments of a deferral, which another release may have written."""
        known = {item.name: value[item.name] for item in fields(cls) if item.name in value} if value else {}
        refusals = {conn_id: Refusal(**refusal) for conn_id, refusal in known.pop("refusals", {}).items()}
        return cls(**{"started_at": time.time(), "reattached_at": time.time(), **known}, refusals=refusals)


def circuit_breaker(
    consecutive: Sequence[errors.SeedanceError], api: Api, before: Refusal | None
) -> Refusal | None:
    """
    Return the refusal of a connection after errors that were about single items, and together are not.

    :param consecutive: The latest errors at the connection, as long as they are of one class.
    :param before: Its latest refusal; if it did not answer then, one more opens it.
    """
    error = consecutive[-1]
    uncertain = isinstance(error, errors.SeedanceUncertainSubmitError)
    threshold = next((count for cls, count in BREAKER_THRESHOLDS.items() if isinstance(error, cls)), None)
    if uncertain and before and before.error[0] == errors.SeedanceServerError.__name__:
        threshold = 1
    if threshold is None or len(consecutive) < threshold:
        return None
    if not uncertain:
        return Refusal.of(error, before, final=True)
    # Every further submission could be billed without its id being known.
    silent = errors.SeedanceServerError(
        f"{api.name} does not answer submissions ({len(consecutive)} in a row): no more are sent for now.",
        http_status=error.http_status,
    )
    return Refusal.of(silent, before, unreachable=True)
