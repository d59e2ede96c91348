"""
Share of a quota that renders use: the package's own triggers, in simulated time.

The event loop jumps over every wait, so hours take seconds; triggers, hub and schedule are the real ones,
only the service behind the client is simulated, with the fixed windows and headers of seedance2api.

    python benchmarks/quota.py

With several machines, workers know what their own machine has read of the quota, and with a ledger what all have. The
triggerer is on a machine without workers.

The time that the quota itself dictates: three requests for each render (submission, status, result), of
which the first window allows some at once and the rest come at the quota's rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import selectors
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from airflow_provider_seedance.apis.messages import HttpCall, HttpReply
from airflow_provider_seedance.client.api_client import AsyncClient
from airflow_provider_seedance.polling import hub, shared_quota
from airflow_provider_seedance.polling.shared_quota import SharedQuota
from airflow_provider_seedance.settings import Settings, read_settings
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger, SeedanceQuotaTrigger

EPOCH = 1_800_000_000.0
#: Fewest requests of a render: its submission, and the readings of its end.
MIN_REQUESTS = 3
MAX_TIME_FACTOR, MAX_REFUSED_SHARE = 1.3, 0.02


# ---------------------------------------------------------------------- simulated time


class _Selector(selectors.DefaultSelector):
    """Selector that moves the clock instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout:
            self.now += timeout
        return super().select(0)


def simulate(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine in simulated time."""
    selector = _Selector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    with mock.patch("time.time", side_effect=lambda: EPOCH + selector.now):
        try:
            return loop.run_until_complete(main())
        finally:
            loop.close()


# ---------------------------------------------------------------------- the service


@dataclass(kw_only=True)
class Service:
    """seedance2api with a quota of requests per window, and renders of about the same length."""

    limit: int
    window: float
    render_seconds: float
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    begun: float = -1e9
    used: int = 0
    requests: int = 0
    refused: int = 0
    ends: dict[str, float] = field(default_factory=dict)
    submissions: int = 0

    def answer(self, call: HttpCall) -> HttpReply:
        now = time.time()
        if now >= self.begun + self.window:
            self.begun, self.used = now, 0
        allowed = self.used < self.limit
        self.used += allowed
        self.requests += 1
        reset = self.begun + self.window
        headers = {
            "x-ratelimit-limit": str(self.limit),
            "x-ratelimit-remaining": str(self.limit - self.used),
            "x-ratelimit-reset": str(int(reset) + 1),
        }
        if not allowed:
            self.refused += 1
            error = {"status": "error", "error": {"code": "RATE_LIMITED", "message": "too many requests"}}
            return self._reply(429, error, {**headers, "retry-after": str(int(reset - now) + 1)})
        return self._reply(200, self._body(call, now), headers)

    def _body(self, call: HttpCall, now: float) -> dict[str, Any]:
        if call.method == "POST":
            self.submissions += 1
            generation = f"g{self.submissions}"
            self.ends[generation] = now + self.render_seconds * self.rng.lognormvariate(0, 0.2)
            return {"status": "accepted", "data": {"task_id": generation, "status": "queued"}}
        generation = call.path.rsplit("/", 1)[1]
        done = now >= self.ends[generation]
        if call.path.startswith("/results"):
            result = {"video_url": "https://media.example/v.mp4", "duration": 5, "resolution": "1080p"}
            return {"task_id": generation, "status": "completed", "result": result}
        return {"task_id": generation, "status": "completed" if done else "processing"}

    @staticmethod
    def _reply(status: int, body: dict[str, Any], headers: dict[str, str]) -> HttpReply:
        return HttpReply(status=status, headers=headers, body=json.dumps(body).encode())


#: Number of the machine on which a task runs; the triggerer is on one of its own.
_machine: ContextVar[int] = ContextVar("machine", default=-1)


class Ledger:
    """Common state of the machines, in memory."""

    def __init__(self) -> None:
        self.states: dict[str, Any] = {}
        self.exchanges = 0

    def change(self, name: str, change: Callable[[Any], Any]) -> Any:
        """Change a state."""
        self.exchanges += 1
        self.states[name] = change(self.states.get(name, {}))
        return self.states[name]


def at_once(function: Callable[..., None], **_: Any) -> Callable[..., Awaitable[None]]:
    """Call a function of a thread in the loop: simulated time does not wait for threads."""

    async def call(*given: Any) -> None:
        function(*given)

    return call


@contextmanager
def served_by(service: Service, ledger: Ledger | None = None) -> Iterator[Settings]:
    """Let every client speak to a simulated service."""
    settings = read_settings(
        "seedance_default",
        SimpleNamespace(
            password="key-of-the-benchmark",
            host=None,
            port=None,
            schema=None,
            extra='{"api": "seedance2api"}',
        ),
    )

    settings = replace(settings, change_in_ledger=ledger.change if ledger else None)

    async def look_up(_: str) -> Settings:
        return settings

    async def send(client: AsyncClient, call: HttpCall) -> HttpReply:
        client._start_request(call)
        await asyncio.sleep(0.1)
        reply = service.answer(call)
        response: Any = SimpleNamespace(headers=reply.headers, status_code=reply.status)
        client._observe_response(response)
        return reply

    with (
        tempfile.TemporaryDirectory() as directory,
        mock.patch.object(AsyncClient, "send", send),
        mock.patch.object(
            shared_quota, "directory", side_effect=lambda: Path(directory) / f"machine {_machine.get()}"
        ),
        mock.patch.object(shared_quota, "sync_to_async", at_once),
        mock.patch("airflow_provider_seedance.triggers.seedance.look_up_settings", look_up),
    ):
        yield settings


# ---------------------------------------------------------------------- the tasks


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Results of a run; times in simulated seconds."""

    took: float
    exchanges: int
    requests: int
    refused: int
    paid: int
    delay: float


class Ours:
    """A deferrable task: a worker that submits, then a trigger; put off for quota, another trigger."""

    def __init__(self, service: Service, settings: Settings, workers: int, machines: int | None = 1) -> None:
        self.service, self.settings, self.machines = service, settings, machines
        self.workers = asyncio.Semaphore(workers)

    async def task(self, number: int) -> float:
        """Run one task instance; return the seconds from its render's end to its own."""
        moment, refusals = 0.0, 0
        machine = number % self.machines if self.machines else number
        while True:
            if moment:
                trigger = SeedanceQuotaTrigger(not_before=moment, seedance_conn_id="seedance_default")
                async for _ in trigger.run():
                    pass
            async with self.workers:
                await asyncio.sleep(1.0)  # the start of a worker
                token = _machine.set(machine)
                submitted, generation, wait = await self._submit(first=not refusals)
                _machine.reset(token)
            if generation is not None:
                break
            moment, refusals = time.time() + wait, refusals + 1
        waiting = SeedanceGenerationTrigger(
            seedance_conn_id="seedance_default",
            generation_id=generation,
            deadline=time.time() + 7 * 86400,
            submitted_at=submitted,
            result_defaults={"model": "seedance-1.5-pro", "duration": 5},
        )
        async for _ in waiting.run():
            pass
        return time.time() - self.service.ends[generation]

    async def _submit(self, *, first: bool) -> tuple[float, str | None, float]:
        note = SharedQuota(self.settings.identity, self.settings.change_in_ledger)
        wait = note.reserve(time.time()) if first else 0.0
        if wait:
            return 0.0, None, wait
        client = AsyncClient(self.settings, observer=note)
        reply: Any = await client.send(HttpCall(method="POST", path="/seedance/generate", json={}))
        await client.close()
        note.exchange(time.time())
        if reply.status == 429:
            return 0.0, None, float(reply.headers["retry-after"])
        return time.time(), reply.json["data"]["task_id"], 0.0


class FixedInterval:
    """Every task for itself, every ten seconds; a refusal is waited out as its header says."""

    def __init__(self, service: Service, settings: Settings, workers: int, machines: int | None = 1) -> None:
        self.service = service
        self.workers = asyncio.Semaphore(workers)

    async def task(self, number: int) -> float:
        """Run one task instance; see :class:`Ours`."""
        async with self.workers:
            await asyncio.sleep(1.0)
            reply = await self._insist(HttpCall(method="POST", path="/seedance/generate", json={}))
        generation = reply["data"]["task_id"]
        while True:
            await asyncio.sleep(10.0)
            if (await self._insist(HttpCall(method="GET", path=f"/tasks/{generation}")))[
                "status"
            ] == "completed":
                break
        await self._insist(HttpCall(method="GET", path=f"/results/{generation}"))
        return time.time() - self.service.ends[generation]

    async def _insist(self, call: HttpCall) -> Any:
        while True:
            reply = self.service.answer(call)
            if reply.status == 200:
                return reply.json
            await asyncio.sleep(float(reply.headers["retry-after"]))


@dataclass(frozen=True, kw_only=True)
class Case:
    """
    Tasks of one kind.

    :param machines: Machines with workers; ``None`` is one for each task.
    :param has_target: Whether refusals and time are limited.
    """

    name: str
    kind: type[Ours] | type[FixedInterval] = Ours
    machines: int | None = 1
    ledger: bool = False
    has_target: bool = True


CASES = (
    Case(name="this provider"),
    Case(name="on 4 machines", machines=4, has_target=False),
    Case(name="on 4 machines, with a ledger", machines=4, ledger=True, has_target=False),
    Case(name="a machine for each task", machines=None, has_target=False),
    Case(name="a machine for each task, with a ledger", machines=None, ledger=True, has_target=False),
    Case(name="fixed 10 s, each for itself", kind=FixedInterval, has_target=False),
)


def run_tasks(case: Case, *, renders: int, limit: int, window: float) -> Outcome:
    """Run tasks that are all due at once."""
    ledger = Ledger() if case.ledger else None
    service = Service(limit=limit, window=window, render_seconds=60.0)

    async def main() -> tuple[float, list[float]]:
        began = time.time()
        tasks = case.kind(service, settings, workers=8, machines=case.machines)
        delays = await asyncio.gather(*(tasks.task(number) for number in range(renders)))
        return time.time() - began, delays

    hub._durations = type(hub._durations)()  # nothing learned from the run before
    with served_by(service, ledger) as settings:
        took, delays = simulate(main)
    return Outcome(
        took=took,
        exchanges=ledger.exchanges if ledger else 0,
        requests=service.requests,
        refused=service.refused,
        paid=service.submissions,
        delay=statistics.median(delays),
    )


def dictated(*, renders: int, limit: int, window: float) -> float:
    """Return the seconds that the quota itself takes."""
    return max(0.0, (MIN_REQUESTS * renders - limit) / (limit / window))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    logging.disable(logging.WARNING)
    met = True
    for renders, limit, window in (
        (200, 60, 270.0),
        (200, 100, 450.0),
        (200, 1000, 3600.0),
        (30, 10, 3600.0),
    ):
        least = dictated(renders=renders, limit=limit, window=window)
        print(
            f"\n{renders} renders of about 60 s, {limit} requests in {window:g} s: the quota dictates "
            f"{least:.0f} s.\n\n"
            "| | paid | requests each | refused | took | against what the quota dictates | exchanges with the ledger |\n"
            "|---|---|---|---|---|---|---|"
        )
        for case in CASES:
            got = run_tasks(case, renders=renders, limit=limit, window=window)
            ratio = f"{got.took / least:.2f}" if least else "-"
            print(
                f"| {case.name} | {got.paid} | {got.requests / renders:.2f} | {got.refused} "
                f"({got.refused / got.requests:.1%}) | {got.took:.0f} s | {ratio} | {got.exchanges} |",
                flush=True,
            )
            if case.has_target:
                met &= got.paid == renders and got.refused <= MAX_REFUSED_SHARE * got.requests
                met &= not least or got.took <= MAX_TIME_FACTOR * least
    print("\nAll targets are met." if met else "\nA target is missed.")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
