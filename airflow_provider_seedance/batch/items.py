"""The items of a batch as one entry into its task sees them, and their totals: values without I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.validation import Prepared
from airflow_provider_seedance.generations import (
    Generation,
    GenerationStatus,
    amount,
    cost_text,
    counted,
    iso,
)
from airflow_provider_seedance.submission.records import Failure


class Phase(StrEnum):
    """State of an item in this entry into the task."""

    #: To be submitted.
    WAITING = "waiting"
    #: Submitted, and not known to have ended.
    IN_FLIGHT = "in flight"
    #: Succeeded, but the record had no room for the result: it is read from the service once more.
    RESULT_PENDING = "result pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(slots=True, kw_only=True)
class BatchItem:
    """
    One request of a batch, and its generation.

    :param key: The user's key, or the position in the list.
    :param take: Number among identical requests, if the user gave one.
    :param arguments: Arguments of the request, the batch's defaults included.
    :param record_key: Key of its record; empty for a request that was refused before anything was sent.
    :param prepared: The validated request for each connection whose service can make it, in order; empty likewise.
    :param unfit: Errors of the other connections, by their ids.
    :param conn_id: The connection that its generation, or an uncertain submission, is billed to.
    :param request: Arguments of the request for people to read; empty leaves them out.
    :param deadline: Seconds since 1970 at which the wait for its generation ends.
    :param ended_at: Time at which its end was seen.
    :param estimated_wait: Seconds the service expected the render to take, at submission.
    """

    key: str
    arguments: dict[str, Any]
    take: int | None = None
    record_key: str = ""
    prepared: dict[str, Prepared] = field(default_factory=dict)
    unfit: dict[str, errors.SeedanceRequestError] = field(default_factory=dict)
    conn_id: str | None = None
    request: dict[str, Any] | None = None
    phase: Phase = Phase.WAITING
    generation: Generation | None = None
    generation_id: str | None = None
    failure: Failure | None = None
    deadline: float = 0.0
    submitted_at: float | None = None
    ended_at: datetime | None = None
    estimated_wait: float | None = None

    def fail(self, error: errors.SeedanceError, generation: Generation | None = None) -> Failure:
        """Fail the item, as it is recorded and reported; return the failure."""
        kind = error.kind
        if kind == "failed" and generation and generation.status is GenerationStatus.EXPIRED:
            kind = "expired"
        self.phase = Phase.FAILED
        self.failure = Failure(kind=kind, error=str(error), final=not error.retry_helps)
        return self.failure

    def result(self) -> dict[str, Any]:
        """Return the entry of the task's result."""
        if self.phase is Phase.SUCCEEDED and self.generation is not None:
            own = {"key": self.key, **self._connection, **self._times, **self._request}
            return {**self.generation.result(), **own}
        failure, ended = self.failure or Failure(kind="error", error=""), self.generation
        return {
            "key": self.key,
            **self._connection,
            "generation_id": self.generation_id,
            "error": failure.error,
            "kind": failure.kind,
            "credits": ended.credits if ended else None,
            "cost_usd": ended.cost_usd if ended else None,
            **self._times,
            **self._request,
        }

    def line(self) -> dict[str, Any]:
        """Return the line of the manifest, and of the report of a batch that goes on."""
        if self.phase is Phase.SUCCEEDED:
            return {"key": self.key, **self.result()}
        if self.phase is Phase.FAILED:
            return {"status": "failed", **self.result()}
        if self.phase is Phase.WAITING:
            return {"key": self.key, "status": "not_submitted", **self._request}
        return {
            "key": self.key,
            "status": "running",
            **self._connection,
            "generation_id": self.generation_id,
            "created_at": self._submitted_at,
            **self._request,
        }

    @property
    def _connection(self) -> dict[str, str | None]:
        """The connection, where the task has several."""
        return {"seedance_conn_id": self.conn_id} if len(self.prepared) + len(self.unfit) > 1 else {}

    @property
    def _request(self) -> dict[str, Any]:
        known = self.generation.request if self.generation else None
        return {"request": {**(known or {}), **self.request}} if self.request else {}

    @property
    def _times(self) -> dict[str, str | None]:
        """Start and end as the service reports them, or else as this package saw them."""
        ended = self.generation
        created, completed = (ended.created_at, ended.completed_at) if ended else (None, None)
        return {
            "created_at": iso(created) or self._submitted_at,
            "completed_at": iso(completed or self.ended_at),
        }

    @property
    def _submitted_at(self) -> str | None:
        at = self.submitted_at
        return None if at is None else iso(datetime.fromtimestamp(at, UTC))


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Counts and cost of a batch."""

    total: int
    succeeded: int
    failed: int
    in_flight: int
    waiting: int
    credits: float | None
    cost_usd: float | None

    @classmethod
    def of(cls, items: Sequence[BatchItem]) -> Totals:
        """Count."""
        phases = Counter(item.phase for item in items)
        ended = [item.generation for item in items if item.phase in (Phase.SUCCEEDED, Phase.FAILED)]
        return cls(
            total=len(items),
            succeeded=phases[Phase.SUCCEEDED] + phases[Phase.RESULT_PENDING],
            failed=phases[Phase.FAILED],
            in_flight=phases[Phase.IN_FLIGHT],
            waiting=phases[Phase.WAITING],
            credits=known_sum(generation.credits for generation in ended if generation),
            cost_usd=known_sum(generation.cost_usd for generation in ended if generation),
        )

    @property
    def ended(self) -> int:
        """Number of items that need nothing more."""
        return self.succeeded + self.failed

    def counts(self) -> dict[str, int]:
        """Return the counts of the task's result."""
        return {
            "total": self.total,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "not_submitted": self.waiting,
        }

    def progress(self, *, seconds: float, ended_before: int) -> str:
        """
        Return a line of progress for the log.

        :param seconds: Time since this try started.
        :param ended_before: Number of items that had ended by then.
        """
        parts = [
            f"{self.succeeded} of {self.total} done",
            f"{self.failed} failed",
            f"{self.in_flight} in flight",
            f"{self.waiting} waiting",
            amount("credits", self.credits) if self.credits is not None else "credits not reported",
        ]
        left = self.seconds_left(seconds=seconds, ended_before=ended_before)
        if left is not None:
            parts.append(f"about {_duration(left)} to go")
        return ", ".join(parts)

    def seconds_left(self, *, seconds: float, ended_before: int) -> float | None:
        """Return the estimated time to the end, at the rate of :meth:`progress`; ``None`` if there is none yet."""
        fresh, left = self.ended - ended_before, self.total - self.ended
        return left * seconds / fresh if fresh > 0 and left and seconds > 0 else None

    def summary(self) -> str:
        """Return the last line of the task's log: counts and cost."""
        paid = f"cost {cost_text(self.credits, self.cost_usd) or 'not reported by the service'}"
        return (
            f"Batch of {counted(self.total, 'render')}: {self.succeeded} succeeded, {self.failed} failed, "
            f"{self.waiting} not submitted; {paid}."
        )


def known_sum(values: Iterable[float | None]) -> float | None:
    """Return the sum of the values that are known; ``None`` if none is."""
    known = [value for value in values if value is not None]
    return round(sum(known), 6) if known else None


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
