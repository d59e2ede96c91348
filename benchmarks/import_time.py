"""
Parse time of a Dag file with ten tasks of an operator, compared with the same file with ten ``EmptyOperator``s.

Each file is executed in fresh interpreters, which have imported what a Dag-file process has: ``airflow.sdk`` and the
``EmptyOperator``. Times are CPU times, and the files alternate, so that other load on the machine has little effect.
Prints a Markdown table of medians.

    python benchmarks/import_time.py [runs]
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

#: Maximum additional parse time of a Dag file with this provider's operators, in milliseconds.
MAX_ADDITIONAL_MS = 60.0

OURS = "this provider"
EMPTY = "EmptyOperator"

#: Module and the lines that create one task.
OPERATORS = {
    EMPTY: ("airflow.providers.standard.operators.empty", "EmptyOperator(task_id=name)"),
    OURS: (
        "airflow_provider_seedance.operators.seedance",
        "SeedanceGenerateVideoOperator(task_id=name, prompt='A paper boat')",
    ),
    "HTTP provider": ("airflow.providers.http.operators.http", "HttpOperator(task_id=name, endpoint='/')"),
    "dbt Cloud provider": (
        "airflow.providers.dbt.cloud.operators.dbt",
        "DbtCloudRunJobOperator(task_id=name, job_id=1)",
    ),
    "Databricks provider": (
        "airflow.providers.databricks.operators.databricks",
        "DatabricksSubmitRunOperator(task_id=name, notebook_task={'notebook_path': '/a'})",
    ),
}

DAG = """
from airflow.sdk import DAG
from {module} import {operator}

with DAG("parsed", schedule=None):
    for number in range(10):
        name = f"task_{{number}}"
        {task}
"""

#: Runs the Dag file named on the command line, and prints the milliseconds of CPU time.
PARSE = """
import runpy, sys, time
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
start = time.process_time()
runpy.run_path(sys.argv[1])
print(1000 * (time.process_time() - start))
"""


def measure(path: Path) -> float:
    """Return the milliseconds that a fresh interpreter needs for a Dag file."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PARSE, str(path)], capture_output=True, text=True, check=True
    )
    return float(run.stdout.splitlines()[-1])


def main() -> int:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    installed = [name for name, (module, _) in OPERATORS.items() if _is_installed(module)]
    times: dict[str, list[float]] = {name: [] for name in installed}
    with tempfile.TemporaryDirectory() as directory:
        for name in installed:
            module, task = OPERATORS[name]
            source = DAG.format(module=module, operator=task.partition("(")[0], task=task)
            (Path(directory) / f"{name}.py").write_text(source)
        for _ in range(runs):
            for name in installed:
                times[name].append(measure(Path(directory) / f"{name}.py"))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"| a Dag file with ten tasks | median of {runs} (ms) | more than `EmptyOperator` (ms) |")
    print("|---|---:|---:|")
    for name, median in medians.items():
        print(f"| {name} | {median:.1f} | {median - medians[EMPTY]:.1f} |")
    for name in sorted(set(OPERATORS) - set(installed)):
        print(f"\n{name} is not installed, so it was not measured.")
    additional = medians[OURS] - medians[EMPTY]
    print(
        f"\nThe target is at most {MAX_ADDITIONAL_MS:g} ms more: {'met' if additional <= MAX_ADDITIONAL_MS else 'missed'}."
    )
    return 0 if additional <= MAX_ADDITIONAL_MS else 1


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main())
