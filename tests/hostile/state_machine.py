"""
Run state machines of tasks against a model of a service, for tens of thousands of steps: ``make state-machine``.

A render that is paid twice or lost ends the run with the shortest steps to it.
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
from dataclasses import replace
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
from submission.submission_model import Machine

from airflow_provider_seedance.batch import requests
from airflow_provider_seedance.generations import Generation, GenerationStatus, utc_now
from airflow_provider_seedance.hooks import seedance as hook_module
from airflow_provider_seedance.operators import batch_run, generation_run, task_hooks
from airflow_provider_seedance.polling import shared_quota
from airflow_provider_seedance.submission import lookup, reuse, timing
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_3_PLUS
from hostile.clock import CLOCK
from hostile.machine_batch import BatchTask
from hostile.machine_ledger import LedgerMachine
from hostile.machine_task import Task
from hostile.machine_unrecorded import UnrecordedTask

#: The machines, and the share of the steps that each performs.
MACHINES: dict[Any, float] = {
    Machine: 0.1,
    LedgerMachine: 0.1,
    Task: 0.2,
    UnrecordedTask: 0.2,
    BatchTask: 0.3,
}

if AIRFLOW_V_3_3_PLUS:  # the API server stores callbacks in the task state store
    from hostile.machine_called import CalledTask

    MACHINES[CalledTask] = 0.2

#: Names that the machines replace, by module.
_REPLACED: dict[Any, tuple[str, ...]] = {
    hook_module: ("Client",),
    generation_run: ("Client",),
    task_hooks: ("SeedanceHook",),
    batch_run: ("Client", "open_store", "read_manifest", "write_manifest"),
    requests: ("read_text",),
}


def _is_deliverable(generation: Generation, settings: Any) -> bool:
    return generation.status is GenerationStatus.SUCCEEDED and not generation.output_gone(utc_now())


@contextmanager
def prepared(directory: Path) -> Iterator[None]:
    """Patch out time, pauses and the shared quota file, and restore what the machines replace."""
    with ExitStack() as stack:
        for module, names in _REPLACED.items():
            for name in names:
                stack.enter_context(patch.object(module, name, getattr(module, name)))
        stack.enter_context(CLOCK.installed())
        no_waits = {"write_backoff": (0.0,) * 5, "not_found_backoff": (0.0,) * 3, "reuse_backoff": ()}
        at_once = replace(timing.TIMING, **no_waits)
        stack.enter_context(patch.object(timing, "TIMING", at_once))
        # Outputs and inputs are files of a model.
        stack.enter_context(patch.object(lookup, "is_deliverable", _is_deliverable))
        stack.enter_context(
            patch.object(reuse, "_content", lambda url, settings: url.partition("&X-Amz-")[0])
        )
        stack.enter_context(patch.object(shared_quota, "directory", lambda: directory / "quotas"))
        # All histories would count into one file, at the same minute.
        stack.enter_context(patch.object(shared_quota.SharedRate, "of", lambda settings, request: None))
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
    with tempfile.TemporaryDirectory() as directory, prepared(Path(directory)):
        for machine in machines:
            share = MACHINES[machine] / sum(MACHINES[machine] for machine in machines)
            while machine.counts["steps"] < options.steps * share:
                run(machine, examples=40, steps=50, database=None)
            print(f"{machine.title}: {summary(machine.counts)}", flush=True)
    total = sum((machine.counts for machine in machines), Counter[str]())
    print(
        f"{total['steps']} steps, {total['paid']} renders paid, {total['uncertain']} reported as uncertain: "
        "nothing paid twice, nothing lost"
    )


if __name__ == "__main__":
    main()
