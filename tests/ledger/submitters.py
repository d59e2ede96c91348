"""Tasks that submit at the same moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from support import TaskInstance, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.costs.budgets import Budget
from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.ledger import open_store
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import GENERATION_KEY, SubmissionDetails

from . import record_samples as samples


def admitted_at_once(count: int, *, price: float, limit: float) -> int:
    """Return how many of these submitters a budget admits."""
    budget = Budget(unit="credits", limit=limit, per="day")
    open_store(make_context(None)).load()  # the tables

    def submit(number: int) -> bool:
        details = SubmissionDetails(prompt=f"{number}", budgets=(budget,))
        record = rec.replace(samples.intent(f"{number}", credits=price), conn_id="c", intended_at=utc_now())
        store = open_store(make_context(None, TaskInstance(map_index=number)))
        try:
            store.write_intent(GENERATION_KEY, record, details)
        except errors.SeedanceBudgetError:
            return False
        return True

    with ThreadPoolExecutor(count) as threads:
        return sum(threads.map(submit, range(count)))
