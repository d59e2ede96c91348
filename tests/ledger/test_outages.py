"""A PostgreSQL that is killed at the worst moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.ledger import database, record_end
from airflow_provider_seedance.submission.submitter import Submission

from .discarding_task import DiscardingTask
from .record_samples import generation
from .rows import recorded

Connect = Callable[..., None]


def test_a_render_survives_the_end_of_the_database(
    services: SeedanceEmulator, connect: Connect, postgres_ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("seedanceapi-v1")
    task = DiscardingTask(services)
    send = Submission._send

    def send_and_kill(self: Submission, *arguments: Any, **options: Any) -> Any:
        outcome = send(self, *arguments, **options)
        postgres_ledger.kill()
        return outcome

    with monkeypatch.context() as dying:
        dying.setattr(Submission, "_send", send_and_kill)
        task.defer()
    with pytest.raises(errors.SeedanceLedgerError, match="team_ledger"):
        DiscardingTask(services).execute()
    assert task.posts == 1
    postgres_ledger.launch()
    result = task.resume()
    assert [row["state"] for row in recorded()] == ["ended"]
    task.retry()
    assert task.execute()["generation_id"] == result["generation_id"]
    assert task.posts == 1


def test_a_process_goes_on_after_the_end_of_its_sessions(
    postgres_ledger: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "MAX_IDLE_SECONDS", 0)
    record_end(generation(1))
    sessions = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    with postgres_ledger.connect().cursor() as cursor:
        cursor.execute(f"SELECT pg_terminate_backend(pid) {sessions}")
        assert (True,) in cursor.fetchall()
    record_end(generation(1))
    assert "is not recorded" not in caplog.text
