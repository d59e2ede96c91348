"""The batch operator; the work of a run is in :mod:`~airflow_provider_seedance.operators.batch_run`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_seedance.operators.base import SeedanceVideoArguments, flag_problems, refuse
from airflow_provider_seedance.operators.task_xcom import reported_error

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_provider_seedance.operators.batch_run import BatchRun, BatchTiming


class SeedanceGenerateVideoBatchOperator(SeedanceVideoArguments):
    """
    Operator that generates many videos in one task instance and returns their results through XCom.

    Each request is submitted at most once, at most ``max_in_flight`` at a time; waiting holds no worker. A
    retry or a clear pays only for what has not succeeded (``on_clear="reuse"``). An item that fails, is
    refused or is uncertain never stops the others.

    The result is ``{"succeeded": [result + "key", "request" …], "failed": [{"key", "generation_id", "error", "kind",
    "credits", "cost_usd", "created_at", "completed_at", "request"} …], "not_submitted": [key …], "counts", "credits",
    "cost_usd", "manifest"}``, in request order.

    Request arguments (``model``, ``duration`` …) are the defaults of every request; see
    :class:`~airflow_provider_seedance.operators.seedance.SeedanceGenerateVideoOperator`. Further arguments are
    those of :class:`~airflow_provider_seedance.operators.base.SeedanceOperator`; of several connections each item
    goes to the first one that takes it, and its entry names that. ``timeout`` is meant for each render,
    ``max_credits`` bounds the sum, ``end_from_trigger`` is refused (the triggerer can neither submit nor write records).

    :param requests: A list of prompts, or of dicts of request arguments with an optional ``key`` and
        ``take``; the text of such a list; or the path of a JSONL or CSV file of them in object storage. A template.
        Identical requests of one list are distinct takes, which ``take`` numbers from 1.
    :param max_in_flight: Maximum number of renders in flight at a time; 100 by default.
    :param on_item_failure: ``"fail"`` fails the task when everything in flight has ended, naming the failures;
        a retry submits only those it can cure. ``"keep"`` returns successes and failures.
    :param manifest_path: Path in object storage of a JSONL file that gets a line for each render as it ends;
        the lists of the result are empty then. A template.
    :param include_requests: Whether result, manifest and Renders page hold the arguments of each request, the prompt
        among them; links without their signatures.
    :param dry_run: Return the estimated cost, and send nothing.
    """

    request_fields: ClassVar[tuple[str, ...]] = tuple(
        name for name in SeedanceVideoArguments.request_fields if name != "prompt"
    )
    template_fields: Sequence[str] = (
        "requests",
        *(name for name in SeedanceVideoArguments.template_fields if name != "prompt"),
        "manifest_path",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "requests": "json",
        **SeedanceVideoArguments.template_fields_renderers,
    }

    #: Tuning of the runs, which tests replace.
    timing: BatchTiming | None = None

    def __init__(
        self,
        *,
        requests: Any,
        max_in_flight: int | None = None,
        on_item_failure: str = "fail",
        manifest_path: Any = None,
        include_requests: bool = True,
        dry_run: bool = False,
        **kwargs: Any,
    ) -> None:
        # Before the rest, since the base class validates all arguments.
        self.requests = requests
        self.max_in_flight = max_in_flight
        self.on_item_failure = on_item_failure
        self.manifest_path = manifest_path
        self.include_requests = include_requests
        # Airflow's base operator has a method named dry_run.
        self.only_estimate = dry_run
        super().__init__(prompt="", **kwargs)  # each request has its own

    def validate_arguments(self) -> None:
        """Validate the arguments that are not templates, and those that a batch cannot have."""
        super().validate_arguments()
        problems = flag_problems(dry_run=self.only_estimate, include_requests=self.include_requests)
        limit: object = self.max_in_flight
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            problems.append(f"max_in_flight is {limit!r}; it takes a whole number of renders, at least 1")
        if self.on_item_failure not in ("fail", "keep"):
            problems.append(f"on_item_failure is {self.on_item_failure!r}; it takes 'fail' or 'keep'")
        if self.end_from_trigger is True:
            problems.append(
                "end_from_trigger cannot be used with a batch: the triggerer can neither submit waiting items nor "
                "write records and manifest"
            )
        if self.use_callback is True:
            problems.append(
                "use_callback cannot be used with a batch: every callback would start a worker for one of many "
                "renders, while one request of the triggerer reads many"
            )
        refuse(problems)

    def execute(self, context: Context) -> dict[str, Any]:
        """Submit as many items as may be in flight, and wait for them in the triggerer or here."""
        self.killed, self.cancel_abandoned = False, None  # a retry of `dag.test` has the same operator
        with reported_error(context):
            return self._run(context).run()

    def execute_complete(
        self, context: Context, event: Any = None, state: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """
        Continue after a deferral.

        :param event: Event of the trigger; a generation without a complete result in it is waited for again.
        :param state: State that the entry before handed on.
        """
        return self._run(context).run(event, state)

    def _run(self, context: Context) -> BatchRun:
        # Imported on workers only, so that a Dag file that uses the operator parses quickly.
        from airflow_provider_seedance.operators.batch_run import BatchOptions, BatchRun

        options = BatchOptions(
            requests=self.requests,
            max_in_flight=self.max_in_flight,
            keep_failures=self.on_item_failure == "keep",
            manifest_path=self.manifest_path,
            include_requests=self.include_requests,
            dry_run=self.only_estimate,
        )
        return BatchRun(self, context, options, self.timing)
