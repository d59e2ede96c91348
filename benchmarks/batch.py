"""
Kill the process of a batch task repeatedly, and check that each render is paid for once.

    python benchmarks/batch.py [--items 1000] [--kills 10] [--in-flight 100]

A real Airflow and the emulator. The task process is killed with SIGKILL at random moments; Airflow retries
the task, which goes on where it was. A kill between the POST and its reply leaves that one render uncertain:
it is reported and never repeated.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from private_airflow import LocalAirflow

from airflow_provider_seedance.testing import SeedanceEmulator

DAG = """
from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoBatchOperator

with DAG("batch", schedule=None):
    SeedanceGenerateVideoBatchOperator(
        task_id="render",
        requests=[f"a paper boat, take {{number}}" for number in range({items})],
        max_in_flight={in_flight},
        on_item_failure="keep",
        retries=12,
        retry_delay=timedelta(seconds=1),
    )
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--api", default="seedanceapi-v2")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        return run(options, Path(directory))


def run(options: argparse.Namespace, directory: Path) -> int:
    (directory / "dags").mkdir()
    (directory / "dags" / "batch.py").write_text(DAG.format(items=options.items, in_flight=options.in_flight))
    account = {"concurrency": options.in_flight}  # --api ark renders as many at a time
    with SeedanceEmulator(media=False, speed=10, render_seconds=100, **account) as emulator:
        airflow = LocalAirflow(
            home=directory / "home",
            dags_folder=directory / "dags",
            connections={"seedance_default": emulator.connection_json(options.api)},
        )
        with airflow:
            airflow.wait_parsed("batch")
            airflow.unpause("batch")
            began = time.time()
            run_id = airflow.trigger("batch")
            kills = kill_at_random(airflow, run_id, options)
            state = airflow.wait_run("batch", run_id, timeout=3600)
            took = time.time() - began
            result = airflow.xcom("batch", run_id, "render") or {}
            tries = airflow.task_instance("batch", run_id, "render")["try_number"]
        return judge(options, emulator, state, result, took, kills, tries)


def kill_at_random(airflow: LocalAirflow, run_id: str, options: argparse.Namespace) -> int:
    rng = random.Random(options.seed)
    for kill in range(options.kills):
        # The process must be there, and somewhere in the middle of what it does.
        airflow.task_process("batch", run_id, "render", timeout=600)
        time.sleep(rng.uniform(0.5, 4.0))
        airflow.kill_task("batch", run_id, "render", timeout=600)
        print(f"killed {kill + 1} of {options.kills}", flush=True)
    return int(options.kills)


def judge(
    options: argparse.Namespace,
    emulator: SeedanceEmulator,
    state: str,
    result: dict[str, Any],
    took: float,
    kills: int,
    tries: int,
) -> int:
    paid = Counter(submission.prompt for submission in emulator.ledger.submissions)
    twice = sum(count > 1 for count in paid.values())
    delivered = {entry["generation_id"] for entry in result.get("succeeded", [])}
    failed = Counter(entry["kind"] for entry in result.get("failed", []))
    lost = len(paid) - len(delivered) - failed["uncertain"]
    running = sum(generation.status in ("queued", "running") for generation in emulator.generations)
    requests = Counter(entry.kind for entry in emulator.ledger.requests)
    print(
        f"{options.items} items, {kills} kills (SIGKILL), {tries} tries, {took:.0f} s: {state}\n"
        f"paid for: {len(paid)}; twice: {twice}; delivered: {len(delivered)}; uncertain (between POST and id): "
        f"{failed['uncertain']}; lost: {max(0, lost)}; other failures: {sum(failed.values()) - failed['uncertain']}; "
        f"still running at the service: {running}\n"
        f"requests: {dict(requests)}, {sum(requests.values()) / options.items:.2f} for each"
    )
    whole = len(delivered) + failed["uncertain"] == options.items and set(failed) <= {"uncertain"}
    good = state == "success" and not twice and lost <= 0 and whole and failed["uncertain"] <= kills
    print("Every render was paid for once." if good else "That is not what was promised.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
