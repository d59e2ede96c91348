"""
Renders of ``ark`` in one triggerer on one account: how late their ends are seen, and at how many requests.

    python benchmarks/ark.py [--renders 400] [--seconds 20] [--many 10000]

The first renders run in real time at the emulator, over HTTP, with the limits of an account that renders all of them at
a time. The others, of 3 to 10 minutes, run in simulated time at a service with the limits of reads: one list and 20 reads
a second. The best that these limits allow is to read as many renders as they do, each the same number of times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import httpx
from quota import at_once, simulate

from airflow_provider_seedance.apis.messages import HttpCall, HttpReply
from airflow_provider_seedance.client import api_client
from airflow_provider_seedance.client.api_client import AsyncClient
from airflow_provider_seedance.polling import hub, shared_quota
from airflow_provider_seedance.polling.wait_state import WaitState
from airflow_provider_seedance.settings import Settings, read_settings
from airflow_provider_seedance.testing import SeedanceEmulator

MODEL = "dreamina-seedance-2-0-260128"
TASKS = "/contents/generations/tasks"
#: Documented limits of an account in a second, and the renders in a list.
LISTS, READS, IDS = 1, 20, 500
#: The targets: seconds, and share of the requests.
MAX_DELAY, MAX_REFUSED = 15.0, 0.02


@dataclass(kw_only=True)
class Account:
    """An account in simulated time; it refuses reads above its limits."""

    ends: dict[str, float] = field(default_factory=dict)
    recent: dict[bool, deque[float]] = field(default_factory=lambda: {True: deque(), False: deque()})
    requests: int = 0
    refused: int = 0

    def answer(self, call: HttpCall) -> HttpReply:
        """Return the reply to a read."""
        now, listed = time.time(), [value for name, value in call.query if name == "filter.task_ids"]
        recent = self.recent[bool(listed)]
        while recent and recent[0] <= now - 1.0:
            recent.popleft()
        self.requests += 1
        if len(recent) >= (LISTS if listed else READS):
            self.refused += 1
            error = {"code": "AccountRateLimitExceeded", "message": "too many requests"}
            return HttpReply(status=429, headers={}, body=json.dumps({"error": error}).encode())
        recent.append(now)
        found = [self._task(name, now) for name in listed or [call.path.rsplit("/", 1)[1]]]
        body = {"total": len(found), "items": found} if listed else found[0]
        return HttpReply(status=200, headers={}, body=json.dumps(body).encode())

    def _task(self, name: str, now: float) -> dict[str, Any]:
        if now < self.ends[name]:
            return {"id": name, "status": "running"}
        content = {"video_url": "https://media.example/v.mp4"}
        return {"id": name, "status": "succeeded", "content": content, "updated_at": int(self.ends[name])}


async def seen_at(settings: Settings, name: str, submitted_at: float) -> float:
    """Wait for a render as a trigger does; return when its end was seen."""

    async def look_up(_: str) -> Settings:
        return settings

    state = WaitState(
        generation_id=name,
        media="video",
        deadline=time.time() + 86_400,
        submitted_at=submitted_at,
        submitted_at_known=True,
        result_defaults={"model": MODEL, "duration": 5},
    )
    step = await hub.wait_for_generation(state, settings.conn_id, look_up, not_before=5.0)
    assert step.kind == "ended", step
    return time.time()


def settings_of(key: str, host: str | None = None) -> Settings:
    """Return the settings of a connection to ark."""
    extra = '{"api": "ark", "media_hosts": ["127.0.0.1"]}'
    connection = SimpleNamespace(password=key, host=host, port=None, schema=None, extra=extra)
    return read_settings("seedance_default", connection)


def report(title: str, delays: Sequence[float], requests: int, refused: int, best: float) -> None:
    """Print the figures of a run."""
    ordered = sorted(delays)
    print(
        f"{title}: ends seen after {statistics.mean(delays):.1f} s on average (95 %: "
        f"{ordered[int(0.95 * len(ordered))]:.1f} s, latest {ordered[-1]:.1f} s; the limits allow {best:.1f} s on average), "
        f"{requests} requests ({requests / len(delays):.2f} each), {refused} refused ({refused / requests:.1%})",
        flush=True,
    )


def best_delay(ends: Sequence[float]) -> float:
    """Return the smallest mean delay that the limits allow: renders that are left are read in a circle."""
    left = range(len(ends), 0, -1)
    return statistics.mean(0.5 * number / (LISTS * IDS + READS) for number in left)


def real_time(renders: int, seconds: float) -> bool:
    """Wait at the emulator; return whether the targets are met."""
    with SeedanceEmulator(media=False, speed=1, render_seconds=seconds, concurrency=renders) as emulator:
        base = emulator.base_url("ark")
        with httpx.Client(headers={"Authorization": f"Bearer {emulator.key}"}, timeout=60) as client:

            def submit(number: int) -> str:
                content = [{"type": "text", "text": f"a paper boat, take {number}"}]
                reply = client.post(base + TASKS, json={"model": MODEL, "content": content})
                return str(reply.raise_for_status().json()["id"])

            with ThreadPoolExecutor(8) as pool:
                ids = list(pool.map(submit, range(renders)))
        submitted = {one.id: one.created_at for one in emulator.generations}
        settings = settings_of(emulator.key, base)

        async def main() -> list[float]:
            return await asyncio.gather(*(seen_at(settings, name, submitted[name]) for name in ids))

        noticed = asyncio.run(main())
        ends = {one.id: one.ended_at or 0.0 for one in emulator.generations}
        reads = [entry for entry in emulator.ledger.requests if entry.kind in ("list", "status")]
    delays = [at - ends[name] for name, at in zip(ids, noticed, strict=True)]
    refused = sum(entry.status == 429 for entry in reads)
    title = f"{renders} renders of {seconds:g} s, over HTTP"
    report(title, delays, len(reads), refused, best_delay(delays))
    return max(delays) <= MAX_DELAY and refused <= MAX_REFUSED * len(reads)


def simulated_time(renders: int) -> bool:
    """Wait for renders of 3 to 10 minutes in simulated time; return whether the targets are met."""
    account, rng = Account(), random.Random(1)

    async def send(client: AsyncClient, call: HttpCall) -> HttpReply:
        client._start_request(call)
        await asyncio.sleep(0.1)
        return account.answer(call)

    async def main() -> list[float]:
        began = time.time()
        account.ends = {f"cgt-{number}": began + rng.uniform(180, 600) for number in range(renders)}
        settings = settings_of("key-of-the-benchmark")
        noticed = await asyncio.gather(*(seen_at(settings, name, began) for name in account.ends))
        return [at - end for at, end in zip(noticed, account.ends.values(), strict=True)]

    hub._durations = type(hub._durations)()  # nothing learned from the run before
    with (
        tempfile.TemporaryDirectory() as directory,
        mock.patch.object(AsyncClient, "send", send),
        # Simulated time does not wait for the thread that reads long lists.
        mock.patch.object(api_client, "MAX_LOOP_BODY_BYTES", api_client.MAX_BODY_BYTES),
        mock.patch.object(shared_quota, "directory", return_value=Path(directory)),
        mock.patch.object(shared_quota, "sync_to_async", at_once),
    ):
        delays = simulate(main)
    title = f"{renders} renders of 3 to 10 minutes, in simulated time"
    report(title, delays, account.requests, account.refused, best_delay(delays))
    return account.refused <= MAX_REFUSED * account.requests


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--renders", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--many", type=int, default=10_000, help="0 leaves this part out")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    met = real_time(options.renders, options.seconds)
    met &= not options.many or simulated_time(options.many)
    print("All targets are met." if met else "A target is missed.")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
