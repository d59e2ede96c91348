"""A metadata database in memory for the queries of the Renders page."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.dagrun import DagRun
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.taskinstance import TaskInstance
from metadata_rows import MODELS_OF_3_4, XCOM_MODEL, add_fields, add_region, add_row, add_xcom, new_id, place
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
VIDEO = "SeedanceGenerateVideoOperator"
STORE = "SeedanceToObjectStorageOperator"


def new_engine() -> Engine:
    return create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})


@cache
def empty_tables() -> bytes:
    """Return a database with the tables, which take longer to create than most tests run."""
    import_all_models()  # foreign keys name tables of the others
    models = (DagRun, TaskInstance, XCOM_MODEL, RenderedTaskInstanceFields, *MODELS_OF_3_4)
    engine = new_engine()
    Base.metadata.create_all(engine, tables=[model.__table__ for model in models])
    with engine.connect() as connection:
        made: bytes = connection.connection.driver_connection.serialize()
    engine.dispose()
    return made


class MetadataDatabase:
    """A metadata database in memory, with the statements that it was sent."""

    def __init__(self) -> None:
        self.engine = new_engine()
        with self.engine.connect() as connection:
            connection.connection.driver_connection.deserialize(empty_tables())
        self.session = Session(self.engine)
        self.sent: list[tuple[str, Any]] = []
        self._runs: dict[tuple[str, str], int] = {}
        event.listen(self.engine, "before_cursor_execute", self._record)

    def _record(self, connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        self.sent.append((statement, parameters))

    def run(self, dag_id: str = "d", run_id: str = "r/1", state: str = "running", **more: Any) -> None:
        number = self._runs.setdefault((dag_id, run_id), len(self._runs) + 1)
        add_row(
            self.session,
            DagRun,
            id=number,
            dag_id=dag_id,
            run_id=run_id,
            run_type="manual",
            log_template_id=None,
            state=state,
            **{"run_after": NOW, **more},
        )

    def task(
        self,
        task_id: str,
        operator: str,
        *,
        dag_id: str = "d",
        run_id: str = "r/1",
        map_index: int = -1,
        region: str = "",
        state: str | None = "success",
        xcoms: dict[str, Any] | None = None,
        fields: dict[str, Any] | None = None,
        **more: Any,
    ) -> Any:
        at = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, **place(map_index, region)}
        ti_id = new_id()
        add_row(
            self.session,
            TaskInstance,
            **at,
            id=ti_id,
            pool="default_pool",
            operator=operator,
            state=state,
            **{"start_date": NOW, "updated_at": NOW, "executor_config": {}, **more},
        )
        for key, value in (xcoms or {}).items():
            add_xcom(self.session, ti_id, key, value, **at, dag_run_id=self._runs[dag_id, run_id])
        if fields is not None:
            add_fields(self.session, ti_id, fields, **at)
        return ti_id

    def region(
        self, node_id: str, *, parent: str = "", parent_index: int | None = None, forked_from: str = ""
    ) -> str:
        ids = {"parent_region_id": parent, "forked_from_region_id": forked_from}
        columns = {name: UUID(region) if region else None for name, region in ids.items()}
        return add_region(
            self.session, node_id, dag_id="d", run_id="r/1", parent_region_index=parent_index, **columns
        )
