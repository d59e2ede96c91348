"""
Share of a quota that renders use: the package's own triggers, in simulated time.

The event loop jumps over every wait, so hours take seconds; triggers, hub and schedule are the real ones,
only the service behind the client is simulated, with the fixed windows and headers of seedance2api.

    python benchmarks/quota.py

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
from dataclasses import dataclass, field
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
LEAST_REQUESTS = 3
MOST_OF_TIME, MOST_REFUSED = 1.3, 0.02


# ---------------------------------------------------------------------- simulated time


class _Selector(selectors.DefaultSelector):
    """Does not wait: it moves the clock."""

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


@contextmanager
def served_by(service: Service) -> Iterator[Settings]:
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

    async def look_up(_: str) -> Settings:
        return settings

    async def send(client: AsyncClient, call: HttpCall) -> HttpReply:
        client._begin(call)
        await asyncio.sleep(0.1)
        reply = service.answer(call)
        response = SimpleNamespace(headers=reply.headers, status_code=reply.status)
        return client._reply(response, reply.body)  # type: ignore[arg-type]

    with (
        tempfile.TemporaryDirectory() as directory,
        mock.patch.object(AsyncClient, "send", send),
        mock.patch.object(shared_quota, "directory", return_value=Path(directory) / "notes"),
        mock.patch("airflow_provider_seedance.hooks.seedance.look_up_settings", look_up),
    ):
        yield settings


# ---------------------------------------------------------------------- the tasks


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Results of a run; times in simulated seconds."""

    name: str
    took: float
    requests: int
    refused: int
    paid: int
    delay: float


class Ours:
    """A deferrable task: a worker that submits, then a trigger; put off for quota, another trigger."""

    name = "this provider"

    def __init__(self, service: Service, settings: Settings, workers: int) -> None:
        self.service, self.settings = service, settings
        self.workers = asyncio.Semaphore(workers)

    async def task(self, number: int) -> float:
        """Run one task instance; return the seconds from its render's end to its own."""
        moment, refusals = 0.0, 0
        while True:
            if moment:
                trigger = SeedanceQuotaTrigger(not_before=moment, seedance_conn_id="seedance_default")
                async for _ in trigger.run():
                    pass
            async with self.workers:
                await asyncio.sleep(1.0)  # the start of a worker
                submitted, generation, wait = await self._submit(first=not refusals)
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
        note = SharedQuota(self.settings.identity)
        wait = note.reserve(time.time()) if first else 0.0
        if wait:
            return 0.0, None, wait
        client = AsyncClient(self.settings, observer=note)
        reply: Any = await client.send(HttpCall(method="POST", path="/seedance/generate", json={}))
        await client.close()
        if reply.status == 429:
            return 0.0, None, float(reply.headers["retry-after"])
        return time.time(), reply.json["data"]["task_id"], 0.0


class FixedInterval:
    """Every task for itself, every ten seconds; a refusal is waited out as its header says."""

    name = "fixed 10 s, each for itself"

    def __init__(self, service: Service, settings: Settings, workers: int) -> None:
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


def run_tasks(kind: type[Ours] | type[FixedInterval], *, renders: int, limit: int, window: float) -> Outcome:
    """Run tasks that are all due at once."""
    service = Service(limit=limit, window=window, render_seconds=60.0)

    async def main() -> tuple[float, list[float]]:
        began = time.time()
        tasks = kind(service, settings, workers=8)
        delays = await asyncio.gather(*(tasks.task(number) for number in range(renders)))
        return time.time() - began, delays

    hub._durations = type(hub._durations)()  # nothing learned from the run before
    with served_by(service) as settings:
        took, delays = simulate(main)
    return Outcome(
        name=kind.name,
        took=took,
        requests=service.requests,
        refused=service.refused,
        paid=service.submissions,
        delay=statistics.median(delays),
    )


def dictated(*, renders: int, limit: int, window: float) -> float:
    """Return the seconds that the quota itself takes."""
    return max(0.0, (LEAST_REQUESTS * renders - limit) / (limit / window))


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
            "| | paid | requests each | refused | took | against what the quota dictates |\n"
            "|---|---|---|---|---|---|"
        )
        for kind in (Ours, FixedInterval):
            got = run_tasks(kind, renders=renders, limit=limit, window=window)
            ratio = f"{got.took / least:.2f}" if least else "-"
            print(
                f"| {got.name} | {got.paid} | {got.requests / renders:.2f} | {got.refused} "
                f"({got.refused / got.requests:.1%}) | {got.took:.0f} s | {ratio} |",
                flush=True,
            )
            if kind is Ours:
                met &= got.paid == renders and got.refused <= MOST_REFUSED * got.requests
                met &= not least or got.took <= MOST_OF_TIME * least
    print("\nAll targets are met." if met else "\nA target is missed.")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
