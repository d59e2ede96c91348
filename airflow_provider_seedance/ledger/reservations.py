"""Budgets in the ledger: the amounts spent and reserved, read in the transaction that writes the next intent."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import and_, bindparam, case, column, func, select, table, true
from sqlalchemy.engine import Connection
from sqlalchemy.sql import Select

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.costs.budgets import Budget
from airflow_provider_seedance.generations import iso, read_number
from airflow_provider_seedance.ledger.entries import TaskIdentity
from airflow_provider_seedance.ledger.tables import VERSION_TABLE, submissions
from airflow_provider_seedance.observability import metrics
from airflow_provider_seedance.submission.records import Record, RecordState
from airflow_provider_seedance.submission.store import SubmissionDetails

_COLUMNS = submissions.c

#: States of a submission that is, or may be, billed and has not ended.
RESERVED = (RecordState.INTENT, RecordState.UNCERTAIN, RecordState.SUBMITTED)

#: Share of a budget from which its use is reported by a warning.
WARNING_SHARE = 0.8


@dataclass(frozen=True, kw_only=True)
class BudgetUse:
    """
    Use of a budget in its present period.

    :param spent: Cost of the renders that have ended.
    :param reserved: Estimated cost of those that have not, uncertain submissions included.
    """

    budget: Budget
    spent: float
    reserved: float

    @property
    def share(self) -> float:
        """Share of the budget that is used."""
        return (self.spent + self.reserved) / self.budget.limit

    def with_reserved(self, price: float) -> BudgetUse:
        """Return the use with another render in flight."""
        return BudgetUse(budget=self.budget, spent=self.spent, reserved=round(self.reserved + price, 6))


def budget_use(
    connection: Connection, namespace: str, conn_id: str, budgets: Sequence[Budget], now: datetime
) -> list[BudgetUse]:
    """
    Return the use of budgets, with one query.

    :param now: In Airflow's default timezone.
    """
    starts = [budget.starts_at(now) for budget in budgets]
    values = {"namespace": namespace, "conn_id": conn_id, "first": min(filter(None, starts), default=None)}
    values |= {f"start_{number}": start for number, start in enumerate(starts)}
    rows = connection.execute(_sums(tuple(budgets)), values).mappings().all()
    return [
        BudgetUse(
            budget=budget,
            **{
                name: round(
                    sum(float(row[f"{name}_{n}"] or 0) for row in rows if budget.applies_to(row["dag_id"])), 6
                )
                for name in ("spent", "reserved")
            },
        )
        for n, budget in enumerate(budgets)
    ]


@cache
def _sums(budgets: tuple[Budget, ...]) -> Select[Any]:
    """Return the query of what was spent and reserved by Dag; to make it takes longer than to execute it."""
    conditions = [_COLUMNS[name] == bindparam(name) for name in ("namespace", "conn_id")]
    if all(budget.per != "total" for budget in budgets):
        conditions.append(_COLUMNS.intended_at >= bindparam("first"))
    ended = _COLUMNS.state == RecordState.ENDED.value
    reserved = _COLUMNS.state.in_([state.value for state in RESERVED])
    sums = []
    for number, budget in enumerate(budgets):
        estimated, actual = _COLUMNS[f"estimated_{budget.unit}"], _COLUMNS[budget.unit]
        counted = true() if budget.per == "total" else _COLUMNS.intended_at >= bindparam(f"start_{number}")
        spent = case((and_(ended, counted), func.coalesce(actual, estimated, 0.0)), else_=0.0)
        sums.append(func.sum(spent).label(f"spent_{number}"))
        held = case((and_(reserved, counted), func.coalesce(estimated, 0.0)), else_=0.0)
        sums.append(func.sum(held).label(f"reserved_{number}"))
    return select(_COLUMNS.dag_id, *sums).where(*conditions).group_by(_COLUMNS.dag_id)


def reserve(
    connection: Connection, task: TaskIdentity, details: SubmissionDetails, record: Record, now: datetime
) -> list[BudgetUse]:
    """
    Check the budgets of a submission whose intent the same transaction writes; return their use with it.

    Transactions that check the budgets of a connection wait for each other, so that their sum exceeds none.

    :param now: In Airflow's default timezone.
    :raises SeedanceBudgetError: it would exceed one; nothing was sent.
    :raises SeedanceConfigurationError: its price is not known; nothing was sent.
    """
    budgets = [budget for budget in details.budgets if budget.applies_to(task.dag_id)]
    if not budgets:
        return []
    conn_id = str(record.conn_id)
    prices = [_price(budget, record, conn_id) for budget in budgets]
    lock(connection, f"{task.namespace} {conn_id}")
    uses = budget_use(connection, task.namespace, conn_id, budgets, now)
    after = [use.with_reserved(price) for use, price in zip(uses, prices, strict=True)]
    refused = [
        _refusal(use, price, now)
        for use, price, then in zip(uses, prices, after, strict=True)
        if round(then.spent + then.reserved, 6) > use.budget.limit
    ]
    if refused:
        for use in uses:
            metrics.budget_used(conn_id, use.budget.per, use.share)
        # The one that is waited for longest decides.
        raise max(refused, key=lambda error: float("inf") if error.retry_after is None else error.retry_after)
    return after


def crossed(use: BudgetUse, record: Record) -> bool:
    """Return whether a submission has brought the use of a budget to :data:`WARNING_SHARE`."""
    price = read_number(record.result_defaults.get(use.budget.unit)) or 0.0
    return use.share >= WARNING_SHARE > use.share - price / use.budget.limit


def _price(budget: Budget, record: Record, conn_id: str) -> float:
    price = read_number(record.result_defaults.get(budget.unit))
    if price is None:
        unit = "US dollars" if budget.unit == "cost_usd" else "credits"
        raise errors.SeedanceConfigurationError(
            f"The budget of {budget} of connection {conn_id!r} cannot be kept: the price of this render in {unit} is not "
            "known. Add it to prices in the extra of the connection. Nothing was sent."
        )
    return price


def _refusal(use: BudgetUse, price: float, now: datetime) -> errors.SeedanceBudgetError:
    budget, renews_at = use.budget, use.budget.renews_at(now)
    too_large = price > budget.limit
    if too_large:
        advice = "No wait can help: one such render costs more than the budget"
    else:
        advice = f"It renews at {iso(renews_at)}" if renews_at else "It does not renew"
    return errors.SeedanceBudgetError(
        f"This render costs {budget.amount(price)}, and would exceed the budget of {budget}: "
        f"{budget.amount(use.spent)} spent, {budget.amount(use.reserved)} reserved for renders that have not ended. "
        f"{advice}. Nothing was sent, nothing is billed.",
        limit=budget.limit,
        spent=use.spent,
        reserved=use.reserved,
        renews_at=renews_at,
        retry_after=None if too_large or renews_at is None else max(0.0, (renews_at - now).total_seconds()),
    )


def lock(connection: Connection, name: str) -> None:
    """Wait for other transactions that have a lock of this name. A writing transaction of SQLite has the lock of the file."""
    if connection.dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({number})")
    elif connection.dialect.name == "mysql":
        version: Select[Any] = select(column("version_num")).select_from(table(VERSION_TABLE))
        connection.execute(version.with_for_update()).all()
