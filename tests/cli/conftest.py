"""Fixtures of the command tests."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def _no_service_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEEDANCE_API_KEY", "SEEDANCE_API", "SEEDANCE_BASE_URL", "SEEDANCE_MEDIA_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    # The command sets it itself; set here first, so that it is removed after the test.
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", "")
    monkeypatch.delenv("AIRFLOW_CONN_SEEDANCE_DEFAULT")


@pytest.fixture(autouse=True)
def _levels_of_logs(caplog: pytest.LogCaptureFixture) -> None:
    """
    Hide what Airflow logs once in a process, on the standard error of whichever command is the first.

    And restore the level of our log after the test, because a command sets it.
    """
    caplog.set_level(logging.ERROR, logger="airflow")
    ours = logging.getLogger("airflow_provider_seedance")
    caplog.set_level(ours.level, logger=ours.name)
