"""``version_compat`` describes this Airflow, and no other module checks versions."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest
from airflow.triggers.base import BaseTrigger
from source_tree import MODULES, name_of, source_of
from versions import AIRFLOW, CONNECTION_FIELDS, REGIONS, STATE_STORE, below_3_3, needs

from airflow_provider_seedance import version_compat

#: Code that looks up the version of Airflow, or finds it out by trying.
QUESTIONS = re.compile(
    r"AIRFLOW_V_\d_\d_PLUS\s*=|airflow\.__version__|airflow\.version|version\(\W*apache.airflow|get_base_airflow_version"
    r"|packaging\.version|from airflow(?! ?_)[^\n]*\n[^\n]*\n?\s*except ImportError:[^\n]*\n\s*from airflow"
)


def test_the_flags_are_the_versions() -> None:
    numbers = tuple(map(int, AIRFLOW.split(".")[:2]))
    assert (numbers >= (3, 2)) == version_compat.AIRFLOW_V_3_2_PLUS
    assert (numbers >= (3, 3)) == version_compat.AIRFLOW_V_3_3_PLUS
    assert (numbers >= (3, 4)) == version_compat.AIRFLOW_V_3_4_PLUS


@needs(STATE_STORE)
def test_names_are_airflows_own() -> None:
    retry_policy = import_module("airflow.sdk.definitions.retry_policy")
    assert version_compat.RetryPolicy is retry_policy.RetryPolicy
    assert version_compat.RetryDecision is retry_policy.RetryDecision
    assert version_compat.never_expire() is import_module("airflow.sdk.execution_time.context").NEVER_EXPIRE
    assert hasattr(BaseTrigger, "on_kill")
    assert hasattr(import_module("airflow.sdk.bases.xcom").BaseXCom, "aset")


def test_the_errors_of_deferrals_are_those_that_airflow_raises() -> None:
    operator = import_module("airflow.sdk.bases.operator")
    for error, reason in (
        (version_compat.TaskDeferralError, operator.TriggerFailureReason.TRIGGER_FAILURE),
        (version_compat.TaskDeferralTimeout, operator.TriggerFailureReason.TRIGGER_TIMEOUT),
    ):
        with pytest.raises(error):
            operator.BaseOperator(task_id="task").resume_execution("__fail__", {"error": reason}, {})


def test_the_place_of_a_task_instance() -> None:
    for ti, place in [
        (SimpleNamespace(map_index=None), ("", -1)),
        (SimpleNamespace(map_index=3), ("", 3)),
        (SimpleNamespace(map_index=-1, region_id=None, region_index=None), ("", -1)),
        (SimpleNamespace(map_index=-1, region_id=UUID(int=0), region_index=-1), ("", -1)),
        (SimpleNamespace(map_index=3, region_id=UUID(int=15), region_index=3), ("0" * 31 + "f", 3)),
        (SimpleNamespace(map_index=-1, region_id=UUID(int=15), region_index=4), ("0" * 31 + "f", 4)),
    ]:
        assert version_compat.region_of(ti) == place


@needs(REGIONS)
def test_coordinates_are_those_of_the_models() -> None:
    assert version_compat.stored_coordinates("", -1) == {"map_index": -1, "region_id": UUID(int=0)}
    assert version_compat.stored_coordinates("0" * 31 + "f", 4) == {"map_index": 4, "region_id": UUID(int=15)}


@below_3_3
def test_names_that_are_missing_below_3_3() -> None:
    """A failure means that this Airflow has more than the package assumes."""
    assert not hasattr(BaseTrigger, "on_kill")
    assert not hasattr(import_module("airflow.sdk.bases.xcom").BaseXCom, "aset")
    assert version_compat.RetryPolicy is object
    assert version_compat.never_expire() == timedelta.max


@pytest.mark.skipif(CONNECTION_FIELDS.there, reason=f"Airflow {AIRFLOW} knows conn-fields")
def test_conn_fields_mean_nothing_to_3_1() -> None:
    manager = import_module("airflow.providers_manager")
    assert "conn-fields" not in Path(manager.__file__).read_text(encoding="utf-8")


def test_below_3_3_there_is_nothing_that_could_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "airflow.sdk.execution_time.context", None)
    assert version_compat.never_expire() == timedelta.max


def test_no_other_module_checks_versions() -> None:
    checking = {name_of(path) for path in MODULES if QUESTIONS.search(source_of(path))}
    assert checking - {"version_compat"} == set()


def test_a_question_is_recognized() -> None:
    for code in [
        "from airflow import __version__\nif airflow.__version__ < '3.3': pass",
        "from airflow.version import version",
        'importlib.metadata.version("apache-airflow-core")',
        "AIRFLOW_V_3_4_PLUS = True",
        "try:\n    from airflow.sdk import a\nexcept ImportError:\n    from airflow.models import a",
    ]:
        assert QUESTIONS.search(code)
