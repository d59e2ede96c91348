"""
Wait for many generations at once, each in the hub of its connection.

The triggerer and a worker that waits itself both use this; each generation is waited for as a single one is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.polling.connections import GetSettings
from airflow_provider_seedance.polling.hub import wait_for_generation, wait_for_submission
from airflow_provider_seedance.polling.wait_state import WaitState, WaitStep, default_timing

#: A connection id and a generation id: two services may give the same one. Events of earlier releases have no connection.
GenerationKey = tuple[str | None, str]


@dataclass(kw_only=True)
class WaitResult:
    """
    Result of a wait for many generations.

    :param ended: Terminal generations, with their connection ids.
    :param unknown: Generations that the service says repeatedly it does not know.
    :param overdue: Generations whose deadline has passed.
    :param submission_granted: Whether a submission may be sent.
    """

    ended: list[tuple[str | None, Generation]] = field(default_factory=list)
    unknown: list[GenerationKey] = field(default_factory=list)
    overdue: list[GenerationKey] = field(default_factory=list)
    submission_granted: bool = False

    def __len__(self) -> int:
        return len(self.ended) + len(self.unknown) + len(self.overdue)

    def add(self, conn_id: str, step: WaitStep | None) -> None:
        """Add the last step of a wait at a connection; ``None`` is a granted submission."""
        if step is None:
            self.submission_granted = True
        elif step.kind == "ended" and step.state.last is not None:
            self.ended.append((conn_id, step.state.last))
        else:
            keys = self.unknown if step.kind == "unknown" else self.overdue
            keys.append((conn_id, step.state.generation_id))


ProgressReport = Callable[[int, int], None]
EndReport = Callable[[Generation], None]
_Queue = asyncio.Queue[tuple[str, WaitStep | None]]


def _now() -> float:
    return asyncio.get_running_loop().time()


async def wait_for_many(
    pending: Sequence[tuple[str, WaitState]],
    look_up: GetSettings,
    *,
    min_ended: int,
    max_linger: float,
    submit_conn_id: str | None = None,
    submit_not_before: float | None = None,
    min_seconds: float = 0.0,
    max_quota_wait: float | None = None,
    report: ProgressReport | None = None,
    report_end: EndReport | None = None,
) -> WaitResult:
    """
    Wait until enough of the generations have ended, or a submission is granted, but at least ``min_seconds``.

    :param pending: The connection id of each generation, and its wait.
    :param min_ended: Number of ended generations that end the wait.
    :param max_linger: Seconds after the first end at which the wait ends with fewer.
    :param submit_not_before: Seconds since 1970 from which a submission waits at ``submit_conn_id``; ``None`` if none does.
    :param max_quota_wait: Maximum seconds by which a rate limit extends a deadline; by default of a deferred wait.
    :param report: Called periodically with the numbers of ended and of all generations.
    :param report_end: Called with each generation that has ended, completed by what its request says.
    """
    queue, started_at = _Queue(), _now()

    async def wait_for_one(conn_id: str, state: WaitState) -> None:
        state = replace(state, max_quota_wait=max_quota_wait)
        step = await wait_for_generation(state, conn_id, look_up, not_before=min_seconds)
        if report_end and step.kind == "ended" and step.state.last is not None:
            report_end(step.state.last.with_defaults(state.result_defaults))
        await queue.put((conn_id, step))

    async def wait_to_submit(not_before: float) -> None:
        await wait_for_submission(not_before, submit_conn_id, look_up)
        await queue.put((submit_conn_id or "", None))

    tasks = [asyncio.create_task(wait_for_one(*one)) for one in pending]
    if submit_not_before is not None:
        tasks.append(asyncio.create_task(wait_to_submit(submit_not_before)))
    try:
        result = await _collect(queue, len(pending), min_ended, max_linger, report)
        await asyncio.sleep(max(0.0, started_at + min_seconds - _now()))
        while not queue.empty():
            result.add(*queue.get_nowait())
        return result
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _collect(
    queue: _Queue, total: int, min_ended: int, max_linger: float, report: ProgressReport | None
) -> WaitResult:
    interval = default_timing().report_interval
    result = WaitResult()
    linger_until = float("inf")
    report_at = _now() + interval
    while True:
        now = _now()
        enough = total and len(result) >= min(min_ended, total)
        if result.submission_granted or enough or now >= linger_until:
            return result
        if now >= report_at:
            report_at = now + interval
            if report:
                report(len(result), total)
        try:
            async with asyncio.timeout(max(0.01, min(report_at, linger_until) - now)):
                result.add(*await queue.get())
        except TimeoutError:
            continue
        if len(result) and linger_until == float("inf"):
            linger_until = _now() + max_linger
