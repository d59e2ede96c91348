"""What the page asks Airflow's metadata database: one query for each kind of thing, however many renders there are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.models.dagrun import DagRun
from airflow.models.renderedtifields import RenderedTaskInstanceFields as Fields
from airflow.models.taskinstance import TaskInstance as TI
from airflow.models.xcom import XComModel
from sqlalchemy import Text, and_, cast, func, or_, select

from airflow_provider_seedance.api_server.renders import (
    ID_KEY,
    OURS,
    PROGRESS_KEY,
    RESULT_KEY,
    TRANSFERS,
    Task,
    plain,
    read_value,
)

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["Run", "Scope", "find_run", "one_task", "recent_runs", "run_dag_ids", "stamp", "tasks_of"]


@dataclass(frozen=True, kw_only=True)
class Scope:
    """
    What a page is about.

    :param task_id: Only the renders of this task; ``None`` for the whole run.
    :param map_index: Only of this instance of it; ``None`` for all.
    """

    dag_id: str
    run_id: str
    task_id: str | None = None
    map_index: int | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A Dag run."""

    dag_id: str
    run_id: str
    state: str | None
    started_at: datetime | None
    ended_at: datetime | None
    logical_date: datetime | None
    run_after: datetime | None

    @property
    def active(self) -> bool:
        """Whether it goes on."""
        return self.state in ("queued", "running")

    def as_dict(self) -> dict[str, Any]:
        """Return it for the page."""
        times = ("started_at", "ended_at", "logical_date", "run_after")
        shown = {name: moment.isoformat() if (moment := getattr(self, name)) else None for name in times}
        return {"dag_id": self.dag_id, "run_id": self.run_id, "state": self.state, **shown}


_RUN = (
    DagRun.dag_id,
    DagRun.run_id,
    DagRun.state,
    DagRun.start_date,
    DagRun.end_date,
    DagRun.logical_date,
    DagRun.run_after,
)


def _run(row: Any) -> Run:
    return Run(
        dag_id=row[0],
        run_id=row[1],
        state=str(row[2]) if row[2] is not None else None,
        started_at=row[3],
        ended_at=row[4],
        logical_date=row[5],
        run_after=row[6],
    )


def find_run(session: Session, scope: Scope) -> Run | None:
    """Return the run, or ``None`` if there is no such run."""
    query = select(*_RUN).where(DagRun.dag_id == scope.dag_id, DagRun.run_id == scope.run_id)
    row = session.execute(query).first()
    return _run(row) if row else None


def stamp(session: Session, scope: Scope) -> tuple[Any, ...]:
    """Return something that changes whenever the renders of a run may have changed."""
    here = [TI.dag_id == scope.dag_id, TI.run_id == scope.run_id]
    tasks = session.execute(select(func.count(), func.max(TI.updated_at)).where(*here)).one()
    values = session.execute(
        select(func.count(), func.max(XComModel.timestamp)).where(
            XComModel.dag_id == scope.dag_id, XComModel.run_id == scope.run_id
        )
    ).one()
    fields = session.execute(
        select(func.count()).where(Fields.dag_id == scope.dag_id, Fields.run_id == scope.run_id)
    ).one()
    return (*tasks, *values, *fields)


def tasks_of(session: Session, scope: Scope) -> list[Task]:
    """
    Return the task instances of a run that may know of renders, in the order of task and map index.

    With a task in the scope: its own, and those that store files or return results.
    """
    values = _xcoms(session, scope)
    known = set(values)
    query = (
        select(
            TI.task_id,
            TI.map_index,
            TI._rendered_map_index,
            TI.operator,
            TI.custom_operator_name,
            TI.state,
            TI.try_number,
            TI.start_date,
            TI.end_date,
        )
        .where(TI.dag_id == scope.dag_id, TI.run_id == scope.run_id)
        .order_by(TI.start_date.is_(None), TI.start_date, TI.task_id, TI.map_index)
    )
    rows = [
        row for row in session.execute(query) if row[3] in OURS or row[4] in OURS or (row[0], row[1]) in known
    ]
    fields = _fields(session, scope, {row[0] for row in rows})
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        first.setdefault(row[0], number)
    # The instances of one task stay together, in the order of their indexes.
    rows.sort(key=lambda row: (first[row[0]], row[1]))
    return [
        Task(
            task_id=row[0],
            map_index=row[1],
            label=row[2],
            operator=row[4] if row[4] in OURS else row[3],
            state=str(row[5]) if row[5] is not None else None,
            try_number=row[6],
            started_at=row[7],
            ended_at=row[8],
            xcoms=values.get((row[0], row[1]), {}),
            fields=fields.get((row[0], row[1]), {}),
        )
        for row in rows
    ]


def _xcoms(session: Session, scope: Scope) -> dict[tuple[str, int], dict[str, Any]]:
    # A task of a user's own class is recognised by what it returns. Other results may be large: they are not read.
    ours = or_(TI.operator.in_(OURS), TI.custom_operator_name.in_(OURS))
    telling = or_(ours, cast(XComModel.value, Text).like(f"%{ID_KEY}%"))
    query = (
        select(XComModel.task_id, XComModel.map_index, XComModel.key, XComModel.value)
        .join(
            TI,
            and_(
                TI.dag_id == XComModel.dag_id,
                TI.run_id == XComModel.run_id,
                TI.task_id == XComModel.task_id,
                TI.map_index == XComModel.map_index,
            ),
        )
        .where(
            XComModel.dag_id == scope.dag_id,
            XComModel.run_id == scope.run_id,
            or_(
                XComModel.key.in_((ID_KEY, PROGRESS_KEY)),
                and_(XComModel.key == RESULT_KEY, telling),
            ),
        )
    )
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for task_id, map_index, key, value in session.execute(query):
        found.setdefault((task_id, map_index), {})[key] = read_value(value)
    return found


def _fields(
    session: Session, scope: Scope, task_ids: Collection[str]
) -> dict[tuple[str, int], dict[str, Any]]:
    query = select(Fields.task_id, Fields.map_index, Fields.rendered_fields).where(
        Fields.dag_id == scope.dag_id, Fields.run_id == scope.run_id, Fields.task_id.in_(task_ids)
    )
    return {
        (task_id, map_index): plain(fields) if isinstance(fields, dict) else {}
        for task_id, map_index, fields in session.execute(query)
    }


def one_task(session: Session, scope: Scope) -> Task | None:
    """Return one task instance with its result and its rendered fields, or ``None`` if there is none."""
    here = (scope.dag_id, scope.run_id, scope.task_id, scope.map_index)
    row = session.execute(
        select(TI.operator, TI.state).where(
            TI.dag_id == here[0], TI.run_id == here[1], TI.task_id == here[2], TI.map_index == here[3]
        )
    ).first()
    if row is None:
        return None
    values = session.execute(
        select(XComModel.value).where(
            XComModel.dag_id == here[0],
            XComModel.run_id == here[1],
            XComModel.task_id == here[2],
            XComModel.map_index == here[3],
            XComModel.key == RESULT_KEY,
        )
    ).first()
    fields = _fields(session, scope, {str(scope.task_id)})
    return Task(
        task_id=str(scope.task_id),
        map_index=-1 if scope.map_index is None else scope.map_index,
        operator=row[0],
        state=str(row[1]) if row[1] is not None else None,
        xcoms={RESULT_KEY: read_value(values[0])} if values else {},
        fields=fields.get((str(scope.task_id), -1 if scope.map_index is None else scope.map_index), {}),
    )


def run_dag_ids(session: Session) -> set[str]:
    """Return the Dags that have run tasks of ours."""
    return set(session.scalars(select(TI.dag_id).where(_generates()).distinct()))


def recent_runs(session: Session, dag_ids: Collection[str], limit: int) -> list[dict[str, Any]]:
    """Return the latest runs of these Dags that have renders, with the number of their task instances by state."""
    query = (
        select(*_RUN)
        .where(
            DagRun.dag_id.in_(dag_ids),
            select(TI.id)
            .where(TI.dag_id == DagRun.dag_id, TI.run_id == DagRun.run_id, _generates())
            .exists(),
        )
        .order_by(DagRun.run_after.desc(), DagRun.id.desc())
        .limit(limit)
    )
    runs = [_run(row) for row in session.execute(query)]
    counts: dict[tuple[str, str], dict[str, int]] = {}
    numbers = (
        select(TI.dag_id, TI.run_id, TI.state, func.count())
        .where(
            TI.dag_id.in_({run.dag_id for run in runs}),
            TI.run_id.in_({run.run_id for run in runs}),
            _generates(),
        )
        .group_by(TI.dag_id, TI.run_id, TI.state)
    )
    for dag_id, run_id, state, number in session.execute(numbers) if runs else ():
        counts.setdefault((dag_id, run_id), {})[str(state) if state is not None else "none"] = number
    return [{**run.as_dict(), "tasks": counts.get((run.dag_id, run.run_id), {})} for run in runs]


def _generates() -> Any:
    names = OURS - TRANSFERS
    return or_(TI.operator.in_(names), TI.custom_operator_name.in_(names))
