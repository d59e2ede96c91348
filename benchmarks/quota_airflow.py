"""
The same as ``quota.py`` on a real Airflow: 200 mapped, deferrable renders against the emulator's quota.

    python benchmarks/quota_airflow.py [--renders 200] [--limit 60] [--window 30]

Renders of 60 s run ten times faster than in reality, and so does the window of the quota.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from private_airflow import LocalAirflow

from airflow_provider_seedance.testing import SeedanceEmulator

SPEED = 10.0
RENDER_SECONDS = 60.0
MIN_REQUESTS = 3

DAG = """
from airflow.sdk import DAG

from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator

with DAG("mapped", schedule=None, max_active_tasks={renders}):
    SeedanceGenerateVideoOperator.partial(task_id="render", duration=5).expand(
        prompt=[f"a paper boat, take {{number}}" for number in range({renders})]
    )
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--renders", type=int, default=200)
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--window", type=float, default=30.0, help="real seconds")
    parser.add_argument("--parallelism", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        return run(options, Path(directory))


def run(options: argparse.Namespace, directory: Path) -> int:
    (directory / "dags").mkdir()
    (directory / "dags" / "mapped.py").write_text(DAG.format(renders=options.renders))
    emulator = SeedanceEmulator(
        media=False,
        speed=SPEED,
        render_seconds=RENDER_SECONDS,
        rate_limit=(options.limit, options.window),
    )
    with emulator:
        airflow = LocalAirflow(
            home=directory / "home",
            dags_folder=directory / "dags",
            connections={"seedance_default": emulator.connection_json("seedance2api")},
            config={("core", "parallelism"): str(options.parallelism)},
        )
        with airflow:
            airflow.wait_parsed("mapped")
            airflow.unpause("mapped")
            began = time.time()
            run_id = airflow.trigger("mapped")
            state = airflow.wait_run("mapped", run_id, timeout=3600)
            took = time.time() - began
        requests = emulator.ledger.requests
    refused = sum(entry.status == 429 for entry in requests)
    paid = len(emulator.ledger.submissions)
    least = max(0.0, (MIN_REQUESTS * options.renders - options.limit) / (options.limit / options.window))
    print(
        f"{options.renders} renders, {options.limit} requests in {options.window:g} s: {state}, {paid} paid, "
        f"{len(requests) / options.renders:.2f} requests each, {refused} refused "
        f"({refused / len(requests):.1%}), {took:.0f} s; the quota dictates {least:.0f} s "
        f"(ratio {took / least if least else 0:.2f})."
    )
    kinds = {entry.kind for entry in requests}
    print(", ".join(f"{kind}: {sum(entry.kind == kind for entry in requests)}" for kind in sorted(kinds)))
    good = state == "success" and paid == options.renders and refused <= 0.02 * len(requests)
    return 0 if good and (not least or took <= 1.3 * least) else 1


if __name__ == "__main__":
    sys.exit(main())
