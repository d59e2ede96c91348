"""
One run of a batch task on a worker.

Each entry is short: it applies the ends of generations, submits as many as may be in flight, and defers until enough
of them have ended. The items are in :mod:`airflow_provider_seedance.batch`; here are the order of an entry and its
two ends, the deferral and the result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch import results
from airflow_provider_seedance.batch.batch import Batch
from airflow_provider_seedance.batch.estimates import estimate_items
from airflow_provider_seedance.batch.items import BatchItem, Phase, Totals
from airflow_provider_seedance.batch.manifest import read_manifest, write_manifest
from airflow_provider_seedance.batch.preparation import prepare_items
from airflow_provider_seedance.batch.requests import read_requests
from airflow_provider_seedance.batch.resume_state import Refusal, ResumeState, StopReason
from airflow_provider_seedance.batch.submissions import BatchConnection
from airflow_provider_seedance.batch.submitting import BatchSubmitter
from airflow_provider_seedance.client.api_client import Client
from airflow_provider_seedance.generations import counted
from airflow_provider_seedance.ledger import open_store
from airflow_provider_seedance.operators.base import MAX_QUOTA_WAIT_SECONDS, SeedanceOperator, max_wait
from airflow_provider_seedance.operators.paid import paid_generations, raise_with_paid_ids
from airflow_provider_seedance.operators.task_hooks import Hooks
from airflow_provider_seedance.operators.task_xcom import REPORT_KEY, pull_xcom, push_xcom
from airflow_provider_seedance.polling.blocking_wait import run_blocking
from airflow_provider_seedance.polling.expected_end import KnownDurations
from airflow_provider_seedance.polling.shared_quota import SharedQuota
from airflow_provider_seedance.polling.wait_state import WaitState, default_timing, deferral_timeout
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.submission.decisions import SubmissionPolicy, unrecorded_error
from airflow_provider_seedance.submission.preflight import warn_of_discarded_records
from airflow_provider_seedance.submission.records import Attempt, paid_ids
from airflow_provider_seedance.triggers.events import read_batch_event
from airflow_provider_seedance.triggers.seedance import SeedanceBatchTrigger
from airflow_provider_seedance.version_compat import TaskDeferralTimeout

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

#: Number of results from which the log suggests a manifest: XCom is not made for large values.
_LARGE_RESULT = 500

#: Maximum number of applied defaults and warnings in the log.
_MAX_NOTES = 20

#: XCom key of the records that a deferral carries.
_RECORDS_XCOM = "seedance_records"


@dataclass(frozen=True, kw_only=True)
class BatchTiming:
    """
    Timing of the worker of a batch task: its resumes, and its lines of progress.

    :param max_in_flight: Generations in flight at a time, unless the Dag author says otherwise.
    :param refill_share: Share of ``max_in_flight`` that must have ended before the worker submits more.
    :param refill_linger_seconds: Time after the first end at which fewer are enough to submit more, ...
    :param manifest_linger_seconds: ... to write the manifest, ...
    :param linger_seconds: ... or to write records.
    :param max_unreachable: Consecutive refusals by an unreachable service before a task without generations in
        flight fails.
    :param progress_interval_seconds: Interval of progress lines while submitting.
    """

    max_in_flight: int = 100
    refill_share: float = 0.25
    refill_linger_seconds: float = 30.0
    manifest_linger_seconds: float = 60.0
    linger_seconds: float = 300.0
    max_unreachable: int = 5
    progress_interval_seconds: float = 30.0


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Arguments that only the batch operator has."""

    requests: Any
    max_in_flight: int | None
    keep_failures: bool
    manifest_path: Any
    include_requests: bool
    dry_run: bool

    @property
    def manifest(self) -> Any:
        """Path of the manifest, or ``None``; a template that renders ``None`` arrives as text."""
        return self.manifest_path if str(self.manifest_path or "None").strip() not in ("", "None") else None


#: Refusal before a deferral that broke, which loses its time: another one is final, as the trigger may break each time.
_FORGOTTEN_REFUSAL = asdict(Refusal(error=["", ""], since=0.0, not_before=0.0))


def _broken_error(error: BaseException, known: bool) -> errors.SeedanceServerError:
    then = "waits for them again and does not submit them" if known else "submits them again"
    return errors.SeedanceServerError(
        f"The trigger that waited for the renders of this batch broke ({error}). They go on and are billed; a retry {then}."
    )


class BatchRun:
    """
    One entry of a worker into a batch task.

    :param operator: Holds the arguments; gets the delivered result.
    :param timing: Tuning, which tests replace.
    """

    def __init__(
        self,
        operator: SeedanceOperator,
        context: Context,
        options: BatchOptions,
        timing: BatchTiming | None = None,
    ) -> None:
        self.operator = operator
        self.context = context
        self.options = options
        self.timing = timing or BatchTiming()
        self.log = operator.log
        self.hooks = Hooks(operator.seedance_conn_id)
        self.records = open_store(context)
        self._durations = KnownDurations(self.records.durations)

    # ------------------------------------------------------------------ entries

    def run(self, event: Any = None, carried: Any = None) -> dict[str, Any]:
        """
        Apply the ends of generations, submit as many as may be in flight, then defer, wait here, or return the result.

        :param event: Event of the trigger; a generation without a complete result in it is waited for again.
        :param carried: State that the entry before handed on.
        """
        state = ResumeState.from_kwargs(carried)
        # First of all, so that every error after it names what was paid for.
        self.records.load(state.records)
        with self._paid():
            try:
                items = self._items()
            except errors.SeedanceError as error:
                raise_with_paid_ids(error, self.records.records().values())
            if self.options.dry_run:
                estimate = estimate_items(self._settings, items)
                text = "dry_run: nothing was sent. By the published prices it would cost\n%s"
                self.log.info(text, estimate.table())
                return results.estimate_result(items, estimate)
            if carried is None:
                warn_of_discarded_records(self.records, self.context["ti"], self.operator.retries)
            return self._run_items(items, state, event)

    def _run_items(self, items: list[BatchItem], state: ResumeState, event: Any) -> dict[str, Any]:
        waited = read_batch_event(event)
        with ExitStack() as clients:
            batch = self._batch(clients, items, state)
            submitter = BatchSubmitter(
                batch=batch,
                max_in_flight=self._max_in_flight,
                refusals=dict(state.refusals),
                stopped=lambda: self.operator.killed,
                granted=state.awaited if waited.submission_granted else None,
            )
            batch.load_records()
            overdue = {*waited.overdue, *batch.overdue(time.time())}
            batch.apply_wait_result(waited.ended, waited.unknown, overdue)
            return self._submit_and_wait(batch, submitter, state)

    def recover(self, error: BaseException) -> dict[str, Any]:
        """
        Continue after a deferral whose trigger broke or timed out, without its arguments, which Airflow drops.

        Records that are in no store are pulled from XCom. Deadlines are those on record: what is overdue is read now.
        """
        records = self._carried_records(error)
        self.records.load(records)
        known = records is not None or self.records.durable
        nothing_paid = known and not paid_ids(self.records.records().values())
        if nothing_paid or (known and isinstance(error, TaskDeferralTimeout)):
            refusals = {hook.seedance_conn_id: _FORGOTTEN_REFUSAL for hook in self.hooks.all}
            return self.run(None, {"records": records, "reattached_at": 0.0, "refusals": refusals})
        with self._paid():
            raise _broken_error(error, known) from error

    def fail_resume(self, error: Exception) -> NoReturn:
        """Raise an error that comes before the method which resumes the task; see :func:`paid_generations`."""
        self.records.load(self._carried_records(error))
        with self._paid():
            raise error

    def _carried_records(self, error: BaseException) -> Any:
        """Return the records of the deferral from XCom, or raise where a retry would submit unknown ones again."""
        records = pull_xcom(self.context["ti"], _RECORDS_XCOM)
        if records is None and not self.records.durable and self.operator.on_uncertain_submit != "resubmit":
            raise unrecorded_error(error, ()) from error
        return records

    def _paid(self) -> AbstractContextManager[None]:
        return paid_generations(
            self.operator, self.context, self.records, lambda: paid_ids(self.records.records().values())
        )

    def _submit_and_wait(self, batch: Batch, submitter: BatchSubmitter, state: ResumeState) -> dict[str, Any]:
        first = state.ended_before is None
        if first:
            state = replace(state, ended_before=Totals.of(batch.items).ended)
            self._push_report(batch, state)
        interval = self.timing.progress_interval_seconds
        progress = _throttled(interval, partial(self._show_progress, batch, state))
        while True:
            self._load_from_manifest(batch)
            # Ended items are on file before anything else can fail, and a manifest that cannot be written is
            # reported before anything is paid for.
            self._write_manifest(batch, required=first)
            first = False
            try:
                stop = submitter.submit(progress)
            finally:
                self._push_report(batch, state)
            self._raise_hopeless(batch, stop)
            if stop.final and not batch.of(Phase.IN_FLIGHT, Phase.RESULT_PENDING):
                return self._finish(batch, stop)
            self.log.info("%s.", _progress_of(batch, state))
            trigger = self._trigger(batch, stop)
            if self.operator.deferrable:
                self._defer(trigger, replace(state, refusals=submitter.refusals, awaited=stop.conn_id))
            submitter.granted = stop.conn_id if self._wait_here(batch, trigger) else None

    # ------------------------------------------------------------------ requests

    def _items(self) -> list[BatchItem]:
        """Read and validate arguments and requests; nothing is sent."""
        options = self.options
        self.operator.validate_arguments()
        self.operator.validate_rendered()
        if options.manifest is not None and str(options.manifest).strip() == str(options.requests).strip():
            raise errors.SeedanceConfigurationError(
                "manifest_path names the file of the requests, which the manifest would replace. Nothing was sent."
            )
        arguments = self.operator.request_arguments(self.context)
        items = read_requests(options.requests, arguments, keep=options.keep_failures or not options.dry_run)
        if options.dry_run:
            return items
        notes = prepare_items(self._settings, items)
        for item in items if options.include_requests else ():
            item.request = results.request_of(item)
        for line, count in notes.most_common(_MAX_NOTES):
            self.log.info("%s (%s)", line, counted(count, "request"))
        if refusal := results.refusal_of(
            self._settings, items, keep=options.keep_failures, limits=self.operator.limits
        ):
            raise refusal
        return items

    @property
    def _settings(self) -> list[Settings]:
        return [hook.settings for hook in self.hooks.all]

    @property
    def _max_in_flight(self) -> int:
        return self.options.max_in_flight or self.timing.max_in_flight

    def _batch(self, clients: ExitStack, items: list[BatchItem], state: ResumeState) -> Batch:
        operator, wait_timing = self.operator, default_timing()
        return Batch(
            connections={
                settings.conn_id: _connection(settings, clients, operator.deferrable)
                for settings in self._settings
            },
            records=self.records,
            items=items,
            policy=SubmissionPolicy.of(operator),
            attempt=Attempt.of(self.context["ti"]),
            timeout=operator.timeout,
            reattached_at=state.reattached_at,
            deferrable=operator.deferrable,
            max_quota_wait=wait_timing.max_quota_wait
            if operator.deferrable
            else wait_timing.max_worker_quota_wait,
        )

    # ------------------------------------------------------------------ waiting

    def _raise_hopeless(self, batch: Batch, stop: StopReason) -> None:
        """Raise the refusal of the service where waiting longer for it is not worthwhile."""
        refusal = stop.refusal
        if refusal is None or refusal.not_before is None or batch.of(Phase.IN_FLIGHT):
            return
        assert stop.error is not None
        too_long = refusal.not_before - refusal.since > max_wait(stop.error)
        unreachable = refusal.unreachable and refusal.count > self.timing.max_unreachable
        if too_long or unreachable or not self.operator.deferrable:
            raise stop.error

    def _trigger(self, batch: Batch, stop: StopReason) -> SeedanceBatchTrigger:
        timing, pending = self.timing, batch.of(Phase.IN_FLIGHT)
        linger = timing.manifest_linger_seconds if self.options.manifest else timing.linger_seconds
        if stop.kind == "full":
            linger = timing.refill_linger_seconds
        elif not pending and stop.not_before is None:
            # Results that only have to be read again are read at the end, in one wait that ends with the last of
            # them: the event of the trigger is the only place that holds them.
            pending, linger = batch.results_to_read(), MAX_QUOTA_WAIT_SECONDS
        if stop.error and stop.not_before is not None:
            self.log.warning(
                "%s %s not submitted yet; the next try is in %.0f s or later.",
                stop.error.message,
                counted(len(batch.of(Phase.WAITING)), "render"),
                stop.not_before - time.time(),
            )
        waits = batch.waits(pending)
        refill = math.ceil(self._max_in_flight * timing.refill_share)
        enough = refill if stop.kind == "full" else len(waits)
        return SeedanceBatchTrigger.for_waits(
            waits,
            min_ended=max(1, enough),
            max_linger=linger,
            submit_conn_id=stop.conn_id,
            submit_not_before=stop.not_before,
            poll_interval=self.operator.poll_interval,
            cancel_on_kill=self.operator.cancel_on_kill,
            durations=_durations_of(self, waits),
        )

    def _defer(self, trigger: SeedanceBatchTrigger, state: ResumeState) -> NoReturn:
        deadlines = list(trigger.generations["deadline"])
        if trigger.submit_not_before is not None:
            deadlines.append(trigger.submit_not_before + MAX_QUOTA_WAIT_SECONDS)
        ti = self.context["ti"]
        if (records := self.records.for_deferral()) and not push_xcom(ti, _RECORDS_XCOM, records):
            # Those of an earlier deferral do not know the later submissions, which would be paid for again.
            push_xcom(ti, _RECORDS_XCOM, None)
        self.log.info("Deferring: waiting for %s.", trigger.description if deadlines else "nothing")
        self.operator.cancel_when_killed(self, trigger.billed_to)
        self.operator.defer(
            trigger=trigger,
            method_name="execute_complete",
            kwargs={"state": asdict(replace(state, records=records))},
            timeout=deferral_timeout(max(deadlines), time.time()),
        )

    def _wait_here(self, batch: Batch, trigger: SeedanceBatchTrigger) -> bool:
        async def look_up(conn_id: str) -> Settings:
            return self.hooks.of(conn_id).settings

        self.operator.cancel_when_killed(self, trigger.billed_to)
        try:
            result = run_blocking(lambda: trigger.wait(look_up, max_quota_wait=batch.max_quota_wait))
        finally:
            self.operator.cancel_abandoned = None
        batch.apply_wait_result(result.ended, result.unknown, result.overdue)
        return result.submission_granted

    # ------------------------------------------------------------------ manifest and progress

    def _load_from_manifest(self, batch: Batch) -> None:
        """Take the results that the records had no room for from the manifest."""
        if self.options.manifest is None or not batch.of(Phase.RESULT_PENDING):
            return
        try:
            batch.load_from_manifest(read_manifest(self.options.manifest))
        except errors.SeedanceError as error:
            self.log.info("The results are read from the service again: %s", error.message)

    def _write_manifest(self, batch: Batch, *, final: bool = False, required: bool = False) -> None:
        if self.options.manifest is None:
            return
        phases = (Phase.SUCCEEDED, Phase.FAILED, *((Phase.WAITING,) if final else ()))
        lines = [item.line() for item in batch.of(*phases)]
        try:
            write_manifest(self.options.manifest, lines)
        except errors.SeedanceError as error:
            if required:
                raise
            self.log.warning("%s It is written again when more has ended.", error.message)

    def _show_progress(self, batch: Batch, state: ResumeState) -> None:
        self.log.info("%s.", _progress_of(batch, state))
        self._push_report(batch, state)

    def _push_report(self, batch: Batch, state: ResumeState) -> None:
        report = results.report_of(batch.items, ends_at=_ends_at(batch, state, self._durations))
        push_xcom(self.context["ti"], REPORT_KEY, report)

    # ------------------------------------------------------------------ the end

    def _finish(self, batch: Batch, stop: StopReason) -> dict[str, Any]:
        options, items = self.options, batch.items
        for item in filter(batch.needs_lookup, items):
            # Its record stays, so that the next entry asks the service before it submits anything.
            item.fail(errors.SeedanceUncertainSubmitError(stop.error.message if stop.error else ""))
        self._write_manifest(batch, final=True, required=True)
        result = results.result_of(items, options.manifest)
        self.operator.delivered = {**results.result_of(items, None), "manifest": result["manifest"]}
        if stop.kind == "over_limit" and stop.error:
            self.log.warning("%s", results.limit_notice(items, stop.error))
        if error := results.error_of(items, stopped=stop.error, keep=options.keep_failures):
            raise error
        if options.manifest is None and len(items) > _LARGE_RESULT:
            self.log.info("The whole result goes into XCom; manifest_path would keep it small.")
        self.log.info("%s", Totals.of(items).summary())
        return result


def _connection(settings: Settings, clients: ExitStack, deferrable: bool) -> BatchConnection:
    quota = SharedQuota.open(settings, clients)
    client = clients.enter_context(Client(settings, observer=quota))
    return BatchConnection(client=client, quota=quota if deferrable else None)


def _progress_of(batch: Batch, state: ResumeState) -> str:
    totals, seconds = Totals.of(batch.items), time.time() - state.started_at
    return totals.progress(seconds=seconds, ended_before=state.ended_before or 0).capitalize()


def _ends_at(batch: Batch, state: ResumeState, durations: KnownDurations) -> float | None:
    """Return when the batch is expected to end, in seconds since 1970: by its rate, before that by durations."""
    now, totals = time.time(), Totals.of(batch.items)
    left = totals.seconds_left(seconds=now - state.started_at, ended_before=state.ended_before or 0)
    if left is not None:
        return now + left
    waits = [] if batch.of(Phase.WAITING) else batch.waits(batch.of(Phase.IN_FLIGHT))
    return durations.last_end([(batch.settings_of(conn_id).base_url, wait) for conn_id, wait in waits])


def _durations_of(run: BatchRun, waits: Sequence[tuple[str, WaitState]]) -> dict[str, dict[str, list[float]]]:
    """Return the durations of the latest generations of each kind, by connection, where a ledger has them."""
    by_connection: dict[str, list[WaitState]] = {}
    for conn_id, wait in waits:
        by_connection.setdefault(conn_id, []).append(wait)
    known = {
        conn_id: run._durations.of(run.hooks.of(conn_id).settings.base_url, own)
        for conn_id, own in by_connection.items()
    }
    return {conn_id: durations for conn_id, durations in known.items() if durations}


def _throttled(seconds: float, call: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls another one at most once in an interval."""
    last = time.monotonic()

    def maybe() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            call()

    return maybe
