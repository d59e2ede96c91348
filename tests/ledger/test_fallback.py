"""Two connections on the ledger: their budgets, and reuse."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from operators.fallback_task import CONNECTIONS, FALLBACK, PRIMARY, FallbackTask

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.client import flows
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.triggers.seedance import SeedanceQuotaTrigger

from .reusing_task import Task
from .rows import recorded

API = "seedanceapi-v1"
NONE_LEFT = {"prices": [{"credits": 10}], "budgets": [{"credits": 15, "per": "month"}]}
RENEWS_EACH_HOUR = {"prices": [{"credits": 10}], "budgets": [{"credits": 15, "per": "hour"}]}


@pytest.fixture
def task(
    services: SeedanceEmulator,
    start_emulator: Callable[..., SeedanceEmulator],
    connect: Callable[..., None],
    ledger: Path,
    same_period: None,
    monkeypatch: pytest.MonkeyPatch,
) -> FallbackTask:
    """A task with two connections; renders end when the test says so."""
    made = FallbackTask(services, start_emulator(), connect)
    made.monkeypatch = monkeypatch
    for conn_id in CONNECTIONS:
        made.connect_to(conn_id, API)
    return made


@pytest.fixture
def both(task: FallbackTask) -> FallbackTask:
    """Both connections; renders take no time."""
    task.primary.release()
    task.fallback.release()
    return task


# ---------------------------------------------------------------------- budgets


def use_up(task: FallbackTask, conn_id: str) -> None:
    """Make a render that leaves no room for another one in the budget of a connection."""
    task.ti.run_id = f"before, at {conn_id}"
    task.defer(seedance_conn_id=conn_id)
    task.ti.run_id = "run"


def test_the_next_connection_renders_what_a_budget_refuses(task: FallbackTask) -> None:
    task.connect_to(PRIMARY, API, **NONE_LEFT)
    use_up(task, PRIMARY)
    task.op = None
    task.defer()
    assert task.waits_at == FALLBACK
    assert task.posts_at == (1, 1)
    assert sorted(row["conn_id"] for row in recorded()) == [FALLBACK, PRIMARY]


@pytest.mark.parametrize("on_budget", ["fail", "wait"])
def test_the_budget_that_renews_first_is_waited_for(task: FallbackTask, on_budget: str) -> None:
    task.connect_to(PRIMARY, API, **NONE_LEFT)
    task.connect_to(FALLBACK, API, **RENEWS_EACH_HOUR)
    use_up(task, PRIMARY)
    use_up(task, FALLBACK)
    arguments = {"seedance_conn_id": CONNECTIONS, "on_budget": on_budget}
    if on_budget == "fail":
        with pytest.raises(errors.SeedanceBudgetError, match="No connection took") as caught:
            task.defer(**arguments)
        assert all(f"'{conn_id}'" in caught.value.message for conn_id in CONNECTIONS)
    else:
        trigger = task.defer(**arguments).trigger
        assert isinstance(trigger, SeedanceQuotaTrigger)
        assert trigger.seedance_conn_id == FALLBACK
    assert task.posts_at == (1, 1)


def test_the_row_is_billed_to_the_connection_that_took_it(task: FallbackTask) -> None:
    for conn_id in CONNECTIONS:
        task.connect_to(conn_id, API, **RENEWS_EACH_HOUR)
    task.primary.fault("refuse", status=402)
    task.defer()
    assert task.posts_at == (1, 1)
    # Of the first budget nothing is used, and of the second nothing is left.
    task.ti.run_id = "later"
    assert task.defer(seedance_conn_id=PRIMARY).trigger.seedance_conn_id == PRIMARY
    task.ti.run_id = "last"
    with pytest.raises(errors.SeedanceBudgetError):
        task.defer(seedance_conn_id=FALLBACK)


def test_a_render_that_failed_unseen_leaves_the_budget_to_its_retry(task: FallbackTask) -> None:
    task.connect_to(PRIMARY, API, **NONE_LEFT)
    task.defer(seedance_conn_id=PRIMARY)  # the deferral is lost
    task.primary.fail(task.primary.ledger.submissions[0].generation_id, "no")
    task.ti.retry()
    task.defer(seedance_conn_id=PRIMARY)
    assert task.posts_at == (2, 0)


def test_a_budget_that_forbids_a_resubmission_says_that_the_first_may_be_billed(task: FallbackTask) -> None:
    task.connect_to(PRIMARY, API, **NONE_LEFT)
    task.primary.fault("drop_reply")
    with pytest.raises(errors.SeedanceUncertainSubmitError, match="would exceed the budget") as caught:
        task.defer(seedance_conn_id=PRIMARY, on_uncertain_submit="resubmit")
    assert "nothing is billed" not in caught.value.message
    assert "ledger resolve dag run task --generation-id ID" in caught.value.message
    assert task.posts_at == (1, 0)


# ---------------------------------------------------------------------- reuse


def conn_ids() -> dict[int, str]:
    return {row["map_index"]: row["conn_id"] for row in recorded()}


@pytest.mark.parametrize("conn_id", [*CONNECTIONS, "the next one"])
def test_a_render_of_any_connection_is_reused(both: FallbackTask, conn_id: str) -> None:
    if refused := conn_id == "the next one":
        both.primary.fault("refuse", status=402)
    paid = Task(1, seedance_conn_id=CONNECTIONS if refused else conn_id).run()
    task = Task(2, seedance_conn_id=CONNECTIONS)
    got = task.run()
    assert (got["generation_id"], got["credits"]) == (paid["generation_id"], 0)
    payer = FALLBACK if refused else conn_id
    assert conn_ids() == {1: payer, 2: payer}
    assert both.bills_at == ((1, 0) if payer == PRIMARY else (0, 1))
    task.ti.retry()
    assert task.run() == got


def test_a_render_in_flight_is_waited_for_at_the_connection_that_was_paid(task: FallbackTask) -> None:
    first, second = Task(1, seedance_conn_id=FALLBACK), Task(2, seedance_conn_id=CONNECTIONS)
    first.defer()
    trigger: Any = second.defer().trigger
    assert (trigger.seedance_conn_id, trigger.cancel_on_kill) == (FALLBACK, False)
    task.fallback.release()
    assert second.resume()["reused_from"]["map_index"] == 1
    assert task.posts_at == (0, 1)


def test_a_render_that_is_gone_at_one_connection_is_submitted_to_the_first(both: FallbackTask) -> None:
    paid = Task(1, seedance_conn_id=FALLBACK).run()
    both.fallback.forget(paid["generation_id"])
    assert Task(2, seedance_conn_id=CONNECTIONS).run()["reused_from"] is None
    assert both.posts_at == (1, 1)
    assert conn_ids()[2] == PRIMARY


@pytest.mark.parametrize("refused", [False, True], ids=["no room", "refused"])
def test_a_connection_that_is_passed_over_keeps_its_room(
    task: FallbackTask, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    task.connect_to(PRIMARY, API, submissions_per_minute={"*": 2})
    if refused:
        task.primary.fault("rate_limit", retry_after=None)
        monkeypatch.setattr(flows, "FALLBACK_AFTER_SECONDS", 0.0)
    else:
        # The room of a minute: less than one, after a slow start.
        monkeypatch.setattr(flows, "MAX_FALLBACK_WAIT_SECONDS", 1.0)
    for number in range(1 if refused else 4):
        Task(number, prompt=str(number), reuse="task", seedance_conn_id=CONNECTIONS).defer()
    assert task.posts_at == ((1, 1) if refused else (2, 2))
    trigger = Task(99, prompt="a", reuse="task", seedance_conn_id=PRIMARY).defer().trigger
    assert trigger.not_before < time.time() + 71


def test_a_time_at_one_connection_is_no_time_at_another(both: FallbackTask) -> None:
    for conn_id in CONNECTIONS:
        both.connect_to(conn_id, API, submissions_per_minute={"*": 1})
        both.at(conn_id).hold()
        Task(len(conn_id), prompt=conn_id, reuse="task", seedance_conn_id=conn_id).defer()
    Task(3, prompt="ahead", reuse="task", seedance_conn_id=PRIMARY).defer()
    task = Task(4, prompt="x", reuse="task", seedance_conn_id=CONNECTIONS)
    task.defer()
    task.defer_again()
    assert both.posts_at == (1, 2)
