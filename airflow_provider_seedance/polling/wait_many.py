"""
WaitState for many generations at once, in the hub of their connection.

Each is waited for as a single one is; here it is decided when there is enough to tell. The triggerer and a
worker that waits itself both use this.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.polling.hub import LookUp, wait_for_generation, wait_for_turn
from airflow_provider_seedance.polling.schedule import Knowledge
from airflow_provider_seedance.polling.wait_state import WaitState, WaitStep

log = logging.getLogger(__name__)

#: Seconds until a wait that broke is begun again: a connection that cannot be looked up may be mended.
MENDING = 30.0

#: Seconds between reports of how many have ended.
REPORT = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingGeneration:
    """
    One generation that is waited for.

    :param deadline: Seconds since 1970 at which patience with it ends.
    :param submitted_at: Seconds since 1970 of its submission, as far as known.
    :param estimated_wait: Seconds the service expected the render to take.
    :param facts: What the request told; renders alike in it take about as long.
    """

    generation_id: str
    deadline: float
    submitted_at: float | None = None
    estimated_wait: float | None = None
    result_defaults: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ResumeWhen:
    """
    When there is enough to tell.

    :param enough: So many that have ended.
    :param linger: Seconds after the first end at which fewer are enough, too.
    :param moment: Seconds since 1970 from which a submission waits for its turn in the quota; having it is
        enough. ``None`` where none waits.
    :param not_before: Seconds before which nothing is told.
    :param quota: Seconds past a deadline for which the quota may keep us from a reading; ``None`` for what a
        wait that holds no worker bears.
    """

    enough: int
    linger: float
    moment: float | None = None
    not_before: float = 0.0
    quota: float | None = None


@dataclass(kw_only=True)
class WaitResult:
    """
    What a wait has brought.

    :param unknown: Ids that the service says repeatedly it does not know.
    :param overdue: Ids with which patience is over.
    :param turn: Whether a submission has its turn.
    """

    ended: list[Generation] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    overdue: list[str] = field(default_factory=list)
    turn: bool = False

    def __len__(self) -> int:
        return len(self.ended) + len(self.unknown) + len(self.overdue)


_End = tuple[str, WaitStep | None]


async def wait_for_many(
    awaited: Sequence[PendingGeneration],
    patience: ResumeWhen,
    conn_id: str,
    look_up: LookUp,
    *,
    poll_interval: float | None = None,
    report: Callable[[int, int], None] | None = None,
) -> WaitResult:
    """
    Wait until enough of the generations have ended, or a submission has its turn.

    :param poll_interval: Seconds between status requests; ``None`` chooses them.
    :param report: Called now and then with the numbers of ended and awaited generations.
    """
    queue: asyncio.Queue[_End] = asyncio.Queue()
    began = time.time()
    tasks = [
        asyncio.create_task(_wait_for_one(one, conn_id, look_up, poll_interval, patience, queue))
        for one in awaited
    ]
    if patience.moment is not None:
        tasks.append(asyncio.create_task(_wait_for_turn(patience.moment, conn_id, look_up, queue)))
    try:
        ends = await _collect(queue, len(awaited), patience, report)
        await asyncio.sleep(max(0.0, began + patience.not_before - time.time()))
        while not queue.empty():
            _add(ends, queue.get_nowait())
        return ends
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _collect(
    queue: asyncio.Queue[_End],
    total: int,
    patience: ResumeWhen,
    report: Callable[[int, int], None] | None,
) -> WaitResult:
    ends = WaitResult()
    first_at: float | None = None
    reported_at = time.time()
    while True:
        now = time.time()
        if ends.turn or (total and len(ends) >= min(patience.enough, total)):
            return ends
        if first_at is not None and now >= first_at + patience.linger:
            return ends
        if now >= reported_at + REPORT:
            reported_at = now
            if report:
                report(len(ends), total)
        moments = [reported_at + REPORT] + ([first_at + patience.linger] if first_at is not None else [])
        try:
            async with asyncio.timeout(max(0.01, min(moments) - now)):
                end = await queue.get()
        except TimeoutError:
            continue
        _add(ends, end)
        if len(ends) and first_at is None:
            first_at = time.time()


def _add(ends: WaitResult, end: _End) -> None:
    generation_id, step = end
    if step is None:
        ends.turn = True
    elif step.kind == "ended" and step.waiting.last is not None:
        ends.ended.append(step.waiting.last)
    elif step.kind == "unknown":
        ends.unknown.append(generation_id)
    else:
        ends.overdue.append(generation_id)


async def _wait_for_one(
    one: PendingGeneration,
    conn_id: str,
    look_up: LookUp,
    poll_interval: float | None,
    patience: ResumeWhen,
    queue: asyncio.Queue[_End],
) -> None:
    waiting = WaitState(
        generation_id=one.generation_id,
        media="video",
        deadline=one.deadline,
        known=Knowledge(poll_interval=poll_interval, estimated_wait=one.estimated_wait),
        submitted_at=one.submitted_at,
        told=one.submitted_at is not None,
        quota_patience=patience.quota,
    )
    while True:
        try:
            step = await wait_for_generation(
                waiting, conn_id, look_up, not_before=patience.not_before, result_defaults=one.result_defaults
            )
            break
        except Exception as error:
            log.warning("The wait for generation %s broke and begins again: %s", one.generation_id, error)
            if time.time() >= one.deadline:
                step = WaitStep("deadline", waiting)
                break
            await asyncio.sleep(MENDING)
    await queue.put((one.generation_id, step))


async def _wait_for_turn(moment: float, conn_id: str, look_up: LookUp, queue: asyncio.Queue[_End]) -> None:
    await wait_for_turn(moment, conn_id, look_up, complain=log.warning)
    await queue.put(("", None))
