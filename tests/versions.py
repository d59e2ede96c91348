"""
Features that depend on the version of Airflow: markers to skip tests, and names that moved.

Tests of a missing feature are skipped, with the reason; the behaviour without it has tests of its own.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any, NamedTuple

import pytest

from airflow_provider_seedance.version_compat import (
    AIRFLOW_V_3_2_PLUS,
    AIRFLOW_V_3_3_PLUS,
    AIRFLOW_V_3_4_PLUS,
    dag_serialization,
)

AIRFLOW = version("apache-airflow-core")


class Feature(NamedTuple):
    """Something that came with a version of Airflow."""

    name: str
    since: str
    there: bool


STATE_STORE = Feature("task state store", "3.3", AIRFLOW_V_3_3_PLUS)
RETRY_POLICIES = Feature("retry policies", "3.3", AIRFLOW_V_3_3_PLUS)
SCOPED_VIEWS = Feature("views that apply to some tasks only", "3.4", AIRFLOW_V_3_4_PLUS)
RESCHEDULING = Feature("retry policies that reschedule", "3.4", AIRFLOW_V_3_4_PLUS)
ENDING_FROM_TRIGGERS = Feature("XCom that triggers can write (end_from_trigger)", "3.3", AIRFLOW_V_3_3_PLUS)
TRIGGER_ON_KILL = Feature("on_kill of triggers", "3.3", AIRFLOW_V_3_3_PLUS)
REGIONS = Feature("regions of task loops and mapped tasks", "3.4", AIRFLOW_V_3_4_PLUS)
PROVIDER_COMMANDS = Feature("commands of providers", "3.2", AIRFLOW_V_3_2_PLUS)
CONNECTION_FIELDS = Feature("conn-fields", "3.2", AIRFLOW_V_3_2_PLUS)
#: Airflow 3.1 writes every connection as a URI on the way to its user, and takes one where it cannot for missing.
UNREADABLE_EXTRA = Feature("connection whose Extra is not a JSON object", "3.2", AIRFLOW_V_3_2_PLUS)


def needs(feature: Feature) -> pytest.MarkDecorator:
    """Skip a test, a parameter or a module where this Airflow does not have something."""
    return pytest.mark.skipif(not feature.there, reason=_why(feature))


def require(feature: Feature) -> None:
    """Skip the test that is running where this Airflow does not have something."""
    if not feature.there:
        pytest.skip(_why(feature))


def _why(feature: Feature) -> str:
    return f"Airflow {AIRFLOW} has no {feature.name} (since {feature.since})"


#: Behaviour below 3.3, tested with such an Airflow, not only with a later one whose features are patched away.
below_3_3 = pytest.mark.skipif(AIRFLOW_V_3_3_PLUS, reason=f"Airflow {AIRFLOW} is not below 3.3")


def _module(*names: str) -> Any:
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


_serde = _module("airflow.sdk.serde", "airflow.serialization.serde")
serialize, deserialize = _serde.serialize, _serde.deserialize

#: Writer and reader of serialized Dags.
DagSerialization: Any = dag_serialization()


def forget_bundles() -> None:
    """Let Airflow read the configuration of its Dag bundles again, which a process of Airflow 3.4 reads once."""
    cached = getattr(_module("airflow.dag_processing.bundles.manager"), "_load_bundle_config_snapshot", None)
    if cached is not None:
        cached.cache_clear()


_retry_policy = _module("airflow.sdk.definitions.retry_policy")
RetryAction: Any = getattr(_retry_policy, "RetryAction", None)
