"""The operator for a single generation; the work of a run is in :mod:`~airflow_provider_seedance.operators.generation_run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_seedance.links.seedance import SeedanceOutputLink
from airflow_provider_seedance.operators.base import SeedanceOperator
from airflow_provider_seedance.operators.task_xcom import reported_error
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_4_PLUS

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_provider_seedance.operators.generation_run import GenerationRun


class SeedanceGenerationOperator(SeedanceOperator):
    """
    Operator that submits one generation, waits for it, and returns its result.

    Subclasses define the request. **The generation is billed from the moment the service accepts it**; through
    worker loss, retries, triggerer restarts, lost replies and clears one task instance pays for one. The
    arguments are those of :class:`~airflow_provider_seedance.operators.base.SeedanceOperator`.
    """

    operator_extra_links = (SeedanceOutputLink(),)
    can_reschedule = AIRFLOW_V_3_4_PLUS

    def execute(self, context: Context) -> dict[str, Any]:
        """Submit the request or re-attach to its generation, and wait in the triggerer or here."""
        self.killed, self.cancel_abandoned = False, None  # a retry of `dag.test` has the same operator
        with reported_error(context):
            return self._run(context).submit()

    def resume_submit(
        self,
        context: Context,
        event: Any = None,
        refusals: int = 0,
        since: float | None = None,
        record: dict[str, Any] | None = None,
        granted: str | None = None,
    ) -> dict[str, Any]:
        """
        Submit after a wait for the rate limit of the service, or for another task.

        :param refusals: Number of times the submission was deferred before.
        :param since: Seconds since 1970 of the first of these deferrals.
        :param record: Record of an earlier submission, where the store is not durable.
        :param granted: The connection at which the triggerer has granted a submission.
        """
        return self._run(context).submit(refusals=refusals, granted=granted, since=since, carried=record)

    def resume_uncertain(
        self,
        context: Context,
        event: Any = None,
        record: dict[str, Any] | None = None,
        callback_ids: list[str] | None = None,
    ) -> dict[str, Any]:
        """
        Continue after waiting for the callback about a submission whose reply was lost.

        :param event: Names the generation, if the service called back.
        :param record: Record of the submission.
        :param callback_ids: Ids from earlier callbacks that the service has not confirmed.
        """
        return self._run(context).resolve_uncertain(event, record, callback_ids or [])

    def execute_complete(
        self,
        context: Context,
        event: Any = None,
        generation_id: str | None = None,
        result_defaults: dict[str, Any] | None = None,
        deadline: float | None = None,
        callback_nonce: str | None = None,
        seedance_conn_id: str | None = None,
    ) -> dict[str, Any]:
        """
        Deliver the result after a deferral.

        :param event: Event of the trigger. Only a complete, terminal result of this generation is used as it is.
        :param generation_id: The generation that the task deferred for.
        :param callback_nonce: Nonce in the callback URL of the submission.
        :param seedance_conn_id: The connection that took it.
        """
        return self._run(context).complete(
            event,
            generation_id,
            result_defaults,
            deadline=deadline,
            callback_nonce=callback_nonce,
            seedance_conn_id=seedance_conn_id,
        )

    def _run(self, context: Context) -> GenerationRun:
        # Imported on workers only, so that a Dag file that uses the operator parses quickly.
        from airflow_provider_seedance.operators.generation_run import GenerationRun

        return GenerationRun(self, context)
