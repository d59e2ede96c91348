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
