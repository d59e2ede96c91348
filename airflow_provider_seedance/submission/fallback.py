"""
The submission of a task through several connections, in order.

A generation of the same request that another task has paid for, at any of them, comes before the first one. The next
connection is tried only where it is certain that the one before took nothing and will not: see
:class:`~airflow_provider_seedance.submission.submitter.NotTaken`. The record names the connection before each POST, so
that a lost worker leaves no doubt which of them may have been paid.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, utc_now
from airflow_provider_seedance.polling.outcomes import payer_text
from airflow_provider_seedance.submission import decisions
from airflow_provider_seedance.submission.lookup import AwaitingCallback
from airflow_provider_seedance.submission.records import Attempt, Record, RecordState, as_ended
from airflow_provider_seedance.submission.reuse import is_deliverable, repeat_while_submitting
from airflow_provider_seedance.submission.store import ReuseSearch
from airflow_provider_seedance.submission.submitter import (
    ConnectionResult,
    HasGeneration,
    NotTaken,
    RetryLater,
    Reusable,
    Submission,
    SubmissionResult,
)

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class FallbackSubmission:
    """
    Submission of one request by the first connection that takes it.

    :param submissions: One for each connection that can make the request, in order; at least one.
    :param unfit: Errors of the connections that cannot, by their ids.
    :param unusable_ids: Generations of other tasks that cannot be delivered.
    :param closed: Connections that have refused other submissions and are not tried now, by their ids.
    """

    submissions: Sequence[Submission]
    unfit: Mapping[str, errors.SeedanceError] = field(default_factory=dict)
    unusable_ids: frozenset[str] = frozenset()
    closed: Mapping[str, NotTaken] = field(default_factory=dict)
    #: Refusals of the connections that were tried.
    refusals: list[NotTaken] = field(default_factory=list, init=False)
    #: The connection that is tried or queried; an error that is raised meanwhile is its own.
    trying: str | None = field(default=None, init=False)

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
        self.trying = owner.conn_id
        record, verdict = owner.decide(record, callback_ids)
        if isinstance(verdict, AwaitingCallback):
            return verdict
        if not isinstance(verdict, decisions.Submit):
            return owner.attach(verdict, record)
        if record:
            owner.store.update(owner.key, record)  # as the service or the deferral knows it
        return self._reuse_or_submit(owner, record, verdict.note)

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

    def _reuse_or_submit(
        self, owner: Submission, record: Record | None, note: str | None
    ) -> SubmissionResult:
        while True:
            search = self._search(owner, record)
            found = None
            try:
                if search:
                    details = owner.details(search)
                    found = repeat_while_submitting(partial(owner.store.reuse, owner.key, details))
            except errors.SeedanceRateLimitError as error:
                return RetryLater(error, record)
            result = Reusable(found) if found else self._submit(owner, record, note, search)
            if not isinstance(result, Reusable):
                return result
            if attached := attach_reused(self.owner_of(result.record), result.record):
                return attached
            self.unusable_ids |= {str(result.record.generation_id)}

    def _search(self, owner: Submission, record: Record | None) -> ReuseSearch | None:
        """Return the search for what other tasks have paid for, at all of the connections."""
        scope = owner.policy.reuse
        if scope == "task":
            return None
        if record and decisions.wants_another(record, owner.attempt, owner.policy.on_clear, utc_now()):
            return None
        intents = {
            submission.reuse_key: submission.intent(record, {})
            for submission in self.submissions
            if submission.reuse_key
        }
        return ReuseSearch(scope=scope, intents=intents, unusable_ids=self.unusable_ids)

    def _submit(
        self, owner: Submission, record: Record | None, note: str | None, search: ReuseSearch | None
    ) -> SubmissionResult | Reusable:
        reasons = dict(self.unfit)
        refusals: list[NotTaken] = []
        order = self._in_order(owner, record)
        for submission, following in zip(order, [*order[1:], None], strict=True):
            result = self._try(
                submission,
                record,
                None if refusals else note,
                passed_over={conn_id: type(error).__name__ for conn_id, error in reasons.items()},
                has_fallback=following is not None,
                search=search,
            )
            if not isinstance(result, NotTaken):
                return result
            refusals.append(result)
            reasons[result.conn_id] = result.error
            if following is None or not result.passes_on:
                break
            if result.conn_id not in self.closed:
                log.warning(
                    "Connection %r took nothing, and nothing is billed there: %s Trying connection %r.",
                    result.conn_id,
                    result.error.message,
                    following.conn_id,
                )
        return _wait_or_raise(refusals, reasons)

    def _try(
        self, submission: Submission, record: Record | None, note: str | None, **options: Any
    ) -> ConnectionResult:
        """Submit through a connection, unless it is closed; note its refusal."""
        self.trying = None
        if (closed := self.closed.get(submission.conn_id)) is not None:
            return replace(closed, record=record)
        self.trying = submission.conn_id
        result = submission.submit(record, note, **options)
        if isinstance(result, NotTaken):
            self.trying = None
            self.refusals.append(result)
        return result

    def _in_order(self, owner: Submission, record: Record | None) -> list[Submission]:
        """Return the submissions as they are tried: a retry begins with the connection that was paid before."""
        if record is None or record.state is RecordState.NOT_SUBMITTED:
            return list(self.submissions)
        if record.has_unknown_outcome:
            return [owner]  # which may have been paid
        if decisions.is_cleared(record, owner.attempt):
            return list(self.submissions)
        return [owner, *(submission for submission in self.submissions if submission is not owner)]


def attach_reused(submission: Submission, record: Record) -> HasGeneration | None:
    """Attach to the generation of another task; ``None`` if it cannot be delivered."""
    copy = submission.store.stored_copy(record)
    remote = copy or record.known_end() or submission.lookup.read_recorded(record)
    ended = remote if isinstance(remote, Generation) and remote.status.terminal else None
    lost = ended and not copy and not is_deliverable(ended, submission.client.settings)
    if lost or isinstance(remote, errors.SeedanceNotFoundError):
        not_submitted = replace(record, state=RecordState.NOT_SUBMITTED, result=None)
        submission.store.write(submission.key, not_submitted)
        return None
    log.info(
        "The same request was paid for by %s at connection %r: generation %s is reused.",
        payer_text(record.reused_from),
        record.conn_id,
        record.generation_id,
    )
    known = replace(as_ended(record, ended, utc_now()), result=ended.result()) if ended else record
    return HasGeneration(ended or record.placeholder_generation(), known)


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


def unfit_owner(
    unfit: Mapping[str, errors.SeedanceError], record: Record | None, attempt: Attempt
) -> errors.SeedanceError | None:
    """Return the error of a connection that was, or may have been, paid and cannot make the request of a retry."""
    error = unfit.get(record.conn_id or "") if record else None
    if record is None or error is None or record.state is RecordState.NOT_SUBMITTED:
        return None
    return error if record.has_unknown_outcome or not decisions.is_cleared(record, attempt) else None


def combined(
    error: errors.SeedanceError, reasons: Mapping[str, errors.SeedanceError]
) -> errors.SeedanceError:
    """Return the error of a task that no connection took, with the reason of each."""
    every = " ".join(f"Connection {conn_id!r}: {reason.message}" for conn_id, reason in reasons.items())
    return type(error)(f"No connection took the render. {every}", **error.details())
