"""
Submitting the waiting items of a batch, in request order, each at most once.

What rules out every submission at a connection (key, credits, rate limit, no answer) closes it for the other items,
which go to the next connection or wait. At most one item is between its intent and its id, so a lost worker leaves at
most one uncertain.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch.batch import Batch
from airflow_provider_seedance.batch.items import BatchItem, Phase
from airflow_provider_seedance.batch.resume_state import Refusal, StopReason, circuit_breaker
from airflow_provider_seedance.submission.submission_result import HasGeneration, NotTaken, RetryLater
from airflow_provider_seedance.submission.submitter import FallbackSubmission

_STOPPED = "The task was stopped, so that no more requests were submitted."


@dataclass(kw_only=True)
class BatchSubmitter:
    """
    Submitter of the items of a batch.

    :param max_in_flight: Maximum number of generations that are submitted and have not ended.
    :param refusals: Refusals of the connections that have accepted nothing since, by their ids.
    :param stopped: Whether the worker is being stopped, so that nothing more is submitted.
    """

    batch: Batch
    max_in_flight: int
    refusals: dict[str, Refusal]
    stopped: Callable[[], bool] = lambda: False
    #: Connection at which the triggerer has granted a submission.
    granted: str | None = None
    #: The latest errors of items at each connection, as long as they are of one class.
    _consecutive: defaultdict[str, list[errors.SeedanceError]] = field(
        default_factory=lambda: defaultdict(list), init=False
    )
    #: Connections that have refused a submission since the latest wait.
    _refused: set[str] = field(default_factory=set, init=False)
    #: The answer of every connection once an item would exceed a limit of the task.
    _over_limit: dict[str, NotTaken] = field(default_factory=dict, init=False)

    def submit(self, progress: Callable[[], None] = lambda: None) -> StopReason:
        """
        Submit as many items as limits and services allow.

        :param progress: Called after each.
        :raises SeedanceStateError: a record could not be written; nothing was submitted without one.
        """
        batch = self.batch
        in_flight, stops = len(batch.of(Phase.IN_FLIGHT)), list[StopReason]()
        self._refused.clear()
        self._over_limit.clear()
        # Uncertain submissions first: the task must not end before they were looked up, or reported as uncertain.
        for item in sorted(batch.of(Phase.WAITING), key=batch.needs_lookup, reverse=True):
            if in_flight >= self.max_in_flight:
                return StopReason(kind="full")
            if self.stopped() and not batch.needs_lookup(item):
                return StopReason(kind="fatal", error=errors.SeedanceServerError(_STOPPED))
            if stop := self._submit_one(item):
                stops.append(stop)
                if self._is_last(stop):
                    break
            in_flight += item.phase is Phase.IN_FLIGHT
            progress()
        return min(stops, key=_urgency, default=StopReason(kind="done"))

    def _is_last(self, stop: StopReason) -> bool:
        """Return whether later items are not tried; those that other tasks have paid for are, except before a short wait."""
        if not self._over_limit and not self._closed().keys() >= self.batch.connections.keys():
            return False
        reuses = self.batch.policy.reuse != "task"
        return not (reuses and (stop.final or isinstance(stop.error, errors.SeedanceBudgetError)))

    def _submit_one(self, item: BatchItem) -> StopReason | None:
        """Submit one item, or return why it cannot be submitted."""
        closed = self._closed()
        if item.conn_id in closed and self.batch.needs_lookup(item):
            return self._stop(item, closed[item.conn_id].error)
        fallback = self.batch.fallback(item, closed | self._over_limit, self.refusals, self.granted)
        self.granted = None
        try:
            result = fallback.submit_or_attach()
        except errors.SeedanceStateError as error:
            if not self.batch.of(Phase.IN_FLIGHT):
                raise
            # Generations in flight are waited for, and ids that could not be written travel with the deferral.
            for conn_id in self.batch.connections:
                self._close(conn_id, error)
            return self._stop(item, error)
        except errors.SeedanceMaxCreditsError as error:
            error.__traceback__ = None  # raised again for each later item, which would add its frames
            for conn_id in self.batch.connections:
                self._over_limit[conn_id] = NotTaken(conn_id, error, None, waits=False, gives_way=False)
            return StopReason(kind="over_limit", error=error)
        except errors.SeedanceError as error:
            if error.scope == "task":
                raise
            return self._on_error(item, error, fallback)
        self._note(fallback.refusals)
        if isinstance(result, RetryLater):
            if result.conn_id is None:  # another task submits the same request: no connection has refused it
                refusal = Refusal.of(result.error, None)
                return StopReason(kind="refused", error=result.error, refusal=refusal)
            return self._stop(item, result.error)
        assert isinstance(result, HasGeneration)  # batches take no callbacks
        if not result.record.reused_from:  # which says nothing about the connection
            self._reopen(str(result.record.conn_id))
        self.batch.attach(item, result)
        return None

    def _on_error(
        self, item: BatchItem, error: errors.SeedanceError, fallback: FallbackSubmission
    ) -> StopReason | None:
        """Fail one item, or return why it cannot be submitted."""
        self._note(fallback.refusals)
        pending_lookup = error.scope != "item" and self.batch.needs_lookup(item)
        if fallback.trying is not None:
            if pending_lookup:
                item.conn_id = fallback.trying
                self._close(fallback.trying, error, final=error.scope != "service")
            else:
                self._count(fallback.trying, error)
        # A 403 may be about the model of this item only.
        about_item = error.scope == "permission" and fallback.refusals and not pending_lookup
        if error.scope == "item" or about_item:
            self.batch.fail(item, error)
            return None
        return self._stop(item, error)

    def _stop(self, item: BatchItem, error: errors.SeedanceError) -> StopReason:
        """Return why an item is not submitted: until the first of its connections can be tried again, if one can."""
        closed = self._closed().keys() & item.prepared.keys()
        waits = {at: conn_id for conn_id in closed if (at := self.refusals[conn_id].not_before) is not None}
        if not waits:
            return StopReason(kind="fatal", error=error)
        conn_id = waits[min(waits)]
        return StopReason(kind="refused", error=error, conn_id=conn_id, refusal=self.refusals[conn_id])

    # ------------------------------------------------------------------ connections

    def _closed(self) -> dict[str, NotTaken]:
        """Return the connections that are not tried now, as they answer."""
        now = time.time()
        return {
            conn_id: refusal.as_not_taken(conn_id, now)
            for conn_id, refusal in self.refusals.items()
            if conn_id in self._refused or (refusal.in_force(now) and conn_id != self.granted)
        }

    def _note(self, refusals: list[NotTaken]) -> None:
        for found in refusals:
            scope = found.error.scope
            if scope == "item":  # it answers
                self.refusals.pop(found.conn_id, None)
            if scope in ("item", "permission"):
                self._count(found.conn_id, found.error)
            elif scope == "account" and not found.waits:
                self._close(found.conn_id, found.error, final=True)
            else:
                self._close(found.conn_id, found.error, gives_way=found.gives_way, waits=found.waits)

    def _close(
        self,
        conn_id: str,
        error: errors.SeedanceError,
        *,
        final: bool = False,
        gives_way: bool = False,
        waits: bool = False,
    ) -> None:
        unreachable = not waits and not isinstance(error, errors.SeedanceRateLimitError)
        self._refused.add(conn_id)
        self.refusals[conn_id] = Refusal.of(
            error, self.refusals.get(conn_id), final=final, gives_way=gives_way, unreachable=unreachable
        )

    def _reopen(self, conn_id: str) -> None:
        self.refusals.pop(conn_id, None)
        self._consecutive.pop(conn_id, None)

    def _count(self, conn_id: str, error: errors.SeedanceError) -> None:
        """Count an error of an item at a connection, and close that after several."""
        if isinstance(error.__cause__, (errors.SeedanceMaxCreditsError, errors.SeedanceBudgetError)):
            return  # which says nothing about the service
        before = self._consecutive[conn_id]
        same = before and type(before[0]) is type(error)
        self._consecutive[conn_id] = [*before, error] if same else [error]
        api = self.batch.connections[conn_id].client.settings.api
        if refusal := circuit_breaker(self._consecutive[conn_id], api, self.refusals.get(conn_id)):
            self.refusals[conn_id] = refusal
            self._refused.add(conn_id)


def _urgency(stop: StopReason) -> float:
    """Return the time at which the batch goes on: a wait before what ends the try, a limit of the task before most waits."""
    if stop.kind == "refused" and stop.conn_id is None:
        return -1.0  # another task submits the same request, which no limit rules out to reuse
    if stop.kind == "over_limit":
        return 0.0
    return float("inf") if stop.not_before is None else stop.not_before
