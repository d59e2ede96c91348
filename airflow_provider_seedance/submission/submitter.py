"""
One entry into a task that may submit: reads the record, decides, and submits at most once.

What to decide stands in :mod:`airflow_provider_seedance.submission.decisions`; here it is carried out, in the
order that keeps the promises: record before POST, result before anything else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
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
from airflow_provider_seedance.polling.shared_quota import SharedQuota
from airflow_provider_seedance.submission import decisions
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import GENERATION_KEY, RecordStore

log = logging.getLogger(__name__)

#: Seconds for which a call of the service may still tell the fate of a submission whose reply was lost.
CALL_PATIENCE = 600.0

#: Seconds until the service is asked again about a generation that a callback named, where it cannot be read.
ASK_AGAIN = 30.0

#: Seconds to stay away after a refusal for quota that names no time.
DEFAULT_RETRY_AFTER = 60.0

#: Seconds to stay away at the least after repeated refusals: doubled each time, up to an hour.
FIRST_STEP = 15.0
LONGEST_STEP = 3600.0


@dataclass(frozen=True)
class HasGeneration:
    """
    There is a generation for this task.

    :param generation: As far as it is known; terminal, or to be waited for.
    :param record: Its record, as last written.
    """

    generation: Generation
    record: rec.Record


@dataclass(frozen=True)
class RetryLater:
    """The service takes no submission now, and certainly has taken none: ``error`` says until when."""

    error: errors.SeedanceError

    def seconds(self, refusals: int) -> float:
        """
        Return how long to stay away.

        :param refusals: How often it was put off before; a service that keeps refusing although it named a
            short time is asked ever less often, since every refusal may count against the quota.
        """
        named = DEFAULT_RETRY_AFTER if self.error.retry_after is None else self.error.retry_after
        if not refusals:
            return named
        return max(named, min(LONGEST_STEP, FIRST_STEP * 2.0 ** min(refusals, 20)))


@dataclass(frozen=True, kw_only=True)
class AwaitingCallback:
    """
    A submission was sent, its fate is unknown, and the service may still call back about it.

    :param record: The intent.
    :param until: Seconds since 1970 until which that is waited for.
    :param may_repeat: Whether ``on_uncertain_submit="resubmit"`` has not been made use of yet.
    :param told: Ids that callbacks have named, and the service has not confirmed yet.
    """

    record: rec.Record
    until: float
    resubmits_left: bool
    told: tuple[str, ...] = ()


#: What an entry into a task comes to.
SubmissionResult = HasGeneration | RetryLater | AwaitingCallback


@dataclass(frozen=True, kw_only=True)
class SubmissionPolicy:
    """
    What the Dag author decided.

    :param address: Makes the URL for the service to call from the nonce of a submission; ``None`` where it
        is not to call.
    """

    address: Callable[[str], str] | None = None
    on_uncertain_submit: decisions.OnUncertain = "fail"
    on_clear: decisions.OnClear = "reuse"
    end_from_trigger: bool = False


class Submission:
    """
    Brings one request of one task instance to a generation.

    :param client: Of the service.
    :param store: Of the records of the task instance.
    :param key: Of the record of this submission.
    :param prepared: The request, judged.
    :param attempt: The try that is running.
    :param policy: The Dag author's decisions.
    :param patient: Whether a refused submission is tried again for some seconds.
    :param note: What others on this machine know of the quota; ``None`` where that is no matter.
    """

    def __init__(
        self,
        *,
        client: Client,
        store: RecordStore,
        key: str = GENERATION_KEY,
        prepared: Prepared,
        attempt: rec.Attempt,
        policy: SubmissionPolicy,
        retry_inline: bool = True,
        note: SharedQuota | None = None,
    ) -> None:
        self.retry_inline = retry_inline
        self.note = note
        #: The record as it was found: what a submission that was not taken must not make forgotten.
        self.found: rec.Record | None = None
        self.client = client
        self.store = store
        self.key = key
        self.prepared = prepared
        self.attempt = attempt
        self.policy = policy
        self.api = client.settings.api
        #: Ids that callbacks told of the submission in question, and those of them that could not be read.
        self.told: tuple[str, ...] = ()
        self.unread: tuple[str, ...] = ()
        #: Why the service could not be asked for the submission in question, where it can be at other times.
        self.unasked: errors.SeedanceError | None = None
        #: Whether a submission of unknown fate may be followed by another, if the policy says so.
        self.resubmits_left = True

    def enter(self) -> SubmissionResult:
        """
        Find the generation of this task, or submit it.

        :raises SeedanceError: what the record or the service stands against; see
            :mod:`airflow_provider_seedance.submission.decisions`.
        """
        return self._decide(self.store.read(self.key))

    def settle(self, intent: rec.Record, told: Sequence[str], *, resubmits_left: bool) -> SubmissionResult:
        """
        Go on with a submission whose reply was lost, after a callback or in its absence.

        :param intent: The record as it was then; the store's counts, if there is a store.
        :param told: The ids that callbacks named.
        :raises SeedanceError: as :meth:`enter`.
        """
        self.told = tuple(told)
        self.resubmits_left = resubmits_left
        return self._decide(self.store.read(self.key) or intent, settling=True)

    def _decide(self, record: rec.Record | None, *, settling: bool = False) -> SubmissionResult:
        self.found = record
        verdict: Any = decisions.decide(record, self.attempt, self._on_uncertain)
        if isinstance(verdict, decisions.LookUp):
            assert record is not None
            record, verdict = self._look_up(record)
        if isinstance(verdict, decisions.ReadRemote):
            assert record is not None
            verdict = decisions.decide_remote(
                record, self.attempt, self.policy.on_clear, self._remote(record), utc_now()
            )
        if settling and isinstance(verdict, decisions.Submit):
            self.resubmits_left = False
        return self._carry_out(verdict, record)

    @property
    def _on_uncertain(self) -> decisions.OnUncertain:
        return self.policy.on_uncertain_submit if self.resubmits_left else "fail"

    def _carry_out(self, verdict: Any, record: rec.Record | None) -> SubmissionResult:
        if isinstance(verdict, AwaitingCallback):
            return verdict
        if isinstance(verdict, decisions.Fail):
            if record is not None and isinstance(verdict.error, errors.SeedanceUncertainSubmitError):
                self._report_uncertain(record)
            raise verdict.error
        if isinstance(verdict, decisions.Submit):
            if verdict.note:
                log.warning("%s", verdict.note)
            return self._submit(resubmits_left=self._on_uncertain == "resubmit")
        assert record is not None
        assert isinstance(verdict, (decisions.Reattach, decisions.Deliver))
        log.info("%s", verdict.note)
        record = rec.taken_over(record, self.attempt)
        if isinstance(verdict, decisions.Deliver):
            return HasGeneration(verdict.generation, rec.as_ended(record, verdict.generation, utc_now()))
        # Only which try goes on with it is new; nothing is lost if that cannot be written.
        self._try_write(record, "The generation is known all the same.")
        return HasGeneration(record.placeholder_generation(), record)

    # ------------------------------------------------------------------ an earlier submission

    def _look_up(self, record: rec.Record) -> tuple[rec.Record, Any]:
        found = self.find(record)
        if found is None:
            return record, self._unanswered(record) or self.give_up(record)
        # max_tries stays: it tells a clear from a retry until the decision is made.
        record = rec.with_id(record, found)
        self.store.write_with_retries(self.key, record)
        return record, decisions.decide(record, self.attempt, self._on_uncertain)

    def give_up(self, record: rec.Record) -> decisions.ReadRemote | decisions.Submit | decisions.Fail:
        """Decide on a submission whose reply was lost, and that :meth:`find` has not found."""
        # Before every rule that would submit again: what was not asked for may be what was paid for.
        if error := self._ask_again(decisions.left_no_id(record)):
            return decisions.Fail(error)
        return decisions.decide_uncertain(
            record,
            self.attempt,
            self.policy.on_uncertain_submit,
            found=None,
            repeated=not self.resubmits_left,
        )

    def _ask_again(self, what: str) -> errors.SeedanceError | None:
        """Return the error that leaves it to a later try to look for a submission, if it could not be looked for."""
        if self.unasked is None:
            return None
        if self.store.durable:
            return decisions.not_looked_up(what, self.api.title, self.unasked, self.unread)
        # Without a record the next try would submit; the ids that were told would be gone.
        return decisions.unrecorded(self.unasked, " or ".join(self.unread)) if self.unread else None

    def _unanswered(self, intent: rec.Record) -> AwaitingCallback | None:
        """Return what to wait for where a call may still tell the fate of a submission."""
        if intent.state is not rec.RecordState.INTENT or not intent.callback_nonce or not self.policy.address:
            return None
        until = (intent.intended_at or utc_now()).timestamp() + CALL_PATIENCE
        if time.time() >= until:
            return None
        if self.unasked is not None:
            until = min(until, time.time() + ASK_AGAIN)
        return AwaitingCallback(
            record=intent, until=until, resubmits_left=self.resubmits_left, told=self.told
        )

    def _called_back(self, record: rec.Record) -> str | None:
        """Return the id that a callback told; the service has to know it, for a callback is only a hint."""
        if not record.callback_nonce:
            return None
        self.told = tuple(dict.fromkeys((*self.told, *self.store.callback_ids(record.callback_nonce))))
        media = self.prepared.request.media
        for told in self.told:
            try:
                self.client.run(flows.status_flow(self.api, told, media, utc_now))
            except errors.SeedanceNotFoundError:
                log.warning("A callback named generation %s, which the service does not know (yet).", told)
            except errors.SeedanceError as error:
                # Until it can be read it is not believed: the id may be of something else. Nor is it given up.
                self.unread, self.unasked = (*self.unread, told), error
                log.warning("Generation %s, named by a callback, cannot be read now: %s", told, error.message)
            else:
                log.info("The submission whose reply was lost was taken: it is generation %s.", told)
                return told
        return None

    def find(self, record: rec.Record) -> str | None:
        """Return the id of a submission whose reply was lost, if the service can be asked for it."""
        self.unasked, self.unread = None, ()
        if told := self._called_back(record):
            return told
        if not record.correlation or not self.api.can_look_up:
            return None
        since = record.intended_at or utc_now()
        try:
            found = self.client.run(flows.look_up_flow(self.api, record.correlation, since, utc_now))
        except errors.SeedanceError as error:
            log.warning("Whether the submission was taken cannot be found out now: %s", error.message)
            self.unasked = self.unasked or error
            return None
        if found:
            log.info("The submission whose reply was lost was taken: it is generation %s.", found)
        return found

    def _remote(self, record: rec.Record) -> Generation | errors.SeedanceError:
        """Return what is known of a recorded generation; asks the service only where that is needed."""
        if end := record.known_end():
            return end
        assert record.generation_id is not None
        try:
            generation = self.client.run(
                flows.status_flow(self.api, record.generation_id, self.prepared.request.media, utc_now)
            )
        except errors.SeedanceError as error:
            return error
        return generation.with_defaults(record.result_defaults)

    # ------------------------------------------------------------------ a new one

    def _submit(self, *, resubmits_left: bool) -> SubmissionResult:
        request = self.prepared.request
        if postponed := self._used_up():
            return postponed
        intent = rec.intent_record(
            self.attempt,
            utc_now(),
            correlates=self.api.correlates(request),
            result_defaults=self.prepared.result_defaults.as_dict(),
            end_from_trigger=self.policy.end_from_trigger,
            calls_back=self.policy.address is not None,
        )
        self.told = ()
        self._write_intent(intent)
        call = self.api.submit_call(
            request,
            callback_url=self._address(intent),
            correlation=intent.correlation,
            image_timeout=self.client.settings.image_timeout,
        )
        outcome = self._send(call, request)
        if isinstance(outcome, Accepted):
            return self._record_accepted(intent, outcome.generation, utc_now())
        if isinstance(outcome, (NotAccepted, Refused)):
            return self._not_taken(intent, outcome)
        return self._uncertain(intent, outcome, resubmits_left=resubmits_left)

    def _address(self, intent: rec.Record) -> str | None:
        wanted = self.policy.address and intent.callback_nonce
        return self.policy.address(intent.callback_nonce) if wanted else None  # type: ignore[misc, arg-type]

    def _used_up(self) -> RetryLater | None:
        """Take one request out of the quota as it was noted; a short wait for it is spent here."""
        wait = self.note.reserve(time.time()) if self.note else 0.0
        if self.note and self.retry_inline and 0.0 < wait <= flows.LONGEST_SUBMIT_PAUSE:
            time.sleep(wait)
            wait = self.note.reserve(time.time())
        if not wait:
            return None
        error = errors.SeedanceRateLimitError(
            f"The quota at {self.api.title} is used up, by what it told last.", retry_after=wait
        )
        return RetryLater(error)

    def _send(self, call: HttpCall, request: GenerationRequest) -> SubmitOutcome:
        flow = flows.submit_flow(self.api, call, request, utc_now, retry_inline=self.retry_inline)
        try:
            return self.client.run(flow)
        except (Exception, AirflowTaskTimeout) as error:
            # With a store, the intent tells the next try; without one, nothing does.
            if self.store.durable or self.policy.on_uncertain_submit == "resubmit":
                raise
            raise decisions.unrecorded(error, None) from error

    def _write_intent(self, intent: rec.Record) -> None:
        if not self.store.durable:
            log.warning(
                "This Airflow has no task state store (it came with 3.3): if the worker is lost between now "
                "and the end of this task, a retry cannot know of this submission and pays again."
            )
        try:
            self.store.write(self.key, intent)
        except errors.SeedanceStateError as error:
            raise errors.SeedanceStateError(
                f"{error.message} Without a record of the intent nothing is submitted; retry later."
            ) from error

    def _record_accepted(self, intent: rec.Record, generation: Generation, now: datetime) -> HasGeneration:
        # Images that come with the answer are told nowhere else, so the record keeps all of them. A video
        # has an id to ask by, and an answer to that brings links that still work.
        told_once = generation.media == "image" or generation.generation_id.startswith(flows.LOCAL_PREFIX)
        synchronous = told_once and generation.status is GenerationStatus.SUCCEEDED
        record = rec.as_submitted(intent, generation, now, synchronous=synchronous)
        self.store.write_with_retries(self.key, record)
        log.info(
            "Submitted generation %s to %s; it is billed from now on.",
            generation.generation_id,
            self.api.title,
        )
        return HasGeneration(generation, record)

    def _not_taken(self, intent: rec.Record, outcome: NotAccepted | Refused) -> RetryLater:
        # What was paid for before stays known: a later clear may still want to deliver it.
        paid_before = self.found if self.found and self.found.generation_id else None
        self._try_write(paid_before or replace(intent, state=rec.RecordState.NOT_SUBMITTED))
        error = outcome.error
        waits = isinstance(error, errors.SeedanceRateLimitError) or error.retry_after is not None
        if isinstance(outcome, NotAccepted) and waits:
            return RetryLater(error)
        raise error

    def _uncertain(self, intent: rec.Record, outcome: Uncertain, *, resubmits_left: bool) -> SubmissionResult:
        if found := self.find(intent):
            generation = rec.with_id(intent, found).placeholder_generation()
            return self._record_accepted(intent, generation, utc_now())
        if unanswered := self._unanswered(intent):
            log.warning("The submission was sent and its fate is unknown: %s", outcome.error.message)
            return unanswered
        what = f"The submission was sent and its fate is unknown: {outcome.error.message}"
        if later := self._ask_again(what.rstrip(".")):
            raise later
        if resubmits_left:
            log.warning("%s on_uncertain_submit='resubmit': submitting again, which may pay twice.", what)
            return self._submit(resubmits_left=False)
        self._report_uncertain(intent)
        raise decisions.uncertain_failure(
            what.rstrip("."), self.api.name, outcome.error, on_uncertain=self.policy.on_uncertain_submit
        )

    def _report_uncertain(self, record: rec.Record) -> None:
        self._try_write(rec.taken_over(replace(record, state=rec.RecordState.UNCERTAIN), self.attempt))

    def _try_write(
        self,
        record: rec.Record,
        otherwise: str = "The next try will treat this submission as uncertain.",
    ) -> None:
        """Write what would only make a later try more careful if it were missing."""
        try:
            self.store.write(self.key, record)
        except errors.SeedanceStateError as error:
            log.warning("%s %s", error.message, otherwise)
