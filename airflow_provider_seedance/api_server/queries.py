"""Queries of the Renders page on Airflow's metadata database: one per kind of row, for any number of renders."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.models.dagrun import DagRun
from airflow.models.renderedtifields import RenderedTaskInstanceFields as Fields
from airflow.models.taskinstance import TaskInstance as TI
from airflow.models.xcom import XComModel
from sqlalchemy import Text, and_, case, cast, func, or_, select

from airflow_provider_seedance.api_server import renders
from airflow_provider_seedance.api_server.xcom_values import parse_xcom, unwrap
from airflow_provider_seedance.operators.task_xcom import ENDS_AT_KEY, ERROR_KEY, REPORT_KEY
from airflow_provider_seedance.triggers.xcom import PROGRESS_KEY
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_4_PLUS, region_of, stored_coordinates

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def _coordinates() -> tuple[Any, ...]:
    """Return the map index that users see, and where there are regions, that of the task and its pass of a loop."""
    if not AIRFLOW_V_3_4_PLUS:
        return (TI.map_index,)
    public_map_index = import_module("airflow.models.task_coordinates").public_map_index_expression(TI)
    region = import_module("airflow.models.dynamic_region").DynamicRegion
    # The region of a mapped task has its name, and counts map indexes; a loop around it is its parent.
    of_loop = case((region.node_id == TI.task_id, region.parent_region_index), else_=TI.region_index)
    iteration = select(of_loop).where(region.id == TI.region_id).correlate(TI).scalar_subquery()
    return public_map_index.label("map_index"), TI.region_id, TI.region_index, iteration.label("iteration")


def belongs_to_task(model: Any) -> Any:
    """Return the condition that a row is of the latest attempt of a task instance."""
    if AIRFLOW_V_3_4_PLUS:
        return model.task_instance_id == TI.id
    return and_(*(getattr(TI, name) == getattr(model, name) for name in _INSTANCE))


_INSTANCE = ("dag_id", "run_id", "task_id", "map_index")

RUN_COLUMNS = (
    DagRun.dag_id,
    DagRun.run_id,
    DagRun.state.label("state"),
    DagRun.start_date.label("started_at"),
    DagRun.end_date.label("ended_at"),
    DagRun.logical_date,
    DagRun.run_after,
)

TASK_COLUMNS = (
    TI.id,
    TI.task_id,
    *_coordinates(),
    TI._rendered_map_index.label("label"),
    TI.operator,
    TI.custom_operator_name,
    TI.state,
    TI.try_number,
    TI.start_date.label("started_at"),
    TI.end_date.label("ended_at"),
)

_TASK_FIELDS = {field.name for field in fields(renders.Task)}


@dataclass(frozen=True, kw_only=True)
class Scope:
    """
    Subject of a page: a run, or its renders of one task.

    :param task_id: The task; ``None`` for the whole run.
    :param map_index: A mapped instance of the task; ``None`` for all.
    :param region: Region and index of one instance of the task, as in :class:`Task`; the library does not know it.
    """

    dag_id: str
    run_id: str
    task_id: str | None = None
    map_index: int | None = None
    region: str = ""


def find_run(session: Session, scope: Scope) -> dict[str, Any] | None:
    """Return the run for the page, or ``None`` if it does not exist."""
    row = session.execute(select(*RUN_COLUMNS).where(*_in_run(DagRun, scope))).first()
    return run_values(row) if row else None


def run_values(row: Any) -> dict[str, Any]:
    """Return the columns of a run as JSON values."""
    values = row._mapping.items()
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values}


def revision(session: Session, scope: Scope) -> tuple[Any, ...]:
    """Return values that change whenever the renders of a run may have changed."""
    counts = (
        select(func.count(), func.max(TI.updated_at)).where(*_in_run(TI, scope)),
        select(func.count(), func.max(XComModel.timestamp)).where(*_in_run(XComModel, scope)),
        select(func.count()).select_from(TI).join(Fields, belongs_to_task(Fields)).where(*_in_run(TI, scope)),
    )
    return tuple(value for query in counts for value in session.execute(query).one())


def tasks_of(session: Session, scope: Scope) -> list[renders.Task]:
    """
    Return the task instances of a run that may know of renders, in the order of task and map index.

    All of the run, also for the page of one task: transfers and results of other tasks belong to its renders.
    """
    xcoms = _xcoms(session, scope)
    query = (
        select(*TASK_COLUMNS)
        .where(*_in_run(TI, scope))
        .order_by(TI.start_date.is_(None), TI.start_date, TI.task_id, TI.map_index)
    )
    rows = [
        row
        for row in session.execute(query)
        if {row.operator, row.custom_operator_name} & renders.SEEDANCE_OPERATORS or row.id in xcoms
    ]
    fields = _rendered_fields(session, scope, {row.task_id for row in rows})
    position = {task_id: number for number, task_id in enumerate(dict.fromkeys(row.task_id for row in rows))}
    # The instances of one task stay together, by map index.
    rows.sort(key=lambda row: (position[row.task_id], row.map_index))
    return [task_of(row, xcoms, fields) for row in rows]


def find_task(session: Session, scope: Scope, operators: Collection[str] = ()) -> renders.Task | None:
    """Return a task instance with its result and rendered fields, or ``None`` if it has none of these operators."""
    instance = _instance(scope)
    chosen = (*instance, TI.operator.in_(operators)) if operators else instance
    row = session.execute(select(*TASK_COLUMNS).where(*_in_run(TI, scope), *chosen)).first()
    if row is None:
        return None
    return task_of(row, _xcoms(session, scope, instance), _rendered_fields(session, scope, {row.task_id}))


def _instance(scope: Scope) -> tuple[Any, ...]:
    """Return the conditions on a task instance in its run; without a region, by the map index that users see."""
    region_id, _, index = scope.region.partition(".")
    map_index = scope.map_index or 0
    if map_index >= 0 and not region_id:
        return TI.task_id == scope.task_id, _coordinates()[0] == map_index
    place = stored_coordinates(region_id, int(index) if region_id else map_index)
    return TI.task_id == scope.task_id, *(getattr(TI, name) == value for name, value in place.items())


#: By the id of the task instance.
_ByInstance = dict[Any, dict[str, Any]]


def task_of(row: Any, xcoms: _ByInstance, fields: _ByInstance) -> renders.Task:
    """Return the task instance of a row with :data:`TASK_COLUMNS`."""
    values = {name: value for name, value in row._mapping.items() if name in _TASK_FIELDS}
    region_id, index = region_of(row)
    if (custom := row.custom_operator_name) in renders.SEEDANCE_OPERATORS:
        values["operator"] = custom
    return renders.Task(
        **values,
        region=f"{region_id}.{index}" if region_id else "",
        xcoms=xcoms.get(row.id, {}),
        fields=fields.get(row.id, {}),
    )


def _in_run(model: Any, scope: Scope) -> tuple[Any, ...]:
    return model.dag_id == scope.dag_id, model.run_id == scope.run_id


def _xcoms(session: Session, scope: Scope, instance: tuple[Any, ...] = ()) -> _ByInstance:
    # A task of a user's own class is recognised by its result. Other results may be large and are not read.
    recognised = or_(
        TI.operator.in_(renders.SEEDANCE_OPERATORS),
        TI.custom_operator_name.in_(renders.SEEDANCE_OPERATORS),
        cast(XComModel.value, Text).like(f"%{renders.ID_KEY}%"),
    )
    query = (
        select(TI.id, XComModel.key, XComModel.value)
        .join(XComModel, belongs_to_task(XComModel))
        .where(
            *_in_run(TI, scope),
            *instance,
            or_(
                XComModel.key.in_((renders.ID_KEY, PROGRESS_KEY, ENDS_AT_KEY, REPORT_KEY, ERROR_KEY)),
                and_(XComModel.key == renders.RESULT_KEY, recognised),
            ),
        )
    )
    found: _ByInstance = {}
    for instance_id, key, value in session.execute(query):
        found.setdefault(instance_id, {})[key] = parse_xcom(value)
    return found


def _rendered_fields(session: Session, scope: Scope, task_ids: Collection[str]) -> _ByInstance:
    query = _with_fields().where(*_in_run(TI, scope), TI.task_id.in_(task_ids))
    return {
        instance_id: unwrap(fields) if isinstance(fields, dict) else {}
        for instance_id, fields in session.execute(query)
    }


def _with_fields() -> Any:
    """Select the ids of task instances and their rendered fields, also those from before an upgrade to Airflow 3.4."""
    if not AIRFLOW_V_3_4_PLUS:
        return select(TI.id, Fields.rendered_fields).join(Fields, belongs_to_task(Fields))
    owner = import_module("airflow.models.taskinstance").LegacyTaskDataOwner
    earlier = import_module("airflow.models.renderedtifields").LegacyRenderedTaskInstanceFields
    same = and_(*(getattr(owner, name) == getattr(earlier, name) for name in _INSTANCE))
    return (
        select(TI.id, func.coalesce(Fields.rendered_fields, earlier.rendered_fields))
        .outerjoin(Fields, belongs_to_task(Fields))
        .outerjoin(owner, belongs_to_task(owner))
        .outerjoin(earlier, same)
    )
