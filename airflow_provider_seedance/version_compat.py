"""
Differences between the supported versions of Airflow, which no other module knows.

Names that only moved are imported from ``airflow.providers.common.compat.sdk``.
"""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any
from uuid import UUID

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

#: Words before a command of this package, for messages.
COMMAND_WORDS = (
    ("airflow", "seedance") if AIRFLOW_V_3_2_PLUS else ("python", "-m", "airflow_provider_seedance")
)

#: Airflow 3.3 has the task state store, retry policies, ``on_kill`` of triggers, and XCom written by triggers.
AIRFLOW_V_3_3_PLUS = RetryPolicy is not object

#: Airflow 3.4 has task loops, regions, a row for each attempt, and retry policies that reschedule a task without using a
#: retry; clearing a task instance discards its task state.
AIRFLOW_V_3_4_PLUS = hasattr(RetryDecision, "reschedule")


def is_resumed(ti: Any) -> bool:
    """Return whether a task resumes after a deferral (below Airflow 3.3, where only this private attribute says so)."""
    server = getattr(ti, "_ti_context_from_server", None)
    return server is not None and server.next_method is not None


def forbid_retry(ti: Any) -> None:
    """Make every later failure of the running try final (below Airflow 3.3, where only this private attribute can)."""
    if server := getattr(ti, "_ti_context_from_server", None):
        server.should_retry = False


def never_expire() -> Any:
    """Return the retention with which the task state store keeps a value for good."""
    # Airflow compares by identity, so it has to be its own object.
    try:
        from airflow.sdk.execution_time.context import NEVER_EXPIRE
    except ImportError:  # below 3.3 there is no store, except in tests
        return timedelta.max
    return NEVER_EXPIRE


def region_of(ti: Any) -> tuple[str, int]:
    """
    Return the region of a task instance in hexadecimal, and its index there.

    A region is one execution of a task loop, or of a mapped task; the index is the pass, or the map index. The region
    is empty outside of both, and below Airflow 3.4, where the map index is enough.
    """
    region_id = getattr(ti, "region_id", None)
    region = region_id.hex if region_id is not None and region_id.int else ""
    index = ti.region_index if region else ti.map_index
    return region, -1 if index is None else index


def stored_coordinates(region_id: str, index: int) -> dict[str, Any]:
    """Return the values of :func:`region_of` by the names of Airflow's models."""
    region = {"region_id": UUID(region_id or "0" * 32)} if AIRFLOW_V_3_4_PLUS else {}
    return {"map_index": index, **region}


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
