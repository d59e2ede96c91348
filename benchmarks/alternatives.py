"""
Other ways to wait for renders, compared with this provider in one run against the emulator.

    python benchmarks/alternatives.py [--renders 12] [--seconds 45]

Each alternative waits as its documentation shows, with its own defaults. Renders take about the given time,
in real time. Packages that are not installed are skipped, with a message: ``apache-airflow-providers-http``, ``seedance-sdk`` and
``volcengine-ark-runtime``.
"""

from __future__ import annotations

import argparse
import asyncio
import http.server
import importlib
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from airflow_provider_seedance.testing import SeedanceEmulator
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger

#: Time at which each render was noticed, by generation.
Noticed = dict[str, float]


class Bench:
    """Renders at the emulator, and the alternatives that wait for them."""

    def __init__(self, emulator: SeedanceEmulator, renders: int, seconds: float) -> None:
        self.emulator, self.renders, self.seconds = emulator, renders, seconds
        self.ends: dict[str, float] = {}
        os.environ["AIRFLOW_CONN_SEEDANCE_DEFAULT"] = emulator.connection_json("runbase")
        os.environ["AIRFLOW_CONN_RUNBASE"] = json.dumps(
            {"conn_type": "http", "host": emulator.base_url("runbase"), "password": ""}
        )

    def headers(self) -> dict[str, str]:
        """Return the header with the key."""
        return {"Authorization": f"Bearer {self.emulator.key}"}

    def submit(self, api: str) -> list[str]:
        """Submit renders, some seconds apart in their ends."""
        path, body, field = {
            "runbase": (
                "/runs",
                {"model": "bytedance/seedance-1.5-pro", "input": {"prompt": "a boat"}},
                "id",
            ),
            "ark": (
                "/contents/generations/tasks",
                {"model": "seedance-1-5-pro-251215", "content": [{"type": "text", "text": "a boat"}]},
                "id",
            ),
        }[api]
        found = []
        for _ in range(self.renders):
            reply = httpx.post(self.emulator.base_url(api) + path, json=body, headers=self.headers())
            found.append(str(reply.json()[field]))
        for name in found:
            self.ends[name] = self.emulator.generation(name).created_at + self.seconds * random.uniform(
                0.8, 1.2
            )
            threading.Timer(self.ends[name] - time.time(), self.emulator.finish, [name]).start()
        return found

    def run(self, name: str, holds: str, api: str, wait: Callable[[Bench, list[str]], Noticed]) -> None:
        """Let an alternative wait for new renders, and print the cost."""
        ids = self.submit(api)
        before = len(self.emulator.ledger.requests)
        try:
            noticed = wait(self, ids)
        except ImportError as error:
            print(f"| {name} | not installed: {error.name} | | | |", flush=True)
            return
        time.sleep(max(0.0, max(self.ends[each] for each in ids) - time.time()))
        requests = len(self.emulator.ledger.requests) - before
        delays = [noticed[each] - self.ends[each] for each in ids]
        early = sum(delay < 0 for delay in delays)
        when = f"{statistics.mean(delays):.1f} s | {max(delays):.1f} s"
        if early:
            when = f"**before the end** ({early} of {len(ids)}) | "
        print(f"| {name} | {requests / len(ids):.1f} | {when} | {holds} |", flush=True)


def in_threads(ids: list[str], wait: Callable[[str], object]) -> Noticed:
    """Wait as tasks on workers do: each holds one."""

    def one(name: str) -> tuple[str, float]:
        wait(name)
        return name, time.time()

    with ThreadPoolExecutor(len(ids)) as pool:
        return dict(pool.map(one, ids))


def in_one_loop(ids: list[str], wait: Callable[[str], Awaitable[object]]) -> Noticed:
    """Wait as triggers do: all in one event loop."""

    async def one(name: str) -> tuple[str, float]:
        await wait(name)
        return name, time.time()

    async def main() -> Noticed:
        return dict(await asyncio.gather(*map(one, ids)))

    return asyncio.run(main())


def ours(bench: Bench, ids: list[str]) -> Noticed:
    """Wait with this provider's trigger."""

    async def wait(name: str) -> None:
        trigger = SeedanceGenerationTrigger(
            seedance_conn_id="seedance_default",
            generation_id=name,
            deadline=time.time() + 3600,
            submitted_at=bench.emulator.generation(name).created_at,
            result_defaults={"model": "bytedance/seedance-1.5-pro"},
        )
        async for _ in trigger.run():
            return

    return in_one_loop(ids, wait)


def client_each(bench: Bench, ids: list[str]) -> Noticed:
    """Wait with a client per trigger, every ten seconds."""

    async def wait(name: str) -> None:
        async with httpx.AsyncClient(headers=bench.headers()) as client:
            while True:
                await asyncio.sleep(10)
                reply = await client.get(f"{bench.emulator.base_url('runbase')}/runs/{name}")
                if reply.json()["status"] == "succeeded":
                    return

    return in_one_loop(ids, wait)


def http_sensor_deferrable(bench: Bench, ids: list[str]) -> Noticed:
    """Wait with the trigger that a deferrable HttpSensor defers to."""
    module = importlib.import_module("airflow.providers.http.triggers.http")

    async def wait(name: str) -> None:
        trigger = module.HttpSensorTrigger(
            endpoint=f"runs/{name}",
            http_conn_id="runbase",
            method="GET",
            headers=bench.headers(),
            poke_interval=60,
        )
        async for _ in trigger.run():
            return

    return in_one_loop(ids, wait)


def http_operator_deferrable(bench: Bench, ids: list[str]) -> Noticed:
    """Ask with the trigger that a deferrable HttpOperator defers to."""
    module = importlib.import_module("airflow.providers.http.triggers.http")

    async def wait(name: str) -> None:
        trigger = module.HttpTrigger(
            endpoint=f"runs/{name}", http_conn_id="runbase", method="GET", headers=bench.headers()
        )
        async for _ in trigger.run():
            return

    return in_one_loop(ids, wait)


def http_sensor(bench: Bench, ids: list[str]) -> Noticed:
    """Poke as a plain HttpSensor with a response_check does, every minute."""
    importlib.import_module("airflow.providers.http.sensors.http")

    def wait(name: str) -> None:
        url = f"{bench.emulator.base_url('runbase')}/runs/{name}"
        while httpx.get(url, headers=bench.headers()).json()["status"] != "succeeded":
            time.sleep(60)

    return in_threads(ids, wait)


def seedance_sdk(bench: Bench, ids: list[str]) -> Noticed:
    """Wait with the third-party SDK's own loop; a shim speaks its vendor's protocol."""
    module = importlib.import_module("seedance")

    class Shim(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            url = f"{bench.emulator.base_url('runbase')}/runs/{name}"
            done = httpx.get(url, headers=bench.headers()).json()["status"] == "succeeded"
            task = {"id": name, "status": "completed" if done else "processing", "model": "seedance-2.0"}
            task |= {
                "task_type": "text_to_video",
                "created_at": "2026-01-01T00:00:00Z",
                "credits_consumed": 1,
            }
            body = json.dumps({"success": True, "data": task | {"updated_at": task["created_at"]}}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Stay quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shim)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"

    def wait(name: str) -> None:
        module.SeedanceClient("sk-video-0123456789abcdef", base_url=url).wait_for_completion_sync(name)

    try:
        return in_threads(ids, wait)
    finally:
        server.shutdown()


def ark_sdk(bench: Bench, ids: list[str]) -> Noticed:
    """Wait with the vendor's SDK and the loop of its example."""
    module = importlib.import_module("volcenginesdkarkruntime")
    client = module.Ark(api_key=bench.emulator.key, base_url=bench.emulator.base_url("ark"))

    def wait(name: str) -> None:
        while client.content_generation.tasks.get(task_id=name).status != "succeeded":
            time.sleep(1)

    return in_threads(ids, wait)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--renders", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=45.0)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    random.seed(1)
    print(f"{options.renders} renders of about {options.seconds:g} s, one after the other by:\n")
    print("| | requests after the submission | mean delay | longest | while waiting |\n|---|---|---|---|---|")
    with SeedanceEmulator(media=False, speed=1, render_seconds=3600, concurrency=1000) as emulator:
        bench = Bench(emulator, options.renders, options.seconds)
        bench.run("this provider, nothing learned", "no worker, one client for all", "runbase", ours)
        bench.run("this provider, afterwards", "no worker, one client for all", "runbase", ours)
        bench.run("one client per trigger, every 10 s", "no worker, a client each", "runbase", client_each)
        bench.run("HttpSensor, deferrable", "fires on the first answer", "runbase", http_sensor_deferrable)
        bench.run("HttpOperator, deferrable", "one request, no waiting", "runbase", http_operator_deferrable)
        bench.run("HttpSensor with response_check", "a worker each", "runbase", http_sensor)
        bench.run("seedance-sdk's wait_for_completion", "a worker each", "runbase", seedance_sdk)
        bench.run("the vendor's SDK, its example's loop", "a worker each", "ark", ark_sdk)
    return 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("AIRFLOW_HOME", home)
        sys.exit(main())
