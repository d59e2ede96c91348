"""Fixtures of the command tests."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from airflow_provider_seedance.cli import main


@pytest.fixture(autouse=True)
def _no_service_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEEDANCE_API_KEY", "SEEDANCE_API", "SEEDANCE_BASE_URL", "SEEDANCE_MEDIA_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    # The command sets it itself; set here first, so that it is removed after the test.
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", "")
    monkeypatch.delenv("AIRFLOW_CONN_SEEDANCE_DEFAULT")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str]]:
    """Run a command that exits with a code; return standard output, parsed if it is JSON, and standard error."""

    def command(*line: str, code: int = 0) -> tuple[Any, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) if code else nullcontext() as left:
            main(line)
        assert not code or left.value.code == code
        shown = capfd.readouterr()
        return json.loads(shown.out) if "json" in line and shown.out else shown.out, shown.err

    return command


@pytest.fixture(autouse=True)
def _levels_of_logs(caplog: pytest.LogCaptureFixture) -> None:
    """
    Hide what Airflow logs once in a process, on the standard error of whichever command is the first.

    And restore the level of our log after the test, because a command sets it.
    """
    caplog.set_level(logging.ERROR, logger="airflow")
    ours = logging.getLogger("airflow_provider_seedance")
    caplog.set_level(ours.level, logger=ours.name)
