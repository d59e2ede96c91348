"""Two connections with budgets, on the ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from operators.fallback_task import FALLBACK, PRIMARY, FallbackTask, connect_to

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger, SeedanceQuotaTrigger

from .rows import recorded

Budgets = Callable[..., None]

API = "seedanceapi-v1"
NO_BUDGET: dict[str, Any] = {}
NONE_LEFT = {"prices": [{"credits": 10}], "budgets": [{"credits": 15, "per": "month"}]}
RENEWS_EACH_HOUR = {"prices": [{"credits": 10}], "budgets": [{"credits": 15, "per": "hour"}]}


@pytest.fixture
def task(
    services: SeedanceEmulator,
    start_emulator: Callable[..., SeedanceEmulator],
    connect: Callable[..., None],
    ledger: Path,
) -> FallbackTask:
    return FallbackTask(services, start_emulator(), connect)


@pytest.fixture
def budgets(task: FallbackTask, monkeypatch: pytest.MonkeyPatch) -> Budgets:
    """Connect both services with these budgets."""

    def connect_both(primary: dict[str, Any], fallback: dict[str, Any] = NO_BUDGET) -> None:
        connect = connect_to(monkeypatch)
        connect(PRIMARY, task.primary, API, **primary)
        connect(FALLBACK, task.fallback, API, **fallback)

    return connect_both


def use_up(task: FallbackTask, conn_id: str) -> None:
    """Make a render that leaves no room for another one in the budget of a connection."""
    task.ti.run_id = f"before, at {conn_id}"
    task.defer(seedance_conn_id=conn_id)
    task.ti.run_id = "run"


def test_the_next_connection_renders_what_a_budget_refuses(task: FallbackTask, budgets: Budgets) -> None:
    budgets(NONE_LEFT)
    use_up(task, PRIMARY)
    task.op = None
    trigger = task.defer().trigger
    assert isinstance(trigger, SeedanceGenerationTrigger)
    assert trigger.seedance_conn_id == FALLBACK
    assert task.posts_at == (1, 1)
    rows = {(row["run_id"], row["conn_id"]) for row in recorded()}
    assert rows == {("run", FALLBACK), ("before, at primary", PRIMARY)}


@pytest.mark.parametrize("on_budget", ["fail", "wait"])
def test_the_budget_that_renews_first_is_waited_for_if_all_are_used_up(
    task: FallbackTask, budgets: Budgets, on_budget: str
) -> None:
    budgets(NONE_LEFT, RENEWS_EACH_HOUR)
    use_up(task, PRIMARY)
    use_up(task, FALLBACK)
    arguments = {"seedance_conn_id": [PRIMARY, FALLBACK], "on_budget": on_budget}
    if on_budget == "fail":
        with pytest.raises(errors.SeedanceBudgetError, match="No connection took") as caught:
            task.defer(**arguments)
        assert all(f"'{conn_id}'" in caught.value.message for conn_id in (PRIMARY, FALLBACK))
    else:
        trigger = task.defer(**arguments).trigger
        assert isinstance(trigger, SeedanceQuotaTrigger)
        assert trigger.seedance_conn_id == FALLBACK
    assert task.posts_at == (1, 1)


def test_the_row_is_billed_to_the_connection_that_took_it(task: FallbackTask, budgets: Budgets) -> None:
    budgets(RENEWS_EACH_HOUR, RENEWS_EACH_HOUR)
    task.primary.fault("refuse", status=402)
    task.defer()
    assert task.posts_at == (1, 1)
    # Of the first budget nothing is used, and of the second nothing is left.
    task.ti.run_id = "later"
    assert task.defer(seedance_conn_id=PRIMARY).trigger.seedance_conn_id == PRIMARY
    task.ti.run_id = "last"
    with pytest.raises(errors.SeedanceBudgetError):
        task.defer(seedance_conn_id=FALLBACK)


def test_a_render_that_failed_unseen_leaves_the_budget_to_its_retry(
    task: FallbackTask, budgets: Budgets
) -> None:
    budgets(NONE_LEFT)
    task.defer(seedance_conn_id=PRIMARY)  # the deferral is lost
    task.primary.fail(task.primary.ledger.submissions[0].generation_id, "no")
    task.ti.retry()
    task.defer(seedance_conn_id=PRIMARY)
    assert task.posts_at == (2, 0)


def test_a_budget_that_rules_out_a_resubmission_says_that_the_first_one_may_be_billed(
    task: FallbackTask, budgets: Budgets
) -> None:
    budgets(NONE_LEFT)
    task.primary.fault("drop_reply")
    with pytest.raises(errors.SeedanceUncertainSubmitError, match="would exceed the budget") as caught:
        task.defer(seedance_conn_id=PRIMARY, on_uncertain_submit="resubmit")
    assert "nothing is billed" not in caught.value.message
    assert "ledger resolve dag run task --generation-id ID" in caught.value.message
    assert task.posts_at == (1, 0)
