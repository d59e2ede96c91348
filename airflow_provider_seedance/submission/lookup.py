"""
Look-up of an earlier submission: decides on its record, and asks the service where that does not suffice.

An uncertain submission is found by the ids of callbacks, or by the correlation value sent along.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.client import flows
from airflow_provider_seedance.client.api_client import Client
from airflow_provider_seedance.generations import Generation, GenerationRequest, utc_now
from airflow_provider_seedance.polling.outcomes import payer_text
from airflow_provider_seedance.submission import decisions, timing
from airflow_provider_seedance.submission.records import Attempt, Record, RecordState, as_ended, with_id
from airflow_provider_seedance.submission.reuse import is_deliverable
from airflow_provider_seedance.submission.store import RecordStore
from airflow_provider_seedance.submission.submission_result import AwaitingCallback, HasGeneration

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class SubmissionLookup:
    """
    Look-up of an earlier submission through one connection, and the decision on its record.

    :param client: Of the connection.
    :param store: Of the records of the task instance, which contains the ids of callbacks.
    :param key: Of the record.
    :param request: The prepared request.
    :param attempt: The try that is running.
    :param policy: Decisions of the Dag author.
    """

    client: Client
    store: RecordStore
    key: str
    request: GenerationRequest
    attempt: Attempt
    policy: decisions.SubmissionPolicy
    #: Ids that callbacks named for the uncertain submission, and those of them that could not be read.
    callback_ids: tuple[str, ...] = field(default=(), init=False)
    unconfirmed_ids: tuple[str, ...] = field(default=(), init=False)
    #: Error of the look-up, if the service did not answer it.
    lookup_error: errors.SeedanceError | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.api = self.client.settings.api

    def decide(
        self, record: Record | None, callback_ids: Sequence[str] = ()
    ) -> tuple[Record | None, decisions.Verdict | AwaitingCallback]:
        """Decide on the record of the task, with the ids of callbacks; returns it as the service knows it, and the verdict."""
        self.callback_ids = tuple(callback_ids)
        verdict: decisions.Verdict | AwaitingCallback = self.classify(record)
        if record and isinstance(verdict, decisions.LookUp):
            record, verdict = self.look_up(record)
        if record and isinstance(verdict, decisions.ReadRemote):
            record, verdict = self.read_remote(record)
        return record, verdict

    def classify(self, record: Record | None) -> decisions.Verdict:
        """Decide on the record alone, without a request."""
        verdict = decisions.decide(record, self.attempt, self.policy.on_uncertain_submit)
        if record and isinstance(verdict, decisions.ReadRemote) and (end := record.known_end()):
            return decisions.decide_remote(record, self.attempt, self.policy.on_clear, end, utc_now())
        return verdict

    def look_up(self, record: Record) -> tuple[Record, decisions.Verdict | AwaitingCallback]:
        """Look for an uncertain submission; returns its record, with the id if that was found, and the verdict."""
        found = self.find_lost_submission(record)
        if found is None:
            return record, self.awaiting_callback(record) or self._decide_without_id(record)
        # max_tries stays: it tells a clear from a retry until the decision is made.
        record = with_id(record, found)
        self.store.write_with_retries(self.key, record)
        return record, self.classify(record)

    def read_remote(self, record: Record) -> tuple[Record, decisions.Verdict]:
        """Read the recorded generation; returns its record, with the end if it has ended, and the verdict."""
        remote = self.read_recorded(record)
        verdict = decisions.decide_remote(record, self.attempt, self.policy.on_clear, remote, utc_now())
        if isinstance(remote, Generation) and remote.status.terminal:
            record = as_ended(record, remote, utc_now())
        return record, verdict

    def _decide_without_id(self, record: Record) -> decisions.Submit | decisions.Fail:
        """Decide on an uncertain submission that was not found."""
        # Before every rule that submits again: what could not be looked up may be billed.
        command = self.store.resolve_command(self.key)
        if error := self.failure(decisions.left_no_id(record), command):
            return decisions.Fail(error)
        return decisions.decide_uncertain(record, self.attempt, self.policy.on_uncertain_submit, command)

    def find_lost_submission(self, record: Record) -> str | None:
        """Return the id of a submission whose reply was lost, if a callback or the service names it."""
        self.lookup_error, self.unconfirmed_ids = None, ()
        if found := self._ids_from_callbacks(record):
            return found
        if not record.correlation or not self.api.can_look_up:
            return None
        since = record.intended_at or utc_now()
        try:
            flow = flows.look_up_flow(self.api, record.correlation, since, utc_now, self.request.model)
            found = self.client.run(flow)
        except errors.SeedanceError as error:
            log.warning("The uncertain submission cannot be looked up now: %s", error.message)
            self.lookup_error = self.lookup_error or error
            return None
        if found:
            log.info("The submission whose reply was lost was taken: it is generation %s.", found)
        return found

    def _ids_from_callbacks(self, record: Record) -> str | None:
        """Return the id that a callback named and the service confirms; a callback alone proves nothing."""
        if not record.callback_nonce:
            return None
        named = (*self.callback_ids, *self.store.callback_ids(record.callback_nonce))
        self.callback_ids = tuple(
            dict.fromkeys(self.api.full_id(found, self.request.model) for found in named)
        )
        for generation_id in self.callback_ids:
            try:
                self.read(generation_id)
            except errors.SeedanceNotFoundError:
                log.warning("A callback named generation %s, which the service does not know.", generation_id)
            except errors.SeedanceError as error:
                # Neither confirmed nor refuted: the id may belong to something else.
                self.unconfirmed_ids, self.lookup_error = (*self.unconfirmed_ids, generation_id), error
                log.warning(
                    "Generation %s, named by a callback, cannot be read now: %s", generation_id, error.message
                )
            else:
                log.info("The submission whose reply was lost was taken: it is generation %s.", generation_id)
                return generation_id
        return None

    def awaiting_callback(self, intent: Record) -> AwaitingCallback | None:
        """Return until when to wait for a callback, if one may still resolve an uncertain submission."""
        calls_back = self.policy.callback_url is not None and intent.callback_nonce
        if not calls_back or intent.state is not RecordState.INTENT:
            return None
        until = (intent.intended_at or utc_now()).timestamp() + timing.TIMING.callback_timeout
        if time.time() >= until:
            return None
        if self.lookup_error is not None:
            until = min(until, time.time() + timing.TIMING.confirm_interval)
        return AwaitingCallback(record=intent, until=until, callback_ids=self.callback_ids)

    def failure(self, what: str, resolve_command: str | None) -> errors.SeedanceError | None:
        """Return the error that leaves the look-up to a later try, if the service did not answer it."""
        if self.lookup_error is None:
            return None
        if self.store.durable:
            return decisions.lookup_failed_error(
                what, self.api.title, self.lookup_error, self.unconfirmed_ids, resolve_command
            )
        # Without a durable record the next try would submit, and the ids of the callbacks would be lost.
        if self.unconfirmed_ids:
            return decisions.unrecorded_error(self.lookup_error, self.unconfirmed_ids)
        return None

    def read(self, generation_id: str) -> Generation:
        """Read a generation from the service."""
        return self.client.run(flows.status_flow(self.api, generation_id, self.request.media, utc_now))

    def read_recorded(self, record: Record) -> Generation | errors.SeedanceError:
        """Read the generation of a record; "not found" soon after the submission counts only if it is repeated."""
        if record.reused_from and (copy := self.store.stored_copy(record)):
            return copy
        since = record.submitted_at or record.intended_at
        new = since is not None and (utc_now() - since).total_seconds() < timing.TIMING.late_id
        for pause in (*(timing.TIMING.not_found_backoff if new else ()), None):
            try:
                return self.read(str(record.generation_id)).with_defaults(record.result_defaults)
            except errors.SeedanceError as error:
                late = isinstance(error, errors.SeedanceNotFoundError) and error.http_status is not None
                if pause is None or not late:
                    return error
                time.sleep(pause)
        raise AssertionError("unreachable")

    def attach_reused(self, record: Record) -> HasGeneration | None:
        """Attach to the generation of another task; ``None`` if it cannot be delivered."""
        copy = self.store.stored_copy(record)
        remote = copy or record.known_end() or self.read_recorded(record)
        ended = remote if isinstance(remote, Generation) and remote.status.terminal else None
        lost = ended and not copy and not is_deliverable(ended, self.client.settings)
        if lost or isinstance(remote, errors.SeedanceNotFoundError):
            not_submitted = replace(record, state=RecordState.NOT_SUBMITTED, result=None)
            self.store.write(self.key, not_submitted)
            return None
        log.info(
            "The same request was paid for by %s at connection %r: generation %s is reused.",
            payer_text(record.reused_from),
            record.conn_id,
            record.generation_id,
        )
        known = replace(as_ended(record, ended, utc_now()), result=ended.result()) if ended else record
        return HasGeneration(ended or record.placeholder_generation(), known)
