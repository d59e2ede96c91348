"""What all operators that generate have in common: the arguments, and what stands behind the connection id."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_seedance.generations import VideoRequest
from airflow_provider_seedance.operators.checks import check_arguments
from airflow_provider_seedance.policies.retry import SeedanceRetryPolicy
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_3_PLUS

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_provider_seedance.generations import GenerationRequest
    from airflow_provider_seedance.hooks.seedance import SeedanceHook

#: Longest that a task waits for the service to take its submission, in seconds: a week.
LONGEST_QUOTA_WAIT = 7 * 86400.0

#: Seconds that the worker gives to a cancellation when it is being stopped itself.
KILL_PATIENCE = 10.0


class SeedanceOperator(BaseOperator):
    """
    Generates at the service of a connection.

    :param seedance_conn_id: The Airflow connection, of type ``seedance``.
    :param deferrable: Whether to wait in the triggerer, without a worker. Otherwise a worker waits.
    :param poll_interval: Seconds between status requests; ``None`` chooses them.
    :param timeout: Seconds of patience by the wall clock, from submission or the latest re-attachment.
        When it is over the task fails, the render goes on and is billed, and a retry waits for it again.
    :param use_callback: Let the service call Airflow when the render ends, so that the task resumes at once. Needs
        ``deferrable=True``, ``callback_base_url`` and ``callback_secret`` in the connection, and a service that
        calls; refused for batches.
    :param on_uncertain_submit: What to do when nobody can tell whether a submission was taken:
        ``"fail"`` for good, or ``"resubmit"`` at the risk of paying twice.
    :param on_clear: What a cleared task does whose generation had succeeded: ``"reuse"`` delivers it,
        ``"new"`` makes (and pays for) another take. A template.
    :param cancel_on_kill: Whether to cancel the generation when a person ends the task, where the
        service can and only while it is queued.
    :param end_from_trigger: Whether the triggerer ends a successful task itself, which saves the second
        worker start. Needs Airflow 3.3; no callbacks, listeners, asset events or mapping over the result.
    :param max_credits: Refuse to submit what costs more credits by the published prices. Refused where
        the service publishes none.
    """

    template_fields: Sequence[str] = ("seedance_conn_id", "on_clear")
    ui_color = "#efe6ff"

    #: The kind of request, and the names of the operator's arguments that make it up.
    request_class: ClassVar[type[GenerationRequest]] = VideoRequest
    request_fields: ClassVar[tuple[str, ...]] = ()

    #: What this process delivered.
    delivered: dict[str, Any] | None = None

    def __init__(
        self,
        *,
        seedance_conn_id: str = "seedance_default",
        deferrable: bool = True,
        poll_interval: float | None = None,
        timeout: float = 3600,
        use_callback: bool = False,
        on_uncertain_submit: str = "fail",
        on_clear: str = "reuse",
        cancel_on_kill: bool = True,
        end_from_trigger: bool = False,
        max_credits: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.seedance_conn_id = seedance_conn_id
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.use_callback = use_callback
        self.on_uncertain_submit = on_uncertain_submit
        self.on_clear = on_clear
        self.cancel_on_kill = cancel_on_kill
        self.end_from_trigger = end_from_trigger
        self.max_credits = max_credits
        #: While a worker waits itself: for which generations.
        self._waiting_for: tuple[Context, list[str]] | None = None
        if AIRFLOW_V_3_3_PLUS and getattr(self, "retry_policy", None) is None:
            self.retry_policy = SeedanceRetryPolicy()
        check_arguments(self)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Tell OpenLineage, where that is installed, which generations were made and what they cost."""
        from airflow_provider_seedance.observability import lineage

        return lineage.of_generations(self.delivered)

    def on_kill(self) -> None:
        """Cancel what nobody goes on with, when the worker is stopped while it waits."""
        if not self.cancel_on_kill or self._waiting_for is None:
            return
        # The signal may have interrupted a conversation with the supervisor, which holds its lock.
        thread = threading.Thread(target=self._cancel_if_abandoned, args=self._waiting_for, daemon=True)
        thread.start()
        thread.join(KILL_PATIENCE)

    def _cancel_if_abandoned(self, context: Context, generation_ids: list[str]) -> None:
        # Loads airflow.triggers, which a Dag file does not need.
        from airflow_provider_seedance.triggers.cancellation import is_abandoned, read_task_state

        ti = context["ti"]
        what = generation_ids[0] if len(generation_ids) == 1 else f"any of {len(generation_ids)}"
        try:
            state = read_task_state(ti, ti.get_task_states)
            if not is_abandoned(state):
                self.log.info("The task is %s: generation %s is not cancelled.", state, what)
                return
            hook = self._hook()
            for generation_id in generation_ids:
                self.log.info("%s", hook.cancel(generation_id, self.request_class.media).reason)
        except Exception as error:
            self.log.warning("Generation %s was not cancelled, it goes on and is billed: %s", what, error)

    def _hook(self) -> SeedanceHook:
        from airflow_provider_seedance.hooks.seedance import SeedanceHook

        return SeedanceHook(self.seedance_conn_id)
