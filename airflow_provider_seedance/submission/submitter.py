"""
The submission of a task: at most once, through the first connection that takes it.

The decisions are those of :mod:`airflow_provider_seedance.submission.decisions`; here they are carried out in the order
that keeps the promises: the record before the POST, the id before anything else.

A generation of the same request that another task has paid for, at any connection, comes before the first one. The next
connection is tried only where it is certain that the one before took nothing and will not: see
:class:`~airflow_provider_seedance.submission.submission_result.NotTaken`. The record names the connection before each
POST, so that a lost worker leaves no doubt which of them may have been paid.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property, partial
from typing import Any

from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.messages import (
    Accepted,
    HttpCall,
    NotAccepted,
    Refused,
    SubmitOutcome,
    Uncertain,
)
from airflow_provider_seedance.apis.validation import Prepared
from airflow_provider_seedance.client import flows
from airflow_provider_seedance.client.api_client import Client
from airflow_provider_seedance.generations import Generation, GenerationRequest, GenerationStatus, utc_now
from airflow_provider_seedance.polling.shared_quota import SharedQuota, SharedRate
from airflow_provider_seedance.submission import available_quota, decisions
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.lookup import SubmissionLookup
from airflow_provider_seedance.submission.reuse import repeat_while_submitting, reuse_key
from airflow_provider_seedance.submission.store import (
    GENERATION_KEY,
    RecordStore,
    ReuseSearch,
    SubmissionDetails,
)
from airflow_provider_seedance.submission.submission_result import (
    AwaitingCallback,
    ConnectionResult,
    HasGeneration,
    NotTaken,
    RetryLater,
    Reusable,
    SubmissionResult,
    wait_or_raise,
)

log = logging.getLogger(__name__)

Rejection = NotAccepted | Refused


@dataclass(kw_only=True)
class Submission:
    """
    Submission of one request through one connection, at most once; a later try attaches to its generation.

    :param client: Of the connection.
    :param store: Of the records of the task instance.
    :param key: Of the record of this submission.
    :param item_key: The user's key, for an item of a batch.
    :param prepared: The validated request.
    :param attempt: The try that is running.
    :param policy: Decisions of the Dag author.
    :param retry_inline: Whether to wait some seconds for a rejected submission and repeat it.
    :param shared_quota: Quota state shared between processes, or ``None`` to ignore it.
    :param input_digests: Digests of inputs that were downloaded, by their URLs.
    :param refused_since: Seconds since 1970 of the first refusal, where the caller waits between its submissions.
    """

    client: Client
    store: RecordStore
    key: str = GENERATION_KEY
    item_key: str | None = None
    prepared: Prepared
    attempt: rec.Attempt
    policy: decisions.SubmissionPolicy
    retry_inline: bool = True
    shared_quota: SharedQuota | None = None
    input_digests: dict[str, str] = field(default_factory=dict)
    refused_since: float | None = None

    def __post_init__(self) -> None:
        settings = self.client.settings
        self.api, self.conn_id = settings.api, settings.conn_id
        fingerprint = rec.Fingerprint.of(
            self.prepared.as_requested, api=self.api.name, base_url=settings.base_url
        )
        self.attempt = replace(self.attempt, fingerprint=fingerprint)
        self.lookup = SubmissionLookup(
            client=self.client,
            store=self.store,
            key=self.key,
            request=self.prepared.request,
            attempt=self.attempt,
            policy=self.policy,
        )
        self.rate = SharedRate.of(settings, self.prepared.request)

    def attach(self, verdict: decisions.Verdict, record: rec.Record | None) -> HasGeneration:
        """Attach to the recorded generation, or raise the error of a verdict other than `Submit`."""
        if isinstance(verdict, decisions.Fail):
            if record and isinstance(verdict.error, errors.SeedanceUncertainSubmitError):
                self.report_uncertain(record)
            raise verdict.error
        assert record is not None
        assert isinstance(verdict, (decisions.Reattach, decisions.Deliver))
        log.info("%s", verdict.note)
        if record.fingerprint.signatures != self.attempt.fingerprint.signatures:
            text = "The inputs of generation %s differ in the signatures of their links only; they count as the same files."
            log.warning(text, record.generation_id)
        record = rec.taken_over(record, self.attempt)
        if isinstance(verdict, decisions.Deliver):
            return HasGeneration(verdict.generation, rec.as_ended(record, verdict.generation, utc_now()))
        # Only the number of the try is new; nothing is lost if that cannot be written.
        self.store.try_write(self.key, record, "The generation is known all the same.")
        return HasGeneration(record.placeholder_generation(), record)

    # ------------------------------------------------------------------ a new submission

    @cached_property
    def reuse_key(self) -> str | None:
        """The key of the request, for which its inputs are downloaded if it may be reused."""
        digests = None if self.policy.reuse == "task" else self.input_digests
        return reuse_key(self.prepared.request, self.client.settings, digests)

    def intent(self, previous: rec.Record | None, passed_over: Mapping[str, str]) -> rec.Record:
        """Return the intent of a submission after a previous one."""
        return rec.intent_record(
            self.attempt,
            utc_now(),
            conn_id=self.conn_id,
            passed_over=passed_over,
            correlates=self.api.correlates(self.prepared.request),
            result_defaults=self.prepared.result_defaults.as_dict(),
            end_from_trigger=self.policy.end_from_trigger,
            calls_back=self.policy.callback_url is not None,
            resubmitted=previous is not None
            and previous.has_unknown_outcome
            and decisions.is_of_this_try(previous, self.attempt),
            previous=previous,
        )

    def submit(
        self,
        previous_record: rec.Record | None,
        note: str | None,
        *,
        passed_over: Mapping[str, str],
        has_fallback: bool = False,
        search: ReuseSearch | None = None,
    ) -> ConnectionResult:
        """
        Submit.

        :param previous_record: Record of an earlier submission, by which it was decided to submit.
        :param note: Reason for the log.
        :param passed_over: Connections before this one that took nothing, and the class of their error.
        :param has_fallback: Whether another connection is tried if this one takes nothing.
        :param search: Repeated in the transaction that writes the intent, so that one of several tasks submits.
        :raises SeedanceError: no connection may submit.
        """
        _check_limit(self, previous_record)
        if note:
            log.warning("%s", note)
        quota, inline, name = self.shared_quota, self.retry_inline, self.api.title
        if used_up := available_quota.reserve_quota(
            quota, self.rate, name, inline=inline, has_fallback=has_fallback
        ):
            long = (used_up.retry_after or 0.0) > flows.MAX_FALLBACK_WAIT_SECONDS
            return NotTaken(self.conn_id, used_up, previous_record, waits=True, gives_way=long)
        intent = self.intent(previous_record, passed_over)
        self.lookup.callback_ids = ()
        try:
            written = self._write_intent(intent, search)
        except errors.SeedanceRateLimitError as error:  # another task submits the same request
            return RetryLater(error, previous_record)
        except errors.SeedanceBudgetError as error:
            waits = error.retry_after is not None and self.policy.on_budget == "wait"
            if previous_record and previous_record.has_unknown_outcome and not waits:
                raise _uncertain_over_limit(self, previous_record, error) from error
            return NotTaken(self.conn_id, error, previous_record, waits=waits, gives_way=True)
        if written.reused_from:
            return Reusable(written)
        return self._post(intent, previous_record, search, has_fallback=has_fallback)

    def _post(
        self,
        intent: rec.Record,
        previous_record: rec.Record | None,
        search: ReuseSearch | None,
        *,
        has_fallback: bool,
    ) -> ConnectionResult:
        request, nonce, url_for = self.prepared.request, intent.callback_nonce, self.policy.callback_url
        call = self.api.submit_call(
            request,
            callback_url=url_for(nonce) if url_for and nonce else None,
            correlation=intent.correlation,
            image_timeout=self.client.settings.image_timeout,
        )
        outcome = self._send(call, request, has_fallback=has_fallback)
        if isinstance(outcome, Accepted):
            return self._on_accepted(intent, outcome.generation, utc_now())
        if isinstance(outcome, (NotAccepted, Refused)):
            return self._on_rejected(intent, outcome, previous_record, has_fallback=has_fallback)
        return self._on_uncertain(intent, outcome, search)

    def _send(self, call: HttpCall, request: GenerationRequest, *, has_fallback: bool) -> SubmitOutcome:
        waits_here = has_fallback and self.refused_since is None
        flow = flows.submit_flow(
            self.api, call, request, utc_now, retry_inline=self.retry_inline, has_fallback=waits_here
        )
        try:
            return self.client.run(flow)
        except (Exception, AirflowTaskTimeout) as error:
            # A durable intent is found by the next try.
            if self.store.durable or self.policy.on_uncertain_submit == "resubmit":
                raise
            raise decisions.unrecorded_error(error, ()) from error

    def _write_intent(self, intent: rec.Record, search: ReuseSearch | None) -> rec.Record:
        if not self.store.durable:
            log.warning(
                "%s: if the worker is lost between now and the end of this task, a retry cannot know of this "
                "submission and pays again.",
                decisions.NO_STORE,
            )
        details = self.details(search)
        try:
            return repeat_while_submitting(lambda: self.store.write_intent(self.key, intent, details))
        except errors.SeedanceStateError as error:
            raise type(error)(
                f"{error.message} Without a record of the intent nothing is submitted; retry later."
            ) from error

    def details(self, search: ReuseSearch | None) -> SubmissionDetails:
        """Return the details that the ledger accounts for."""
        return SubmissionDetails(
            prompt=self.prepared.request.prompt,
            item_key=self.item_key,
            budgets=self.client.settings.budgets,
            reuse=search,
            reuse_key=self.reuse_key,
        )

    def _on_accepted(self, intent: rec.Record, generation: Generation, now: datetime) -> HasGeneration:
        generation = generation.with_defaults(self.prepared.result_defaults.as_dict())
        # The outputs of a synchronous answer are nowhere else, so the record contains all of them. A video is
        # read by its id, which returns links that are still valid.
        only_here = generation.media == "image" or generation.generation_id.startswith(flows.LOCAL_PREFIX)
        synchronous = only_here and generation.status is GenerationStatus.SUCCEEDED
        record = rec.as_submitted(intent, generation, now, synchronous=synchronous)
        self.store.write_with_retries(self.key, record)
        title = self.api.title
        log.info("Submitted generation %s to %s; it is billed from now on.", generation.generation_id, title)
        return HasGeneration(generation, record)

    def _on_rejected(
        self, intent: rec.Record, outcome: Rejection, previous: rec.Record | None, *, has_fallback: bool
    ) -> NotTaken:
        # A generation that is or may be billed stays on record: a later try looks for it, or delivers it.
        restored = None
        if previous and (previous.generation_id is not None or previous.has_unknown_outcome):
            restored = decisions.kept_cleared(previous, self.attempt)
        self.store.try_write(self.key, restored or replace(intent, state=rec.RecordState.NOT_SUBMITTED))
        error, not_accepted = outcome.error, isinstance(outcome, NotAccepted)
        limited = isinstance(error, errors.SeedanceRateLimitError)
        waits = limited or error.retry_after is not None
        rate, since = self.rate, self.refused_since
        if limited and rate and error.retry_after is None:
            error.retry_after = available_quota.retry_after_refusal(rate, since, has_fallback=has_fallback)
        given_up = not_accepted and available_quota.is_given_up(error.retry_after, since)
        gives_way = given_up or error.scope in ("account", "permission")
        return NotTaken(self.conn_id, error, restored, waits=not_accepted and waits, gives_way=gives_way)

    def _on_uncertain(
        self, intent: rec.Record, outcome: Uncertain, search: ReuseSearch | None
    ) -> ConnectionResult:
        if found := self.lookup.find_lost_submission(intent):
            generation = rec.with_id(intent, found).placeholder_generation()
            return self._on_accepted(intent, generation, utc_now())
        what = f"The submission was sent and its fate is unknown: {outcome.error.message}"
        if awaiting := self.lookup.awaiting_callback(intent):
            log.warning("%s", what)
            return awaiting
        command = self.store.resolve_command(self.key)
        if later := self.lookup.failure(what.rstrip("."), command):
            raise later
        if self.policy.on_uncertain_submit == "resubmit" and not intent.resubmitted:
            log.warning("%s", what)
            return self.submit(
                intent,
                "on_uncertain_submit='resubmit': submitting again, which may pay twice.",
                passed_over=intent.passed_over,
                search=search,
            )
        self.report_uncertain(intent)
        raise decisions.uncertain_error(
            what.rstrip("."),
            self.api.name,
            outcome.error,
            on_uncertain=self.policy.on_uncertain_submit,
            resolve_command=command,
        )

    # ------------------------------------------------------------------ records

    def report_uncertain(self, record: rec.Record) -> None:
        """Record that the task fails because of an uncertain submission."""
        uncertain = replace(record, state=rec.RecordState.UNCERTAIN)
        self.store.try_write(self.key, rec.taken_over(uncertain, self.attempt))


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
        self, record: rec.Record | None = None, callback_ids: Sequence[str] = ()
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
        record, verdict = owner.lookup.decide(record, callback_ids)
        if isinstance(verdict, AwaitingCallback):
            return verdict
        if not isinstance(verdict, decisions.Submit):
            return owner.attach(verdict, record)
        if record:
            owner.store.update(owner.key, record)  # as the service or the deferral knows it
        return self._reuse_or_submit(owner, record, verdict.note)

    def owner_of(self, record: rec.Record | None) -> Submission:
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
        self, owner: Submission, record: rec.Record | None, note: str | None
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
            if attached := self.owner_of(result.record).lookup.attach_reused(result.record):
                return attached
            self.unusable_ids |= {str(result.record.generation_id)}

    def _search(self, owner: Submission, record: rec.Record | None) -> ReuseSearch | None:
        """Return the search for generations that other tasks have paid for, at all of the connections."""
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
        self, owner: Submission, record: rec.Record | None, note: str | None, search: ReuseSearch | None
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
        return wait_or_raise(refusals, reasons)

    def _try(
        self, submission: Submission, record: rec.Record | None, note: str | None, **options: Any
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

    def _in_order(self, owner: Submission, record: rec.Record | None) -> list[Submission]:
        """Return the submissions as they are tried: a retry begins with the connection that was paid before."""
        if record is None or record.state is rec.RecordState.NOT_SUBMITTED:
            return list(self.submissions)
        if record.has_unknown_outcome:
            return [owner]  # which may have been paid
        if decisions.is_cleared(record, owner.attempt):
            return list(self.submissions)
        return [owner, *(submission for submission in self.submissions if submission is not owner)]


def _check_limit(submission: Submission, previous_record: rec.Record | None) -> None:
    """Raise if the request costs more than a limit leaves after every submission on record."""
    for unit, limit in submission.policy.limits.items():
        price = getattr(submission.prepared.result_defaults, unit) or 0.0
        spent = submission.store.committed(unit)
        if round(spent + price, 6) <= limit:
            continue
        ids = rec.paid_ids(submission.store.records().values())
        why = decisions.over_limit(unit, limit, price, spent, ids)
        error = errors.SeedanceMaxCreditsError(f"{why} Nothing was sent for it.")
        if previous_record and previous_record.has_unknown_outcome:
            raise _uncertain_over_limit(submission, previous_record, error)
        raise error


def _uncertain_over_limit(
    submission: Submission, record: rec.Record, limit: errors.SeedanceError
) -> errors.SeedanceError:
    """Report an uncertain submission that a limit or a budget rules out to repeat; return its error."""
    submission.report_uncertain(record)
    command = submission.store.resolve_command(submission.key)
    return decisions.uncertain_over_limit(submission.api.name, limit, command)
