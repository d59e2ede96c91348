"""Durations of the ledger in a command that waits."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ledger.rows import NOON, add, configured, row

from airflow_provider_seedance.cli.waiting import _durations
from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.polling.duration_model import kind_of

ADDRESS = "https://ark.example"
KIND = kind_of("video", {"model": "seedance-1-5-pro", "duration": 5, "resolution": "720p"})


@pytest.fixture(autouse=True)
def rows(ledger: Path) -> None:
    took = [row(n, base_url=ADDRESS, kind=KIND, ended_at=NOON + timedelta(seconds=95 + n)) for n in range(3)]
    unspecified = kind_of("video", {"model": "seedance-1-5-pro", "duration": 5})
    took += [row(3, base_url=ADDRESS, kind=unspecified, ended_at=NOON + timedelta(seconds=300))]
    add(configured(), took)


def generation(generation_id: str = "g", **values: Any) -> Generation:
    known = {"model": "seedance-1-5-pro", "duration": 5.0, "resolution": "720p", **values}
    return Generation(
        generation_id=generation_id, api="ark", media="video", status=GenerationStatus.RUNNING, **known
    )


def test_such_renders_are_found_by_what_the_service_says_of_them() -> None:
    assert sorted(_durations(ADDRESS, generation())) == [95.0, 96.0, 97.0]
    assert _durations(ADDRESS, generation(resolution="4k")) == []
    assert _durations("https://other.example", generation()) == []


def test_a_render_in_the_ledger_is_found_by_its_request() -> None:
    assert _durations(ADDRESS, generation("g-3")) == [300.0]


def test_a_ledger_that_cannot_be_read_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", "sqlite:////missing/ledger.db")
    assert _durations(ADDRESS, generation()) == []
    monkeypatch.delenv("AIRFLOW__SEEDANCE__LEDGER")
    assert _durations(ADDRESS, generation()) == []
