"""Fixtures of the command tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_service_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEEDANCE_API_KEY", "SEEDANCE_API", "SEEDANCE_BASE_URL", "SEEDANCE_MEDIA_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    # The command sets it itself; set here first, so that it is removed after the test.
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", "")
    monkeypatch.delenv("AIRFLOW_CONN_SEEDANCE_DEFAULT")


@pytest.fixture(autouse=True)
def _level_of_the_log() -> Iterator[None]:
    log = logging.getLogger("airflow_provider_seedance")
    level = log.level
    yield
    log.setLevel(level)


@pytest.fixture(autouse=True)
def _without_warnings_of_airflow(caplog: pytest.LogCaptureFixture) -> None:
    """Airflow warns once in a process of short secrets and an empty key, on the standard error of any command."""
    caplog.set_level(logging.ERROR, logger="airflow")
