"""Fixtures of the operator tests."""

from __future__ import annotations

import pytest
from support import Log

from airflow_provider_seedance.operators.base import SeedanceOperator
from airflow_provider_seedance.triggers import seedance as triggers


@pytest.fixture(autouse=True)
def _fire_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "EARLIEST", 0.0)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """Log of the operator."""
    log = Log()
    monkeypatch.setattr(SeedanceOperator, "log", log, raising=False)
    return log
