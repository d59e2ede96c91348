"""
What the operators share: entering a submission, waiting for it with or without a worker, delivering.

The life of a task: ``execute`` brings the request to a generation (at most one is paid for), then
defers or waits; ``execute_complete`` takes the end from the trigger's event, or asks the service where
the event is not a complete answer of its own trigger.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, GenerationStatus, utc_now
from airflow_provider_seedance.links.seedance import SeedanceOutputLink
from airflow_provider_seedance.observability import metrics
from airflow_provider_seedance.operators.base import LONGEST_QUOTA_WAIT, SeedanceOperator
from airflow_provider_seedance.operators.checks import (
    check_arguments,
    check_callback,
    check_price,
    check_rendered,
)
from airflow_provider_seedance.version_compat import TaskDeferralError, TaskDeferralTimeout

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_provider_seedance.apis.validation import Prepared
    from airflow_provider_seedance.hooks.seedance import SeedanceHook
    from airflow_provider_seedance.submission.records import Record
    from airflow_provider_seedance.submission.store import RecordStore
    from airflow_provider_seedance.submission.submitter import (
        AwaitingCallback,
        RetryLater,
        SubmissionResult,
    )


class SeedanceGenerationOperator(SeedanceOperator):
    """
    Submits one generation, waits for it, and returns its result.

    Subclasses say what the request consists of. **The generation is billed from the moment the service
    takes it**; through worker loss, retries, triggerer restarts, lost replies and clears one task
    instance pays for one. The arguments are those of
    :class:`~airflow_provider_seedance.operators.base.SeedanceOperator`.
    """

    operator_extra_links = (SeedanceOutputLink(),)

    #: For the link: the output this process delivered, empty while there is none, ``None`` before it ran.
    output_url: str | None = None

    # ------------------------------------------------------------------ entering

    def execute(self, context: Context) -> dict[str, Any]:
        """Bring the request to a generation and wait for it, in the triggerer or here."""
        return self._run(context)

    def resume_submit(
        self,
        context: Context,
        event: Any = None,
        refusals: int = 0,
        since: float | None = None,
        record: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """
        Submit after the delay of a rate limit.

        :param refusals: Number of consecutive rejections.
        :param since: Seconds since 1970 of the first one.
        """
        return self._run(context, refusals=refusals, since=since, record=record)

    def resume_uncertain(
        self,
        context: Context,
        event: Any = None,
        record: dict[str, Any] | None = None,
        callback_ids: list[str] | None = None,
    ) -> dict[str, Any]:
        """
        Go on after waiting for a callback about a submission whose reply was lost.

        :param event: Of the trigger; it contains the id of the generation if the service called back.
        :param callback_ids: Ids that callbacks have named before, and that the service has not confirmed yet.
        """
        from airflow_provider_seedance.triggers.seedance import is_call

        named = event.get("generation_id") if is_call(event) else None
        ids = [*(callback_ids or []), *([named] if isinstance(named, str) else [])]
        with self._paid_for(self._store(context), named):
            return self._run(context, record=record, callback_ids=ids)

    def _run(
        self,
        context: Context,
        *,
        refusals: int = 0,
        since: float | None = None,
        record: dict[str, Any] | None = None,
        callback_ids: Sequence[str] = (),
    ) -> dict[str, Any]:
        from airflow_provider_seedance.submission.submitter import AwaitingCallback, RetryLater

        self.output_url = ""
        check_arguments(self)
        check_rendered(self)
        hook = self._hook()
        prepared = self._prepare(hook, context)
        if self.deferrable:
            # A trigger that cannot be made or stored must fail before money is spent, not after.
            trigger = self._trigger(
                "not-submitted-yet", prepared.result_defaults.as_dict(), time.time(), None
            )
            json.dumps(trigger.serialize(), allow_nan=False)
        entered = self._enter(
            hook, prepared, context, refusals=refusals, carried=record, callback_ids=callback_ids
        )
        if isinstance(entered, AwaitingCallback):
            self._await_call(entered)
        if isinstance(entered, RetryLater):
            self._postpone(entered, refusals, since or time.time())
        generation, known = entered.generation, entered.record
        with self._paid_for(self._store(context), generation.generation_id):
            self._push_id(context, generation.generation_id)
            if generation.status.terminal:
                return self._deliver(generation, known, context)
            deadline = time.time() + self.timeout
            if self.deferrable:
                submitted = known.submitted_at.timestamp() if known.submitted_at else None
                nonce = known.callback_nonce if self.use_callback else None
                self._defer(
                    generation, dict(known.result_defaults), deadline, submitted, callback_nonce=nonce
                )
            return self._wait_here(hook, generation, known, context)

    def execute_complete(
        self,
        context: Context,
        event: Any = None,
        generation_id: str | None = None,
        result_defaults: dict[str, Any] | None = None,
        deadline: float | None = None,
        callback_nonce: str | None = None,
    ) -> dict[str, Any]:
        """
        Deliver after a deferral.

        :param event: Of the trigger. Only a complete end of this very generation is taken as it is.
        :param generation_id: The generation the task deferred for.
        :param callback_nonce: What a callback for it carries.
        """
        from airflow_provider_seedance.triggers.seedance import is_call, read_event

        self.output_url = ""
        store = self._store(context)
        record = self._known_record(store, generation_id)
        expected = generation_id or (record.generation_id if record else None)
        if expected is None:
            raise errors.SeedanceRecordError(
                "The task was resumed, but neither the deferral nor the task state store names a generation. "
                "Look for it in the console of the service; clearing the task submits anew."
            )
        result_defaults = result_defaults or (dict(record.result_defaults) if record else {})
        with self._paid_for(store, expected):
            generation = read_event(event, expected) or self._ask(
                expected, result_defaults, deadline, callback_nonce, announced=is_call(event)
            )
            return self._deliver(generation.with_defaults(result_defaults), record, context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume; a trigger that broke or was lost costs nobody a finished render."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralTimeout, TaskDeferralError) as error:
            from airflow_provider_seedance.submission import decisions
            from airflow_provider_seedance.submission.records import Attempt

            store = self._store(context)
            record = self._known_record(store, None)
            if decisions.was_waiting_for_quota(record, Attempt.of(context["ti"])):
                self.log.warning("The wait for quota ended without an answer (%s); deciding anew.", error)
                # For the last time: when it was put off first is lost, and a trigger may break each time.
                return self._run(context, since=time.time() - LONGEST_QUOTA_WAIT)
            generation_id = (record.generation_id if record else None) or self._pushed_id(context)
            if generation_id is None:
                with self._paid_for(store, None):
                    raise
            self.log.warning("The deferral ended without an answer (%s); asking the service.", error)
            try:
                deadline = decisions.deadline_after_broken_deferral(record, self.timeout, time.time())
                return self.execute_complete(context, None, generation_id, deadline=deadline)
            except errors.SeedanceTimeoutError as timeout:
                if isinstance(error, TaskDeferralTimeout):
                    raise
                raise errors.SeedanceServerError(
                    f"The trigger that waited for generation {generation_id} broke ({error}). The render "
                    "goes on and is billed; a retry waits for it again and does not submit.",
                    generation_id=generation_id,
                ) from timeout

    # ------------------------------------------------------------------ what subclasses may change

    def request_arguments(self, context: Context) -> dict[str, Any]:
        """Return the arguments of the request, rendered."""
        return {name: value for name in self.request_fields if (value := getattr(self, name)) is not None}

    # ------------------------------------------------------------------ submitting

    def _prepare(self, hook: SeedanceHook, context: Context) -> Prepared:
        request = self.request_class.from_arguments(self.request_arguments(context))
        prepared = hook.prepare(request)
        for line in prepared.defaults:
            self.log.info("Default applied: %s", line)
        for line in prepared.warnings:
            self.log.warning("%s", line)
        check_price(hook.settings.api, prepared, self.max_credits)
        if self.use_callback:
            check_callback(hook.settings, prepared)
        return prepared

    def _enter(
        self,
        hook: SeedanceHook,
        prepared: Prepared,
        context: Context,
        *,
        refusals: int,
        carried: dict[str, Any] | None,
        callback_ids: Sequence[str],
    ) -> SubmissionResult:
        from airflow_provider_seedance.client.api_client import Client
        from airflow_provider_seedance.polling.shared_quota import SharedQuota, SharedQuotaObserver
        from airflow_provider_seedance.submission.callback_url import callback_url_factory
        from airflow_provider_seedance.submission.records import Attempt, Fingerprint, Record
        from airflow_provider_seedance.submission.submitter import RetryLater, Submission, SubmissionPolicy

        settings, ti = hook.settings, context["ti"]
        asked = Fingerprint.of(prepared.as_requested, api=settings.api.name, base_url=settings.base_url)
        note = SharedQuota(settings.identity)
        with Client(settings, observer=SharedQuotaObserver(note)) as client:
            submission = Submission(
                client=client,
                store=self._store(context),
                prepared=prepared,
                attempt=Attempt.of(ti, asked),
                # The triggerer lets a submission through when its turn has come; only a first one asks here.
                shared_quota=note if self.deferrable and not refusals else None,
                retry_inline=not refusals,
                policy=SubmissionPolicy(
                    on_uncertain_submit=self.on_uncertain_submit,  # type: ignore[arg-type]
                    on_clear=self.on_clear,  # type: ignore[arg-type]
                    end_from_trigger=self.end_from_trigger,
                    callback_url=callback_url_factory(settings, ti, self.timeout)
                    if self.use_callback
                    else None,
                ),
            )
            record = None if carried is None else Record.from_value(carried)
            entered = submission.submit_or_attach(record, callback_ids)
        if isinstance(entered, RetryLater) and not self.deferrable:
            raise entered.error
        return entered

    def _await_call(self, unanswered: AwaitingCallback) -> NoReturn:
        from airflow_provider_seedance.triggers.seedance import SeedanceCallbackTrigger

        nonce = unanswered.record.callback_nonce
        assert nonce is not None
        self.log.warning(
            "One generation may have been billed without its id being known here. The service was given an address "
            "to call: the task defers for up to %.0f s, until it does. After that on_uncertain_submit=%r applies.",
            unanswered.until - time.time(),
            self.on_uncertain_submit,
        )
        self.defer(
            trigger=SeedanceCallbackTrigger(moment=unanswered.until, callback_nonce=nonce),
            method_name="resume_uncertain",
            kwargs={"record": unanswered.record.as_dict(), "callback_ids": list(unanswered.callback_ids)},
        )

    def _postpone(self, postponed: RetryLater, refusals: int, since: float) -> NoReturn:
        from airflow_provider_seedance.polling.wait_state import deferral_timeout
        from airflow_provider_seedance.triggers.seedance import SeedanceQuotaTrigger

        seconds = postponed.seconds(refusals)
        if time.time() + seconds - since > LONGEST_QUOTA_WAIT:
            raise postponed.error
        self.log.warning(
            "%s Nothing was submitted and nothing is billed; the task defers for %.0f s and submits then.",
            postponed.error.message,
            seconds,
        )
        carried = {"record": postponed.record.as_dict()} if postponed.record else {}
        self.defer(
            trigger=SeedanceQuotaTrigger(
                moment=time.time() + seconds, seedance_conn_id=self.seedance_conn_id
            ),
            method_name="resume_submit",
            kwargs={"refusals": refusals + 1, "since": since, **carried},
            timeout=deferral_timeout(since + LONGEST_QUOTA_WAIT, time.time()),
        )

    def _push_id(self, context: Context, generation_id: str) -> None:
        try:
            context["ti"].xcom_push(key="generation_id", value=generation_id)
        except Exception as error:
            # The render is paid for: nothing that is only nice to have may stop the task now.
            self.log.warning("XCom generation_id could not be pushed: %s", error)

    def _pushed_id(self, context: Context) -> str | None:
        """Return the id that this try pushed; a broken deferral and Airflow below 3.3 leave nothing else."""
        ti = context["ti"]
        try:
            pushed = ti.xcom_pull(task_ids=self.task_id, key="generation_id", map_indexes=ti.map_index)
        except Exception as error:
            self.log.warning("XCom generation_id could not be pulled: %s", error)
            return None
        return pushed if isinstance(pushed, str) else None

    # ------------------------------------------------------------------ waiting

    def _trigger(
        self,
        generation_id: str,
        result_defaults: dict[str, Any],
        deadline: float,
        estimate: float | None,
        submitted_at: float | None = None,
        callback_nonce: str | None = None,
        called: bool = False,
    ) -> Any:
        from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger

        return SeedanceGenerationTrigger(
            seedance_conn_id=self.seedance_conn_id,
            generation_id=generation_id,
            media=self.request_class.media,
            deadline=deadline,
            poll_interval=self.poll_interval,
            estimated_wait=estimate,
            submitted_at=submitted_at,
            cancel_on_kill=self.cancel_on_kill,
            end_from_trigger=self.end_from_trigger,
            result_defaults=result_defaults,
            callback_nonce=callback_nonce,
            called=called,
        )

    def _defer(
        self,
        generation: Generation,
        result_defaults: dict[str, Any],
        deadline: float,
        submitted_at: float | None = None,
        *,
        callback_nonce: str | None = None,
        called: bool = False,
        over: float | None = None,
    ) -> None:
        from airflow_provider_seedance.polling.wait_state import QUOTA_PATIENCE, deferral_timeout

        self.log.info(
            "Deferring until generation %s has ended, for at most %.0f s.",
            generation.generation_id,
            deadline - time.time(),
        )
        self.defer(
            trigger=self._trigger(
                generation.generation_id,
                result_defaults,
                deadline,
                generation.estimated_wait,
                submitted_at,
                callback_nonce,
                called,
            ),
            method_name="execute_complete",
            kwargs={
                "generation_id": generation.generation_id,
                "result_defaults": result_defaults,
                "deadline": deadline if over is None else over,
                "callback_nonce": callback_nonce,
            },
            timeout=deferral_timeout(deadline + (0.0 if over is None else QUOTA_PATIENCE), time.time()),
        )

    def _wait_here(
        self, hook: SeedanceHook, generation: Generation, record: Record, context: Context
    ) -> dict[str, Any]:
        self._waiting_for = (context, [generation.generation_id])
        try:
            end = hook.wait_for_end(
                generation.generation_id,
                self.timeout,
                media=self.request_class.media,
                poll_interval=self.poll_interval,
                estimated_wait=generation.estimated_wait,
            )
        finally:
            self._waiting_for = None
        return self._deliver(end.with_defaults(record.result_defaults), record, context)

    def _ask(
        self,
        generation_id: str,
        result_defaults: dict[str, Any],
        deadline: float | None,
        callback_nonce: str | None = None,
        *,
        announced: bool = False,
    ) -> Generation:
        """Ask the service after a resume that brought no answer; wait on if there is time left."""
        from airflow_provider_seedance.polling.outcomes import timed_out
        from airflow_provider_seedance.polling.wait_state import QUOTA_PATIENCE, quota_pause

        media = self.request_class.media
        last: Generation | None = None
        unseen = Generation(generation_id=generation_id, api="", media=media, status=GenerationStatus.QUEUED)
        try:
            last = self._hook().get_generation(generation_id, media, announced=announced)
        except errors.SeedanceNotFoundError:
            raise
        except errors.SeedanceRateLimitError as error:
            over = time.time() if deadline is None else deadline
            if time.time() >= over + QUOTA_PATIENCE:
                raise timed_out(generation_id, self.timeout, None) from error
            # Our quota keeps us from reading; that must not fail a render that may have ended.
            wait = quota_pause(error)
            self.log.warning("%s Reading generation %s again in %.0f s.", error.message, generation_id, wait)
            waiting = replace(unseen, estimated_wait=wait)
            until = max(over, time.time() + wait)
            self._defer(
                waiting, result_defaults, until, callback_nonce=callback_nonce, called=announced, over=over
            )
        except errors.SeedanceError as error:
            self.log.warning("The state of generation %s could not be read: %s", generation_id, error)
        if last is not None and last.status.terminal:
            return last
        if deadline is not None and time.time() < deadline:
            self.log.info("Generation %s has not ended; the task was resumed early.", generation_id)
            self._defer(
                last or unseen, result_defaults, deadline, callback_nonce=callback_nonce, called=announced
            )
        raise timed_out(generation_id, self.timeout, last)

    @contextmanager
    def _paid_for(self, store: RecordStore, generation_id: str | None) -> Iterator[None]:
        """Make every failure final where a retry could not find the paid generation again (below 3.3)."""
        try:
            yield
        except (Exception, AirflowTaskTimeout) as error:
            if store.durable or self.on_uncertain_submit == "resubmit":
                raise
            if isinstance(error, AirflowFailException):
                raise
            from airflow_provider_seedance.submission.decisions import unrecorded_error

            raise unrecorded_error(error, [generation_id] if generation_id else []) from error

    # ------------------------------------------------------------------ the end

    def _deliver(self, generation: Generation, record: Record | None, context: Context) -> dict[str, Any]:
        from airflow_provider_seedance.polling.outcomes import raise_unless_succeeded

        store = self._store(context)
        if record is not None:
            self._record_end(store, record, generation)
        raise_unless_succeeded(generation)
        metrics.credits_spent(generation.api, generation.credits)
        self.log.info("%s", generation.summary())
        self.output_url = generation.url or ""
        self.delivered = generation.result()
        return self.delivered

    def _record_end(self, store: RecordStore, record: Record, generation: Generation) -> None:
        from airflow_provider_seedance.submission.records import as_ended
        from airflow_provider_seedance.submission.store import GENERATION_KEY

        try:
            store.write(GENERATION_KEY, as_ended(record, generation, utc_now()))
        except errors.SeedanceStateError as error:
            self.log.warning("%s The next try asks the service how the generation ended.", error.message)

    # ------------------------------------------------------------------ small helpers

    @staticmethod
    def _store(context: Context) -> RecordStore:
        from airflow_provider_seedance.ledger import open_store

        return open_store(context)

    def _known_record(self, store: RecordStore, generation_id: str | None) -> Record | None:
        """Return the record on a resume; the deferral's own id wins over what the store says or cannot say."""
        from airflow_provider_seedance.submission.store import GENERATION_KEY

        try:
            record = store.read(GENERATION_KEY)
        except errors.SeedanceStateError as error:
            self.log.warning("%s", error.message)
            return None
        if record is None or generation_id is None or record.generation_id == generation_id:
            return record
        return (
            store.backfill_id(GENERATION_KEY, record, generation_id) if record.generation_id is None else None
        )
