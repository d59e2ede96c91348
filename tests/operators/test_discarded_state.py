"""Tries on Airflow 3.4, where a clear of the task instance discards its task state unless the user keeps it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from airflow_provider_seedance.ledger import task_state
from operators.generation_task import Tries

Warned = Callable[[], tuple[int, int]]


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Warned:
    """Count the warnings of what a clear discards, and of what it has discarded, since the last count."""
    monkeypatch.setattr(task_state, "AIRFLOW_V_3_4_PLUS", True)
    caplog.set_level(logging.WARNING)

    def count() -> tuple[int, int]:
        discards, discarded = (
            sum(words in line for line in caplog.messages) for words in ("Keep task state", "holds no record")
        )
        caplog.clear()
        return discards, discarded

    return count


def test_a_task_warns_once_per_try_and_submits_again_if_its_record_was_discarded(
    either: Tries, warned: Warned
) -> None:
    either.services.release()
    either.ti.max_tries = 0
    either.prepare(poll_interval=0.01)
    either.enter()
    assert either.entries > 1
    assert warned() == (1, 0)
    either.ti.clear(retries=0)  # and keeps the task state
    either.enter()
    assert warned() == (1, 0)
    assert len(either.ids) == 1
    either.store.texts.clear()
    either.ti.clear(retries=0)
    either.enter()
    assert warned() == (1, 1)
    assert len(either.ids) == 2
