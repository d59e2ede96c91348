"""
The run of a single-generation task after its submission: waiting, with or without the worker, and delivery.

The end comes from the event of the task's own trigger, or from the service where the event is not a complete result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, GenerationStatus, iso, utc_now
from airflow_provider_seedance.ledger import open_store
from airflow_provider_seedance.observability import metrics
from airflow_provider_seedance.operators.base import SeedanceOperator
from airflow_provider_seedance.operators.paid import paid_generations
from airflow_provider_seedance.operators.task_hooks import Hooks
from airflow_provider_seedance.operators.task_xcom import ENDS_AT_KEY, REPORT_KEY, pull_xcom, push_xcom
from airflow_provider_seedance.polling.duration_model import kind_of
from airflow_provider_seedance.polling.expected_end import ExpectedEnd
from airflow_provider_seedance.polling.outcomes import after_resume, raise_unless_succeeded, timed_out
from airflow_provider_seedance.polling.wait_state import deferral_timeout, quota_backoff
from airflow_provider_seedance.submission.records import UNKNOWN_ID, Record, RecordState, as_ended
from airflow_provider_seedance.submission.store import GENERATION_KEY, RecordStore
from airflow_provider_seedance.submission.submission_result import HasGeneration
from airflow_provider_seedance.triggers.events import is_callback, is_unknown, read_event
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

log = logging.getLogger(__name__)

#: XCom key of the connection that took the render, where the task has several.
CONN_ID_XCOM = "seedance_conn_id"


@dataclass(frozen=True, kw_only=True)
class DeferredWait:
    """The wait for one generation, as it travels through a deferral to ``execute_complete``."""

    seedance_conn_id: str
    generation_id: str
    deadline: float | None
    result_defaults: dict[str, Any] = field(default_factory=dict)
    callback_nonce: str | None = None


class GenerationWait:
    """
    Run of a task that has submitted: it waits for the generation, and delivers its result.

    :param operator: Holds the arguments; gets the delivered result.
    """

    def __init__(self, operator: SeedanceOperator, context: Context) -> None:
        self.operator = operator
        self.context = context
        self.log = operator.log
        self.media = operator.request_class.media
        self.hooks = Hooks(operator.seedance_conn_id)
        self.store = open_store(context)
        operator.output_url = ""

    def submit(self, *, unusable_ids: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Submit another generation in place of those of other tasks that cannot be delivered, and wait for it."""
        raise NotImplementedError

    def complete(
        self,
        event: Any,
        generation_id: str | None,
        result_defaults: dict[str, Any] | None = None,
        *,
        deadline: float | None,
        callback_nonce: str | None = None,
        seedance_conn_id: str | None = None,
    ) -> dict[str, Any]:
        """
        Deliver the result after a deferral; see the operator's ``execute_complete``.

        :raises SeedanceRecordError: neither the deferral nor the record names a generation.
        """
        record = known_record(self.store, generation_id)
        expected = generation_id or (record.generation_id if record else None)
        if expected is None:
            raise errors.SeedanceRecordError(
                "The task was resumed, but neither the deferral nor the task state store names a generation. "
                "Look for it in the console of the service; clearing the task submits anew."
            )
        with self._paid(expected, record):
            wait = DeferredWait(
                generation_id=expected,
                deadline=deadline,
                result_defaults=result_defaults or dict(record.result_defaults if record else {}),
                callback_nonce=callback_nonce,
                seedance_conn_id=seedance_conn_id or paid_conn_id(self, record),
            )
            generation = read_event(event, expected)
            if generation is None:
                try:
                    generation = self._poll_or_defer(wait, event)
                except errors.SeedanceNotFoundError:
                    if record and record.reused_from:
                        return self._submit_instead(record)
                    raise
            return self._deliver(generation.with_defaults(wait.result_defaults), record)

    # ------------------------------------------------------------------ waiting

    def _wait_for(self, submitted: HasGeneration) -> dict[str, Any]:
        generation, record, operator = submitted.generation, submitted.record, self.operator
        push_xcom(self.context["ti"], "generation_id", record.generation_id)
        if self.hooks.are_several:
            push_xcom(self.context["ti"], CONN_ID_XCOM, record.conn_id)
        if generation.status.terminal:
            return self._deliver(generation, record)
        if operator.deferrable:
            wait = DeferredWait(
                generation_id=generation.generation_id,
                deadline=time.time() + operator.timeout,
                result_defaults=dict(record.result_defaults),
                callback_nonce=record.callback_nonce if operator.use_callback else None,
                seedance_conn_id=paid_conn_id(self, record),
            )
            self._defer(wait, estimated_wait=generation.estimated_wait, submitted_at=_submitted_at(record))
        return self._wait_here(generation, record)

    def _defer(self, wait: DeferredWait, *, until: float | None = None, **options: Any) -> NoReturn:
        # The quota may move the deadline of the trigger past that of the wait.
        deadline = until or wait.deadline or time.time()
        text = "Deferring until generation %s has ended, for at most %.0f s."
        self.log.info(text, wait.generation_id, deadline - time.time())
        durations = _durations(self, wait.seedance_conn_id, wait.result_defaults, **options)
        if "reused_from" not in wait.result_defaults:
            self.operator.cancel_when_killed(self, {wait.seedance_conn_id: [wait.generation_id]})
        self.operator.defer(
            trigger=trigger_for(
                self.operator, replace(wait, deadline=deadline), durations=durations, **options
            ),
            method_name="execute_complete",
            kwargs=asdict(wait),
            timeout=deferral_timeout(deadline, time.time(), rate_limited=until is not None),
        )

    def _wait_here(self, generation: Generation, record: Record) -> dict[str, Any]:
        operator, conn_id = self.operator, paid_conn_id(self, record)
        generation_id, known = generation.generation_id, {"estimated_wait": generation.estimated_wait}
        durations = _durations(self, conn_id, record.result_defaults, _submitted_at(record), **known)
        try:
            if not record.reused_from:
                operator.cancel_when_killed(self, {conn_id: [generation_id]})
            end = self.hooks.of(conn_id).wait_for_end(
                generation_id,
                operator.timeout,
                media=self.media,
                poll_interval=operator.poll_interval,
                result_defaults=record.result_defaults,
                durations=durations,
                **known,
            )
        except errors.SeedanceNotFoundError:
            if record.reused_from:
                return self._submit_instead(record)
            raise
        finally:
            operator.cancel_abandoned = None
        return self._deliver(end.with_defaults(record.result_defaults), record)

    def _poll_or_defer(self, wait: DeferredWait, event: Any) -> Generation:
        """Ask the service after a resume without a complete result; defer again if there is time left."""
        generation_id, now, called_back = wait.generation_id, time.time(), is_callback(event)
        reading: Generation | errors.SeedanceError
        try:
            reading = self.hooks.of(wait.seedance_conn_id).get_generation(
                generation_id, self.media, announced=called_back
            )
        except errors.SeedanceError as error:
            self.log.warning("The state of generation %s could not be read: %s", generation_id, error)
            reading = error
        deadline = now if wait.deadline is None else wait.deadline
        step = after_resume(reading, deadline=deadline, now=now, repeatedly_unknown=is_unknown(event))
        if step.kind == "ended" and step.generation:
            return step.generation
        if step.kind == "unknown" and isinstance(reading, errors.SeedanceError):
            raise reading
        if step.kind == "wait":
            self.log.info("Generation %s has not ended; waiting again.", generation_id)
            pause = quota_backoff(reading) if isinstance(reading, errors.SeedanceRateLimitError) else None
            self._defer(
                replace(wait, deadline=deadline),
                until=step.until if step.rate_limited else None,
                estimated_wait=step.generation.estimated_wait if step.generation else pause,
                called_back=called_back,
            )
        raise timed_out(generation_id, self.operator.timeout, step.generation, wait.result_defaults)

    # ------------------------------------------------------------------ the end

    def _paid(self, generation_id: Any, record: Record | None = None) -> AbstractContextManager[None]:
        ids = [] if record and record.reused_from else [str(generation_id or UNKNOWN_ID)]
        return paid_generations(self.operator, self.context, self.store, lambda: ids)

    def _submit_instead(self, record: Record) -> dict[str, Any]:
        """Submit, because the generation of another task that this one waited for cannot be delivered."""
        generation_id = str(record.generation_id)
        self.log.warning("Generation %s of another task cannot be delivered.", generation_id)
        self.store.try_write(GENERATION_KEY, replace(record, state=RecordState.NOT_SUBMITTED))
        # Otherwise a later try would take this id for that of what is submitted instead.
        for key in ("generation_id", CONN_ID_XCOM):
            push_xcom(self.context["ti"], key, None)
        return self.submit(unusable_ids=frozenset({generation_id}))

    def _deliver(self, generation: Generation, record: Record | None) -> dict[str, Any]:
        lost = generation.status is not GenerationStatus.SUCCEEDED or generation.output_gone(utc_now())
        if record is not None and record.reused_from and lost:
            return self._submit_instead(record)
        if record is not None:
            ended = as_ended(record, generation, utc_now())
            self.store.try_write_end(GENERATION_KEY, ended, generation)
        if generation.status is not GenerationStatus.SUCCEEDED:
            push_xcom(self.context["ti"], REPORT_KEY, generation.result())
        raise_unless_succeeded(generation)
        metrics.cost_incurred(generation)
        self.log.info("%s", generation.summary())
        self.operator.output_url, self.operator.delivered = generation.url or "", generation.result()
        return self.operator.delivered


def paid_conn_id(run: GenerationWait, record: Record | None) -> str:
    """Return the connection that was paid; below Airflow 3.3 only XCom may know it."""
    conn_id = record.conn_id if record else None
    if conn_id is None and run.hooks.are_several:
        conn_id = pull_xcom(run.context["ti"], CONN_ID_XCOM)
    return run.hooks.of(conn_id).seedance_conn_id


def _submitted_at(record: Record) -> float | None:
    return record.submitted_at.timestamp() if record.submitted_at else None


def _durations(
    run: GenerationWait,
    conn_id: str,
    result_defaults: Mapping[str, Any],
    submitted_at: float | None = None,
    estimated_wait: float | None = None,
    **_: Any,
) -> list[float]:
    """Return the durations of the latest renders of the kind, where a ledger has them; report the expected end."""
    try:
        base_url = run.hooks.of(conn_id).settings.base_url
    except errors.SeedanceConfigurationError:
        return []  # the trigger reports the connection; the render is paid for
    kind, now = kind_of(run.media, result_defaults), utc_now()
    durations = run.store.durations(base_url, [kind]).get(kind, [])
    if submitted_at is not None:
        since = datetime.fromtimestamp(submitted_at, UTC)
        if (end := ExpectedEnd(durations, estimated_wait).at(since, now)) is not None:
            log.info("The render is expected to end at about %s.", iso(end.replace(microsecond=0)))
            push_xcom(run.context["ti"], ENDS_AT_KEY, iso(end))
    return durations


def known_record(store: RecordStore, generation_id: str | None) -> Record | None:
    """Return the record on a resume; the id in the deferral wins over an unknown id in the store."""
    try:
        record = store.read(GENERATION_KEY)
    except errors.SeedanceStateError as error:
        log.warning("%s", error.message)
        return None
    if record is None or generation_id is None or record.generation_id == generation_id:
        return record
    if record.generation_id is not None:
        return None
    return store.backfill_id(GENERATION_KEY, record, generation_id)


def trigger_for(
    operator: SeedanceOperator, wait: DeferredWait, *, called_back: bool = False, **known: Any
) -> SeedanceGenerationTrigger:
    return SeedanceGenerationTrigger(
        **asdict(wait),
        media=operator.request_class.media,
        poll_interval=operator.poll_interval,
        cancel_on_kill=operator.cancel_on_kill and "reused_from" not in wait.result_defaults,
        end_from_trigger=operator.end_from_trigger,
        callback_received=called_back,
        **known,
    )
