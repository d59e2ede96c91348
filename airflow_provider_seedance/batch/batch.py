"""
The items of a batch task: restored from their records, and changed by the ends of their generations.

The rules for one item are those of :mod:`airflow_provider_seedance.submission.decisions`; here they are applied
to many, so that an item that is refused, moderated, uncertain or failed never stops the others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch.items import BatchItem, Phase
from airflow_provider_seedance.batch.manifest import read_result
from airflow_provider_seedance.batch.orphans import reconcile_orphans
from airflow_provider_seedance.batch.submissions import ItemSubmissions
from airflow_provider_seedance.client import flows
from airflow_provider_seedance.generations import Generation, GenerationStatus, utc_now
from airflow_provider_seedance.observability import metrics
from airflow_provider_seedance.polling.outcomes import (
    after_resume,
    raise_unless_succeeded,
    timed_out,
    unknown_to_the_service,
)
from airflow_provider_seedance.polling.wait_many import GenerationKey
from airflow_provider_seedance.submission import decisions
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.submission_result import HasGeneration

log = logging.getLogger(__name__)

_UNCERTAIN = errors.SeedanceUncertainSubmitError.kind


@dataclass(kw_only=True)
class Batch(ItemSubmissions):
    """
    The items of one entry into a batch task, and their records.

    :param items: All items, in request order.
    :param timeout: Seconds to wait for each generation.
    :param reattached_at: Seconds since 1970 from which the timeout counts for generations submitted before;
        0 leaves their deadlines as they are on record.
    :param max_quota_wait: Seconds past a deadline for which the quota may prevent the last status request.
    """

    items: list[BatchItem]
    timeout: float
    reattached_at: float
    max_quota_wait: float

    def of(self, *phases: Phase) -> list[BatchItem]:
        """Return the items in one of these phases."""
        return [item for item in self.items if item.phase in phases]

    def results_to_read(self) -> list[BatchItem]:
        """Return the items whose results must be read again, including those that this entry cannot store."""
        if not self.of(Phase.RESULT_PENDING):
            return []
        not_stored = self.records.results_not_persisted()
        return [
            item
            for item in self.items
            if item.phase is Phase.RESULT_PENDING
            or (item.phase is Phase.SUCCEEDED and item.record_key in not_stored)
        ]

    def overdue(self, now: float) -> list[GenerationKey]:
        """Return the generations that the task waits for and that are past their deadline."""
        # After a deferral without an event, nothing else reads the results that only its trigger would have read.
        phase = Phase.IN_FLIGHT if self.reattached_at or self.of(Phase.IN_FLIGHT) else Phase.RESULT_PENDING
        return [(item.conn_id, str(item.generation_id)) for item in self.of(phase) if now >= item.deadline]

    def needs_lookup(self, item: BatchItem) -> bool:
        """Return whether the outcome of an earlier submission of a waiting item is unknown."""
        record = self.records.read(item.record_key) if item.phase is Phase.WAITING else None
        return record is not None and record.has_unknown_outcome

    # ------------------------------------------------------------------ records

    def load_records(self) -> None:
        """
        Restore every item from its record; asks the service only where a record requires it.

        :raises SeedanceStateError: the records could not be written; nothing was submitted.
        """
        missing = reconcile_orphans(
            self.items, self.records, self.attempt, resubmits=self.policy.on_uncertain_submit == "resubmit"
        )
        recorded = [item for item in self.items if item.record_key and item.phase is not Phase.FAILED]
        self.items += missing
        self.records.register(item.record_key for item in recorded)
        for item in recorded:
            if (record := self.records.read(item.record_key)) is not None:
                self._restore(item, record)
        self.records.flush()

    def _restore(self, item: BatchItem, record: rec.Record) -> None:
        failure, attempt = record.failure, self.attempt
        item.generation_id = record.generation_id
        if record.state is not rec.RecordState.NOT_SUBMITTED:
            item.conn_id = self.paid_conn_id(item, record)
        item.submitted_at = record.submitted_at.timestamp() if record.submitted_at else None
        item.ended_at = record.ended_at
        same_try = decisions.is_of_this_try(record, attempt)
        repeatable = record.has_unknown_outcome or decisions.is_cleared(record, attempt)
        if failure and (same_try or (failure.final and not repeatable)):
            self._restore_failure(item, failure, record)
        elif same_try and record.status is GenerationStatus.SUCCEEDED:
            item.generation = record.known_end() or self._copy(record)
            item.phase = Phase.SUCCEEDED if item.generation else Phase.RESULT_PENDING
            item.deadline = self._deadline(item)
        elif unfit := decisions.unfit_owner(item.unfit, record, attempt):
            why = unfit.message.removesuffix(" Nothing was sent.")
            known = record.generation_id or rec.UNKNOWN_ID
            paid = f"Generation {known} was submitted before and may be billed."
            self.fail(item, errors.SeedanceRequestError(f"{why} {paid}"))
        elif record.state is not rec.RecordState.NOT_SUBMITTED:
            self._classify(item, record)

    def _restore_failure(self, item: BatchItem, failure: rec.Failure, record: rec.Record) -> None:
        if failure.kind == _UNCERTAIN and failure.error.endswith("…"):
            # The record had no room for the advice that a person needs.
            command = self.records.resolve_command(item.record_key)
            what = failure.error.partition(". One generation may have been billed")[0]
            advice = decisions.uncertain_error(what, record.fingerprint.api, resolve_command=command)
            failure = replace(failure, error=advice.message)
        item.phase, item.failure = Phase.FAILED, failure
        if record.status is not None:
            item.generation = record.placeholder_generation()

    def _classify(self, item: BatchItem, record: rec.Record) -> None:
        """Restore an item by the verdict on its record."""
        lookup = self.submission(item, str(item.conn_id)).lookup
        ended = record.state is rec.RecordState.ENDED
        verdict: Any = lookup.classify(record)
        if isinstance(verdict, decisions.LookUp):
            record, verdict = lookup.look_up(record)
            item.generation_id = record.generation_id
            if isinstance(verdict, decisions.Fail) and verdict.error.kind != _UNCERTAIN:
                log.warning("%s: %s", item.key, verdict.error.message)
                return
        wants_new = decisions.wants_another(record, self.attempt, self.policy.on_clear, utc_now())
        if not isinstance(verdict, decisions.ReadRemote):
            self._apply(item, record, verdict, record.known_end())
        elif wants_new and not ended:
            # Another take is wanted, unless this one is still in flight: only the service knows.
            self._apply(item, *lookup.read_remote(record))
        elif not ended:
            self.wait_for(item)
        elif not wants_new:
            item.phase = Phase.RESULT_PENDING
            item.deadline = self._deadline(item)

    def _decide(self, item: BatchItem, record: rec.Record, remote: Generation | errors.SeedanceError) -> None:
        """Decide on a generation of an earlier try, from the state that a wait brought."""
        generation = remote if isinstance(remote, Generation) else None
        verdict = decisions.decide_remote(record, self.attempt, self.policy.on_clear, remote, utc_now())
        if isinstance(verdict, decisions.Submit) and generation:
            record = rec.as_ended(record, generation, utc_now())
        self._apply(item, record, verdict, generation)

    def _apply(
        self, item: BatchItem, record: rec.Record, verdict: Any, generation: Generation | None = None
    ) -> None:
        log.debug("%s: %s", item.key, getattr(verdict, "note", None))
        if isinstance(verdict, decisions.Submit):
            self.records.update(item.record_key, record)
            item.phase, item.generation_id = Phase.WAITING, None
        elif isinstance(verdict, decisions.Reattach):
            self.records.update(item.record_key, rec.taken_over(record, self.attempt))
            self.wait_for(item)
        elif isinstance(verdict, decisions.Deliver):
            self._succeed(item, verdict.generation)
        else:
            if verdict.error.kind == _UNCERTAIN:
                self.records.update(item.record_key, replace(record, state=rec.RecordState.UNCERTAIN))
            self.fail(item, verdict.error, generation)

    # ------------------------------------------------------------------ ends

    def apply_wait_result(
        self,
        ended: Iterable[tuple[str | None, Generation]],
        unknown: Iterable[GenerationKey] = (),
        overdue: Iterable[GenerationKey] = (),
    ) -> None:
        """
        Apply the result of a wait.

        :param ended: Terminal generations, with their connection ids.
        :param unknown: Generations that the service repeatedly does not know.
        :param overdue: Generations past their deadline; each is read once more.
        """
        by_id: dict[str | None, list[BatchItem]] = {}
        for item in self.of(Phase.IN_FLIGHT, Phase.RESULT_PENDING):
            by_id.setdefault(item.generation_id, []).append(item)
        for conn_id, generation in ended:
            for item in _pending(by_id, conn_id, generation.generation_id):
                self._on_terminal(item, generation)
        for key in unknown:
            for item in _pending(by_id, *key):
                self._on_not_found(item)
        for key in overdue:
            for item in _pending(by_id, *key):
                self._read_last(item)
        self.records.flush()

    def load_from_manifest(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """
        Take results from a manifest of an earlier entry; the records say which ones count.

        A line without an output fails nothing: that generation is read from the service.
        """
        pending = {(item.key, item.generation_id): item for item in self.of(Phase.RESULT_PENDING)}
        for line in lines:
            key, generation_id = line.get("key"), line.get("generation_id")
            known = isinstance(key, str) and isinstance(generation_id, str)
            item = pending.get((str(key), generation_id)) if known else None
            if item is None or item.phase is not Phase.RESULT_PENDING:
                continue
            found = read_result(line)
            if found and found.status is GenerationStatus.SUCCEEDED and not found.output_gone(utc_now()):
                self._on_terminal(item, found)

    def attach(self, item: BatchItem, submitted: HasGeneration) -> None:
        """Take the generation that a submission came to."""
        record, generation = submitted.record, submitted.generation
        item.conn_id, item.generation_id = self.paid_conn_id(item, record), generation.generation_id
        item.submitted_at = record.submitted_at.timestamp() if record.submitted_at else None
        item.estimated_wait = generation.estimated_wait
        if generation.status.terminal:
            self._on_terminal(item, generation)
        else:
            self.wait_for(item)

    def wait_for(self, item: BatchItem) -> None:
        """Mark an item as in flight."""
        item.phase = Phase.IN_FLIGHT
        item.deadline = self._deadline(item)

    def _deadline(self, item: BatchItem) -> float:
        record, since = self.records.read(item.record_key), item.submitted_at or 0.0
        if record and record.reused_from and record.intended_at:
            since = record.intended_at.timestamp()  # the other task may have submitted it long ago
        return max(since, self.reattached_at) + self.timeout

    def _on_terminal(self, item: BatchItem, generation: Generation) -> None:
        record = self._record(item)
        if generation.status is GenerationStatus.SUCCEEDED and not generation.output_gone(utc_now()):
            self._succeed(item, generation)
        elif record.reused_from:
            self._submit_instead(item, record)
        elif not decisions.is_of_this_try(record, self.attempt):
            self._decide(item, record, generation)
        else:
            try:
                raise_unless_succeeded(generation)
            except errors.SeedanceError as error:
                self.fail(item, error, generation)

    def _submit_instead(self, item: BatchItem, record: rec.Record) -> None:
        """Submit an item, because the generation of another task that it waited for cannot be delivered."""
        if copy := self._copy(record):
            self._succeed(item, copy)
            return
        log.warning("%s: generation %s of another task cannot be delivered.", item.key, item.generation_id)
        self.records.update(item.record_key, replace(record, state=rec.RecordState.NOT_SUBMITTED))
        item.phase, item.generation_id = Phase.WAITING, None

    def _on_not_found(self, item: BatchItem) -> None:
        record, error = self._record(item), unknown_to_the_service(str(item.generation_id))
        if record.reused_from:
            self._submit_instead(item, record)
        elif decisions.is_of_this_try(record, self.attempt):
            self.fail(item, error)
        else:
            self._decide(item, record, error)

    def _read_last(self, item: BatchItem) -> None:
        reading, now = self._read(item), time.time()
        deadline = min(self._deadline(item), now)
        step = after_resume(reading, deadline=deadline, now=now, max_quota_wait=self.max_quota_wait)
        if step.kind == "ended" and step.generation:
            self._on_terminal(item, step.generation)
        elif step.kind == "unknown":
            self._on_not_found(item)
        elif step.kind == "wait":
            item.deadline = step.until
        else:
            defaults = self._record(item).result_defaults
            self.fail(item, timed_out(str(item.generation_id), self.timeout, step.generation, defaults))

    def _read(self, item: BatchItem) -> Generation | errors.SeedanceError:
        client = self.connections[str(item.conn_id)].client
        flow = flows.status_flow(client.settings.api, str(item.generation_id), "video", utc_now)
        try:
            return client.run(flow)
        except errors.SeedanceError as error:
            return error

    def _succeed(self, item: BatchItem, generation: Generation) -> None:
        record = self._record(item)
        generation = generation.with_defaults(record.result_defaults)
        if record.state is not rec.RecordState.ENDED:
            metrics.cost_incurred(generation)
        item.phase, item.generation, item.failure = Phase.SUCCEEDED, generation, None
        item.generation_id = generation.generation_id
        self.records.update(item.record_key, self._ended(item, record, generation))

    def fail(
        self, item: BatchItem, error: errors.SeedanceError, generation: Generation | None = None
    ) -> None:
        """Fail an item, and record that."""
        record = self.records.read(item.record_key)
        item.generation = generation if generation and generation.status.terminal else None
        if record is not None:
            item.generation_id = record.generation_id
            if record.state is not rec.RecordState.NOT_SUBMITTED:
                item.conn_id = record.conn_id
            record = rec.taken_over(record, self.attempt)
            if item.generation:
                record = self._ended(item, record, item.generation)
        failure = item.fail(error, generation)
        log.warning("%s failed (%s): %s", item.key, failure.kind, failure.error)
        if record is not None:
            self.records.update(item.record_key, replace(record, failure=failure))

    def _ended(self, item: BatchItem, record: rec.Record, generation: Generation) -> rec.Record:
        ended = rec.as_ended(record, generation, utc_now())
        item.ended_at = ended.ended_at
        return replace(rec.taken_over(ended, self.attempt), result=generation.result())


def _pending(
    by_id: Mapping[str | None, Sequence[BatchItem]], conn_id: str | None, generation_id: str
) -> list[BatchItem]:
    """Return the items that wait for a generation; none if only its connection could tell which ones do."""
    found = [
        item
        for item in by_id.get(generation_id, ())
        if conn_id in (None, item.conn_id) and item.phase in (Phase.IN_FLIGHT, Phase.RESULT_PENDING)
    ]
    return found if len({item.conn_id for item in found}) == 1 else []
