"""
One run of a single-generation task on a worker: prepares the request for each connection, and submits it once.

What comes after the submission is in :mod:`~airflow_provider_seedance.operators.generation_wait`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.validation import Prepared, prepare_request
from airflow_provider_seedance.client.api_client import Client
from airflow_provider_seedance.generations import GenerationRequest
from airflow_provider_seedance.operators.base import MAX_QUOTA_WAIT_SECONDS, SeedanceOperator, max_wait
from airflow_provider_seedance.operators.generation_wait import (
    DeferredWait,
    GenerationWait,
    known_record,
    trigger_for,
)
from airflow_provider_seedance.operators.paid import raise_with_paid_ids
from airflow_provider_seedance.operators.task_xcom import pull_xcom, push_xcom
from airflow_provider_seedance.polling.outcomes import goes_on
from airflow_provider_seedance.polling.shared_quota import SharedQuota
from airflow_provider_seedance.polling.wait_state import deferral_timeout
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.submission import decisions
from airflow_provider_seedance.submission.callback_url import callback_url_factory
from airflow_provider_seedance.submission.decisions import SubmissionPolicy
from airflow_provider_seedance.submission.preflight import (
    check_callback,
    check_price_known,
    warn_of_discarded_records,
)
from airflow_provider_seedance.submission.records import Attempt, Record
from airflow_provider_seedance.submission.store import GENERATION_KEY, RecordStore
from airflow_provider_seedance.submission.submission_result import AwaitingCallback, RetryLater, combined
from airflow_provider_seedance.submission.submitter import FallbackSubmission, Submission
from airflow_provider_seedance.triggers.events import is_callback
from airflow_provider_seedance.triggers.seedance import SeedanceCallbackTrigger, SeedanceQuotaTrigger
from airflow_provider_seedance.version_compat import TaskDeferralTimeout

log = logging.getLogger(__name__)

#: XCom key that says whether a deferred task has submitted nothing so far.
_NOT_SUBMITTED_XCOM = "seedance_not_submitted"


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A connection whose service can make the request."""

    settings: Settings
    prepared: Prepared

    def open_submission(
        self, run: GenerationRun, clients: ExitStack, granted: str | None, digests: dict[str, str]
    ) -> Submission:
        """
        Return the submission through the connection.

        :param clients: Closes its client.
        :param granted: The connection at which the triggerer has granted a submission: there no quota is reserved.
        :param digests: Digests of inputs, shared by the submissions of a task; see :class:`Submission`.
        """
        operator, settings = run.operator, self.settings
        quota = SharedQuota.open(settings, clients)
        timeout = operator.timeout
        url_for = callback_url_factory(settings, run.context, timeout) if operator.use_callback else None
        return Submission(
            client=clients.enter_context(Client(settings, observer=quota)),
            store=run.store,
            prepared=self.prepared,
            attempt=Attempt.of(run.context["ti"]),
            shared_quota=quota if operator.deferrable and settings.conn_id != granted else None,
            retry_inline=granted is None,
            input_digests=digests,
            policy=SubmissionPolicy.of(operator, url_for),
        )


class GenerationRun(GenerationWait):
    """One entry of a worker into a single-generation task."""

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
            fit, unfit = _prepare_candidates(self)
        except errors.SeedanceError as error:
            raise_with_paid_ids(error, [record or known_record(self.store, None)])
        known, attempt = self.store.read(GENERATION_KEY) or record, Attempt.of(self.context["ti"])
        if owner_error := decisions.unfit_owner(unfit, known, attempt):
            raise_with_paid_ids(owner_error, [known])
        if operator.deferrable:
            _check_trigger(operator, fit[0])
        if since is None and record is None:
            warn_of_discarded_records(self.store, self.context["ti"], operator.retries)
        if since is not None and record is None and not self.store.durable:
            # From here on a missing id no longer means that nothing was submitted. Raises: nothing was sent yet.
            self.context["ti"].xcom_push(key=_NOT_SUBMITTED_XCOM, value=False)
        with ExitStack() as clients:
            digests: dict[str, str] = {}
            result = FallbackSubmission(
                submissions=[each.open_submission(self, clients, granted, digests) for each in fit],
                unfit=unfit,
                unusable_ids=unusable_ids,
            ).submit_or_attach(record, callback_ids)
        if isinstance(result, AwaitingCallback):
            self._defer_for_callback(result)
        if isinstance(result, RetryLater):
            self._defer_submission(result, refusals, since or time.time())
        with self._paid(result.generation.generation_id, result.record):
            return self._wait_for(result)

    def resolve_uncertain(self, event: Any, record: Any, callback_ids: Sequence[str]) -> dict[str, Any]:
        """Continue after the wait for a callback; see the operator's ``resume_uncertain``."""
        named = event.get("generation_id") if is_callback(event) else None
        ids = [*callback_ids, *([named] if isinstance(named, str) else [])]
        Record.from_value(record)  # a lost record must not count as none, which would submit anew
        with self._paid(None):  # the service may not know the id
            return self.submit(carried=record, callback_ids=ids)

    def recover(self, error: BaseException) -> dict[str, Any]:
        """
        Continue after a deferral whose trigger broke or timed out.

        Airflow then drops the arguments of the deferral, so only the record says what the task waited for.
        """
        record, ti = known_record(self.store, None), self.context["ti"]
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
        if not self.operator.deferrable:
            raise _retryable(later.error)
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


def _submitted_nothing(run: GenerationRun, generation_id: Any) -> bool:
    """Return whether XCom, all that is left of a deferral below Airflow 3.3, says that nothing was submitted."""
    return generation_id is None and pull_xcom(run.context["ti"], _NOT_SUBMITTED_XCOM) is True


def _retryable(error: errors.SeedanceError) -> errors.SeedanceError:
    """Return the error of a worker that does not wait; a budget's own class is final, but the task runs when it renews."""
    if not isinstance(error, errors.SeedanceBudgetError):
        return error
    limited = errors.SeedanceRateLimitError(error.message, **errors.SeedanceError.details(error))
    limited.__cause__ = error
    return limited


def _carried_id(store: RecordStore, ti: Any) -> Any:
    """Return the id that the running try has pushed; record it, in case only the deferral has it."""
    generation_id = pull_xcom(ti, "generation_id")
    if store.durable and isinstance(generation_id, str):
        with suppress(errors.SeedanceRecordError):
            known_record(store, generation_id)
    return generation_id


def _check_trigger(operator: SeedanceOperator, candidate: _Candidate) -> None:
    """Make a trigger: one that cannot be created or stored must fail before money is spent, not after."""
    wait = DeferredWait(
        seedance_conn_id=candidate.settings.conn_id,
        generation_id="not-submitted-yet",
        deadline=time.time(),
        result_defaults=candidate.prepared.result_defaults.as_dict(),
    )
    json.dumps(trigger_for(operator, wait).serialize(), allow_nan=False)


def _prepare_candidates(
    run: GenerationRun,
) -> tuple[list[_Candidate], dict[str, errors.SeedanceRequestError]]:
    """
    Validate the arguments, and the request for each connection; nothing is sent.

    Return the candidates in order, and the errors of the connections whose service cannot make the request.

    :raises SeedanceRequestError: no service can make the request.
    :raises SeedanceConfigurationError: an argument or one of the connections is unusable.
    """
    operator, hooks = run.operator, run.hooks
    operator.validate_arguments()
    operator.validate_rendered()
    request = operator.request_class.from_arguments(operator.request_arguments(run.context))
    fit: list[_Candidate] = []
    unfit: dict[str, errors.SeedanceRequestError] = {}
    for hook in hooks.all:
        try:
            fit.append(
                _Candidate(settings=hook.settings, prepared=_prepare(operator, hook.settings, request))
            )
        except errors.SeedanceRequestError as error:
            unfit[hook.seedance_conn_id] = error
            if hooks.are_several:
                log.warning("Connection %r cannot take the request: %s", hook.seedance_conn_id, error.message)
    if not fit:
        first = unfit[hooks.all[0].seedance_conn_id]
        raise combined(first, unfit) if hooks.are_several else first
    return fit, unfit


def _prepare(operator: SeedanceOperator, settings: Settings, request: GenerationRequest) -> Prepared:
    prepared = prepare_request(settings, request)
    for line in prepared.defaults:
        operator.log.info("Default applied: %s", line)
    for line in prepared.warnings:
        operator.log.warning("%s", line)
    check_price_known(settings.api, prepared, operator.limits)
    if operator.use_callback:
        check_callback(settings, prepared)
    return prepared
