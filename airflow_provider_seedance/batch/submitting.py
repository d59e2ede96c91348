"""
Submitting the waiting items of a batch, in request order, each at most once.

What rules out every submission (key, credits, rate limit, no connection) stops submitting, not waiting. At
most one item is between its intent and its id, so a lost worker leaves at most one uncertain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch.batch import Batch
from airflow_provider_seedance.batch.items import BatchItem, Phase
from airflow_provider_seedance.batch.resume_state import StopReason, circuit_breaker
from airflow_provider_seedance.polling.shared_quota import SharedQuota
from airflow_provider_seedance.submission.fallback import FallbackSubmission
from airflow_provider_seedance.submission.submitter import HasGeneration, RetryLater


@dataclass(kw_only=True)
class BatchSubmitter:
    """
    Submitter of the items of a batch.

    :param max_in_flight: Maximum number of generations that are submitted and have not ended.
    :param shared_quota: Quota state shared between processes, or ``None`` to ignore it.
    :param granted_submissions: Submissions that the triggerer has granted already.
    :param last_submission_uncertain: Whether the outcome of the latest submissions was unknown.
    """

    batch: Batch
    max_in_flight: int
    shared_quota: SharedQuota | None
    granted_submissions: int = 0
    last_submission_uncertain: bool = False
    #: The latest errors of items at submission, as long as they are of one class.
    _consecutive_errors: list[errors.SeedanceError] = field(default_factory=list)

    def submit(self, progress: Callable[[], None] = lambda: None) -> StopReason:
        """
        Submit as many items as limits and service allow.

        :param progress: Called after each.
        :raises SeedanceStateError: a record could not be written; nothing was submitted without one.
        """
        batch = self.batch
        in_flight = len(batch.of(Phase.IN_FLIGHT))
        # Uncertain submissions first: the task must not end before they were looked up, or reported as uncertain.
        for item in sorted(batch.of(Phase.WAITING), key=batch.needs_lookup, reverse=True):
            if in_flight >= self.max_in_flight:
                return StopReason(kind="full")
            if stop := self._submit_one(item) or circuit_breaker(
                self._consecutive_errors,
                batch.client.settings.api,
                last_submission_uncertain=self.last_submission_uncertain,
            ):
                return stop
            in_flight += item.phase is Phase.IN_FLIGHT
            progress()
        return StopReason(kind="done")

    def _submit_one(self, item: BatchItem) -> StopReason | None:
        """Submit one item, or return why no further one can be submitted."""
        try:
            submission = self.batch.submission(item, self._quota())
            result = FallbackSubmission(submissions=[submission]).submit_or_attach()
        except errors.SeedanceStateError as error:
            if not self.batch.of(Phase.IN_FLIGHT):
                raise
            # Generations in flight are waited for, and ids that could not be written travel with the deferral.
            return StopReason(kind="unreachable", error=error, retry_later=RetryLater(error))
        except errors.SeedanceMaxCreditsError as error:
            return StopReason(kind="over_limit", error=error)
        except errors.SeedanceError as error:
            if error.scope == "task":
                raise
            return self._on_error(item, error)
        if isinstance(result, RetryLater):
            return StopReason(kind="rate_limited", error=result.error, retry_later=result)
        self._consecutive_errors = []
        assert isinstance(result, HasGeneration)  # batches take no callbacks
        self.batch.attach(item, result)
        return None

    def _on_error(self, item: BatchItem, error: errors.SeedanceError) -> StopReason | None:
        """Fail one item, or return why no further one can be submitted."""
        pending_lookup = error.scope != "item" and self.batch.needs_lookup(item)
        # A 403 may be about the model of this item only.
        if error.scope == "item" or (error.scope == "permission" and not pending_lookup):
            self.batch.fail(item, error)
            if isinstance(error.__cause__, (errors.SeedanceMaxCreditsError, errors.SeedanceBudgetError)):
                return None  # which says nothing about the service
            consecutive = self._consecutive_errors
            same = consecutive and type(consecutive[0]) is type(error)
            self._consecutive_errors = [*consecutive, error] if same else [error]
            return None
        if error.scope != "service":
            return StopReason(kind="fatal", error=error)
        limited = isinstance(error, errors.SeedanceRateLimitError)
        return StopReason(
            kind="rate_limited" if limited else "unreachable", error=error, retry_later=RetryLater(error)
        )

    def _quota(self) -> SharedQuota | None:
        """Use up a granted submission; without one, the shared quota decides."""
        if not self.granted_submissions:
            return self.shared_quota
        self.granted_submissions -= 1
        return None
