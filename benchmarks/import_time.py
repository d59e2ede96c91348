"""
What importing an operator costs a Dag file, beside other providers.

Each module is imported in fresh interpreters, after ``from airflow.sdk import DAG, BaseOperator``, and its
cumulative time is read from ``-X importtime``. The modules take turns, so that a slow moment of the machine
does not fall on one of them only. Prints a Markdown table of medians.

    python benchmarks/import_time.py [runs]
"""

from __future__ import annotations

import importlib.util
import re
import statistics
import subprocess
import sys

OURS = "airflow_provider_seedance.operators.seedance"
MODULES = {
    OURS: "this provider",
    "airflow.providers.http.operators.http": "HTTP provider",
    "airflow.providers.dbt.cloud.operators.dbt": "dbt Cloud provider",
    "airflow.providers.databricks.operators.databricks": "Databricks provider",
}
_LINE = re.compile(r"import time:\s+\d+ \|\s+(\d+) \| +(\S+)$", re.MULTILINE)


def measure(module: str) -> float:
    """Return the milliseconds that importing a module took in a fresh interpreter."""
    code = f"from airflow.sdk import DAG, BaseOperator\nimport {module}"
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True
    )
    # The parents of a module are listed as imports of their own; what counts is all that is new.
    package = module.split(".")
    names = {".".join(package[:depth]) for depth in range(1, len(package) + 1)} - {
        "airflow",
        "airflow.providers",
    }
    outermost = [int(time) for time, name in _LINE.findall(run.stderr) if name in names]
    return sum(outermost) / 1000


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    present = [module for module in MODULES if _installed(module)]
    times: dict[str, list[float]] = {module: [] for module in present}
    for _ in range(runs):
        for module in present:
            times[module].append(measure(module))
    ours = statistics.median(times[OURS])
    print(f"| operator module | median of {runs} (ms) | beside this provider |")
    print("|---|---:|---:|")
    for module in present:
        median = statistics.median(times[module])
        print(f"| `{module}` ({MODULES[module]}) | {median:.1f} | {median / ours:.2f} |")
    for module in sorted(set(MODULES) - set(present)):
        print(f"\n`{module}` is not installed, so it was not measured.")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


if __name__ == "__main__":
    main()
