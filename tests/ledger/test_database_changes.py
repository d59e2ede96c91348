"""The database of the ledger in a process that goes on while its connection or its file changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_seedance.ledger.account import Filter, list_submissions
from airflow_provider_seedance.ledger.configuration import read_config
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.submission.store import GENERATION_KEY

from .record_samples import DETAILS
from .record_samples import same_intent as intent

Open = Callable[..., Any]


def recorded() -> int:
    config = read_config()
    assert config is not None
    return len(list_submissions(Database(config), Filter()))


def test_another_connection_in_the_environment_is_another_database_at_once(
    tmp_path: Path, open_ledger: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", "team_ledger")
    for name, before in (("first", 0), ("second", 0), ("first", 1)):
        connection = {"conn_type": "sqlite", "host": f"{tmp_path}/{name}.db"}
        monkeypatch.setenv("AIRFLOW_CONN_TEAM_LEDGER", json.dumps(connection))
        assert recorded() == before
        if not before:
            open_ledger().write_intent(GENERATION_KEY, intent(), DETAILS)
            assert recorded() == 1


def test_a_file_that_was_deleted_is_a_new_ledger_at_once(
    new_ledger: Path, open_ledger: Open, caplog: pytest.LogCaptureFixture
) -> None:
    open_ledger().write_intent(GENERATION_KEY, intent(), DETAILS)
    assert recorded() == 1
    for file in new_ledger.parent.glob(f"{new_ledger.name}*"):
        file.unlink()
    caplog.clear()
    assert recorded() == 0
    assert "The ledger ([seedance] ledger) is new" in caplog.text
