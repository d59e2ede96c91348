"""
The triggers: waiting for a generation in the triggerer, and waiting for the quota to come back.

Trigger kwargs and events are shown and logged by Airflow, so they hold no secret and no prompt; the
event's ``repr``, which goes into the log, holds no URL either, since URLs of outputs may be signed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_seedance.generations import Generation, GenerationStatus, Media
from airflow_provider_seedance.polling.schedule import Knowledge
from airflow_provider_seedance.polling.wait_state import WaitState, WaitStep
from airflow_provider_seedance.triggers.cancellation import CancellingTrigger
from airflow_provider_seedance.triggers.xcom import Progress, push

if TYPE_CHECKING:
    from airflow_provider_seedance.hooks.seedance import SeedanceHook
    from airflow_provider_seedance.polling.hub import LookUp
    from airflow_provider_seedance.polling.wait_many import WaitResult

#: No trigger fires sooner after it began: a task that resumes within the first seconds of its deferral
#: can be failed by the scheduler, which takes the end of the deferring process for its own.
EARLIEST = 5.0


class GenerationEvent(TriggerEvent):
    """The end of a wait. Airflow logs events whole, so its ``repr`` is kept short and free of URLs."""

    def __init__(self, payload: Any, **kwargs: Any) -> None:
        super().__init__(payload, **kwargs)  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        payload = self.payload if isinstance(self.payload, dict) else {}
        return f"GenerationEvent<{payload.get('generation_id')} {payload.get('outcome')}>"

    __str__ = __repr__


class SeedanceGenerationTrigger(CancellingTrigger):
    """
    Waits until a generation has ended.

    :param seedance_conn_id: The Airflow connection.
    :param generation_id: The generation.
    :param media: ``video`` or ``image``.
    :param deadline: Seconds since 1970 at which patience ends; it does not move with restarts.
    :param poll_interval: Seconds between status requests; ``None`` chooses them.
    :param estimated_wait: Seconds the service expected the render to take.
    :param submitted_at: Seconds since 1970 of the submission, as far as known.
    :param cancel_on_kill: Whether to cancel when a person ends the task.
    :param end_from_trigger: Whether to end a successful task without a worker.
    :param facts: What the request told of the result.
    :param callback_nonce: What a callback for this submission carries, if the service is to call.
    :param called: Whether it has called already, too early: then the polls are those of a render without.
    """

    def __init__(
        self,
        *,
        seedance_conn_id: str,
        generation_id: str,
        media: Media = "video",
        deadline: float,
        poll_interval: float | None = None,
        estimated_wait: float | None = None,
        submitted_at: float | None = None,
        cancel_on_kill: bool = True,
        end_from_trigger: bool = False,
        result_defaults: dict[str, Any] | None = None,
        callback_nonce: str | None = None,
        called: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seedance_conn_id = seedance_conn_id
        self.generation_id = generation_id
        self.media: Media = media
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.estimated_wait = estimated_wait
        self.submitted_at = submitted_at
        self.cancel_on_kill = cancel_on_kill
        self.end_from_trigger = end_from_trigger
        self.result_defaults = result_defaults or {}
        self.callback_nonce = callback_nonce
        self.called = called

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow needs to make the trigger again."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "seedance_conn_id": self.seedance_conn_id,
                "generation_id": self.generation_id,
                "media": self.media,
                "deadline": self.deadline,
                "poll_interval": self.poll_interval,
                "estimated_wait": self.estimated_wait,
                "submitted_at": self.submitted_at,
                "cancel_on_kill": self.cancel_on_kill,
                "end_from_trigger": self.end_from_trigger,
                "result_defaults": self.result_defaults,
                "callback_nonce": self.callback_nonce,
                "called": self.called,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait in the hub of the connection, then fire once."""
        from airflow_provider_seedance.hooks.seedance import look_up_settings
        from airflow_provider_seedance.polling.hub import wait_for_generation

        waiting = WaitState(
            generation_id=self.generation_id,
            media=self.media,
            deadline=self.deadline,
            known=Knowledge(
                poll_interval=self.poll_interval,
                estimated_wait=self.estimated_wait,
                called_back=self.callback_nonce is not None and not self.called,
            ),
            submitted_at=self.submitted_at,
            told=self.submitted_at is not None,
        )
        began = time.time()
        step = await wait_for_generation(
            waiting,
            self.seedance_conn_id,
            look_up_settings,
            not_before=EARLIEST,
            result_defaults=self.result_defaults,
            report=Progress(self.task_instance),
        )
        await asyncio.sleep(max(0.0, began + EARLIEST - time.time()))
        yield await self._end(step)

    @property
    def _what(self) -> str:
        return f"generation {self.generation_id}"

    async def _cancel_all(self, hook: SeedanceHook) -> None:
        await self._cancel_one(hook, self.generation_id, self.media)

    async def _end(self, step: WaitStep) -> TriggerEvent:
        generation = step.waiting.last
        if step.kind != "ended" or generation is None:
            return GenerationEvent({"generation_id": self.generation_id, "outcome": step.kind})
        generation = generation.with_defaults(self.result_defaults)
        if self.end_from_trigger and generation.status is GenerationStatus.SUCCEEDED and generation.urls:
            return await self._succeed(generation)
        return GenerationEvent(make_event(generation))

    async def _succeed(self, generation: Generation) -> TriggerEvent:
        """Write what a worker would have written, and let Airflow end the task."""
        from airflow.triggers.base import TaskSuccessEvent

        await push(self.task_instance, "return_value", generation.result())
        await push(self.task_instance, "_link_SeedanceOutputLink", generation.url or "")
        return TaskSuccessEvent()


class SeedanceBatchTrigger(CancellingTrigger):
    """
    Waits for the generations of a batch task, until enough of them have ended for a worker to go on.

    :param seedance_conn_id: The Airflow connection.
    :param generations: Of each: id, deadline, time of submission, expected wait, and the number of its facts.
    :param facts: What the requests told of the results; few, since most requests of a batch are alike.
    :param enough: So many that have ended resume the task.
    :param linger: Seconds after the first end at which fewer resume it, too.
    :param moment: Seconds since 1970 from which a submission waits for its turn; having it resumes the task.
    :param poll_interval: Seconds between status requests; ``None`` chooses them.
    :param cancel_on_kill: Whether to cancel when a person ends the task.
    """

    def __init__(
        self,
        *,
        seedance_conn_id: str,
        generations: list[list[Any]],
        result_defaults: list[dict[str, Any]],
        enough: int,
        linger: float,
        moment: float | None = None,
        poll_interval: float | None = None,
        cancel_on_kill: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seedance_conn_id = seedance_conn_id
        self.generations = generations
        self.result_defaults = result_defaults
        self.enough = enough
        self.linger = linger
        self.moment = moment
        self.poll_interval = poll_interval
        self.cancel_on_kill = cancel_on_kill

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow needs to make the trigger again."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "seedance_conn_id": self.seedance_conn_id,
                "generations": self.generations,
                "result_defaults": self.result_defaults,
                "enough": self.enough,
                "linger": self.linger,
                "moment": self.moment,
                "poll_interval": self.poll_interval,
                "cancel_on_kill": self.cancel_on_kill,
            },
        )

    def __repr__(self) -> str:
        """Say how many there are: Airflow logs triggers, and thousands of ids are nothing to read."""
        return f"<SeedanceBatchTrigger {self._what}>"

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait in the hub of the connection, then fire once."""
        from airflow_provider_seedance.hooks.seedance import look_up_settings

        ends = await self.wait(look_up_settings, not_before=EARLIEST)
        yield GenerationEvent(
            {
                "outcome": "many",
                "generation_id": f"{len(ends)} of {len(self.generations)}",
                "ended": [make_event(generation) for generation in ends.ended],
                "unknown": ends.unknown,
                "overdue": ends.overdue,
                "turn": ends.turn,
            }
        )

    async def wait(self, look_up: LookUp, *, not_before: float, quota: float | None = None) -> WaitResult:
        """
        Wait until there is enough to tell.

        :param quota: Seconds past a deadline for which the quota may keep us from a reading.
        """
        from airflow_provider_seedance.polling.wait_many import PendingGeneration, ResumeWhen, wait_for_many

        awaited = [
            PendingGeneration(
                generation_id=generation_id,
                deadline=deadline,
                submitted_at=submitted_at,
                estimated_wait=estimated_wait,
                result_defaults=self.result_defaults[number],
            )
            for generation_id, deadline, submitted_at, estimated_wait, number in self.generations
        ]
        patience = ResumeWhen(
            enough=self.enough, linger=self.linger, moment=self.moment, not_before=not_before, quota=quota
        )
        return await wait_for_many(
            awaited,
            patience,
            self.seedance_conn_id,
            look_up,
            poll_interval=self.poll_interval,
            report=self._report,
        )

    def _report(self, ended: int, total: int) -> None:
        self.log.info("%d of %d renders in flight have ended since the task deferred.", ended, total)

    @property
    def _what(self) -> str:
        ids = [str(generation[0]) for generation in self.generations]
        shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
        return f"{len(ids)} generations ({shown})" if ids else "no generation"

    async def _cancel_all(self, hook: SeedanceHook) -> None:
        api = (await hook.asettings()).api
        if not api.can_cancel:
            self.log.info("%s offers no way to cancel: goes on and is billed: %s.", api.name, self._what)
            return
        for generation in self.generations:
            if not await self._cancel_one(hook, str(generation[0]), "video"):
                return


class SeedanceQuotaTrigger(BaseTrigger):
    """
    Waits until a service takes submissions again, and then for a turn among all who wait for that.

    :param moment: Seconds since 1970 before which the service takes none.
    :param seedance_conn_id: The Airflow connection whose quota it is; without one, only the moment counts.
    """

    def __init__(self, *, moment: float, seedance_conn_id: str | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moment = moment
        self.seedance_conn_id = seedance_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow needs to make the trigger again."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {"moment": self.moment, "seedance_conn_id": self.seedance_conn_id},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then fire once."""
        from airflow_provider_seedance.hooks.seedance import look_up_settings
        from airflow_provider_seedance.polling.hub import wait_for_turn

        moment = max(self.moment, time.time() + EARLIEST)
        await wait_for_turn(moment, self.seedance_conn_id, look_up_settings, complain=self.log.warning)
        yield TriggerEvent({"moment": self.moment})  # type: ignore[no-untyped-call]


class SeedanceCallbackTrigger(BaseTrigger):
    """
    Waits for the service to call back about a submission whose reply was lost.

    Only a callback says which generation it was, so there is nothing to poll for and nothing to cancel.

    :param moment: Seconds since 1970 at which patience ends.
    :param callback_nonce: What a callback for this submission carries.
    """

    def __init__(self, *, moment: float, callback_nonce: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moment = moment
        self.callback_nonce = callback_nonce

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow needs to make the trigger again."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {"moment": self.moment, "callback_nonce": self.callback_nonce},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then fire once: nobody called."""
        await asyncio.sleep(max(EARLIEST, self.moment - time.time()))
        yield TriggerEvent({"outcome": "silence"})  # type: ignore[no-untyped-call]


def make_event(generation: Generation) -> dict[str, Any]:
    """Return the payload that carries a generation that has ended."""
    return {
        "generation_id": generation.generation_id,
        "outcome": "ended",
        "result": generation.result(),
        "error_message": generation.error_message,
        "error_code": generation.error_code,
    }


def read_batch_event(event: Any) -> tuple[list[Generation], list[str], list[str], bool]:
    """
    Read what a batch trigger tells: ended generations, unknown ids, overdue ids, and whether it is one's turn.

    Whatever is not a complete end is left out: the generation is waited for again.
    """
    if not isinstance(event, dict) or event.get("outcome") != "many":
        return [], [], [], False
    ended = []
    for told in _listed(event.get("ended")):
        generation_id = told.get("generation_id") if isinstance(told, dict) else None
        if isinstance(generation_id, str) and (generation := read_event(told, generation_id)):
            ended.append(generation)
    names = ("unknown", "overdue")
    unknown, overdue = ([one for one in _listed(event.get(name)) if isinstance(one, str)] for name in names)
    return ended, unknown, overdue, event.get("turn") is True


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def is_call(event: Any) -> bool:
    """Whether a task was resumed because the service has called."""
    return isinstance(event, dict) and event.get("outcome") == "callback"


def read_event(event: Any, generation_id: str) -> Generation | None:
    """
    Read the end of a generation from an event.

    ``None`` for anything that is not the complete end of this very generation: the service is asked.
    """
    if not isinstance(event, dict) or event.get("outcome") != "ended":
        return None
    if event.get("generation_id") != generation_id:
        return None
    try:
        generation = Generation.from_result(event.get("result"))
    except ValueError:
        return None
    if generation.generation_id != generation_id or not generation.status.terminal:
        return None
    if generation.status is GenerationStatus.SUCCEEDED:
        return generation if generation.urls else None
    message, code = event.get("error_message"), event.get("error_code")
    return Generation(
        **{
            **vars(generation),
            "error_message": message if isinstance(message, str) else None,
            "error_code": code if isinstance(code, str) else None,
        }
    )
