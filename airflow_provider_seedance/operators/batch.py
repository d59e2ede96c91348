"""
The batch operator: hundreds of renders in one task instance.

Each entry of a worker is short: it takes in what has ended, submits as much as may be in flight, and defers
until enough of that has ended. What every entry decides is in
:mod:`airflow_provider_seedance.batch.batch`; here are the order of an entry and its two ends, the
deferral and the result.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch.resume_state import (
    ResumeState,
    StopReason,
    halted,
    read_course,
    refused,
    stopped,
)
from airflow_provider_seedance.operators import pace
from airflow_provider_seedance.operators.base import LONGEST_QUOTA_WAIT, SeedanceOperator
from airflow_provider_seedance.operators.checks import check_arguments, check_batch, check_rendered
from airflow_provider_seedance.version_compat import TaskDeferralError, TaskDeferralTimeout

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_provider_seedance.batch.batch import Batch
    from airflow_provider_seedance.batch.items import BatchItem
    from airflow_provider_seedance.batch.requests import Item
    from airflow_provider_seedance.hooks.seedance import SeedanceHook
    from airflow_provider_seedance.settings import Settings
    from airflow_provider_seedance.submission.store import RecordStore
    from airflow_provider_seedance.triggers.seedance import SeedanceBatchTrigger


class SeedanceGenerateVideoBatchOperator(SeedanceOperator):
    """
    Generates many videos in one task instance and returns their results through XCom.

    Each request is submitted at most once, at most ``max_in_flight`` at a time; waiting holds no worker. A
    retry or a clear pays only for what has not succeeded (``on_clear="reuse"``). An item that fails, is
    refused or is uncertain never stops the others.

    The result is ``{"succeeded": [result + "key" …], "failed": [{"key", "generation_id", "error", "kind"} …],
    "not_submitted": [key …], "counts", "credits", "cost_usd", "manifest"}``, in request order.

    Further arguments are those of :class:`~airflow_provider_seedance.operators.base.SeedanceOperator`;
    ``timeout`` is meant for each render, ``max_credits`` bounds the sum, ``end_from_trigger`` is refused (the
    triggerer can neither submit nor write records).

    :param requests: A list of prompts, or of dicts of request arguments with an optional ``key``; the text of
        such a list; or the path of a JSONL or CSV file of them in object storage. A template. Identical
        requests of one list are distinct takes.
    :param max_in_flight: Renders that are submitted and have not ended, at a time; 100 by default.
    :param on_item_failure: ``"fail"`` fails the task when everything in flight has ended, naming the failures;
        a retry submits only those it can cure. ``"keep"`` returns successes and failures.
    :param manifest_path: Path in object storage of a JSONL file that gets a line for each render as it ends;
        the lists of the result are empty then. A template.
    :param dry_run: Return what it would cost, and send nothing.
    :param model: As all that follow the default of every request; see
        :class:`~airflow_provider_seedance.operators.seedance.SeedanceGenerateVideoOperator`.
    """

    request_fields: ClassVar[tuple[str, ...]] = (
        "model",
        "duration",
        "resolution",
        "aspect_ratio",
        "fps",
        "images",
        "seed",
        "generate_audio",
        "fixed_lens",
        "extra_params",
    )
    template_fields: Sequence[str] = (
        "requests",
        *request_fields,
        "manifest_path",
        *SeedanceOperator.template_fields,
    )
    template_fields_renderers = {"requests": "json", "extra_params": "json", "images": "json"}

    def __init__(
        self,
        *,
        requests: Any,
        model: str | None = None,
        duration: int | str | None = None,
        resolution: str | None = None,
        aspect_ratio: str | None = None,
        fps: int | str | None = None,
        images: Any = None,
        seed: int | str | None = None,
        generate_audio: bool | str | None = None,
        fixed_lens: bool | str | None = None,
        extra_params: dict[str, Any] | None = None,
        max_in_flight: int | None = None,
        on_item_failure: str = "fail",
        manifest_path: Any = None,
        dry_run: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.requests = requests
        self.model = model
        self.duration = duration
        self.resolution = resolution
        self.aspect_ratio = aspect_ratio
        self.fps = fps
        self.images = images
        self.seed = seed
        self.generate_audio = generate_audio
        self.fixed_lens = fixed_lens
        self.extra_params = extra_params
        self.max_in_flight = max_in_flight
        self.on_item_failure = on_item_failure
        self.manifest_path = manifest_path
        # Airflow's own operators have a method of this name.
        self.only_estimate = dry_run
        check_batch(self)

    # ------------------------------------------------------------------ entering

    def execute(self, context: Context) -> dict[str, Any]:
        """Submit what may be in flight, and wait for it in the triggerer or here."""
        return self._run(context, ResumeState(entered_at=time.time()), None)

    def execute_complete(
        self, context: Context, event: Any = None, course: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """
        Go on after a deferral.

        :param event: Of the trigger; what is not a complete end is waited for again.
        :param course: What the entry before handed on.
        """
        return self._run(context, read_course(course), event)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume; a trigger that timed out or broke costs nobody a finished render."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralTimeout, TaskDeferralError) as error:
            # Airflow tells what went wrong in the place of what the deferral carried.
            course = (next_kwargs or {}).get("course")
            recorded = course is not None or context.get("task_state_store") is not None
            if not recorded and self.on_uncertain_submit != "resubmit":
                from airflow_provider_seedance.submission.decisions import unrecorded_error

                raise unrecorded_error(error, ()) from error
            if isinstance(error, TaskDeferralTimeout):
                # The deadline of every render is over; each is read once more, or waited for anew.
                return self.execute_complete(context, None, course)
            raise errors.SeedanceServerError(
                f"The trigger that waited for the renders of this campaign broke ({error}). They go on and are "
                "billed; a retry waits for them again and does not submit them."
            ) from error

    def _run(self, context: Context, course: ResumeState, event: Any) -> dict[str, Any]:
        from airflow_provider_seedance.batch.requests import read_requests
        from airflow_provider_seedance.client.api_client import Client
        from airflow_provider_seedance.ledger import open_store
        from airflow_provider_seedance.polling.shared_quota import SharedQuota, SharedQuotaObserver
        from airflow_provider_seedance.submission.decisions import unrecorded_error
        from airflow_provider_seedance.triggers.seedance import read_batch_event

        check_arguments(self)
        check_batch(self)
        check_rendered(self)
        hook = self._hook()
        defaults = {name: getattr(self, name) for name in self.request_fields}
        if self._manifest is not None and str(self._manifest).strip() == str(self.requests).strip():
            raise errors.SeedanceConfigurationError(
                "manifest_path names the file of the requests, which the manifest would replace. Nothing was sent."
            )
        items = read_requests(self.requests, defaults)
        if self.only_estimate:
            return self._estimate(hook.settings, items)
        renders = self._judge(hook.settings, items, context)
        ledger = open_store(context)
        ledger.load(course.carried)
        note = SharedQuota(hook.settings.identity)
        ended, unknown, overdue, turn = read_batch_event(event)
        with Client(hook.settings, observer=SharedQuotaObserver(note)) as client:
            campaign = self._campaign(
                client, ledger, renders, course, context, note if self.deferrable else None, allowed=int(turn)
            )
            try:
                campaign.recall()
                campaign.take_in(ended, unknown, {*overdue, *campaign.overdue(time.time())})
                return self._go_on(context, hook, campaign, course, turn=turn)
            except (Exception, AirflowTaskTimeout) as error:
                if self._may_be_retried(campaign):
                    raise
                raise unrecorded_error(error, campaign.paid()) from error

    def _go_on(
        self, context: Context, hook: SeedanceHook, campaign: Batch, course: ResumeState, *, turn: bool
    ) -> dict[str, Any]:
        from airflow_provider_seedance.batch.items import Totals

        first = course.ended_before is None
        if first:
            before = Totals.of(campaign.renders)
            course = replace(course, ended_before=before.succeeded + before.failed)
        progress = pace.every(pace.PROGRESS, partial(self._tell, campaign, course))
        while True:
            self._recover(campaign)
            # What has ended is on file before anything else can go wrong; and a manifest that cannot be written is
            # told before anything is paid for.
            self._write_manifest(campaign, must=first)
            first = False
            stop = stopped(course, time.time(), turn=turn) or campaign.submit(progress)
            course = refused(stop, halted(stop, course), time.time())
            self._give_up(campaign, stop, course)
            if self._is_over(campaign, stop):
                return self._finish(context, campaign, stop)
            self._tell(campaign, course)
            trigger = self._trigger(campaign, stop, course)
            if self.deferrable:
                self._defer(campaign, trigger, course)
            turn = self._wait_here(context, hook, campaign, trigger)

    # ------------------------------------------------------------------ the requests

    def _judge(self, settings: Settings, items: Iterable[Item], context: Context) -> list[BatchItem]:
        """
        Judge every request, and give each its record's name; nothing is sent.

        :raises SeedanceRequestError: with ``on_item_failure="fail"``, naming what the service does not take.
        """
        from airflow_provider_seedance.apis.validation import prepare_request
        from airflow_provider_seedance.batch.items import BatchItem, Phase, failure_of
        from airflow_provider_seedance.batch.results import refusal_of
        from airflow_provider_seedance.generations import VideoRequest
        from airflow_provider_seedance.submission.records import Attempt, Fingerprint, record_keys

        renders, told = [], Counter[str]()
        for item in items:
            render = BatchItem(item=item)
            renders.append(render)
            try:
                render.prepared = prepared = prepare_request(
                    settings, VideoRequest.from_arguments(item.arguments)
                )
            except (errors.SeedanceRequestError, TypeError, ValueError) as problem:
                error = problem if isinstance(problem, errors.SeedanceError) else _unusable(problem)
                render.phase, render.failure = Phase.FAILED, failure_of(error)
                continue
            told.update([*(f"Default applied: {line}" for line in prepared.defaults), *prepared.warnings])
            fingerprint = Fingerprint.of(
                prepared.as_requested, api=settings.api.name, base_url=settings.base_url
            )
            render.attempt = Attempt.of(context["ti"], fingerprint)
        for line, count in told.most_common(20):
            self.log.info("%s (%d requests)", line, count)
        judged = [render for render in renders if render.attempt]
        names = record_keys(render.attempt.fingerprint for render in judged if render.attempt)
        for render, name in zip(judged, names, strict=True):
            render.name = name
        if why := refusal_of(
            settings.api, renders, keep=self.on_item_failure == "keep", max_credits=self.max_credits
        ):
            raise why
        return renders

    def _estimate(self, settings: Settings, items: Sequence[Item]) -> dict[str, Any]:
        from airflow_provider_seedance.batch.estimates import estimate_items
        from airflow_provider_seedance.batch.results import estimated

        found = estimate_items(settings, items)
        self.log.info("dry_run: nothing was sent. By the published prices it would cost\n%s", found.table())
        return estimated(items, found)

    def _campaign(
        self,
        client: Any,
        ledger: RecordStore,
        renders: Any,
        course: ResumeState,
        context: Context,
        note: Any,
        *,
        allowed: int,
    ) -> Batch:
        from airflow_provider_seedance.batch.batch import Batch
        from airflow_provider_seedance.polling.wait_state import QUOTA_PATIENCE, WORKER_QUOTA_PATIENCE
        from airflow_provider_seedance.submission.records import Attempt
        from airflow_provider_seedance.submission.submitter import SubmissionPolicy

        return Batch(
            client=client,
            ledger=ledger,
            renders=renders,
            policy=SubmissionPolicy(
                on_uncertain_submit=self.on_uncertain_submit,  # type: ignore[arg-type]
                on_clear=self.on_clear,  # type: ignore[arg-type]
            ),
            max_in_flight=self.max_in_flight or pace.IN_FLIGHT,
            max_credits=self.max_credits,
            timeout=self.timeout,
            entered_at=course.entered_at,
            note=note,
            attempt=Attempt.of(context["ti"]),
            allowed=allowed,
            last_submission_uncertain=course.refused is not None
            and course.refused[0] == "SeedanceServerError",
            quota_patience=QUOTA_PATIENCE if self.deferrable else WORKER_QUOTA_PATIENCE,
        )

    # ------------------------------------------------------------------ waiting

    def _is_over(self, campaign: Batch, stop: StopReason) -> bool:
        from airflow_provider_seedance.batch.items import Phase

        if campaign.of(Phase.IN_FLIGHT, Phase.UNREAD):
            return False
        return stop.why not in ("quota", "unreachable", "put_off", "full")

    def _give_up(self, campaign: Batch, stop: StopReason, course: ResumeState) -> None:
        """
        Fail where it is not worth waiting for the service any longer.

        :raises SeedanceError: what it said.
        """
        from airflow_provider_seedance.batch.items import Phase

        if course.not_before is None or campaign.of(Phase.IN_FLIGHT):
            return
        assert stop.error is not None
        too_long = course.not_before - (course.since or course.not_before) > LONGEST_QUOTA_WAIT
        unreachable = stop.why == "unreachable" and course.refusals > pace.MOST_UNREACHABLE
        if too_long or unreachable or not self.deferrable:
            raise stop.error

    def _trigger(self, campaign: Batch, stop: StopReason, course: ResumeState) -> SeedanceBatchTrigger:
        from airflow_provider_seedance.batch.items import Phase
        from airflow_provider_seedance.triggers.seedance import SeedanceBatchTrigger

        awaited = campaign.of(Phase.IN_FLIGHT)
        refill = stop.why == "full"
        linger = pace.LINGER_REFILL if refill else pace.LINGER_MANIFEST if self._manifest else pace.LINGER
        if not awaited and course.not_before is None:
            # What only has to be read again is read at the end, in one wait: its results have no other place
            # than the event of the trigger.
            awaited, linger = campaign.unread(), pace.LINGER_UNREAD
        result_defaults: list[dict[str, Any]] = []
        if stop.postponed and course.not_before is not None:
            self.log.warning(
                "%s %d renders wait to be submitted, for %.0f s at least.",
                stop.postponed.error.message,
                len(campaign.of(Phase.WAITING)),
                course.not_before - time.time(),
            )
        return SeedanceBatchTrigger(
            seedance_conn_id=self.seedance_conn_id,
            generations=[_awaited(render, result_defaults) for render in awaited],
            result_defaults=result_defaults,
            enough=max(1, math.ceil(campaign.max_in_flight * pace.REFILL))
            if refill
            else max(1, len(awaited)),
            linger=linger,
            moment=course.not_before,
            poll_interval=self.poll_interval,
            cancel_on_kill=self.cancel_on_kill,
        )

    def _defer(self, campaign: Batch, trigger: SeedanceBatchTrigger, course: ResumeState) -> NoReturn:
        from airflow_provider_seedance.polling.wait_state import deferral_timeout

        deadlines = [generation[1] for generation in trigger.generations]
        deadlines += [trigger.moment + LONGEST_QUOTA_WAIT] if trigger.moment is not None else []
        course = replace(course, carried=campaign.ledger.for_deferral())
        self.log.info("Deferring until %s has ended.", trigger._what if deadlines else "nothing")
        self.defer(
            trigger=trigger,
            method_name="execute_complete",
            kwargs={"course": asdict(course)},
            timeout=deferral_timeout(max(deadlines), time.time()),
        )

    def _wait_here(
        self, context: Context, hook: SeedanceHook, campaign: Batch, trigger: SeedanceBatchTrigger
    ) -> bool:
        async def look_up(_: str) -> Settings:
            return hook.settings

        self._waiting_for = (context, [generation[0] for generation in trigger.generations])
        try:
            ends = asyncio.run(trigger.wait(look_up, not_before=0.0, quota=campaign.quota_patience))
        finally:
            self._waiting_for = None
        campaign.take_in(ends.ended, ends.unknown, ends.overdue)
        return ends.turn

    # ------------------------------------------------------------------ manifest and progress

    @property
    def _manifest(self) -> Any:
        return self.manifest_path if str(self.manifest_path or "None").strip() not in ("", "None") else None

    def _recover(self, campaign: Batch) -> None:
        """Take results that the records had no room for from the manifest."""
        from airflow_provider_seedance.batch.items import Phase
        from airflow_provider_seedance.batch.manifest import read_manifest

        if self._manifest is None or not campaign.of(Phase.UNREAD):
            return
        try:
            campaign.recover(read_manifest(self._manifest))
        except errors.SeedanceError as error:
            self.log.info("The results are asked for again: %s", error.message)

    def _write_manifest(self, campaign: Batch, *, final: bool = False, must: bool = False) -> None:
        from airflow_provider_seedance.batch.items import Phase
        from airflow_provider_seedance.batch.manifest import write_manifest

        if self._manifest is None:
            return
        phases = (Phase.SUCCEEDED, Phase.FAILED, *((Phase.WAITING,) if final else ()))
        lines = [render.line() for render in campaign.of(*phases)]
        try:
            write_manifest(self._manifest, lines)
        except errors.SeedanceError as error:
            if must:
                raise
            self.log.warning("%s It is written again when more has ended.", error.message)

    def _tell(self, campaign: Batch, course: ResumeState) -> None:
        from airflow_provider_seedance.batch.items import Totals

        seconds = time.time() - course.entered_at
        totals = Totals.of(campaign.renders)
        self.log.info(
            "%s.", totals.progress(seconds=seconds, ended_before=course.ended_before or 0).capitalize()
        )

    # ------------------------------------------------------------------ the end

    def _finish(self, context: Context, campaign: Batch, stop: StopReason) -> dict[str, Any]:
        from airflow_provider_seedance.batch.items import Totals
        from airflow_provider_seedance.batch.results import error_of, result_of

        totals = Totals.of(campaign.renders)
        self._write_manifest(campaign, final=True, must=True)
        self.delivered = {
            **result_of(campaign.renders, None),
            "manifest": self._manifest and str(self._manifest),
        }
        error = error_of(
            campaign.renders,
            stopped=stop.error,
            keep=self.on_item_failure == "keep",
            max_credits=self.max_credits,
        )
        if error is not None:
            raise error
        if self._manifest is None and totals.total > pace.LARGE:
            self.log.info("The result goes into XCom whole; manifest_path would keep it small.")
        self.log.info("%s", totals.summary())
        return result_of(campaign.renders, self._manifest)

    def _may_be_retried(self, campaign: Batch) -> bool:
        """Whether a retry would find the paid renders again (not below Airflow 3.3), or may pay twice."""
        return campaign.ledger.durable or self.on_uncertain_submit == "resubmit" or not campaign.paid()


def _awaited(render: BatchItem, result_defaults: list[dict[str, Any]]) -> list[Any]:
    known = render.prepared.result_defaults.as_dict() if render.prepared else {}
    if known not in result_defaults:
        result_defaults.append(known)
    number = result_defaults.index(known)
    return [render.generation_id, render.deadline, render.submitted_at, render.estimated_wait, number]


def _unusable(error: Exception) -> errors.SeedanceRequestError:
    return errors.SeedanceRequestError(f"An argument is of a type that no service takes ({error}).")
