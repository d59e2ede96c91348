"""
The submission of a task through several connections, in order.

The next connection is tried only where it is certain that the one before took nothing and will not: see
:class:`~airflow_provider_seedance.submission.submitter.NotTaken`. The record names the connection before each POST, so
that a lost worker leaves no doubt which of them may have been paid.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.submission import decisions
from airflow_provider_seedance.submission.lookup import AwaitingCallback
from airflow_provider_seedance.submission.records import Record, RecordState
from airflow_provider_seedance.submission.submitter import NotTaken, RetryLater, Submission, SubmissionResult

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class FallbackSubmission:
    """
    Submission of one request by the first connection that takes it.

    :param submissions: One for each connection that can make the request, in order; at least one.
    :param unfit: Errors of the connections that cannot, by their ids.
    """

    submissions: Sequence[Submission]
    unfit: Mapping[str, errors.SeedanceError] = field(default_factory=dict)

    def submit_or_attach(
        self, record: Record | None = None, callback_ids: Sequence[str] = ()
    ) -> SubmissionResult:
        """
        Find the generation of this task, or submit it.

        :param record: Record that the deferral carried; the store's wins.
        :param callback_ids: Ids that callbacks named for it.
        :raises SeedanceError: the record, the request or the service forbids both; see
            :mod:`airflow_provider_seedance.submission.decisions`.
        """
        first = self.submissions[0]
        record = first.store.read(first.key) or record
        owner = self.owner_of(record)
        record, verdict = owner.decide(record, callback_ids)
        if isinstance(verdict, AwaitingCallback):
            return verdict
        if not isinstance(verdict, decisions.Submit):
            return owner.attach(verdict, record)
        return self._submit(owner, record, verdict.note)

    def owner_of(self, record: Record | None) -> Submission:
        """Return the submission through the connection that a record is about; without one, the first."""
        if record is not None:
            for submission in self.submissions:
                if submission.conn_id == record.conn_id:
                    return submission
            # The connection was renamed, or the record is of an earlier release.
            for submission in self.submissions:
                if submission.attempt.fingerprint.has_service_of(record.fingerprint):
                    return submission
        return self.submissions[0]

    def _submit(self, owner: Submission, record: Record | None, note: str | None) -> SubmissionResult:
        reasons = dict(self.unfit)
        refusals: list[NotTaken] = []
        order = self._in_order(owner, record)
        for submission, following in zip(order, [*order[1:], None], strict=True):
            result = submission.submit(
                record,
                None if refusals else note,
                passed_over={conn_id: type(error).__name__ for conn_id, error in reasons.items()},
                has_fallback=following is not None,
            )
            if not isinstance(result, NotTaken):
                return result
            refusals.append(result)
            reasons[result.conn_id] = result.error
            if following is None or not result.passes_on:
                break
            log.warning(
                "Connection %r took nothing, and nothing is billed there: %s Trying connection %r.",
                result.conn_id,
                result.error.message,
                following.conn_id,
            )
        return _wait_or_raise(refusals, reasons)

    def _in_order(self, owner: Submission, record: Record | None) -> list[Submission]:
        """Return the submissions as they are tried: a retry begins with the connection that was paid before."""
        if record is None or record.state is RecordState.NOT_SUBMITTED:
            return list(self.submissions)
        if record.has_unknown_outcome:
            return [owner]  # which may have been paid
        if decisions.is_cleared(record, owner.attempt):
            return list(self.submissions)
        return [owner, *(submission for submission in self.submissions if submission is not owner)]


def _wait_or_raise(refusals: Sequence[NotTaken], reasons: Mapping[str, errors.SeedanceError]) -> RetryLater:
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
