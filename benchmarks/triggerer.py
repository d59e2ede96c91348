"""
Ten thousand renders in one triggerer: memory, CPU, requests, resuming, cancelling, taking over.

    python benchmarks/triggerer.py [--generations 10000] [--alternatives 500]

A real ``airflow triggerer`` with its capacity and limit of open files raised, deferred task instances in a
private database, and a status server on loopback. Beside it, in the same run and in the same way, as many
triggers that do nothing: what is more than those is ours. Then some hundred of each of the alternatives,
which do not survive more. It takes about half an hour, most of it Airflow's own: every event is written
to sqlite one by one.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from deferred import BLOCKED, Bench, Reading, Triggerer, bench, wait_until

#: The targets: memory per generation in KiB, CPU in percent of a core, both beyond what idle triggers need.
MEMORY, CPU = 8.0, 5.0
#: Number of tasks that a user marks as failed.
CANCELLED = 200
#: Limit for all tasks to resume; the hub sends ten requests a second for each key.
TIMEOUT_SECONDS = 1800.0

ALTERNATIVES = {
    "ours": "SeedanceGenerationTrigger, three connections",
    "own_client": "a client of its own for each trigger, every 10 s",
    "http_sensor": "HttpSensor(deferrable=True), every 10 s",
    "http_operator": "HttpOperator(deferrable=True)",
}


def measure(
    bench: Bench, kind: str, count: int, seconds: float
) -> tuple[Triggerer, Reading, dict[str, float]]:
    """Defer, start a triggerer, and measure while it waits; returns requests and look-ups as well."""
    bench.ask("reset")
    bench.fill(kind, count)
    looked_up = bench.lookups()
    began = time.monotonic()
    triggerer = bench.start(f"{kind}-{count}")
    start = time.monotonic() - began
    triggerer.settle()
    before = bench.ask("counts").get("GET", 0)
    reading = triggerer.read(seconds)
    extra = {
        "start": start,
        "rate": (bench.ask("counts").get("GET", 0) - before) / seconds,
        "lookups": bench.lookups() - looked_up,
        "loading": triggerer.logged(BLOCKED) - reading.blocked,
        "left": bench.deferred(),
    }
    return triggerer, reading, extra


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    print()
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
    print()


def ten_thousand(bench: Bench, count: int, seconds: float) -> bool:
    """Measure ours beside triggers that do nothing, then end, kill and finish; say whether targets are met."""
    triggerer, idle, idle_extra = measure(bench, "idle", count, seconds)
    triggerer.stop()
    triggerer, ours, extra = measure(bench, "ours", count, seconds)
    memory, cpu = (ours.memory - idle.memory) / count, ours.cpu - idle.cpu
    print(f"\n{count} deferred tasks in one triggerer, {seconds:g} s of waiting")
    table(
        (
            "",
            "runner",
            "supervisor",
            "CPU runner",
            "CPU supervisor",
            "blocked while waiting",
            "while starting",
        ),
        [
            (
                name,
                f"{got.runner / 1024:.0f} MiB",
                f"{got.supervisor / 1024:.0f} MiB",
                f"{got.cpu_runner:.1f} %",
                f"{got.cpu_supervisor:.1f} %",
                got.blocked,
                f"{more['loading']:g}, in {more['start']:.0f} s",
            )
            for name, got, more in (
                ("triggers that do nothing", idle, idle_extra),
                ("generations", ours, extra),
            )
        ],
    )
    print(
        f"More than nothing: {memory:.1f} KiB for each generation (at most {MEMORY:g}), {cpu:.1f} points of CPU (at "
        f"most {CPU:g}), at {extra['rate']:.1f} requests a second and {extra['lookups']:g} look-ups of 3 connections.",
        flush=True,
    )
    # Python's own full garbage collection stops ten thousand triggers for half a second now and then, those
    # that do nothing, too: what counts is what they do not have.
    more_blocked = ours.blocked > idle.blocked
    waits = memory <= MEMORY and cpu <= CPU and not more_blocked and extra["left"] == count
    return end_some_kill_finish(bench, triggerer, count) and waits


def end_some_kill_finish(bench: Bench, triggerer: Triggerer, count: int) -> bool:
    """End some by hand, kill the triggerer, let another take over, and finish the rest."""
    end_by_hand(bench, count)
    tracebacks = triggerer.logged("Traceback")
    triggerer.stop(signal.SIGKILL)
    began = time.monotonic()
    triggerer = bench.start("successor")
    taken = time.monotonic() - began
    triggerer.settle()
    blocked = triggerer.logged(BLOCKED)
    before = bench.ask("counts")
    bench.ask("finish")
    resumed = wait_until(lambda: bench.deferred() == 0, TIMEOUT_SECONDS, "all to resume")
    time.sleep(5)
    after = bench.ask("counts")
    left = triggerer.connections(bench.port)
    blocked = triggerer.logged(BLOCKED) - blocked
    tracebacks += triggerer.logged("Traceback")
    triggerer.stop()
    writes = after.get("POST", 0) + after.get("DELETE", 0)
    print(
        f"{CANCELLED} were ended by hand. Killed (SIGKILL), and taken over by another after {taken:.0f} s. All "
        f"{count - CANCELLED} resumed within {resumed:.0f} s of their end, with {after['GET'] - before['GET']} "
        f"requests. In all {writes} requests to submit or cancel. Afterwards {left} connections are open; "
        f"{tracebacks} tracebacks; {blocked} blocked warnings while resuming.",
        flush=True,
    )
    return not (writes or left or tracebacks or blocked)


def end_by_hand(bench: Bench, count: int, cancelled: int = CANCELLED) -> None:
    """Let a person mark some tasks as failed, and wait until Airflow has forgotten their triggers."""
    bench.mark_failed(min(cancelled, count))
    wait_until(lambda: bench.number("select count(*) from trigger") <= bench.deferred(), 60, "clean-up")
    # A cancelled trigger reads the state of its render first.
    time.sleep(5)


def alternatives(bench: Bench, count: int, seconds: float) -> None:
    """Print what the alternatives need for each render."""
    triggerer, idle, _ = measure(bench, "idle", count, seconds)
    triggerer.stop()
    rows = []
    for kind, name in ALTERNATIVES.items():
        triggerer, got, extra = measure(bench, kind, count, seconds)
        triggerer.stop(signal.SIGKILL)
        waits = extra["left"] == count
        rows.append(
            (
                name,
                f"{(got.memory - idle.memory) / count:.1f} KiB" if waits else "-",
                f"{got.cpu - idle.cpu:.1f} %" if waits else "-",
                f"{extra['rate']:.1f}" if waits else "asks once and resumes a worker: it does not wait",
                f"{extra['lookups']:g}",
                f"{extra['loading'] + got.blocked:g}",
            )
        )
    print(f"\n{count} renders, beyond triggers that do nothing")
    table(("", "memory each", "CPU of all", "requests a second", "look-ups", "blocked warnings"), rows)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--generations", type=int, default=10_000, help="0 leaves this part out")
    parser.add_argument("--alternatives", type=int, default=500, help="number of each; 0 skips this part")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to measure")
    options = parser.parse_args()
    most = max(options.generations, options.alternatives)
    met = True
    with tempfile.TemporaryDirectory() as directory, bench(most + 100, Path(directory)) as made:
        try:
            if options.alternatives:
                alternatives(made, options.alternatives, options.seconds)
            if options.generations:
                met = ten_thousand(made, options.generations, options.seconds)
        except BaseException:
            for log in Path(directory, "home").glob("*.log"):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}", file=sys.stderr)
            raise
    if options.generations:
        print("\nAll targets are met." if met else "\nA target is missed.")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
