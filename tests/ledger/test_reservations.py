"""Budgets: reserved with the intent, corrected by the end, and never exceeded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from operators.generation_task import Connect, make
from support import Store, TaskInstance, deferral, make_context
from versions import RESCHEDULING, needs

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.costs.budgets import Budget
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.ledger import ledger_store, reservations
from airflow_provider_seedance.ledger.entries import TaskIdentity
from airflow_provider_seedance.observability import metrics
from airflow_provider_seedance.policies.retry import SeedanceRetryPolicy
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import SubmissionDetails

from . import record_samples as samples
from .conftest import admitted_by_budget
from .rows import NOON, add, configured, row, uncertain
from .sent_statements import statements

pytestmark = pytest.mark.usefixtures("ledger")

#: Credits of a render by the published prices.
CREDITS = 28

#: A budget of one render, as a connection has it, and its period.
MONTHLY = {"credits": CREDITS, "per": "month"}
MONTH = Budget(unit="credits", limit=CREDITS, per="month")


class Tasks:
    """Tasks of one connection, each of which makes one render."""

    def __init__(self, emulator: SeedanceEmulator, connect: Connect) -> None:
        self.emulator, self._connect, self._number = emulator, connect, 0

    def limit(self, *budgets: dict[str, Any]) -> None:
        self._connect("seedanceapi-v1", budgets=list(budgets))

    def run(self, **arguments: Any) -> Any:
        self._number += 1
        operator = make(**{"deferrable": False, "poll_interval": 0.01, **arguments})
        return operator.execute(make_context(Store(), TaskInstance(map_index=self._number)))

    @property
    def posts(self) -> int:
        return len(self.emulator.ledger.posts())


@pytest.fixture
def tasks(services: SeedanceEmulator, connect: Connect, same_period: None) -> Tasks:
    return Tasks(services, connect)


# ---------------------------------------------------------------------- what counts


@pytest.mark.parametrize(
    ("unit", "limit", "count", "spent"), [("credits", 84, 3, 84), ("usd", 0.419, 2, 0.28)]
)
def test_a_render_that_would_exceed_a_budget_is_refused(
    tasks: Tasks, unit: str, limit: float, count: int, spent: float
) -> None:
    tasks.limit({unit: limit, "per": "day"})
    for _ in range(count):
        tasks.run()
    with pytest.raises(errors.SeedanceBudgetError, match=r"per day.* renews at") as caught:
        tasks.run()
    assert tasks.posts == count
    error = caught.value
    assert error.renews_at is not None
    assert (error.spent, error.reserved) == (pytest.approx(spent), 0)
    assert not error.retry_helps


def test_renders_in_flight_and_uncertain_ones_are_reserved(tasks: Tasks) -> None:
    tasks.limit({"credits": 2 * CREDITS, "per": "total"})
    tasks.emulator.hold()
    deferral(lambda: tasks.run(deferrable=True))
    tasks.emulator.fault("drop_reply")
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        tasks.run()
    with pytest.raises(errors.SeedanceBudgetError) as caught:
        tasks.run()
    assert (caught.value.spent, caught.value.reserved) == (0, 2 * CREDITS)
    assert caught.value.renews_at is None
    assert "does not renew" in caught.value.message


@pytest.mark.parametrize("fault", ["refuse", "fail"])
def test_what_was_not_billed_is_released(tasks: Tasks, fault: str) -> None:
    tasks.limit({"credits": CREDITS, "per": "total"})
    tasks.emulator.fault(fault)
    with pytest.raises(errors.SeedanceError):
        tasks.run()
    tasks.run()


def test_the_use_of_a_budget_is_reported_once(tasks: Tasks, caplog: pytest.LogCaptureFixture) -> None:
    tasks.limit({"credits": 5 * CREDITS, "per": "day"})
    for _ in range(5):
        tasks.run()
    assert [line for line in caplog.messages if "of the budget of" in line] == [
        "80 % of the budget of 140 credits per day of connection 'seedance_default' are used."
    ]


def test_a_refusal_sends_the_use_of_each_budget(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    """The actual cost may have exceeded the estimate since the last submission."""
    sent: list[tuple[str, str, float]] = []
    monkeypatch.setattr(metrics, "budget_used", lambda *values: sent.append(values))
    budgets = [{"credits": 1.5 * CREDITS, "per": "day"}, {"credits": 4 * CREDITS, "per": "month"}]
    tasks.limit(*budgets)
    tasks.run()
    sent.clear()
    with pytest.raises(errors.SeedanceBudgetError):
        tasks.run()
    conn_id = "seedance_default"
    assert sent == [(conn_id, "day", pytest.approx(1 / 1.5)), (conn_id, "month", 0.25)]


# ---------------------------------------------------------------------- waiting


def test_a_task_waits_until_the_budget_renews(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks.limit(MONTHLY)
    tasks.run()
    operator, context = make(on_budget="wait"), make_context(Store(), TaskInstance())
    deferred = deferral(lambda: operator.execute(context))
    renews_at = MONTH.renews_at(ledger_store.local_now())
    assert renews_at is not None
    assert deferred.trigger.not_before == pytest.approx(renews_at.timestamp(), abs=600)
    assert deferred.method_name == "resume_submit"
    assert tasks.posts == 1
    monkeypatch.setattr(ledger_store, "local_now", lambda: renews_at + timedelta(seconds=1))
    deferral(lambda: operator.resume_execution("resume_submit", {**deferred.kwargs, "event": {}}, context))
    assert tasks.posts == 2


@pytest.mark.parametrize(
    "budget", [{"credits": CREDITS, "per": "total"}, {"credits": CREDITS / 2, "per": "day"}], ids=str
)
def test_a_task_does_not_wait_where_that_cannot_help(tasks: Tasks, budget: dict[str, Any]) -> None:
    tasks.limit(budget)
    if budget["per"] == "total":
        tasks.run()
    with pytest.raises(errors.SeedanceBudgetError):
        tasks.run(on_budget="wait", deferrable=True)


@needs(RESCHEDULING)
def test_a_task_on_a_worker_is_rescheduled_until_the_budget_renews(tasks: Tasks) -> None:
    tasks.limit(MONTHLY)
    tasks.run()
    with pytest.raises(errors.SeedanceRateLimitError, match="would exceed the budget of") as caught:
        tasks.run(on_budget="wait")
    decision = SeedanceRetryPolicy().evaluate(caught.value, 1, 0)
    assert decision.action.name == "RESCHEDULE"
    renews_at = MONTH.renews_at(ledger_store.local_now())
    assert renews_at is not None
    at = datetime.now(UTC) + decision.retry_delay
    assert at.timestamp() == pytest.approx(renews_at.timestamp(), abs=600)
    assert tasks.posts == 1


@pytest.mark.skipif(RESCHEDULING.there, reason="the task is rescheduled")
def test_a_task_on_a_worker_cannot_wait_for_a_budget(tasks: Tasks) -> None:
    with pytest.raises(errors.SeedanceConfigurationError, match="needs deferrable=True"):
        tasks.run(on_budget="wait")


# ---------------------------------------------------------------------- batches


def test_a_batch_stops_at_the_budget(tasks: Tasks, batch: Any) -> None:
    tasks.limit({"credits": 2 * CREDITS, "per": "day"})
    result = batch(1).run(["a", "b", "c", "d"], on_item_failure="keep")
    assert result["not_submitted"] == ["2", "3"]
    assert result["counts"]["succeeded"] == 2
    with pytest.raises(errors.SeedanceBudgetError, match="per day"):
        batch(2).run(["a", "b", "c", "d"])
    assert tasks.posts == 2


# ---------------------------------------------------------------------- many at once


def test_submitters_use_up_a_budget_and_never_exceed_it(any_ledger: Any) -> None:
    """The tests of processes have two hundred of them."""
    assert admitted_by_budget(20, price=7, limit=100) == 100 // 7


# ---------------------------------------------------------------------- one transaction


def reserved(price: float | None, *budgets: Budget) -> list[reservations.BudgetUse]:
    """Reserve a render where 12 credits are spent and 14 are reserved today, and 5 were spent in the month before."""
    database = configured()
    yesterday = NOON - timedelta(days=1)
    rows = [row(0), uncertain(1), row(2, credits=None, estimated_credits=5, intended_at=yesterday)]
    ignored = [{"dag_id": "films"}, {"conn_id": "other"}, {"namespace": "n"}, {"state": "not_submitted"}]
    add(database, [*rows, *(row(number, **changes) for number, changes in enumerate(ignored, 3))])
    task = TaskIdentity(namespace="default", dag_id="ads", run_id="run", task_id="video")
    record = rec.replace(samples.intent(credits=price), conn_id="seedance_default")
    details = SubmissionDetails(prompt="a", budgets=budgets)
    with database.transaction() as connection, statements() as sent:
        uses = reservations.reserve(connection, task, details, record, NOON + timedelta(hours=1))
    assert sent == ["SELECT"]
    return uses


def ads(limit: float, per: Any, unit: Any = "credits") -> Budget:
    return Budget(unit=unit, limit=limit, per=per, dag_id="ads*")


def test_a_budget_is_used_up_to_the_last_credit() -> None:
    films = Budget(unit="credits", limit=1, per="day", dag_id="films")
    uses = reserved(7, ads(33, "day"), ads(38, "month"), ads(38, "total"), films)
    assert [(use.spent, use.reserved, use.share) for use in uses] == [(12, 21, 1), (17, 21, 1), (17, 21, 1)]


@pytest.mark.parametrize(
    ("price", "budget", "more", "advice", "retry_after"),
    [
        (7, ads(32.999999, "day"), [], "It renews at 2026-03-11T00:00:00+00:00", 11 * 3600),
        (26, ads(25, "day"), [], "No wait can help: one such render costs more than the budget", None),
        (7, ads(33, "total"), [], "It does not renew", None),
        # Of several, the one that is waited for longest is named.
        (1, ads(9, "day"), [ads(9, "hour")], "It renews at 2026-03-11T00:00:00+00:00", 11 * 3600),
        (1, ads(9, "total"), [ads(9, "day"), ads(9, "hour")], "It does not renew", None),
    ],
    ids=["day", "too large", "total", "day and hour", "total, day and hour"],
)
def test_a_refusal(price: float, budget: Budget, more: Any, advice: str, retry_after: float | None) -> None:
    with pytest.raises(errors.SeedanceBudgetError) as caught:
        reserved(price, *more[:1], budget, *more[1:])
    spent = 17 if budget.per == "total" else 12
    error = caught.value
    assert error.message == (
        f"This render costs {price} credits, and would exceed the budget of {budget}: {spent} credits spent, 14 credits "
        f"reserved for renders that have not ended. {advice}. Nothing was sent, nothing is billed."
    )
    facts = (error.limit, error.spent, error.reserved, error.retry_after)
    assert facts == (budget.limit, spent, 14, retry_after)


@pytest.mark.parametrize(("unit", "name"), [("credits", "credits"), ("cost_usd", "US dollars")])
def test_a_render_without_a_price_is_refused(unit: Any, name: str) -> None:
    budget = ads(30, "day", unit)
    with pytest.raises(errors.SeedanceConfigurationError) as caught:
        reserved(None, budget)
    assert caught.value.message == (
        f"The budget of {budget} of connection 'seedance_default' cannot be kept: the price of this render in {name} is "
        "not known. Add it to prices in the extra of the connection. Nothing was sent."
    )


@pytest.mark.parametrize(
    ("spent", "in_flight", "price", "crossed"),
    [(10, 14, 1, True), (10, 13.9, 1, False), (10, 15, 1, False), (10, 14.9, 1, True), (0, 24, None, False)],
)
def test_a_warning_is_for_the_render_that_reaches_the_share(
    spent: float, in_flight: float, price: float | None, crossed: bool
) -> None:
    use = reservations.BudgetUse(budget=ads(30, "day"), spent=spent, reserved=in_flight)
    assert reservations.crossed(use, samples.intent(credits=price)) is crossed


@pytest.mark.parametrize(
    ("dialect", "statement"),
    [
        ("sqlite", None),
        ("postgresql", "SELECT pg_advisory_xact_lock"),
        ("mysql", "SELECT version_num FROM seedance_ledger_version FOR UPDATE"),
    ],
)
def test_the_lock_of_each_database(dialect: str, statement: str | None) -> None:
    notes: list[str] = []

    def execute(statement: Any) -> Any:
        notes.append(" ".join(str(statement).split()))
        return SimpleNamespace(all=list)

    connection: Any = SimpleNamespace(execute=execute, exec_driver_sql=execute)
    connection.dialect = SimpleNamespace(name=dialect)
    for name in ("default a", "default a", "default b"):
        reservations.lock(connection, name)
    assert [sent.partition("(")[0] for sent in notes] == ([statement] * 3 if statement else [])
    if dialect == "postgresql":
        one, same, other = (int(sent.partition("(")[2].rstrip(")")) for sent in notes)
        assert one == same != other
        assert all(-(2**63) <= number < 2**63 for number in (one, other))
