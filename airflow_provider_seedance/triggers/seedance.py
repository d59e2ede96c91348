"""
Triggers: waits for generations, for the quota, and for callbacks.

Trigger kwargs are shown and logged by Airflow, so they hold no secret and no prompt.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_provider_seedance.generations import GenerationStatus, Media, counted
from airflow_provider_seedance.hooks.seedance import look_up_settings
from airflow_provider_seedance.ledger import record_end
from airflow_provider_seedance.links.seedance import OUTPUT_LINK_KEY
from airflow_provider_seedance.polling.connections import GetSettings
from airflow_provider_seedance.polling.duration_model import kind_of
from airflow_provider_seedance.polling.hub import wait_for_generation, wait_for_submission
from airflow_provider_seedance.polling.shared_quota import LEDGER_THREADS
from airflow_provider_seedance.polling.wait_many import EndReport, WaitResult, wait_for_many
from airflow_provider_seedance.polling.wait_state import WaitState, WaitStep, default_timing
from airflow_provider_seedance.triggers.cancellation import CancellingTrigger
from airflow_provider_seedance.triggers.events import GenerationEvent, make_batch_event, make_event
from airflow_provider_seedance.triggers.xcom import EndsReporter, ProgressReporter, push

#: Fields of a pending generation in the kwargs of :class:`SeedanceBatchTrigger`.
_PENDING_FIELDS = ("generation_id", "deadline", "submitted_at", "estimated_wait")

#: Columns of :class:`SeedanceBatchTrigger`, in the order of its rows.
_COLUMNS = ("seedance_conn_id", "result_defaults", *_PENDING_FIELDS)


@dataclass(kw_only=True, eq=False, repr=False)
class _SeedanceTrigger(BaseTrigger):
    """Trigger whose kwargs are its fields."""

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the kwargs that Airflow stores."""
        kwargs = {argument.name: getattr(self, argument.name) for argument in fields(self)}
        return f"{type(self).__module__}.{type(self).__qualname__}", kwargs

    async def cleanup(self) -> None:
        """Drop the frames of a kill: Airflow keeps its error until all triggers are killed, with 16 objects for each."""
        error, task = sys.exception(), asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None:
            task.add_done_callback(lambda _: error.with_traceback(None))


@dataclass(kw_only=True, eq=False, repr=False)
class SeedanceGenerationTrigger(_SeedanceTrigger, CancellingTrigger):
    """
    Trigger that waits until a generation has ended.

    :param seedance_conn_id: The Airflow connection.
    :param generation_id: The generation.
    :param media: ``video`` or ``image``.
    :param deadline: Seconds since 1970 at which the timeout passes; it does not move with restarts.
    :param poll_interval: Seconds between status requests; ``None`` is adaptive.
    :param estimated_wait: Seconds the service expected the generation to take.
    :param submitted_at: Seconds since 1970 of the submission, if known.
    :param cancel_on_kill: Whether to cancel when a user ends the task.
    :param end_from_trigger: Whether to end a successful task without a worker.
    :param result_defaults: Values of the result by the request.
    :param durations: Seconds that the latest such generations took, from the ledger; oldest first.
    :param callback_nonce: Nonce of the callback for this submission, if the service sends one.
    :param callback_received: A callback already arrived before the generation ended, so poll at the normal rate.
    """

    seedance_conn_id: str
    generation_id: str
    media: Media = "video"
    deadline: float
    poll_interval: float | None = None
    estimated_wait: float | None = None
    submitted_at: float | None = None
    cancel_on_kill: bool = True
    end_from_trigger: bool = False
    result_defaults: dict[str, Any] = field(default_factory=dict)
    durations: list[float] = field(default_factory=list)
    callback_nonce: str | None = None
    callback_received: bool = False

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait in the hub of the connection, then fire once."""
        min_seconds = default_timing().min_trigger_time
        state = WaitState(
            generation_id=self.generation_id,
            media=self.media,
            deadline=self.deadline,
            submitted_at=self.submitted_at,
            submitted_at_known=self.submitted_at is not None,
            estimated_wait=self.estimated_wait,
            poll_interval=self.poll_interval,
            expects_callback=self.callback_nonce is not None and not self.callback_received,
            result_defaults=self.result_defaults,
            durations=tuple(self.durations),
        )
        now = asyncio.get_running_loop().time
        started_at = now()
        step = await wait_for_generation(
            state,
            self.seedance_conn_id,
            look_up_settings,
            not_before=min_seconds,
            report=ProgressReporter(self.task_instance),
        )
        await asyncio.sleep(max(0.0, started_at + min_seconds - now()))
        yield await self._end(step)

    @property
    def billed_to(self) -> dict[str, list[str]]:
        """The id of the generation by its connection."""
        return {self.seedance_conn_id: [self.generation_id]}

    async def _end(self, step: WaitStep) -> TriggerEvent:
        generation = step.state.last
        if step.kind != "ended" or generation is None:
            return GenerationEvent({"generation_id": self.generation_id, "outcome": step.kind})
        generation = generation.with_defaults(self.result_defaults)
        if self.end_from_trigger and generation.status is GenerationStatus.SUCCEEDED and generation.urls:
            # The XComs that a worker would write; Airflow ends the task.
            await push(self.task_instance, "return_value", generation.result())
            await push(self.task_instance, OUTPUT_LINK_KEY, generation.url or "")
            await sync_to_async(record_end, thread_sensitive=False, executor=LEDGER_THREADS)(generation)
            return TaskSuccessEvent()
        return GenerationEvent(make_event(generation))


@dataclass(kw_only=True, eq=False, repr=False)
class SeedanceBatchTrigger(_SeedanceTrigger, CancellingTrigger):
    """
    Trigger that waits for the generations of a batch task, until enough of them have ended for a worker to go on.

    :param generations: A list for each field of the pending generations (``seedance_conn_id``, ``generation_id``,
        ``deadline``, ``submitted_at``, ``estimated_wait``), and for each the index of its ``result_defaults``.
    :param result_defaults: Values of the results by the requests; few, because most requests of a batch are alike.
    :param durations: Seconds that the latest generations took, by connection and kind, from the ledger; oldest first.
    :param min_ended: Number of ended generations that resume the task.
    :param max_linger: Seconds after the first end at which fewer resume it, too.
    :param submit_conn_id: The Airflow connection at which a submission waits.
    :param submit_not_before: Seconds since 1970 from which a submission waits for the quota; if granted, it resumes
        the task.
    :param poll_interval: Seconds between status requests; ``None`` is adaptive.
    :param cancel_on_kill: Whether to cancel when a user ends the task.
    """

    generations: dict[str, list[Any]]
    result_defaults: list[dict[str, Any]]
    min_ended: int
    max_linger: float
    submit_conn_id: str | None = None
    submit_not_before: float | None = None
    poll_interval: float | None = None
    cancel_on_kill: bool = True
    durations: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    @classmethod
    def for_waits(cls, pending: Sequence[tuple[str, WaitState]], **kwargs: Any) -> Self:
        """Return a trigger for waits at their connections; ``kwargs`` are the other arguments."""
        result_defaults: list[dict[str, Any]] = []
        indexes = []
        for _, state in pending:
            if state.result_defaults not in result_defaults:
                result_defaults.append(dict(state.result_defaults))
            indexes.append(result_defaults.index(state.result_defaults))
        columns: dict[str, list[Any]] = {
            name: [getattr(state, name) for _, state in pending] for name in _PENDING_FIELDS
        }
        conn_ids = [conn_id for conn_id, _ in pending]
        return cls(
            generations={"seedance_conn_id": conn_ids, **columns, "result_defaults": indexes},
            result_defaults=result_defaults,
            **kwargs,
        )

    @property
    def generation_ids(self) -> list[str]:
        """The ids of the pending generations."""
        return [str(generation_id) for generation_id in self.generations["generation_id"]]

    @property
    def billed_to(self) -> dict[str, list[str]]:
        """The ids of the pending generations by their connections, without those that another task has paid for."""
        found: dict[str, list[str]] = {}
        for conn_id, state in self.pending:
            if "reused_from" not in state.result_defaults:
                found.setdefault(conn_id, []).append(state.generation_id)
        return found

    @property
    def pending(self) -> list[tuple[str, WaitState]]:
        """The connections of the pending generations, and the waits for them."""
        kinds = [kind_of("video", known) for known in self.result_defaults]
        rows = zip(*(self.generations[name] for name in _COLUMNS), strict=True)
        return [
            (
                conn_id,
                WaitState(
                    **dict(zip(_PENDING_FIELDS, values, strict=True)),
                    media="video",
                    submitted_at_known=values[2] is not None,
                    poll_interval=self.poll_interval,
                    result_defaults=self.result_defaults[index],
                    durations=tuple(self.durations.get(conn_id, {}).get(kinds[index], ())),
                ),
            )
            for conn_id, index, *values in rows
        ]

    def __repr__(self) -> str:
        """Return a short text: Airflow logs triggers, and a batch may have thousands of ids."""
        return f"<SeedanceBatchTrigger {self.description}>"

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait in the hubs of the connections, then fire once."""
        with EndsReporter(self.task_instance) as report_end:
            result = await self.wait(
                look_up_settings, min_seconds=default_timing().min_trigger_time, report_end=report_end
            )
        yield GenerationEvent(make_batch_event(result, len(self.generation_ids)))

    async def wait(
        self,
        look_up: GetSettings,
        *,
        min_seconds: float = 0.0,
        max_quota_wait: float | None = None,
        report_end: EndReport | None = None,
    ) -> WaitResult:
        """Wait until enough generations have ended; a worker gives a quota limit of its own."""
        return await wait_for_many(
            self.pending,
            look_up,
            min_ended=self.min_ended,
            max_linger=self.max_linger,
            submit_conn_id=self.submit_conn_id,
            submit_not_before=self.submit_not_before,
            min_seconds=min_seconds,
            max_quota_wait=max_quota_wait,
            report=self._log_progress,
            report_end=report_end,
        )

    def _log_progress(self, ended: int, total: int) -> None:
        self.log.info("Ended since the task deferred: %d of %s in flight.", ended, counted(total, "render"))


@dataclass(kw_only=True, eq=False, repr=False)
class SeedanceQuotaTrigger(_SeedanceTrigger):
    """
    Trigger that waits until a service accepts submissions again, and then for room in the quota.

    :param not_before: Seconds since 1970 before which the service accepts none.
    :param seedance_conn_id: The Airflow connection of the quota; without one, the trigger waits for the time only.
    """

    not_before: float
    seedance_conn_id: str | None = None

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then fire once."""
        not_before = max(self.not_before, time.time() + default_timing().min_trigger_time)
        await wait_for_submission(not_before, self.seedance_conn_id, look_up_settings)
        yield TriggerEvent({"not_before": self.not_before})  # type: ignore[no-untyped-call]


@dataclass(kw_only=True, eq=False, repr=False)
class SeedanceCallbackTrigger(_SeedanceTrigger):
    """
    Trigger that waits for the callback for a submission whose reply was lost.

    Only the callback names the generation, so there is nothing to poll and nothing to cancel.

    :param deadline: Seconds since 1970 at which the wait ends without a callback.
    :param callback_nonce: Nonce of the callback for this submission.
    """

    deadline: float
    callback_nonce: str

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the deadline, then fire once; a callback resumes the task earlier."""
        await asyncio.sleep(max(default_timing().min_trigger_time, self.deadline - time.time()))
        yield TriggerEvent({"outcome": "no_callback"})  # type: ignore[no-untyped-call]
