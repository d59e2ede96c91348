"""
Rows of Airflow's metadata database, whose tables differ from Airflow 3.4 on.

There, a region and an index locate a task instance, and XComs and rendered fields belong to an attempt.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.taskinstance import TaskInstance, uuid7
from airflow.models.xcom import XComModel
from sqlalchemy import insert
from sqlalchemy.orm import Session

from airflow_provider_seedance.version_compat import AIRFLOW_V_3_4_PLUS, stored_coordinates

#: The models that hold XComs and rendered fields, and those beside them that queries name.
XCOM_MODEL = import_module("airflow.models.xcom").XComModelV2 if AIRFLOW_V_3_4_PLUS else XComModel
MODELS_OF_3_4 = (
    (
        import_module("airflow.models.xcom").XComModelV1,
        import_module("airflow.models.renderedtifields").LegacyRenderedTaskInstanceFields,
        import_module("airflow.models.taskinstance").LegacyTaskDataOwner,
        import_module("airflow.models.dynamic_region").DynamicRegion,
    )
    if AIRFLOW_V_3_4_PLUS
    else ()
)


def add_row(session: Session, model: Any, **values: Any) -> None:
    """Insert a row; values without a column of this Airflow are left out."""
    known = model.__table__.columns.keys()
    session.execute(insert(model.__table__).values(**{k: v for k, v in values.items() if k in known}))


def new_id() -> Any:
    """Return an id for a task instance."""
    return TaskInstance.__table__.c.id.type.python_type(str(uuid7()))


def place(map_index: int, region: str = "") -> dict[str, Any]:
    """Return the columns that locate a task instance in its task."""
    columns = stored_coordinates(region, map_index)
    return {**columns, "region_index": map_index}


def add_region(session: Session, node_id: str, *, dag_id: str, run_id: str, **more: Any) -> str:
    """Add a region of Airflow 3.4 for a loop or a mapped task, and return its id in hexadecimal."""
    region = import_module("airflow.models.dynamic_region").DynamicRegion(
        dag_id=dag_id, run_id=run_id, node_id=node_id, **more
    )
    session.add(region)
    session.flush()
    return str(region.id.hex)


def add_xcom(session: Session, ti_id: Any, key: str, value: Any, **at: Any) -> None:
    """Add an XCom; ``at`` has the ids of the run and the task, and the map index."""
    add_row(
        session,
        XCOM_MODEL,
        **at,
        id=uuid.uuid4(),
        task_instance_id=ti_id,
        key=key,
        value=value,
        timestamp=datetime(2026, 5, 1, 12, tzinfo=UTC),
    )


def add_fields(session: Session, ti_id: Any, fields: dict[str, Any], **at: Any) -> None:
    """Add the rendered fields of a task instance."""
    add_row(
        session,
        RenderedTaskInstanceFields,
        **at,
        id=uuid.uuid4(),
        task_instance_id=ti_id,
        rendered_fields=fields,
    )
