"""Cancellation of generations whose task was ended by a user, for ``on_kill`` of triggers and operators."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from airflow.sdk.bases.xcom import BaseXCom
from airflow.triggers.base import BaseTrigger
from asgiref.sync import sync_to_async

from airflow_provider_seedance.client import flows
from airflow_provider_seedance.client.api_client import AsyncClient
from airflow_provider_seedance.generations import Media, utc_now
from airflow_provider_seedance.hooks.seedance import SeedanceHook, look_up_settings
from airflow_provider_seedance.polling.hub import Hub, known_settings, open_hub
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.submission.decisions import listed
from airflow_provider_seedance.triggers.xcom import task_key
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_4_PLUS

#: States of a task instance in which no try continues with its generation.
ABANDONED_STATES = frozenset({"failed", "success", "skipped", "removed"})

#: Timeout of the cancellation of one generation, after Airflow has stopped waiting for it.
CANCEL_TIMEOUT_SECONDS = 30.0

#: Maximum number of concurrent cancellations at a connection: a user may end thousands of tasks at once.
MAX_CONCURRENT_CANCELLATIONS = 4

#: Maximum number of kills at a connection that Airflow waits for: it gives up on each after half a minute, all at once.
MAX_AWAITED_KILLS = 200

_NO_WAY = "%s offers no way to cancel: %s, unless already ended."
_DISCARDED = " If a clear has discarded the task state, the next try does not know of it and submits anew."

# One for all triggers: that of a trigger is seven objects.
log = logging.getLogger(__name__)


def read_task_state(ti: Any, get_task_states: Callable[..., Any]) -> str | None:
    """Return the current state of a task instance, or ``None`` if Airflow does not return it."""
    map_index = task_key(ti)["map_index"]
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
    get_hook: Callable[[], SeedanceHook], ti: Any, generation_ids: Sequence[str], media: Media, log: Any
) -> None:
    """Cancel the generations of a worker that is stopped, unless another try continues; never raises."""
    what = generation_ids[0] if len(generation_ids) == 1 else f"any of {len(generation_ids)}"
    try:
        state = read_task_state(ti, ti.get_task_states)
        if not is_abandoned(state):
            log.info("The task is %s: generation %s is not cancelled, it goes on and is billed.", state, what)
            return
        hook = get_hook()
        for generation_id in generation_ids:
            log.info("%s", hook.cancel(generation_id, media).reason)
    except Exception as error:
        log.warning("Generation %s was not cancelled, it goes on and is billed: %s", what, error)


class CancellingTrigger(BaseTrigger):
    """
    A trigger whose generations are cancelled if a user ended the task, and only then.

    Airflow also calls ``on_kill`` when the task was cleared (a new try continues with the generations), and when
    something other than this trigger resumed it.
    """

    media: Media = "video"
    cancel_on_kill: bool

    async def on_kill(self) -> None:
        """Cancel the generations if the task is abandoned."""
        if not self.cancel_on_kill:
            log.info("cancel_on_kill=False: %s.", _bill_of(self.generation_ids))
            return
        # Airflow cancels this call after some time, and the cancellations outlive it.
        for ended in filter(None, [self._kill(*one) for one in self.billed_to.items()]):
            await ended.wait()

    def _kill(self, conn_id: str, ids: Sequence[str]) -> asyncio.Event | None:
        """Cancel in the background; return an event of the end, or ``None`` if there is nothing to wait for."""
        settings = known_settings(conn_id)
        if settings is not None and not settings.api.can_cancel:
            log.info(_NO_WAY, settings.api.name, _bill_of(ids))
            return None
        key = (asyncio.get_running_loop(), conn_id)
        kills = _kills.setdefault(key, _Kills())
        kills.append((self, ids, contextvars.copy_context(), ended := asyncio.Event()))
        # At once: Airflow closes the log of the trigger when it stops waiting.
        log.info("If a try continues, %s; else it may be cancelled (%d queued).", _bill_of(ids), len(kills))
        if len(kills.tasks) < MAX_CONCURRENT_CANCELLATIONS:
            kills.tasks.add(asyncio.create_task(kills.cancel(*key)))
        return ended if len(kills) <= MAX_AWAITED_KILLS else None

    @property
    def billed_to(self) -> dict[str, list[str]]:
        """The ids of the generations by the connections that they are billed to."""
        raise NotImplementedError

    @property
    def generation_ids(self) -> list[str]:
        """The ids of the generations."""
        return [generation_id for ids in self.billed_to.values() for generation_id in ids]

    @property
    def description(self) -> str:
        """The number of generations and some of their ids, for the log."""
        return _described(self.generation_ids)

    async def cancel(self, hub: Hub, settings: Settings, ids: Sequence[str]) -> None:
        """Cancel the generations at one connection if the task is abandoned; never raises."""
        try:
            if not settings.api.can_cancel:
                log.info(_NO_WAY, settings.api.name, _bill_of(ids))
            elif await self._is_abandoned():
                await self._cancel_all(hub, hub.client(settings), ids)
        except Exception as error:
            log.warning("Not cancelled: %s (%s)", _bill_of(ids), error)

    async def _cancel_all(self, hub: Hub, client: AsyncClient, ids: Sequence[str]) -> None:
        for generation_id in ids:
            await hub.wait_to_cancel()
            if not await self._cancel_one(client, generation_id):
                return

    async def _cancel_one(self, client: AsyncClient, generation_id: str) -> bool:
        """Cancel one generation; return ``False`` if another try continues with the task."""
        api = client.settings.api
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT_SECONDS):
                # A user may clear the task while this is read, and a new try continues with the generation then. So
                # the state of the task is read again immediately before the cancellation.
                generation = await client.run(flows.status_flow(api, generation_id, self.media, utc_now))
                if api.may_cancel(generation) and not await self._is_abandoned():
                    return False
                result = await client.run(flows.cancel_flow(api, generation_id, self.media, utc_now))
                log.info("%s", result.reason)
        except Exception as error:
            log.warning("Generation %s was not cancelled, it goes on and is billed: %s", generation_id, error)
        return True

    async def _is_abandoned(self) -> bool:
        """Return whether no try continues with the generations; log it if one does."""
        # Loads the task runner, which a triggerer needs for this only.
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        state = await sync_to_async(read_task_state)(self.task_instance, RuntimeTaskInstance.get_task_states)
        if state == "success" and await self._has_result():
            log.info("The task has returned its result: there is nothing to cancel.")
            return False
        if is_abandoned(state):
            return True
        more = _DISCARDED if AIRFLOW_V_3_4_PLUS else ""
        log.info("The task is %s: %s.%s", state or "of unknown state", _bill_of(self.generation_ids), more)
        return False

    async def _has_result(self) -> bool:
        """
        Return whether the task has ended with its result, because a callback resumed it.

        If that cannot be read, the status of the generation decides whether there is anything to cancel.
        """
        try:
            result = await sync_to_async(BaseXCom.get_one)(key="return_value", **task_key(self.task_instance))
        except Exception as error:
            log.debug("XCom could not be read: %s", error)
            return False
        return isinstance(result, dict) and result.get("status") == "succeeded"


def _described(ids: Sequence[str]) -> str:
    if len(ids) == 1:
        return f"generation {ids[0]}"
    return f"{len(ids)} generations ({listed(ids)})" if ids else "no generation"


def _bill_of(ids: Sequence[str]) -> str:
    """Return the bill of generations that are not cancelled, for the log."""
    return f"{_described(ids)} {'go on and are' if len(ids) > 1 else 'goes on and is'} billed"


class _Kills(deque[tuple[CancellingTrigger, Sequence[str], contextvars.Context, asyncio.Event]]):
    """
    Killed triggers with their generations at a connection, the contexts of their log lines, and events of their ends.

    Few tasks carry them out. The objects of ten thousand would cause full garbage collections, which stop the event loop.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tasks: set[asyncio.Task[None]] = set()

    async def cancel(self, loop: asyncio.AbstractEventLoop, conn_id: str) -> None:
        """Cancel for one trigger after the other; never raises."""
        try:
            while self:
                async with open_hub(conn_id, look_up_settings) as (hub, settings):
                    while self:
                        trigger, ids, context, ended = self.popleft()
                        cancelling = asyncio.create_task(trigger.cancel(hub, settings, ids), context=context)
                        await asyncio.wait([cancelling])  # what stops this one does not stop the others
                        ended.set()
        except Exception as error:
            while self:
                _, ids, context, ended = self.popleft()
                context.run(log.warning, "Not cancelled: %s (%s)", _bill_of(ids), error)
                ended.set()
                await asyncio.sleep(0)
        finally:
            self.tasks -= {asyncio.current_task()}
            if not self.tasks:
                del _kills[loop, conn_id]


_kills: dict[tuple[asyncio.AbstractEventLoop, str], _Kills] = {}
