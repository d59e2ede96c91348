"""Arguments, validation and ``on_kill`` shared by the operators that generate media."""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import MAX_ARGUMENTS, Unit, VideoRequest, did_you_mean
from airflow_provider_seedance.operators.task_xcom import reported_error
from airflow_provider_seedance.policies.connection_list import connection_ids
from airflow_provider_seedance.policies.retry import SeedanceTaskMixin
from airflow_provider_seedance.version_compat import (
    AIRFLOW_V_3_3_PLUS,
    TaskDeferralError,
    TaskDeferralTimeout,
    is_resumed,
)

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_provider_seedance.generations import GenerationRequest

#: Upper limit of arguments in seconds: a longer time is a mistake, and dates overflow.
MAX_ARGUMENT_SECONDS = 366 * 86400.0

#: Limit of the wait for the rate limit of a service before a submission: a week.
MAX_QUOTA_WAIT_SECONDS = 7 * 86400.0

#: Limit of the wait for a budget to renew: the months between may be full, too.
MAX_BUDGET_WAIT_SECONDS = MAX_ARGUMENT_SECONDS

#: Timeout of a cancellation by a worker that is being stopped.
KILL_TIMEOUT_SECONDS = 10.0


class SeedanceOperator(SeedanceTaskMixin, BaseOperator):
    """
    Base of the operators that generate media at the service of a connection.

    :param seedance_conn_id: The Airflow connection, of type ``seedance``, or a list of connections in order: the next
        one is tried only if it is certain that the one before took nothing. A template.
    :param deferrable: Whether to wait in the triggerer, without a worker slot. Otherwise the worker waits.
    :param poll_interval: Seconds between status requests; ``None`` chooses adaptively.
    :param timeout: Seconds to wait, by the wall clock, from submission or the latest re-attachment. At the
        timeout the task fails, the render goes on and is billed, and a retry waits for the same render.
    :param use_callback: Let the service call Airflow when the render ends, so that the task resumes at once. Needs
        ``deferrable=True``, ``callback_base_url`` and ``callback_secret`` in the connection, and a service with
        callbacks; refused for batches.
    :param on_uncertain_submit: Reaction when it is unknown whether the service accepted a submission:
        ``"fail"`` for good, or ``"resubmit"`` at the risk of paying twice.
    :param on_clear: Behaviour of a cleared task whose generation had succeeded: ``"reuse"`` delivers it,
        ``"new"`` makes (and pays for) another take. A template.
    :param cancel_on_kill: Whether to cancel the generation when a person ends the task, where the
        service supports it and only while the generation is queued.
    :param end_from_trigger: Whether the triggerer ends a successful task itself, which saves the second
        worker start. Needs Airflow 3.3; no callbacks, listeners, asset events or mapping over the result.
    :param max_credits: Maximum credits of the task instance, over all its tries and clears (below Airflow 3.3 without a
        ledger, of one try). Refused where the price of a render is not known.
    :param max_cost_usd: The same in US dollars.
    :param on_budget: Reaction when the render would exceed a budget of the connection: ``"fail"`` for good, or
        ``"wait"`` until the budget renews. That needs ``deferrable=True``; from Airflow 3.4 on a single render is also
        rescheduled.
    :param reuse: Scope of the search for a generation of the same request before it is submitted: ``"task"`` in this task
        instance only, ``"dag"`` in all runs of the Dag, ``"any"`` in all Dags. Other than ``"task"`` needs a ledger.
    """

    template_fields: Sequence[str] = ("seedance_conn_id", "on_clear")
    #: Whether a retry policy can run the task again without using a retry.
    can_reschedule: ClassVar[bool] = False

    #: The kind of request, and the names of the arguments that make it up.
    request_class: ClassVar[type[GenerationRequest]] = VideoRequest
    request_fields: ClassVar[tuple[str, ...]] = ()

    #: Result of this process, for OpenLineage, and its URL for the link: empty without output, ``None`` before the run.
    delivered: dict[str, Any] | None = None
    output_url: str | None = None

    def __init__(
        self,
        *,
        seedance_conn_id: str | Sequence[str] = "seedance_default",
        deferrable: bool = True,
        poll_interval: float | None = None,
        timeout: float = 3600,
        use_callback: bool = False,
        on_uncertain_submit: str = "fail",
        on_clear: str = "reuse",
        cancel_on_kill: bool = True,
        end_from_trigger: bool = False,
        max_credits: float | None = None,
        max_cost_usd: float | None = None,
        on_budget: str = "fail",
        reuse: str = "task",
        **kwargs: Any,
    ) -> None:
        try:
            super().__init__(**kwargs)
        except TypeError as error:
            # Airflow names the argument that does not exist, but none that it resembles.
            if question := did_you_mean(
                kwargs.keys() - _argument_names(type(self)), _argument_names(type(self))
            ):
                raise TypeError(f"{error}{question}") from None
            raise
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
        self.max_cost_usd = max_cost_usd
        self.on_budget = on_budget
        self.reuse = reuse
        #: Cancels the generations that this worker waits for, unless another try continues with them.
        self.cancel_abandoned: Callable[[], None] | None = None
        #: Whether Airflow has called :meth:`on_kill`; the worker may go on for a minute.
        self.killed = False
        self.set_retry_policy()
        self.validate_arguments()

    @property
    def limits(self) -> dict[Unit, float]:
        """The limits of the cost of a task instance that are set."""
        given: dict[Unit, Any] = {unit: getattr(self, name) for unit, name in MAX_ARGUMENTS.items()}
        return {unit: limit for unit, limit in given.items() if limit is not None}

    def request_arguments(self, context: Context) -> dict[str, Any]:
        """Return the rendered arguments of the request."""
        return {name: value for name in self.request_fields if (value := getattr(self, name)) is not None}

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume; a trigger that timed out or broke loses no finished render."""
        with reported_error(context):
            try:
                return super().resume_execution(next_method, next_kwargs, context)
            except (TaskDeferralTimeout, TaskDeferralError) as error:
                return self._run(context).recover(error)

    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], context: Context, *arguments: Any, **kwargs: Any
    ) -> None:
        """Render; a template that fails after a deferral must not have a retry pay again (below Airflow 3.3)."""
        try:
            super()._do_render_template_fields(parent, template_fields, context, *arguments, **kwargs)
        except Exception as error:
            if parent is self and is_resumed(context["ti"]):
                self._run(context).fail_resume(error)
            raise

    def _run(self, context: Context) -> Any:
        """Return the run of this entry into the task."""
        raise NotImplementedError

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Report the generations and their cost to OpenLineage, where that is installed."""
        from airflow_provider_seedance.observability import lineage  # on workers only

        return lineage.of_generations(self.delivered)

    def on_kill(self) -> None:
        """Cancel abandoned generations when the worker is stopped."""
        self.killed = True
        if self.cancel_on_kill and self.cancel_abandoned is not None:
            # The signal may have interrupted a call to the supervisor, which still holds its lock.
            thread = threading.Thread(target=self.cancel_abandoned, daemon=True)
            thread.start()
            thread.join(KILL_TIMEOUT_SECONDS)
            if thread.is_alive():
                text = "Not all generations could be cancelled in %.0f s; the others may go on and be billed."
                self.log.warning(text, KILL_TIMEOUT_SECONDS)

    def cancel_when_killed(self, run: Any, billed_to: Mapping[str, Sequence[str]]) -> None:
        """Register generations for :meth:`on_kill`, or cancel them now if Airflow has called it already: it does so once."""
        media = self.request_class.media
        self.cancel_abandoned = lambda: run.hooks.cancel(run.context["ti"], billed_to, media, run.log)
        if self.killed:
            self.on_kill()

    # ------------------------------------------------------------------ validation

    def validate_arguments(self) -> None:
        """
        Validate the arguments that are not templates.

        :raises SeedanceConfigurationError: with every problem in one message; nothing was sent.
        """
        problems = []
        if isinstance(self.seedance_conn_id, (list, tuple)):  # else it may be known only when the task runs
            connection_ids(self.seedance_conn_id)
        if self.on_uncertain_submit not in ("fail", "resubmit"):
            problems.append(
                f"on_uncertain_submit is {self.on_uncertain_submit!r}; it takes 'fail' or 'resubmit'"
            )
        if self.on_budget not in ("fail", "wait"):
            problems.append(f"on_budget is {self.on_budget!r}; it takes 'fail' or 'wait'")
        if self.reuse not in ("task", "dag", "any"):
            problems.append(f"reuse is {self.reuse!r}; it takes 'task', 'dag' or 'any'")
        for name in ("timeout", "poll_interval"):
            value = getattr(self, name)
            is_seconds = _is_finite(value) and 0 < value <= MAX_ARGUMENT_SECONDS
            if not (value is None and name == "poll_interval") and not is_seconds:
                problems.append(f"{name} is {value!r}; it takes a positive number of seconds, at most a year")
        problems += flag_problems(
            deferrable=self.deferrable,
            use_callback=self.use_callback,
            cancel_on_kill=self.cancel_on_kill,
            end_from_trigger=self.end_from_trigger,
        )
        problems += [
            f"{MAX_ARGUMENTS[unit]} is {limit!r}; it takes a number, at least 0"
            for unit, limit in self.limits.items()
            if not (_is_finite(limit) and limit >= 0)
        ]
        if self.on_budget == "wait" and self.deferrable is False and not self.can_reschedule:
            problems.append("on_budget='wait' needs deferrable=True: a budget may renew in a month")
        if self.use_callback is True and self.deferrable is False:
            problems.append(
                "use_callback needs deferrable=True: a callback cannot resume a task that waits on a worker"
            )
        if self.end_from_trigger is True:
            problems += self._end_from_trigger_problems()
        refuse(problems)

    def validate_rendered(self) -> None:
        """
        Validate what is known only when the task runs.

        :raises SeedanceConfigurationError: nothing was sent.
        """
        if self.on_clear not in ("reuse", "new"):
            refuse([f"on_clear is {self.on_clear!r}; it takes 'reuse' or 'new'"])
        if self.end_from_trigger and self.get_dag() and any(self.iter_mapped_dependants()):
            refuse(
                [
                    "end_from_trigger cannot be used while another task is mapped over the result: "
                    "Airflow would not learn its length"
                ]
            )

    def _end_from_trigger_problems(self) -> list[str]:
        reasons = {
            "needs Airflow 3.3: before it, a trigger cannot write XCom": not AIRFLOW_V_3_3_PLUS,
            "needs deferrable=True: there is no trigger otherwise": not self.deferrable,
            "cannot be used with outlets: no asset event would be sent": self.outlets,
            "cannot be used with on_success_callback: it would not be called": self.on_success_callback,
            "cannot be used with do_xcom_push=False or multiple_outputs=True": not self.do_xcom_push
            or self.multiple_outputs,
        }
        return [f"end_from_trigger {reason}" for reason, applies in reasons.items() if applies]


class SeedanceVideoArguments(SeedanceOperator):
    """
    The request arguments of videos, which the single and the batch operator share.

    They are documented in :class:`~airflow_provider_seedance.operators.seedance.SeedanceGenerateVideoOperator`.
    """

    request_class: ClassVar[type[GenerationRequest]] = VideoRequest
    request_fields: ClassVar[tuple[str, ...]] = tuple(item.name for item in fields(VideoRequest))
    template_fields: Sequence[str] = (*request_fields, *SeedanceOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {"extra_params": "json", "images": "json"}

    def __init__(
        self,
        *,
        prompt: str,
        model: str | None = None,
        duration: int | str | None = None,
        resolution: str | None = None,
        aspect_ratio: str | None = None,
        fps: int | str | None = None,
        images: Any = None,
        seed: int | str | None = None,
        generate_audio: bool | str | None = None,
        fixed_lens: bool | str | None = None,
        watermark: bool | str | None = None,
        return_last_frame: bool | str | None = None,
        draft: bool | str | None = None,
        service_tier: str | None = None,
        extra_params: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.prompt = prompt
        self.model = model
        self.duration = duration
        self.resolution = resolution
        self.aspect_ratio = aspect_ratio
        self.fps = fps
        self.images = images
        self.seed = seed
        self.generate_audio = generate_audio
        self.fixed_lens = fixed_lens
        self.watermark = watermark
        self.return_last_frame = return_last_frame
        self.draft = draft
        self.service_tier = service_tier
        self.extra_params = extra_params


def _argument_names(operator_class: type) -> set[str]:
    """Return the arguments of an operator class and of its bases."""
    methods = [vars(cls)["__init__"] for cls in operator_class.__mro__ if "__init__" in vars(cls)]
    return {name for method in methods for name in inspect.signature(method).parameters}


def max_wait(error: errors.SeedanceError | None) -> float:
    """Return the limit of the wait, in seconds, after which a rejected submission is repeated no more."""
    return (
        MAX_BUDGET_WAIT_SECONDS if isinstance(error, errors.SeedanceBudgetError) else MAX_QUOTA_WAIT_SECONDS
    )


def refuse(problems: Iterable[str]) -> None:
    """
    Raise problems of arguments, if there are any, in one message.

    :raises SeedanceConfigurationError: nothing was sent.
    """
    if message := "; ".join(problems):
        raise errors.SeedanceConfigurationError(f"{message}. Nothing was sent.")


def flag_problems(**flags: object) -> list[str]:
    """Return the problems of arguments that take ``True`` or ``False``."""
    return [
        f"{name} is {value!r}; it takes True or False"
        for name, value in flags.items()
        if not isinstance(value, bool)
    ]


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
