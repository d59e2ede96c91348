"""The order of a reuse: before the limits of the task, before the quota, and before the first of several connections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from helpers import set_submission_timing
from operators.fallback_task import CONNECTIONS, FALLBACK, PRIMARY, connect_to

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.ledger import reusable
from airflow_provider_seedance.polling.shared_quota import SharedQuota
from airflow_provider_seedance.submission.submitter import Submission
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger, SeedanceQuotaTrigger

from .reusing_task import Task, posts
from .rows import recorded

Connect = Callable[..., None]


@pytest.fixture
def services(services: SeedanceEmulator, connect: Connect, ledger: Path) -> SeedanceEmulator:
    connect("seedanceapi-v1")
    return services


def test_max_credits_does_not_refuse_what_is_reused(services: SeedanceEmulator) -> None:
    Task(1).run()
    assert Task(2).run(max_credits=1)["credits"] == 0
    with pytest.raises(errors.SeedanceMaxCreditsError):
        Task(3).run(max_credits=1, prompt="Another")
    assert posts(services) == 1


def test_the_shared_quota_is_not_used_by_what_is_reused(
    services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.hold()
    Task(1).defer()
    monkeypatch.setattr(SharedQuota, "reserve", lambda self, now: 1800.0)
    assert isinstance(Task(2).defer().trigger, SeedanceGenerationTrigger)
    assert isinstance(Task(3, prompt="Another").defer().trigger, SeedanceQuotaTrigger)
    assert posts(services) == 1


def test_after_the_wait_for_another_task_the_shared_quota_counts(
    services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_submission_timing(monkeypatch, reuse_backoff=())
    with monkeypatch.context() as lost:
        lost.setattr(Submission, "_send", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Task(1).run()
    task = Task(2)
    trigger = task.defer().trigger
    assert isinstance(trigger, SeedanceQuotaTrigger)
    assert trigger.seedance_conn_id is None
    # The worker of the other task was lost.
    monkeypatch.setattr(reusable, "MAX_SUBMISSION_SECONDS", 0)
    monkeypatch.setattr(SharedQuota, "reserve", lambda self, now: 1800.0)
    trigger = task.defer_again().trigger
    assert isinstance(trigger, SeedanceQuotaTrigger)
    assert trigger.seedance_conn_id
    assert task.defer_again().trigger.generation_id
    assert posts(services) == 1


# ---------------------------------------------------------------------- several connections


@pytest.fixture
def fallback(
    services: SeedanceEmulator,
    start_emulator: Callable[..., SeedanceEmulator],
    monkeypatch: pytest.MonkeyPatch,
) -> SeedanceEmulator:
    fallback = start_emulator()
    connect_both = connect_to(monkeypatch)
    connect_both(PRIMARY, services, "seedanceapi-v1")
    connect_both(FALLBACK, fallback, "seedanceapi-v1")
    return fallback


def conn_ids() -> dict[int, str]:
    return {row["map_index"]: row["conn_id"] for row in recorded()}


@pytest.mark.parametrize("conn_id", CONNECTIONS)
def test_a_render_of_any_connection_is_reused_before_the_first_is_tried(
    services: SeedanceEmulator, fallback: SeedanceEmulator, conn_id: str
) -> None:
    paid = Task(1, seedance_conn_id=conn_id).run()
    task = Task(2, seedance_conn_id=CONNECTIONS)
    got = task.run()
    assert (got["generation_id"], got["credits"]) == (paid["generation_id"], 0)
    assert conn_ids() == {1: conn_id, 2: conn_id}
    assert posts(services) + posts(fallback) == 1
    task.ti.retry()
    assert task.run() == got


def test_a_render_in_flight_is_waited_for_at_the_connection_that_was_paid(
    services: SeedanceEmulator, fallback: SeedanceEmulator
) -> None:
    fallback.hold()
    first, second = Task(1, seedance_conn_id=FALLBACK), Task(2, seedance_conn_id=CONNECTIONS)
    first.defer()
    trigger: Any = second.defer().trigger
    assert (trigger.seedance_conn_id, trigger.cancel_on_kill) == (FALLBACK, False)
    fallback.release()
    assert second.resume()["reused_from"]["map_index"] == 1
    assert (posts(services), posts(fallback)) == (0, 1)


def test_a_render_that_is_gone_at_one_connection_is_submitted_to_the_first(
    services: SeedanceEmulator, fallback: SeedanceEmulator
) -> None:
    paid = Task(1, seedance_conn_id=FALLBACK).run()
    fallback.forget(paid["generation_id"])
    assert Task(2, seedance_conn_id=CONNECTIONS).run()["reused_from"] is None
    assert (posts(services), posts(fallback)) == (1, 1)
    assert conn_ids()[2] == PRIMARY


def test_what_the_next_connection_renders_is_reused(
    services: SeedanceEmulator, fallback: SeedanceEmulator
) -> None:
    services.fault("refuse", status=402)
    paid = Task(1, seedance_conn_id=CONNECTIONS).run()
    got = Task(2, seedance_conn_id=list(reversed(CONNECTIONS))).run()
    assert (got["generation_id"], got["credits"]) == (paid["generation_id"], 0)
    assert conn_ids() == {1: FALLBACK, 2: FALLBACK}
    assert posts(fallback) == 1
