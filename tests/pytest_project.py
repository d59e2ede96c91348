"""A pytest of its own for the tests of a project, as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from airflow_provider_seedance import testing

ROOT = Path(testing.__file__).parents[1]


def run_pytest(directory: Path, *options: str) -> str:
    """Run the tests of a project, and return the output of those that passed."""
    command = [
        *(sys.executable, "-m", "pytest", "-q", "--strict-markers"),
        *("-p", "no:cacheprovider"),
        *("-W", "error"),
        *options,
    ]
    loaded = subprocess.run(
        [*command, "-p", "airflow_provider_seedance.testing", "-c", "/dev/null", "--rootdir", ".", "."],
        cwd=directory,
        env={"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "HOME": str(directory)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stdout + loaded.stderr
    return loaded.stdout
