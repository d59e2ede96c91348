"""Look-up of an uncertain submission: by the ids of callbacks, or by the correlation value sent along."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.client import flows
from airflow_provider_seedance.client.api_client import Client
from airflow_provider_seedance.generations import Generation, GenerationRequest, utc_now
from airflow_provider_seedance.submission import decisions, timing
from airflow_provider_seedance.submission.records import Record, RecordState
from airflow_provider_seedance.submission.store import RecordStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AwaitingCallback:
    """
    The fate of a submission is unknown, and the service may still call back about it.

    :param record: The intent.
    :param until: Seconds since 1970 until which to wait for the callback.
    :param callback_ids: Ids that callbacks have named, and that the service has not confirmed yet.
    """

    record: Record
    until: float
    callback_ids: tuple[str, ...] = ()


class SubmissionLookup:
    """
    Look-up of the generation of a submission whose reply was lost.

    :param client: Of the service.
    :param store: Of the records of the task instance, which contains the ids of callbacks.
    :param request: The prepared request.
    """

    def __init__(self, client: Client, store: RecordStore, request: GenerationRequest) -> None:
        self.client = client
        self.store = store
        self.request = request
        self.api = client.settings.api
        #: Ids that callbacks named for the uncertain submission, and those of them that could not be read.
        self.callback_ids: tuple[str, ...] = ()
        self.unconfirmed_ids: tuple[str, ...] = ()
        #: Error of the look-up, if the service did not answer it.
        self.lookup_error: errors.SeedanceError | None = None

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
        if intent.state is not RecordState.INTENT or not intent.callback_nonce:
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
