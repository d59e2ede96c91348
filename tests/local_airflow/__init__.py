"""A private, real Airflow on this machine, for integration tests and benchmarks."""

from local_airflow.api import ApiError
from local_airflow.installation import DagImportError, LocalAirflowError
from local_airflow.processes import TaskProcess
from local_airflow.runner import LocalAirflow

__all__ = ["ApiError", "DagImportError", "LocalAirflow", "LocalAirflowError", "TaskProcess"]
