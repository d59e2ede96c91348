"""
The renders of a campaign as one entry into its task sees them, and the sums over them: values, no I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.validation import Prepared
from airflow_provider_seedance.batch.requests import Item
from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.submission.records import Attempt, Failure


class Phase(StrEnum):
    """Where a render stands in this entry into the task."""

    #: To be submitted.
    WAITING = "waiting"
    #: Submitted, and not known to have ended.
    IN_FLIGHT = "in flight"
    #: Succeeded, but the record had no room for the result: the service is asked once more.
    UNREAD = "unread"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(slots=True, kw_only=True)
class BatchItem:
    """
    One item of a campaign.

    :param name: Of its record in the ledger; empty for a request that was refused before anything was sent.
    :param prepared: Its request, judged; ``None`` likewise.
    :param deadline: Seconds since 1970 at which patience with it ends.
    """

    item: Item
    name: str = ""
    prepared: Prepared | None = None
    attempt: Attempt | None = None
    phase: Phase = Phase.WAITING
    generation: Generation | None = None
    generation_id: str | None = None
    failure: Failure | None = None
    deadline: float = 0.0
    submitted_at: float | None = None
    #: Seconds the service expected it to take, at submission.
    estimated_wait: float | None = None

    @property
    def price(self) -> float | None:
        """Credits by the published prices; ``None`` where there is none."""
        return self.prepared.result_defaults.credits if self.prepared else None

    @property
    def credits(self) -> float | None:
        """Credits as the service told, or as its prices say; ``None`` if nobody does."""
        return self.generation.credits if self.generation else None

    def result(self) -> dict[str, Any]:
        """Return the item of the task's result."""
        if self.phase is Phase.SUCCEEDED and self.generation is not None:
            return {**self.generation.result(), "key": self.item.key}
        failure = self.failure or Failure(kind="error", error="")
        return {
            "key": self.item.key,
            "generation_id": self.generation_id,
            "error": failure.error,
            "kind": failure.kind,
        }

    def line(self) -> dict[str, Any]:
        """Return the line of the manifest."""
        if self.phase is Phase.SUCCEEDED:
            return {"key": self.item.key, **self.result()}
        if self.phase is Phase.FAILED:
            return {"status": "failed", **self.result()}
        return {"key": self.item.key, "status": "not_submitted"}


def failure_of(error: errors.SeedanceError, generation: Generation | None = None) -> Failure:
    """Return how an error is remembered and reported."""
    kind = error.kind
    if kind == "failed" and generation and generation.status is GenerationStatus.EXPIRED:
        kind = "expired"
    return Failure(kind=kind, error=str(error), final=not error.retry_helps)


@dataclass(frozen=True, kw_only=True)
class Totals:
    """How far a campaign is."""

    total: int
    succeeded: int
    failed: int
    in_flight: int
    waiting: int
    credits: float | None
    cost_usd: float | None

    @classmethod
    def of(cls, renders: Sequence[BatchItem]) -> Totals:
        """Count."""
        phases = Counter(render.phase for render in renders)
        ended = [render.generation for render in renders if render.phase is Phase.SUCCEEDED]
        ended += [render.generation for render in renders if render.phase is Phase.FAILED]
        return cls(
            total=len(renders),
            succeeded=phases[Phase.SUCCEEDED] + phases[Phase.UNREAD],
            failed=phases[Phase.FAILED],
            in_flight=phases[Phase.IN_FLIGHT],
            waiting=phases[Phase.WAITING],
            credits=_sum(generation.credits for generation in ended if generation),
            cost_usd=_sum(generation.cost_usd for generation in ended if generation),
        )

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
        Say in one line how far it is.

        :param seconds: Since this try began.
        :param ended_before: How many had ended by then.
        """
        done = self.succeeded + self.failed
        parts = [
            f"{self.succeeded} of {self.total} done",
            f"{self.failed} failed",
            f"{self.in_flight} in flight",
            f"{self.waiting} waiting",
            f"{self.credits:g} credits" if self.credits is not None else "credits not reported",
        ]
        fresh, left = done - ended_before, self.total - done
        if fresh > 0 and left and seconds > 0:
            parts.append(f"about {_duration(left * seconds / fresh)} to go")
        return ", ".join(parts)

    def summary(self) -> str:
        """Say in one line what came out and what it cost; the last line of the task's log."""
        cost = [f"{self.credits:g} credits"] if self.credits is not None else []
        if self.cost_usd is not None:
            cost.append(f"${round(self.cost_usd, 4):g}")
        paid = f"cost {' / '.join(cost)}" if cost else "cost not reported by the service"
        return (
            f"Batch of {self.total} renders: {self.succeeded} succeeded, {self.failed} failed, "
            f"{self.waiting} not submitted; {paid}."
        )


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), 6) if known else None


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
