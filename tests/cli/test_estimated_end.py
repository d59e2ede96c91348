"""Estimated end of a render: from what is known, and nothing where nothing is."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ledger.rows import NOON, add, row

from airflow_provider_seedance.cli.estimated_end import EndEstimate
from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.ledger.configuration import LedgerConfig
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.polling.duration_model import DurationModel
from airflow_provider_seedance.settings import Settings

ADDRESS = "https://ark.example"


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    location = f"sqlite:///{tmp_path}/ledger.db"
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", location)
    database = Database(LedgerConfig(location=location))
    rows = [
        row(number, base_url=ADDRESS, ended_at=NOON + timedelta(seconds=95 + number)) for number in range(10)
    ]
    late = NOON + timedelta(seconds=900)
    result = {**rows[0]["result"], "completed_at": (NOON + timedelta(seconds=100)).isoformat()}
    rows.append(row(10, base_url=ADDRESS, ended_at=late, result=result))
    rows.append(row(11, base_url="https://other.example", ended_at=late))
    add(database, rows)
    return type("Settings", (), {"base_url": ADDRESS})()


def generation(**values: Any) -> Generation:
    known = {"model": "seedance-1-5-pro", "duration": 5, "resolution": "720p", **values}
    return Generation(generation_id="g", api="ark", media="video", status=GenerationStatus.RUNNING, **known)


def seconds_left(settings: Settings, reading: Generation, elapsed: float = 0.0) -> float | None:
    now = NOON + timedelta(seconds=elapsed)
    end: datetime | None = EndEstimate(settings, reading, NOON).at(reading, now)
    return None if end is None else (end - now).total_seconds()


def test_the_ledger_knows_how_long_such_renders_took(settings: Settings) -> None:
    left = seconds_left(settings, generation())
    assert left is not None
    assert 90 < left < 110
    left = seconds_left(settings, generation(), elapsed=120)
    assert left is not None
    assert left > 0


def test_nothing_is_said_of_what_is_not_known(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert seconds_left(settings, generation(resolution="4k")) is None
    assert seconds_left(settings, generation(model=None)) is None
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", "sqlite:////missing/ledger.db")
    assert seconds_left(settings, generation()) is None
    monkeypatch.delenv("AIRFLOW__SEEDANCE__LEDGER")
    assert seconds_left(settings, generation()) is None


def test_the_service_may_estimate_and_report_progress(settings: Settings) -> None:
    left = seconds_left(settings, generation(model=None, estimated_wait=300))
    assert left is not None
    assert 200 < left < 450
    assert seconds_left(settings, generation(model=None, progress=25.0), elapsed=30) == 90
    assert seconds_left(settings, generation(model=None, progress=1.0), elapsed=30) is None


def test_a_median_of_what_has_not_ended() -> None:
    model = DurationModel()
    for _ in range(20):
        model = model.updated(95, 100)
    assert model.median_end(0) == pytest.approx(98, abs=8)
    assert (model.median_end(105) or 0) > 105
    assert model.median_end(1e9) is None
