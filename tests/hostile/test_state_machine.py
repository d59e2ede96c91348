"""A moment of what ``make state-machine`` does for long."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from airflow_provider_seedance import client, records

from . import state_machine


def test_never_twice_and_never_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(client, "Client", client.Client)
    monkeypatch.setattr(records, "WRITE_PAUSES", records.WRITE_PAUSES)
    monkeypatch.setattr(state_machine.notes, "directory", state_machine.notes.directory)
    state_machine.prepare(tmp_path)
    run_state_machine_as_test(
        state_machine.Task,
        settings=settings(
            max_examples=40,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
        ),
    )
    assert state_machine.COUNTS["steps"] >= 40
