from __future__ import annotations

import sys
from datetime import timedelta

import pytest
from airflow.sdk.definitions import retry_policy
from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from airflow_provider_seedance import compat


def test_names_are_airflows_own() -> None:
    assert compat.RetryPolicy is retry_policy.RetryPolicy
    assert compat.RetryDecision is retry_policy.RetryDecision
    assert compat.TaskDeferralError is TaskDeferralError
    assert compat.TaskDeferralTimeout is TaskDeferralTimeout
    assert compat.AIRFLOW_V_3_3_PLUS
    assert compat.never_expire() is NEVER_EXPIRE


def test_below_3_3_there_is_nothing_that_could_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "airflow.sdk.execution_time.context", None)
    assert compat.never_expire() == timedelta.max


def test_everything_is_exported() -> None:
    assert all(hasattr(compat, name) for name in compat.__all__)
