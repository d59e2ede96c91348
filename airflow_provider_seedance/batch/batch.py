"""
One entry into a batch task: what every record means, what has ended, and which renders are submitted now.

The rules of one render are those of :mod:`airflow_provider_seedance.submission.decisions`, carried out by
:class:`~airflow_provider_seedance.submission.submitter.Submission`; here they are applied to many, so that
one item never stops the others:

* An item that is refused, moderated, uncertain or failed is an item's failure.
* What stands against every submission (key, credits, quota, no connection) stops submitting, not waiting.
* One at a time is between its intent and its id: a lost worker leaves one uncertain at the most.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch.items import BatchItem, Phase, failure_of
from airflow_provider_seedance.batch.manifest import read_result
from airflow_provider_seedance.batch.orphans import reconcile_orphans
from airflow_provider_seedance.batch.resume_state import (
    StopReason,
    circuit_breaker,
)
from airflow_provider_seedance.client import flows
from airflow_provider_seedance.client.api_client import Client
from airflow_provider_seedance.generations import Generation, GenerationStatus, utc_now
from airflow_provider_seedance.observability import metrics
from airflow_provider_seedance.polling.shared_quota import SharedQuota
from airflow_provider_seedance.polling.wait_state import quota_pause
from airflow_provider_seedance.submission import decisions
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import RecordStore
from airflow_provider_seedance.submission.submitter import (
    HasGeneration,
    RetryLater,
    Submission,
    SubmissionPolicy,
)

log = logging.getLogger(__name__)


class Batch:
    """
    The renders of one entry into a batch task.

    :param renders: All of them, in request order.
    :param max_in_flight: So many are submitted and not ended at a time.
    :param max_credits: The sum of all renders of the task instance may not exceed this.
    :param note: What others on this machine know of the quota; ``None`` where that is no matter.
    :param attempt: The try that is running, of no request in particular.
    :param allowed: Submissions that the triggerer has let through already.
    :param doubted: Whether the latest submissions were of unknown fate: then one more is enough to stop.
    :param quota_patience: Seconds past a render's deadline for which the quota may keep us from reading it.
    """

    def __init__(
        self,
        *,
        client: Client,
        ledger: RecordStore,
        renders: Sequence[BatchItem],
        policy: SubmissionPolicy,
        max_in_flight: int,
        max_credits: float | None,
        timeout: float,
        entered_at: float,
        note: SharedQuota | None,
        attempt: rec.Attempt,
        allowed: int = 0,
        last_submission_uncertain: bool = False,
        quota_patience: float,
    ) -> None:
        self.client = client
        self.ledger = ledger
        self.renders = list(renders)
        self.attempt = attempt
        self.last_submission_uncertain = last_submission_uncertain
        self.quota_patience = quota_patience
        #: What renders have cost whose requests are not in the list any more.
        self.left_behind = 0.0
        #: Names of what may have been paid for, while the service cannot be asked for it.
        self._unasked: set[str] = set()
        #: The latest errors of items at submission, as long as they are of one kind.
        self._row: list[errors.SeedanceError] = []
        self.policy = policy
        self.max_in_flight = max_in_flight
        self.max_credits = max_credits
        self.timeout = timeout
        self.entered_at = entered_at
        self.note = note
        self.allowed = allowed
        self.api = client.settings.api

    def of(self, *phases: Phase) -> list[BatchItem]:
        """Return the renders that are in one of these phases."""
        return [render for render in self.renders if render.phase in phases]

    def unread(self) -> list[BatchItem]:
        """Return the renders whose results only the service has, with those this entry would forget, too."""
        if not self.of(Phase.UNREAD):
            return []
        forgotten = self.ledger.results_not_persisted()
        return [
            render
            for render in self.renders
            if render.phase is Phase.UNREAD or (render.phase is Phase.SUCCEEDED and render.name in forgotten)
        ]

    def paid(self) -> list[str]:
        """Return the ids of what was submitted; an unknown one stands for a submission of unknown fate."""
        uncertain = [
            "an unknown id"
            for render in self.of(Phase.FAILED)
            if render.failure and render.failure.kind == "uncertain"
        ]
        return [render.generation_id for render in self.renders if render.generation_id] + uncertain

    def overdue(self, now: float) -> list[str]:
        """Return the ids with which patience is over, whatever a trigger told."""
        return [str(render.generation_id) for render in self.of(Phase.IN_FLIGHT) if now >= render.deadline]

    # ------------------------------------------------------------------ what the records say

    def recall(self) -> None:
        """
        Find out from the records where every render stands; asks the service only where it has to.

        :raises SeedanceStateError: the records could not be written; nothing was submitted.
        """
        missing, self.left_behind = reconcile_orphans(
            self.renders, self.ledger, self.attempt, resubmits=self.policy.on_uncertain_submit == "resubmit"
        )
        self.renders += missing
        self.ledger.register(render.name for render in self.renders if self._is_recorded(render))
        for render in self.renders:
            if self._is_recorded(render):
                self._recall(render)
        self.ledger.flush()

    @staticmethod
    def _is_recorded(render: BatchItem) -> bool:
        return bool(render.name) and render.phase is not Phase.FAILED

    def _recall(self, render: BatchItem) -> None:
        record = self.ledger.read(render.name)
        if record is None:
            return
        failure = record.failure
        attempt = _attempt(render)
        render.generation_id = record.generation_id
        render.submitted_at = record.submitted_at.timestamp() if record.submitted_at else None
        mine = decisions.is_of_this_try(record, attempt)
        if failure and mine:
            self._failed(render, failure, record)
        elif record.state in (rec.RecordState.INTENT, rec.RecordState.UNCERTAIN):
            self._recall_uncertain(render, record)
        elif failure and failure.final and not decisions.is_cleared(record, attempt):
            self._failed(render, failure, record)
        elif record.state is rec.RecordState.ENDED:
            self._recall_ended(render, record, mine=mine)
        elif record.state is rec.RecordState.SUBMITTED:
            self._recall_submitted(render, record)

    def _recall_uncertain(self, render: BatchItem, record: rec.Record) -> None:
        record, verdict = self._submission(render).look_up(record)
        if isinstance(verdict, decisions.ReadRemote):
            render.generation_id = record.generation_id
            self._recall_submitted(render, record)
        elif isinstance(verdict, decisions.Fail):
            if not isinstance(verdict.error, errors.SeedanceUncertainSubmitError):
                log.warning("%s: %s", render.item.key, verdict.error.message)
                self._unasked.add(render.name)
                return
            self.ledger.update(render.name, replace(record, state=rec.RecordState.UNCERTAIN))
            self._fail(render, verdict.error)
        else:
            log.warning("%s: %s", render.item.key, getattr(verdict, "note", ""))

    def _recall_submitted(self, render: BatchItem, record: rec.Record) -> None:
        if decisions.is_cleared(record, _attempt(render)) and self.policy.on_clear == "new":
            # Another take is wanted, unless this one is still going on: only the service knows.
            self._decide(render, record, self._read(render))
        else:
            self._in_flight(render)

    def _recall_ended(self, render: BatchItem, record: rec.Record, *, mine: bool) -> None:
        again = not mine and decisions.is_cleared(record, _attempt(render)) and self.policy.on_clear == "new"
        if record.status is GenerationStatus.SUCCEEDED:
            if record.result is not None:
                generation = record.known_end()
                assert generation is not None
                if mine:
                    render.phase, render.generation = Phase.SUCCEEDED, generation
                else:
                    self._decide(render, record, generation)
            elif not again:
                render.phase = Phase.UNREAD
                render.deadline = self.entered_at + self.timeout
        elif not mine:
            self._decide(render, record, record.placeholder_generation())

    def _decide(
        self, render: BatchItem, record: rec.Record, remote: Generation | errors.SeedanceError
    ) -> None:
        """Decide on a generation of an earlier try by what is known of it."""
        verdict = decisions.decide_remote(record, _attempt(render), self.policy.on_clear, remote, utc_now())
        log.debug("%s: %s", render.item.key, getattr(verdict, "note", None))
        if isinstance(verdict, decisions.Submit):
            if isinstance(remote, Generation) and remote.status.terminal:
                record = rec.as_ended(record, remote, utc_now())
            self.ledger.update(render.name, record)
            render.phase, render.generation_id = Phase.WAITING, None
        elif isinstance(verdict, decisions.Reattach):
            self.ledger.update(render.name, rec.taken_over(record, _attempt(render)))
            self._in_flight(render)
        elif isinstance(verdict, decisions.Deliver):
            self._succeed(render, verdict.generation)
        else:
            self._fail(render, verdict.error, remote if isinstance(remote, Generation) else None)

    # ------------------------------------------------------------------ what has ended

    def take_in(
        self, ended: Iterable[Generation], unknown: Iterable[str] = (), overdue: Iterable[str] = ()
    ) -> None:
        """
        Take in what a wait has brought.

        :param ended: Generations that have ended.
        :param unknown: Ids that the service says repeatedly it does not know.
        :param overdue: Ids with which patience is over; they are read once more.
        """
        awaited = {render.generation_id: render for render in self.of(Phase.IN_FLIGHT, Phase.UNREAD)}
        for generation in ended:
            if render := awaited.get(generation.generation_id):
                self._end(render, generation)
        for generation_id in unknown:
            if render := awaited.get(generation_id):
                self._lose(render)
        for generation_id in overdue:
            if (render := awaited.get(generation_id)) and render.phase in (Phase.IN_FLIGHT, Phase.UNREAD):
                self._read_last(render)
        self.ledger.flush()

    def _end(self, render: BatchItem, generation: Generation) -> None:
        from airflow_provider_seedance.polling.outcomes import raise_unless_succeeded

        record = self.ledger.read(render.name)
        assert record is not None
        succeeded = generation.status is GenerationStatus.SUCCEEDED and not generation.output_gone(utc_now())
        if succeeded:
            self._succeed(render, generation)
        elif not decisions.is_of_this_try(record, _attempt(render)):
            self._decide(render, record, generation)
        else:
            try:
                raise_unless_succeeded(generation)
            except errors.SeedanceError as error:
                self._fail(render, error, generation)

    def _lose(self, render: BatchItem) -> None:
        from airflow_provider_seedance.polling.outcomes import unknown_to_the_service

        record = self.ledger.read(render.name)
        assert record is not None
        error = unknown_to_the_service(str(render.generation_id))
        if decisions.is_of_this_try(record, _attempt(render)):
            self._fail(render, error)
        else:
            self._decide(render, record, error)

    def _read_last(self, render: BatchItem) -> None:
        from airflow_provider_seedance.polling.outcomes import timed_out

        reading = self._read(render)
        if isinstance(reading, Generation) and reading.status.terminal:
            self._end(render, reading)
        elif isinstance(reading, errors.SeedanceRateLimitError) and (
            time.time() < self._patience_ends(render) + self.quota_patience
        ):
            # Our quota keeps us from reading; that must not fail a render that may have ended.
            render.deadline = time.time() + quota_pause(reading)
        elif isinstance(reading, errors.SeedanceNotFoundError):
            self._lose(render)
        else:
            last = reading if isinstance(reading, Generation) else None
            self._fail(render, timed_out(str(render.generation_id), self.timeout, last))

    def _read(self, render: BatchItem) -> Generation | errors.SeedanceError:
        try:
            return self.client.run(flows.status_flow(self.api, str(render.generation_id), "video", utc_now))
        except errors.SeedanceError as error:
            return error

    def recover(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """
        Take results from a manifest that an earlier entry wrote; only what is on record here counts.

        A line without an output fails nothing: the service is asked for that render.
        """
        missing = {render.generation_id: render for render in self.of(Phase.UNREAD)}
        for line in lines:
            told = line.get("generation_id")
            render = missing.get(told) if isinstance(told, str) else None
            if render is None or render.phase is not Phase.UNREAD:
                continue
            found = read_result(line)
            if found and found.status is GenerationStatus.SUCCEEDED and not found.output_gone(utc_now()):
                self._end(render, found)

    # ------------------------------------------------------------------ submitting

    def submit(self, progress: Callable[[], None] = lambda: None) -> StopReason:
        """
        Submit as many as may be, in request order, each at most once.

        :param progress: Called after each.
        :raises SeedanceStateError: a record could not be written; nothing was submitted without one.
        """
        committed = self.committed()
        in_flight = len(self.of(Phase.IN_FLIGHT))
        # First what may have been paid for already: nothing may end before that is known.
        for render in sorted(self.of(Phase.WAITING), key=self._is_doubtful, reverse=True):
            if in_flight >= self.max_in_flight:
                return StopReason(why="full")
            doubtful = self._is_doubtful(render)
            price = 0.0 if doubtful else render.price or 0.0  # that of the others is committed
            if not doubtful and self.max_credits is not None and committed + price > self.max_credits:
                return StopReason(why="budget")
            if stop := self._enter(render) or circuit_breaker(
                self._row, self.api, last_submission_uncertain=self.last_submission_uncertain
            ):
                return stop
            in_flight += render.phase is Phase.IN_FLIGHT
            committed += price if render.generation_id or render.failure else 0.0
            progress()
        return StopReason(why="done")

    def committed(self) -> float:
        """Return the credits that are spent, or may be by what is in flight or uncertain."""
        total = self.ledger.replaced_credits + self.left_behind
        for render in self.renders:
            if render.phase in (Phase.SUCCEEDED, Phase.IN_FLIGHT, Phase.UNREAD) or (
                self._may_have_cost(render) if render.phase is Phase.FAILED else self._is_doubtful(render)
            ):
                told = render.credits if render.credits is not None else self._reported_credits(render)
                total += told if told is not None else render.price or 0.0
        return total

    def _is_doubtful(self, render: BatchItem) -> bool:
        """Whether it has to be looked for at the service before anything else is done with it."""
        return render.phase is Phase.WAITING and render.name in self._unasked

    def _may_have_cost(self, render: BatchItem) -> bool:
        uncertain = render.failure is not None and render.failure.kind == "uncertain"
        return uncertain or render.generation_id is not None

    def _enter(self, render: BatchItem) -> StopReason | None:
        """Bring one render to a generation, or say why no further one can be submitted."""
        try:
            entered = self._submission(render, self._place()).submit_or_attach()
        except errors.SeedanceStateError as error:
            if not self.of(Phase.IN_FLIGHT):
                raise
            # What is in flight is waited for, and the ids that could not be written go with the deferral.
            return StopReason(why="unreachable", error=error, postponed=RetryLater(error))
        except errors.SeedanceError as error:
            if error.scope == "task":
                raise
            return self._on_submit_error(render, error)
        if isinstance(entered, RetryLater):
            return StopReason(why="quota", error=entered.error, postponed=entered)
        self._row = []
        assert isinstance(entered, HasGeneration)  # no item of a batch waits to be called back
        self._attach(render, entered)
        return None

    def _on_submit_error(self, render: BatchItem, error: errors.SeedanceError) -> StopReason | None:
        """Fail one item, or return why nothing more is submitted."""
        pending_lookup = error.scope != "item" and self._note_unasked(render)
        # A 403 may be about the model of this item only.
        if error.scope == "item" or (error.scope == "permission" and not pending_lookup):
            self._fail(render, error)
            self._row = [*self._row, error] if self._row and type(self._row[0]) is type(error) else [error]
            return None
        if error.scope == "service":
            limited = isinstance(error, errors.SeedanceRateLimitError)
            return StopReason(
                why="quota" if limited else "unreachable", error=error, postponed=RetryLater(error)
            )
        return StopReason(why="halted", error=error)

    def _note_unasked(self, render: BatchItem) -> bool:
        """Note, and return, whether an error has left a submission that has to be looked for."""
        record = self.ledger.read(render.name)
        if record is None or record.state not in (rec.RecordState.INTENT, rec.RecordState.UNCERTAIN):
            return False
        self._unasked.add(render.name)
        return True

    def _place(self) -> SharedQuota | None:
        """Take the place that the triggerer has waited for; without one, the note of the quota says if there is room."""
        if not self.allowed:
            return self.note
        self.allowed -= 1
        return None

    def _submission(self, render: BatchItem, note: SharedQuota | None = None) -> Submission:
        assert render.prepared is not None
        return Submission(
            client=self.client,
            store=self.ledger,
            key=render.name,
            prepared=render.prepared,
            attempt=_attempt(render),
            policy=self.policy,
            # A worker that waits a little for each of thousands waits for long.
            retry_inline=False,
            shared_quota=note,
        )

    def _attach(self, render: BatchItem, entered: HasGeneration) -> None:
        record, generation = entered.record, entered.generation
        render.generation_id = generation.generation_id
        render.submitted_at = record.submitted_at.timestamp() if record.submitted_at else None
        render.estimated_wait = generation.estimated_wait
        if generation.status.terminal:
            self._end(render, generation)
        else:
            self._in_flight(render)

    def _in_flight(self, render: BatchItem) -> None:
        render.phase = Phase.IN_FLIGHT
        render.deadline = self._patience_ends(render)

    def _patience_ends(self, render: BatchItem) -> float:
        return max(render.submitted_at or 0.0, self.entered_at) + self.timeout

    # ------------------------------------------------------------------ ends

    def _succeed(self, render: BatchItem, generation: Generation) -> None:
        record = self.ledger.read(render.name)
        assert record is not None
        generation = generation.with_defaults(record.result_defaults)
        if record.state is not rec.RecordState.ENDED:
            metrics.credits_spent(generation.api, generation.credits)
        render.phase, render.generation, render.failure = Phase.SUCCEEDED, generation, None
        render.generation_id = generation.generation_id
        self.ledger.update(render.name, self._ended(render, record, generation))

    def _fail(
        self, render: BatchItem, error: errors.SeedanceError, generation: Generation | None = None
    ) -> None:
        record = self.ledger.read(render.name)
        render.generation = generation if generation and generation.status.terminal else None
        if record is not None:
            render.generation_id = record.generation_id
            if render.generation:
                record = self._ended(render, record, render.generation)
            else:
                record = rec.taken_over(record, _attempt(render))
        failure = failure_of(error, generation)
        log.warning("%s failed (%s): %s", render.item.key, failure.kind, failure.error)
        render.phase, render.failure = Phase.FAILED, failure
        if record is not None:
            self.ledger.update(render.name, replace(record, failure=failure))

    def _failed(self, render: BatchItem, failure: rec.Failure, record: rec.Record) -> None:
        """Recall a failure."""
        if failure.kind == "uncertain" and failure.error.endswith("…"):
            # The records had no room for what a person needs to know.
            advice = decisions.uncertain_error(failure.error, self.api.name)
            failure = replace(failure, error=advice.message)
        render.phase, render.failure = Phase.FAILED, failure
        if record.status is not None:
            render.generation = record.placeholder_generation()

    def _ended(self, render: BatchItem, record: rec.Record, generation: Generation) -> rec.Record:
        ended = rec.as_ended(record, generation, record.ended_at or utc_now())
        return replace(rec.taken_over(ended, _attempt(render)), result=generation.result())

    def _reported_credits(self, render: BatchItem) -> float | None:
        record = self.ledger.read(render.name)
        return record.reported_credits if record else None


def _attempt(render: BatchItem) -> rec.Attempt:
    assert render.attempt is not None
    return render.attempt
