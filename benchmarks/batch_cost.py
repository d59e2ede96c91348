"""
Cost of 200 clips for Airflow: the batch operator, the mapped operator, and a mapped PythonOperator with an SDK.

    python benchmarks/batch_cost.py [--clips 200]

One real Airflow runs one after the other against the emulator. The third-party SDK (``seedance-sdk``, left
out aloud where it is not installed) speaks another vendor's protocol, so a shim translates for it.
"""

from __future__ import annotations

import argparse
import http.server
import importlib.util
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from private_airflow import LocalAirflow

from airflow_provider_seedance.testing import SeedanceEmulator

DAGS = """
from airflow.sdk import DAG
from airflow.providers.standard.operators.python import PythonOperator

from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoBatchOperator,
    SeedanceGenerateVideoOperator,
)

PROMPTS = [f"a paper boat, take {{number}}" for number in range({clips})]


def with_the_sdk(prompt):
    from seedance import SeedanceClient

    client = SeedanceClient("sk-video-0123456789abcdef", base_url="{shim}")
    task = client.generate_video_sync({{"prompt": prompt}})
    return str(client.wait_for_completion_sync(task.id).id)


with DAG("batch", schedule=None):
    SeedanceGenerateVideoBatchOperator(task_id="render", requests=PROMPTS)

with DAG("mapped", schedule=None, max_active_tasks={clips}):
    SeedanceGenerateVideoOperator.partial(task_id="render").expand(prompt=PROMPTS)

with DAG("sdk", schedule=None, max_active_tasks={clips}):
    PythonOperator.partial(task_id="render", python_callable=with_the_sdk).expand(
        op_args=[[prompt] for prompt in PROMPTS]
    )
"""

KINDS = {
    "batch": "batch operator",
    "mapped": "mapped operator",
    "sdk": "mapped PythonOperator with seedance-sdk",
}

_SAMPLE = 0.2


@contextmanager
def shim(emulator: SeedanceEmulator) -> Iterator[str]:
    """Speak the SDK's protocol, and the emulator's behind it."""
    url, headers = emulator.base_url("runbase"), {"Authorization": f"Bearer {emulator.key}"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]
            body = {"model": "bytedance/seedance-1.5-pro", "input": {"prompt": prompt}}
            self._answer(httpx.post(f"{url}/runs", json=body, headers=headers, timeout=60).json())

        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            self._answer(httpx.get(f"{url}/runs/{name}", headers=headers, timeout=60).json())

        def _answer(self, run: dict[str, Any]) -> None:
            done = run.get("status") == "succeeded"
            moment = "2026-01-01T00:00:00Z"
            task = {"id": run["id"], "status": "completed" if done else "processing", "model": "seedance-2.0"}
            task |= {"task_type": "text_to_video", "created_at": moment, "updated_at": moment}
            body = json.dumps({"success": True, "data": task | {"credits_consumed": 1}}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Stay quiet."""

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 200
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


@dataclass
class Watch:
    """Counts task processes while a Dag runs."""

    airflow: LocalAirflow
    held: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(_SAMPLE):
            now = time.monotonic()
            running = self.airflow.task_processes()
            self.held += len(running) * (now - last)
            last = now


def finished(airflow: LocalAirflow, dag_id: str) -> int:
    """Return how many task processes of a Dag the scheduler has seen end: each was a worker start."""
    log = (airflow.home / "logs" / "scheduler.log").read_text(errors="replace")
    return log.count(f"TaskInstance Finished: dag_id={dag_id},")


def measure(airflow: LocalAirflow, emulator: SeedanceEmulator, dag_id: str, clips: int) -> tuple[Any, ...]:
    scheduler = psutil.Process(airflow.pid("scheduler"))
    before, requests, paid = cpu(scheduler), len(emulator.ledger.requests), len(emulator.ledger.submissions)
    airflow.unpause(dag_id)
    began = time.time()
    with Watch(airflow) as watch:
        run_id = airflow.trigger(dag_id)
        state = airflow.wait_run(dag_id, run_id, timeout=3600)
    took = time.time() - began
    time.sleep(3)
    bought = len(emulator.ledger.submissions) - paid
    assert state == "success", f"{dag_id}: {state}"
    return (
        KINDS[dag_id],
        bought,
        finished(airflow, dag_id),
        f"{watch.held:.0f} s",
        f"{(len(emulator.ledger.requests) - requests) / clips:.1f}",
        f"{cpu(scheduler) - before:.0f} s",
        f"{took:.0f} s",
    )


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--parallelism", type=int, default=8)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        SeedanceEmulator(media=False, speed=6, render_seconds=60) as emulator,
        shim(emulator) as address,
    ):
        directory = Path(folder)
        (directory / "dags").mkdir()
        (directory / "dags" / "clips.py").write_text(DAGS.format(clips=options.clips, shim=address))
        airflow = LocalAirflow(
            home=directory / "home",
            dags_folder=directory / "dags",
            connections={"seedance_default": emulator.connection_json("runbase")},
            config={("core", "parallelism"): str(options.parallelism)},
        )
        with airflow:
            airflow.wait_parsed("batch")
            kinds = [kind for kind in KINDS if kind != "sdk" or importlib.util.find_spec("seedance")]
            if "sdk" not in kinds:
                print("seedance-sdk is not installed and left out.")
            print(
                f"{options.clips} clips of 10 s rendering, {options.parallelism} workers\n\n"
                "| | paid for | worker starts | worker-seconds held | requests each | scheduler CPU | took |\n"
                "|---|---|---|---|---|---|---|"
            )
            for kind in kinds:
                row = measure(airflow, emulator, kind, options.clips)
                print("| " + " | ".join(map(str, row)) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
