"""`LocalAirflow` of the tests, for the benchmarks that need a real Airflow."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from local_airflow import LocalAirflow

__all__ = ["LocalAirflow"]
