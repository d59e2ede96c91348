"""
The list of runs with renders: found by Dag, run and date, with their tasks by state and their cost.

A refresh reads the task instances of runs that go on or are new, and their rows of the ledger. The rest is in memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance as TI
from airflow.models.xcom import XComModel
from sqlalchemy import and_, or_, select, tuple_

from airflow_provider_seedance.api_server import renders
from airflow_provider_seedance.api_server.known_dags import KnownDags
from airflow_provider_seedance.api_server.queries import (
    RUN_COLUMNS,
    TASK_COLUMNS,
    belongs_to_task,
    run_values,
    task_of,
)
from airflow_provider_seedance.api_server.totals import RunKey, read_costs, summary_of
from airflow_provider_seedance.api_server.xcom_values import parse_xcom
from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.ledger.account import pattern_of
from airflow_provider_seedance.ledger.configuration import read_config
from airflow_provider_seedance.operators.task_xcom import REPORT_KEY

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

#: Time after the end of a run in which its tasks may still write XComs.
_SETTLING_TIME = timedelta(minutes=1)

#: Maximum runs whose summaries are kept, of some hundred bytes each.
MAX_SUMMARIES = 5000


@dataclass(frozen=True, kw_only=True)
class RunSearch:
    """
    Selection of runs.

    :param text: Words, each of which is in the Dag id or the run id.
    :param since: Of the time after which the run may start, inclusive; ``until`` is exclusive.
    """

    text: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self) -> Iterator[Any]:
        """Yield the conditions of the query."""
        for word in self.text.split():
            columns = (DagRun.dag_id, DagRun.run_id)
            yield or_(*(column.ilike(pattern_of(word), escape="/") for column in columns))
        if self.since is not None:
            yield DagRun.run_after >= self.since
        if self.until is not None:
            yield DagRun.run_after < self.until


class RunList:
    """Reader of the list, with a memory of the Dags that generate and of the runs that have ended."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._dags = KnownDags()
        self._ended: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()

    def dag_ids(self, session: Session) -> set[str]:
        """Return the Dags that have generated something; only the first call reads all task instances."""

        def read(since: datetime | None) -> Iterable[str]:
            query = select(TI.dag_id).where(_generates()).distinct()
            if since is not None:
                # A UUID of version 7 begins with the milliseconds of its time.
                first = UUID(int=int(since.timestamp() * 1000) << 80)
                query = query.where(TI.id >= TI.__table__.c.id.type.python_type(str(first)))
            return session.scalars(query)

        return self._dags.update(read)

    def read(
        self, session: Session, dag_ids: Collection[str], search: RunSearch, limit: int
    ) -> list[dict[str, Any]]:
        """Return the latest runs of these Dags that have renders, with tasks by state and what was spent."""
        here = (TI.dag_id == DagRun.dag_id, TI.run_id == DagRun.run_id)
        query = (
            select(*RUN_COLUMNS)
            .where(
                DagRun.dag_id.in_(dag_ids),
                *search.conditions(),
                select(TI.id).where(*here, _generates()).exists(),
            )
            .order_by(DagRun.run_after.desc(), DagRun.id.desc())
            .limit(limit)
        )
        rows = session.execute(query).all()
        with self._lock:
            known = {key: self._ended[key] for key in map(tuple, rows) if key in self._ended}
            unknown = {(row.dag_id, row.run_id): row for row in rows if tuple(row) not in known}
            tasks = _tasks_of(session, unknown) if unknown else {}
        session.commit()  # the ledger may take long: without the lock, and Airflow's connection
        costs = read_costs(tasks)
        settled = {}
        for run, row in unknown.items():
            of_run = costs[run] if costs else {}
            known[tuple(row)] = summary_of(tasks[run], of_run)
            if _has_settled(row) and not any(spent["reserved"] for spent in of_run.values()):
                settled[tuple(row)] = known[tuple(row)]
        if costs is not None or read_config() is None:  # not without a ledger that failed
            with self._lock:
                self._ended.update(settled)
                while len(self._ended) > MAX_SUMMARIES:
                    self._ended.popitem(last=False)
        return [{**run_values(row), **known[tuple(row)]} for row in rows]


def _has_settled(run: Any) -> bool:
    ended = run.ended_at if run.state in ("success", "failed") else None
    return bool(ended and ended < utc_now() - _SETTLING_TIME)


def _generates() -> Any:
    names = renders.SEEDANCE_OPERATORS - renders.TRANSFER_OPERATORS
    return or_(TI.operator.in_(names), TI.custom_operator_name.in_(names))


def _tasks_of(session: Session, runs: Collection[RunKey]) -> dict[RunKey, list[renders.Task]]:
    wanted = and_(belongs_to_task(XComModel), XComModel.key.in_((renders.RESULT_KEY, REPORT_KEY)))
    query = (
        select(TI.dag_id, TI.run_id, *TASK_COLUMNS, XComModel.key, XComModel.value)
        .outerjoin(XComModel, wanted)
        .where(tuple_(TI.dag_id, TI.run_id).in_(runs), _generates())
    )
    rows: dict[Any, Any] = {}
    xcoms: dict[Any, dict[str, Any]] = {}
    for row in session.execute(query):
        rows[row.id] = row
        xcoms.setdefault(row.id, {})[row.key] = parse_xcom(row.value)
    found: dict[RunKey, list[renders.Task]] = {run: [] for run in runs}
    for row in rows.values():
        found[row.dag_id, row.run_id].append(task_of(row, xcoms, {}))
    return found
