"""A private, real Airflow on this machine: for the ``demo`` command and the integration tests.

Nothing that runs in a deployment imports this package, and importing it imports neither Airflow
nor an HTTP client.
"""

from airflow_provider_seedance.local_airflow.api import ApiError
from airflow_provider_seedance.local_airflow.client import DagImportError, LocalAirflowError
from airflow_provider_seedance.local_airflow.processes import TaskProcess
from airflow_provider_seedance.local_airflow.runner import LocalAirflow

__all__ = ["ApiError", "DagImportError", "LocalAirflow", "LocalAirflowError", "TaskProcess"]
