"""Warnings of records that a clear may discard (Airflow 3.4)."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from support import Store, TaskInstance

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.ledger import task_state
from airflow_provider_seedance.ledger.task_state import TaskStateStore
from airflow_provider_seedance.submission.preflight import warn_of_discarded_records
from airflow_provider_seedance.submission.records import Attempt, intent_record

DISCARDED = "its task state holds no record"


@pytest.fixture(autouse=True)
def airflow_3_4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_state, "AIRFLOW_V_3_4_PLUS", True)


def warnings(caplog: pytest.LogCaptureFixture, accessor: Any, ti: TaskInstance) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        warn_of_discarded_records(TaskStateStore(accessor), ti, 2)
    return [line.message for line in caplog.records if line.levelno == logging.WARNING]


def test_every_try_names_the_setting_that_keeps_the_record(caplog: pytest.LogCaptureFixture) -> None:
    ti = TaskInstance()
    for _ in range(2):
        (line,) = warnings(caplog, Store(), ti)
        assert "'Keep task state and resume'" in line
        assert "pays again" in line
        ti.retry()


def test_a_cleared_try_without_a_record_says_that_an_earlier_one_may_be_billed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ti = TaskInstance()
    ti.clear()
    assert [DISCARDED in line for line in warnings(caplog, Store(), ti)] == [False, True]
    ti.retry()
    assert [DISCARDED in line for line in warnings(caplog, Store(), ti)] == [False, True]


def test_a_cleared_try_whose_task_state_was_kept_misses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    ti, store = TaskInstance(), Store()
    attempt = Attempt.of(ti)
    record = intent_record(
        attempt,
        utc_now(),
        conn_id="c",
        passed_over={},
        correlates=False,
        result_defaults={},
        end_from_trigger=False,
    )
    TaskStateStore(store).write("generation", record)
    ti.clear()
    assert [DISCARDED in line for line in warnings(caplog, store, ti)] == [False]


def test_records_that_cannot_be_read_are_not_missing(caplog: pytest.LogCaptureFixture) -> None:
    ti, store = TaskInstance(), Store()
    ti.clear()

    def fail(what: str) -> None:
        raise ConnectionError("the API server is away")

    store.before = fail
    with pytest.raises(errors.SeedanceStateError):
        warnings(caplog, store, ti)


@pytest.mark.parametrize("on_3_4", [False, True])
def test_where_records_survive_a_clear_nothing_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, on_3_4: bool
) -> None:
    """Airflow 3.3 keeps them; below, there are none, which every submission says."""
    monkeypatch.setattr(task_state, "AIRFLOW_V_3_4_PLUS", on_3_4)
    ti = TaskInstance()
    ti.clear()
    assert warnings(caplog, None if on_3_4 else Store(), ti) == []
