"""
Run state machines of tasks against a model of a service, for tens of thousands of steps: ``make state-machine``.

Each machine has a module: one task (:mod:`hostile.machine_task`), one with callbacks
(:mod:`hostile.machine_called`), and a batch (:mod:`hostile.machine_batch`). A render that is paid twice or lost ends
the run with the shortest steps to it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

if __name__ == "__main__":
    _tests = Path(__file__).resolve().parent.parent
    sys.path[:0] = [str(_tests), str(_tests.parent)]
    _home = tempfile.TemporaryDirectory(prefix="airflow-machine-", ignore_cleanup_errors=True)
    os.environ["AIRFLOW_HOME"] = _home.name

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from airflow_provider_seedance.hooks import seedance as hook_module
from airflow_provider_seedance.operators import batch_run, generation_run
from airflow_provider_seedance.polling import shared_quota
from airflow_provider_seedance.submission import lookup, store
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_3_PLUS
from hostile.machine_batch import BatchTask
from hostile.machine_task import Task

MACHINES: tuple[Any, ...] = (Task, BatchTask)

if AIRFLOW_V_3_3_PLUS:  # the API server stores callbacks in the task state store
    from hostile.machine_called import CalledTask

    MACHINES = (Task, CalledTask, BatchTask)


@contextmanager
def prepared(directory: Path) -> Iterator[None]:
    """Patch out pauses and the shared quota file, and restore them afterwards."""
    with ExitStack() as stack:
        # The machines replace these.
        stack.enter_context(patch.object(hook_module, "Client", hook_module.Client))
        for module in (generation_run, batch_run):
            stack.enter_context(patch.object(module, "Client", module.Client))  # type: ignore[attr-defined]
            stack.enter_context(patch.object(module, "SeedanceHook", module.SeedanceHook))  # type: ignore[attr-defined]
        stack.enter_context(
            patch.object(store, "WRITE_BACKOFF_SECONDS", (0.0,) * len(store.WRITE_BACKOFF_SECONDS))
        )
        pauses = lookup.NOT_FOUND_PAUSES_SECONDS
        stack.enter_context(patch.object(lookup, "NOT_FOUND_PAUSES_SECONDS", (0.0,) * len(pauses)))
        stack.enter_context(patch.object(shared_quota, "directory", lambda: directory / "quotas"))
        yield


def run(machine: Any, *, examples: int, steps: int, **options: Any) -> None:
    """Run a machine for some examples, each with a maximum number of steps."""
    machine.counts["runs"] += 1
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **options,
        ),
    )


def summary(counts: Counter[str]) -> str:
    """Return the counts of a machine as text, its totals first."""
    first = ("steps", "paid", "uncertain")
    rest = sorted(
        ((what, n) for what, n in counts.items() if what not in (*first, "runs")), key=lambda count: -count[1]
    )
    return ", ".join(f"{n} {what}" for what, n in [*((what, counts[what]) for what in first), *rest])


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the state machines for many steps.")
    parser.add_argument("--only", choices=[machine.__name__ for machine in MACHINES])
    parser.add_argument(
        "--steps", type=int, default=30_000, help="minimum number of steps, over all machines"
    )
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    machines = [machine for machine in MACHINES if options.only in (None, machine.__name__)]
    each = -(-options.steps // len(machines))
    with tempfile.TemporaryDirectory() as directory, prepared(Path(directory)):
        for machine in machines:
            while machine.counts["steps"] < each:
                run(machine, examples=40, steps=50, database=None)
            print(f"{machine.title}: {summary(machine.counts)}", flush=True)
    total = sum((machine.counts for machine in machines), Counter[str]())
    print(
        f"{total['steps']} steps, {total['paid']} renders paid, {total['uncertain']} reported as uncertain: "
        "nothing paid twice, nothing lost"
    )


if __name__ == "__main__":
    main()
