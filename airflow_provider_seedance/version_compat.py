"""
Differences between the supported versions of Airflow, which no other module knows.

Names that only moved are imported from ``airflow.providers.common.compat.sdk``.
"""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

#: Names of Airflow that other modules import from here.
__all__ = ["RetryDecision", "RetryPolicy", "TaskDeferralError", "TaskDeferralTimeout"]

if TYPE_CHECKING:
    from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
    from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout
else:
    try:
        from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout
    except ImportError:  # Airflow 3.1
        from airflow.exceptions import TaskDeferralError, TaskDeferralTimeout

    try:
        from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
    except ImportError:  # below Airflow 3.3, where nothing calls a policy
        RetryPolicy = object
        RetryDecision = None

#: Airflow 3.2 has commands of providers and fields of the connection form.
AIRFLOW_V_3_2_PLUS = TaskDeferralError.__module__.startswith("airflow.sdk.")

#: Airflow 3.3 has the task state store, retry policies, ``on_kill`` of triggers, and XCom written by triggers.
AIRFLOW_V_3_3_PLUS = RetryPolicy is not object


def never_expire() -> Any:
    """Return the retention with which the task state store keeps a value for good."""
    # Airflow compares by identity, so it has to be its own object.
    try:
        from airflow.sdk.execution_time.context import NEVER_EXPIRE
    except ImportError:  # below 3.3 there is no store, except in tests
        return timedelta.max
    return NEVER_EXPIRE


def dag_bag_module() -> Any:
    """Return the module that reads Dag files."""
    try:
        return import_module("airflow.dag_processing.dagbag")
    except ImportError:  # Airflow 3.1
        return import_module("airflow.models.dagbag")


def dag_serialization() -> Any:
    """Return the class that makes and reads serialized Dags."""
    module = import_module("airflow.serialization.serialized_objects")
    return getattr(module, "DagSerialization", None) or module.SerializedDAG  # the latter up to Airflow 3.1


def serialized(dag: Any) -> Any:
    """Return a Dag as the scheduler deserializes it, with the timetable of its runs."""
    form = dag_serialization()
    return form.from_dict(form.to_dict(dag))
