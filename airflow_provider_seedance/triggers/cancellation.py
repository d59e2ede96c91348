"""Cancellation of generations whose task was ended by a user, for ``on_kill`` of triggers and operators."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger

from airflow_provider_seedance.generations import Media

if TYPE_CHECKING:
    from airflow_provider_seedance.hooks.seedance import SeedanceHook

#: States of a task instance in which no try continues with its generation.
ABANDONED_STATES = frozenset({"failed", "success", "skipped", "removed"})

#: Seconds for a cancellation after Airflow has stopped waiting for it.
CANCEL_PATIENCE = 30.0

# Cancellations outlive the trigger that began them; a task without a reference may be collected.
_cancellations: set[asyncio.Task[None]] = set()


def read_task_state(ti: Any, get_task_states: Callable[..., Any]) -> str | None:
    """
    Return the current state of a task instance, or ``None`` if Airflow does not return it.

    :param get_task_states: Airflow's ``RuntimeTaskInstance.get_task_states``.
    """
    map_index = ti.map_index if ti.map_index is not None else -1
    states = get_task_states(
        dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=map_index
    )
    run = states.get(ti.run_id) if isinstance(states, dict) else None
    if not isinstance(run, dict):
        return None
    state = run.get(ti.task_id if map_index < 0 else f"{ti.task_id}_{map_index}")
    return str(getattr(state, "value", state)) if state is not None else None


def is_abandoned(state: str | None) -> bool:
    """Return whether no try of a task in this state continues with its generation."""
    return state in ABANDONED_STATES


def cancel_abandoned(
    hook: SeedanceHook, ti: Any, generation_ids: Sequence[str], media: Media, log: Any
) -> None:
    """
    Cancel the generations of a worker that is being stopped, unless another try continues with them; never raises.

    :param ti: The task instance of the worker.
    """
    what = generation_ids[0] if len(generation_ids) == 1 else f"any of {len(generation_ids)}"
    try:
        state = read_task_state(ti, ti.get_task_states)
        if not is_abandoned(state):
            log.info("The task is %s: generation %s is not cancelled.", state, what)
            return
        for generation_id in generation_ids:
            log.info("%s", hook.cancel(generation_id, media).reason)
    except Exception as error:
        log.warning("Generation %s was not cancelled, it goes on and is billed: %s", what, error)


class CancellingTrigger(BaseTrigger):
    """
    A trigger whose generations are cancelled if a person ended the task, and only then.

    Airflow also calls ``on_kill`` when the task was cleared (a new try goes on with the generations), and
    when something other than this trigger resumed it.
    """

    seedance_conn_id: str
    cancel_on_kill: bool

    async def on_kill(self) -> None:
        """Cancel what nobody goes on with."""
        if not self.cancel_on_kill:
            return
        task = asyncio.create_task(self._cancel_if_abandoned())
        _cancellations.add(task)
        task.add_done_callback(_cancellations.discard)
        # Airflow gives this call about a second before it is cancelled in turn.
        await asyncio.shield(task)

    @property
    def _what(self) -> str:
        """What is cancelled, for the log."""
        raise NotImplementedError

    async def _cancel_all(self, hook: SeedanceHook) -> None:
        """Cancel what can be, where :meth:`_abandoned` still says so."""
        raise NotImplementedError

    async def _cancel_if_abandoned(self) -> None:
        from airflow_provider_seedance.hooks.seedance import SeedanceHook

        try:
            hook = SeedanceHook(self.seedance_conn_id)
            if await self._abandoned():
                await self._cancel_all(hook)
        except Exception as error:
            self.log.warning("Not cancelled, goes on and is billed: %s (%s)", self._what, error)

    async def _cancel_one(self, hook: SeedanceHook, generation_id: str, media: Media) -> bool:
        """Cancel one generation; ``False`` if somebody goes on with the task."""
        try:
            async with asyncio.timeout(CANCEL_PATIENCE):
                api = (await hook.asettings()).api
                if api.can_cancel:
                    # Reading takes a while, in which the task may have been cleared: a new try goes on with
                    # the generation then. So the task is looked at once more, just before the end.
                    generation = await hook.aget_generation(generation_id, media)
                    if api.may_cancel(generation) and not await self._abandoned():
                        return False
                result = await hook.acancel(generation_id, media)
                self.log.info("%s", result.reason)
        except Exception as error:
            self.log.warning(
                "Generation %s was not cancelled, it goes on and is billed: %s", generation_id, error
            )
        return True

    async def _abandoned(self) -> bool:
        """Whether nobody goes on with the generation; says so if somebody does."""
        state = await self._task_state()
        if state == "success" and await self._delivered():
            self.log.info("The task has delivered its result: there is nothing to cancel.")
            return False
        if is_abandoned(state):
            return True
        self.log.info("The task is %s: %s goes on.", state or "of unknown state", self._what)
        return False

    async def _delivered(self) -> bool:
        """
        Whether the task has ended with its result: a callback resumed it, and nobody ended it by hand.

        Where that cannot be told, the generation itself is asked whether there is anything to cancel.
        """
        from airflow.sdk.bases.xcom import BaseXCom
        from asgiref.sync import sync_to_async

        ti: Any = self.task_instance
        try:
            found = await sync_to_async(BaseXCom.get_one)(
                key="return_value",
                dag_id=ti.dag_id,
                task_id=ti.task_id,
                run_id=ti.run_id,
                map_index=ti.map_index if ti.map_index is not None else -1,
            )
        except Exception as error:
            self.log.debug("XCom could not be read: %s", error)
            return False
        return isinstance(found, dict) and found.get("status") == "succeeded"

    async def _task_state(self) -> str | None:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
        from asgiref.sync import sync_to_async

        return await sync_to_async(read_task_state)(self.task_instance, RuntimeTaskInstance.get_task_states)
