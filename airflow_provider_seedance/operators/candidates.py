"""The connections of a task that can make its request, each with the request as its service takes it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.validation import Prepared, prepare_request
from airflow_provider_seedance.client.api_client import Client
from airflow_provider_seedance.generations import GenerationRequest
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.operators.paid import raise_with_paid_ids
from airflow_provider_seedance.policies.connection_list import connection_ids
from airflow_provider_seedance.polling.shared_quota import SharedQuota
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.submission.callback_url import callback_url_factory
from airflow_provider_seedance.submission.decisions import SubmissionPolicy, unfit_owner
from airflow_provider_seedance.submission.preflight import check_callback, check_price_known
from airflow_provider_seedance.submission.records import Attempt, Fingerprint, Record
from airflow_provider_seedance.submission.store import RecordStore
from airflow_provider_seedance.submission.submission_result import combined
from airflow_provider_seedance.submission.submitter import FallbackSubmission, Submission

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_provider_seedance.operators.base import SeedanceOperator

log = logging.getLogger(__name__)


class Hooks:
    """
    Hooks of the connections of a task, in order.

    :param value: ``seedance_conn_id`` of the operator.
    """

    def __init__(self, value: Any) -> None:
        self.all = tuple(SeedanceHook(conn_id) for conn_id in connection_ids(value))
        self.are_several = len(self.all) > 1

    def of(self, conn_id: str | None) -> SeedanceHook:
        """Return the hook of the connection that was paid, even if it has left the list; by default the first."""
        for hook in self.all:
            if hook.seedance_conn_id == conn_id:
                return hook
        if conn_id is not None:
            hook = SeedanceHook(conn_id)
            try:
                _ = hook.settings
                return hook
            except AirflowNotFoundException:
                log.warning(
                    "There is no connection %r any more; %r is used.", conn_id, self.all[0].seedance_conn_id
                )
        return self.all[0]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A connection whose service can make the request."""

    settings: Settings
    prepared: Prepared

    def open_submission(
        self,
        operator: SeedanceOperator,
        context: Context,
        store: RecordStore,
        clients: ExitStack,
        *,
        granted: str | None,
        input_digests: dict[str, str],
    ) -> Submission:
        """
        Return the submission through the connection.

        :param clients: Closes its client.
        :param granted: The connection at which the triggerer has granted a submission: there no quota is reserved.
        :param input_digests: Shared by the submissions of a task; see :class:`Submission`.
        """
        settings, timeout = self.settings, operator.timeout
        quota = SharedQuota.open(settings, clients)
        request, base_url = self.prepared.as_requested, settings.base_url
        fingerprint = Fingerprint.of(request, api=settings.api.name, base_url=base_url)
        url_for = callback_url_factory(settings, context, timeout) if operator.use_callback else None
        return Submission(
            client=clients.enter_context(Client(settings, observer=quota)),
            store=store,
            prepared=self.prepared,
            attempt=Attempt.of(context["ti"], fingerprint),
            shared_quota=quota if operator.deferrable and settings.conn_id != granted else None,
            retry_inline=granted is None,
            input_digests=input_digests,
            policy=SubmissionPolicy.of(operator, url_for),
        )


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """
    The candidates of a task, in order.

    :param unfit: Errors of the connections whose service cannot make the request, by their ids.
    """

    fit: tuple[Candidate, ...]
    unfit: Mapping[str, errors.SeedanceRequestError]

    def open(self, *task: Any, unusable_ids: frozenset[str], **options: Any) -> FallbackSubmission:
        """Return the submission through these connections; see :meth:`Candidate.open_submission`."""
        digests: dict[str, str] = {}
        submissions = [each.open_submission(*task, input_digests=digests, **options) for each in self.fit]
        return FallbackSubmission(submissions=submissions, unfit=self.unfit, unusable_ids=unusable_ids)

    def raise_unfit(self, record: Record | None, attempt: Attempt) -> None:
        """Raise if the connection that was, or may have been, paid cannot make the request of a retry."""
        if error := unfit_owner(self.unfit, record, attempt):
            raise_with_paid_ids(error, [record])


def prepare_candidates(operator: SeedanceOperator, hooks: Hooks, context: Context) -> Candidates:
    """
    Validate the arguments, and the request for each connection; nothing is sent.

    :raises SeedanceRequestError: no service can make the request.
    :raises SeedanceConfigurationError: an argument or one of the connections is unusable.
    """
    operator.validate_arguments()
    operator.validate_rendered()
    request = operator.request_class.from_arguments(operator.request_arguments(context))
    fit: list[Candidate] = []
    unfit: dict[str, errors.SeedanceRequestError] = {}
    for hook in hooks.all:
        try:
            fit.append(Candidate(settings=hook.settings, prepared=_prepare(operator, hook.settings, request)))
        except errors.SeedanceRequestError as error:
            unfit[hook.seedance_conn_id] = error
            if hooks.are_several:
                log.warning("Connection %r cannot take the request: %s", hook.seedance_conn_id, error.message)
    if not fit:
        first = unfit[hooks.all[0].seedance_conn_id]
        raise combined(first, unfit) if hooks.are_several else first
    return Candidates(fit=tuple(fit), unfit=unfit)


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
