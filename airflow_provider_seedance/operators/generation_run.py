"""
One run of a single-generation task on a worker: submit, wait with or without the worker, deliver.

``submit`` brings the request to a generation (at most one is paid for), then defers or waits. ``complete`` takes the
end from the trigger's event, or asks the service where the event is not a complete result of the task's own trigger.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, GenerationStatus, iso, utc_now
from airflow_provider_seedance.ledger import open_store
from airflow_provider_seedance.observability import metrics
from airflow_provider_seedance.operators.base import MAX_QUOTA_WAIT_SECONDS, SeedanceOperator, max_wait
from airflow_provider_seedance.operators.candidates import Candidate, Candidates, Hooks, prepare_candidates
from airflow_provider_seedance.operators.paid import paid_generations, raise_with_paid_ids
from airflow_provider_seedance.operators.task_xcom import ENDS_AT_KEY, REPORT_KEY, pull_xcom, push_xcom
from airflow_provider_seedance.polling.duration_model import kind_of
from airflow_provider_seedance.polling.expected_end import ExpectedEnd
from airflow_provider_seedance.polling.outcomes import (
    after_resume,
    goes_on,
    raise_unless_succeeded,
    timed_out,
)
from airflow_provider_seedance.polling.wait_state import deferral_timeout, quota_backoff
from airflow_provider_seedance.submission import decisions
from airflow_provider_seedance.submission.preflight import warn_of_discarded_records
from airflow_provider_seedance.submission.records import UNKNOWN_ID, Attempt, Record, RecordState, as_ended
from airflow_provider_seedance.submission.store import GENERATION_KEY, RecordStore
from airflow_provider_seedance.submission.submission_result import (
    AwaitingCallback,
    HasGeneration,
    RetryLater,
    SubmissionResult,
)
from airflow_provider_seedance.triggers.cancellation import cancel_abandoned
from airflow_provider_seedance.triggers.events import is_callback, is_unknown, read_event
from airflow_provider_seedance.triggers.seedance import (
    SeedanceCallbackTrigger,
    SeedanceGenerationTrigger,
    SeedanceQuotaTrigger,
)
from airflow_provider_seedance.version_compat import TaskDeferralTimeout

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

log = logging.getLogger(__name__)

#: XCom key that says whether a deferred task has submitted nothing so far.
_NOT_SUBMITTED_XCOM = "seedance_not_submitted"

#: XCom key of the connection that took the render, where the task has several.
_CONN_ID_XCOM = "seedance_conn_id"


@dataclass(frozen=True, kw_only=True)
class _Wait:
    """The wait for one generation, as it travels through a deferral to ``execute_complete``."""

    seedance_conn_id: str
    generation_id: str
    deadline: float | None
    result_defaults: dict[str, Any] = field(default_factory=dict)
    callback_nonce: str | None = None


class GenerationRun:
    """
    One entry of a worker into a single-generation task.

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

    # ------------------------------------------------------------------ entries

    def submit(
        self,
        *,
        refusals: int = 0,
        granted: str | None = None,
        since: float | None = None,
        carried: Any = None,
        callback_ids: Sequence[str] = (),
        unusable_ids: frozenset[str] = frozenset(),
    ) -> dict[str, Any]:
        """
        Bring the request to a generation, wait for it, and return its result.

        :param refusals: Number of times the submission was deferred before.
        :param granted: The connection at which the triggerer has granted a submission.
        :param since: Seconds since 1970 of the first of these deferrals.
        :param carried: Record that the deferral carried; that of a durable store wins.
        :param callback_ids: Ids that callbacks named for it.
        :param unusable_ids: Generations of other tasks that cannot be delivered.
        """
        operator, record = self.operator, None if carried is None else Record.from_value(carried)
        try:
            candidates = prepare_candidates(operator, self.hooks, self.context)
        except errors.SeedanceError as error:
            raise_with_paid_ids(error, [record or _known_record(self.store, None)])
        candidates.raise_unfit(self.store.read(GENERATION_KEY) or record, Attempt.of(self.context["ti"]))
        if operator.deferrable:
            _check_trigger(operator, candidates.fit[0])
        if since is None and record is None:
            warn_of_discarded_records(self.store, self.context["ti"], operator.retries)
        if since is not None and record is None and not self.store.durable:
            # From here on a missing id no longer means that nothing was submitted. Raises: nothing was sent yet.
            self.context["ti"].xcom_push(key=_NOT_SUBMITTED_XCOM, value=False)
        result = _submit_or_attach(self, candidates, record, callback_ids, unusable_ids, granted)
        if isinstance(result, AwaitingCallback):
            self._defer_for_callback(result)
        if isinstance(result, RetryLater):
            self._defer_submission(result, refusals, since or time.time())
        with self._paid(result.generation.generation_id):
            return self._wait_for(result)

    def resolve_uncertain(self, event: Any, record: Any, callback_ids: Sequence[str]) -> dict[str, Any]:
        """Continue after the wait for a callback; see the operator's ``resume_uncertain``."""
        named = event.get("generation_id") if is_callback(event) else None
        ids = [*callback_ids, *([named] if isinstance(named, str) else [])]
        Record.from_value(record)  # a lost record must not count as none, which would submit anew
        with self._paid(named):
            return self.submit(carried=record, callback_ids=ids)

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
        record = _known_record(self.store, generation_id)
        expected = generation_id or (record.generation_id if record else None)
        if expected is None:
            raise errors.SeedanceRecordError(
                "The task was resumed, but neither the deferral nor the task state store names a generation. "
                "Look for it in the console of the service; clearing the task submits anew."
            )
        with self._paid(expected):
            wait = _Wait(
                generation_id=expected,
                deadline=deadline,
                result_defaults=result_defaults or dict(record.result_defaults if record else {}),
                callback_nonce=callback_nonce,
                seedance_conn_id=seedance_conn_id or _paid_conn_id(self, record),
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

    def recover(self, error: BaseException) -> dict[str, Any]:
        """
        Continue after a deferral whose trigger broke or timed out.

        Airflow then drops the arguments of the deferral, so only the record says what the task waited for.
        """
        record, ti = _known_record(self.store, None), self.context["ti"]
        generation_id = (record.generation_id if record else None) or pull_xcom(ti, "generation_id")
        if _submitted_nothing(self, generation_id) or decisions.was_waiting_for_quota(record, Attempt.of(ti)):
            self.log.warning("The wait for the rate limit ended without an event (%s); deciding anew.", error)
            # Only once: the time of the first deferral is lost, and the trigger may break each time.
            return self.submit(since=time.time() - MAX_QUOTA_WAIT_SECONDS)
        if not isinstance(generation_id, str):
            with self._paid(None):
                raise error
        self.log.warning("The deferral ended without an event (%s); asking the service.", error)
        deadline = decisions.deadline_after_broken_deferral(record, self.operator.timeout, time.time())
        try:
            return self.complete(None, generation_id, deadline=deadline)
        except errors.SeedanceTimeoutError as timeout:
            if isinstance(error, TaskDeferralTimeout):
                raise
            raise errors.SeedanceServerError(
                f"The trigger that waited for generation {generation_id} broke ({error}). "
                f"{goes_on(record.result_defaults if record else {})}; a retry waits for it again and does not submit.",
                generation_id=generation_id,
            ) from timeout

    def fail_resume(self, error: Exception) -> NoReturn:
        """Raise an error that comes before the method which resumes the task; see :func:`paid_generations`."""
        generation_id = _carried_id(self.store, self.context["ti"])
        if self.store.durable or _submitted_nothing(self, generation_id):
            raise error
        with self._paid(generation_id):
            raise error

    # ------------------------------------------------------------------ submitting

    def _defer_for_callback(self, awaiting: AwaitingCallback) -> NoReturn:
        nonce = awaiting.record.callback_nonce
        assert nonce is not None
        push_xcom(self.context["ti"], _NOT_SUBMITTED_XCOM, False)
        self.log.warning(
            "One generation may have been billed without its id being known here. The service has a callback URL: the "
            "task defers for up to %.0f s, until the callback arrives. After that on_uncertain_submit=%r applies. %s",
            awaiting.until - time.time(),
            self.operator.on_uncertain_submit,
            decisions.resolving(self.store.resolve_command(GENERATION_KEY)),
        )
        self.operator.defer(
            trigger=SeedanceCallbackTrigger(deadline=awaiting.until, callback_nonce=nonce),
            method_name="resume_uncertain",
            kwargs={"record": awaiting.record.as_dict(), "callback_ids": list(awaiting.callback_ids)},
        )

    def _defer_submission(self, later: RetryLater, refusals: int, since: float) -> NoReturn:
        seconds = later.seconds(refusals)
        record = {"record": later.record.as_dict()} if later.record else {}
        if time.time() + seconds - since > max_wait(later.error):
            raise later.error
        # A deferral that breaks loses its arguments, and the record may not exist yet.
        push_xcom(self.context["ti"], _NOT_SUBMITTED_XCOM, later.record is None)
        uncertain = later.record is not None and later.record.has_unknown_outcome
        billed = "An earlier submission may be" if uncertain else "Nothing was submitted and nothing is"
        self.log.warning(
            "%s %s billed; the task defers for %.0f s and submits then.", later.error.message, billed, seconds
        )
        self.operator.defer(
            trigger=SeedanceQuotaTrigger(not_before=time.time() + seconds, seedance_conn_id=later.conn_id),
            method_name="resume_submit",
            kwargs={"refusals": refusals + 1, "since": since, "granted": later.conn_id, **record},
            timeout=deferral_timeout(since + max_wait(later.error), time.time()),
        )

    # ------------------------------------------------------------------ waiting

    def _wait_for(self, submitted: HasGeneration) -> dict[str, Any]:
        generation, record, operator = submitted.generation, submitted.record, self.operator
        _push_ids(self, record)
        if generation.status.terminal:
            return self._deliver(generation, record)
        if operator.deferrable:
            wait = _Wait(
                generation_id=generation.generation_id,
                deadline=time.time() + operator.timeout,
                result_defaults=dict(record.result_defaults),
                callback_nonce=record.callback_nonce if operator.use_callback else None,
                seedance_conn_id=_paid_conn_id(self, record),
            )
            self._defer(wait, estimated_wait=generation.estimated_wait, submitted_at=_submitted_at(record))
        return self._wait_here(generation, record)

    def _defer(self, wait: _Wait, *, until: float | None = None, **options: Any) -> NoReturn:
        # The quota may move the deadline of the trigger past that of the wait.
        deadline = until or wait.deadline or time.time()
        text = "Deferring until generation %s has ended, for at most %.0f s."
        self.log.info(text, wait.generation_id, deadline - time.time())
        durations = _durations(self, wait.seedance_conn_id, wait.result_defaults, **options)
        self.operator.defer(
            trigger=_trigger(self.operator, replace(wait, deadline=deadline), durations=durations, **options),
            method_name="execute_complete",
            kwargs=asdict(wait),
            timeout=deferral_timeout(deadline, time.time(), rate_limited=until is not None),
        )

    def _wait_here(self, generation: Generation, record: Record) -> dict[str, Any]:
        operator, generation_id = self.operator, generation.generation_id
        conn_id, known = _paid_conn_id(self, record), {"estimated_wait": generation.estimated_wait}
        durations = _durations(self, conn_id, record.result_defaults, _submitted_at(record), **known)
        hook = self.hooks.of(conn_id)
        if not record.reused_from:
            operator.cancel_abandoned = partial(
                cancel_abandoned, hook, self.context["ti"], [generation_id], self.media, self.log
            )
        try:
            end = hook.wait_for_end(
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

    def _poll_or_defer(self, wait: _Wait, event: Any) -> Generation:
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

    def _paid(self, generation_id: Any) -> AbstractContextManager[None]:
        ids = [generation_id if isinstance(generation_id, str) else UNKNOWN_ID]
        return paid_generations(self.operator, self.context, self.store, lambda: ids)

    def _submit_instead(self, record: Record) -> dict[str, Any]:
        """Submit, because the generation of another task that this one waited for cannot be delivered."""
        generation_id = str(record.generation_id)
        self.log.warning("Generation %s of another task cannot be delivered.", generation_id)
        self.store.try_write(GENERATION_KEY, replace(record, state=RecordState.NOT_SUBMITTED))
        # Otherwise a later try would take this id for that of what is submitted instead.
        for key in ("generation_id", _CONN_ID_XCOM):
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


def _submitted_nothing(run: GenerationRun, generation_id: Any) -> bool:
    """Return whether XCom, all that is left of a deferral below Airflow 3.3, says that nothing was submitted."""
    return generation_id is None and pull_xcom(run.context["ti"], _NOT_SUBMITTED_XCOM) is True


def _push_ids(run: GenerationRun, record: Record) -> None:
    push_xcom(run.context["ti"], "generation_id", record.generation_id)
    if run.hooks.are_several:
        push_xcom(run.context["ti"], _CONN_ID_XCOM, record.conn_id)


def _submit_or_attach(
    run: GenerationRun,
    candidates: Candidates,
    record: Record | None,
    callback_ids: Sequence[str],
    unusable_ids: frozenset[str],
    granted: str | None,
) -> SubmissionResult:
    with ExitStack() as clients:
        task = (run.operator, run.context, run.store, clients)
        submission = candidates.open(*task, granted=granted, unusable_ids=unusable_ids)
        result = submission.submit_or_attach(record, callback_ids)
    if isinstance(result, RetryLater) and not run.operator.deferrable:
        error = result.error
        if isinstance(error, errors.SeedanceBudgetError):
            # This class is final; the task runs again when the budget renews.
            raise errors.SeedanceRateLimitError(
                error.message, **errors.SeedanceError.details(error)
            ) from error
        raise error
    return result


def _paid_conn_id(run: GenerationRun, record: Record | None) -> str:
    """Return the connection that was paid; below Airflow 3.3 only XCom may know it."""
    conn_id = record.conn_id if record else None
    if conn_id is None and run.hooks.are_several:
        conn_id = pull_xcom(run.context["ti"], _CONN_ID_XCOM)
    return run.hooks.of(conn_id).seedance_conn_id


def _submitted_at(record: Record) -> float | None:
    return record.submitted_at.timestamp() if record.submitted_at else None


def _durations(
    run: GenerationRun,
    conn_id: str,
    result_defaults: Mapping[str, Any],
    submitted_at: float | None = None,
    estimated_wait: float | None = None,
    **_: Any,
) -> list[float]:
    """Return what the latest renders of the kind took, where a ledger knows that; report the expected end."""
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


def _carried_id(store: RecordStore, ti: Any) -> Any:
    """Return the id that the running try has pushed; record it, in case only the deferral has it."""
    generation_id = pull_xcom(ti, "generation_id")
    if store.durable and isinstance(generation_id, str):
        with suppress(errors.SeedanceRecordError):
            _known_record(store, generation_id)
    return generation_id


def _known_record(store: RecordStore, generation_id: str | None) -> Record | None:
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


def _trigger(
    operator: SeedanceOperator, wait: _Wait, *, called_back: bool = False, **known: Any
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


def _check_trigger(operator: SeedanceOperator, candidate: Candidate) -> None:
    """Make a trigger: one that cannot be created or stored must fail before money is spent, not after."""
    wait = _Wait(
        seedance_conn_id=candidate.settings.conn_id,
        generation_id="not-submitted-yet",
        deadline=time.time(),
        result_defaults=candidate.prepared.result_defaults.as_dict(),
    )
    json.dumps(_trigger(operator, wait).serialize(), allow_nan=False)
