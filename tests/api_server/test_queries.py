"""Queries of the Renders page, on a real schema in memory."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.dagrun import DagRun
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import create_engine, event, insert
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from airflow_provider_seedance.api_server import queries
from airflow_provider_seedance.api_server.queries import Scope

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HERE = Scope(dag_id="d", run_id="r/1")
VIDEO = "SeedanceGenerateVideoOperator"
STORE = "SeedanceToObjectStorageOperator"


class Database:
    """A metadata database in memory."""

    def __init__(self) -> None:
        self.engine = create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        import_all_models()  # foreign keys name tables of the others
        tables = [model.__table__ for model in (DagRun, TaskInstance, XComModel, RenderedTaskInstanceFields)]
        Base.metadata.create_all(self.engine, tables=tables)
        self.session = Session(self.engine)
        self.statements: list[str] = []
        self._runs: dict[tuple[str, str], int] = {}
        event.listen(self.engine, "before_cursor_execute", self._record)

    def _record(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self.statements.append(statement)

    def run(self, dag_id: str = "d", run_id: str = "r/1", state: str = "running", **more: Any) -> None:
        number = self._runs.setdefault((dag_id, run_id), len(self._runs) + 1)
        self._add(
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
        state: str | None = "success",
        xcoms: dict[str, Any] | None = None,
        fields: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        at = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index}
        key = uuid.uuid4()
        self._add(
            TaskInstance,
            **at,
            id=key if TaskInstance.__table__.c.id.type.python_type is uuid.UUID else str(key),
            pool="default_pool",
            operator=operator,
            state=state,
            **{"start_date": NOW, "updated_at": NOW, "executor_config": {}, **more},
        )
        for key, value in (xcoms or {}).items():
            self._add(
                XComModel, **at, dag_run_id=self._runs[dag_id, run_id], key=key, value=value, timestamp=NOW
            )
        if fields is not None:
            self._add(RenderedTaskInstanceFields, **at, rendered_fields=fields)

    def _add(self, model: Any, **values: Any) -> None:
        known = model.__table__.columns.keys()
        given = {name: value for name, value in values.items() if name in known}
        self.session.execute(insert(model.__table__).values(**given))


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    yield made
    made.session.close()
    made.engine.dispose()


def test_find_run(database: Database) -> None:
    database.run(state="queued")
    run = queries.find_run(database.session, HERE)
    assert run == {
        "dag_id": "d",
        "run_id": "r/1",
        "state": "queued",
        "started_at": None,
        "ended_at": None,
        "logical_date": None,
        "run_after": "2026-05-01T12:00:00+00:00",
    }
    assert queries.find_run(database.session, Scope(dag_id="d", run_id="r")) is None


def test_tasks_with_their_xcoms_and_fields(database: Database) -> None:
    database.run()
    database.run(run_id="other")
    result = {"generation_id": "g", "urls": []}
    database.task(
        "video", VIDEO, xcoms={"return_value": result, "generation_id": "g"}, fields={"prompt": "p"}
    )
    database.task("video", VIDEO, run_id="other", xcoms={"generation_id": "of another run"})
    database.task("noise", "BashOperator", xcoms={"return_value": {"many": "things"}})
    database.task("own", "OurOwnOperator", xcoms={"return_value": result, "unrelated": "x"})
    database.task("waits", "SeedanceGenerationSensor", state=None, start_date=None)
    found = {task.task_id: task for task in queries.tasks_of(database.session, HERE)}
    assert set(found) == {"video", "own", "waits"}
    assert found["video"].xcoms == {"return_value": result, "generation_id": "g"}
    assert found["video"].fields == {"prompt": "p"}
    assert found["video"].started_at == NOW
    assert found["own"].xcoms == {"return_value": result}
    assert found["waits"].state is None


def test_mapped_tasks_are_in_order(database: Database) -> None:
    database.run()
    for index in (2, 0, 1):
        started = NOW.replace(minute=10 - index)
        database.task("video", VIDEO, map_index=index, start_date=started)
    database.task("before", VIDEO, start_date=NOW)
    found = queries.tasks_of(database.session, HERE)
    assert [(task.task_id, task.map_index) for task in found] == [
        ("before", -1),
        ("video", 0),
        ("video", 1),
        ("video", 2),
    ]


def test_the_number_of_queries_does_not_depend_on_the_number_of_tasks(database: Database) -> None:
    database.run()
    database.task("video", VIDEO, map_index=0, xcoms={"generation_id": "g0"}, fields={})
    counts = []
    for number in (1, 1000):
        for index in range(1, number):
            database.task("video", VIDEO, map_index=index, xcoms={"generation_id": f"g{index}"}, fields={})
        database.statements.clear()
        assert len(queries.tasks_of(database.session, HERE)) == number
        counts.append(len(database.statements))
    assert counts == [3, 3]


def test_the_revision_changes_with_the_content(database: Database) -> None:
    database.run()
    seen = [queries.revision(database.session, HERE)]
    database.task("video", VIDEO)
    seen.append(queries.revision(database.session, HERE))
    database.task("next", VIDEO, xcoms={"generation_id": "g"}, updated_at=NOW)
    seen.append(queries.revision(database.session, HERE))
    database.task("last", VIDEO, updated_at=NOW.replace(hour=13), fields={})
    seen.append(queries.revision(database.session, HERE))
    assert len(set(seen)) == 4
    assert queries.revision(database.session, HERE) == seen[-1]


def test_find_transfer(database: Database) -> None:
    database.run()
    stored = {"paths": ["s3://b/x.mp4"], "sha256": ["0"], "generation_id": "g"}
    fields = {"object_storage_conn_id": "aws"}
    database.task("store", STORE, map_index=3, xcoms={"return_value": stored}, fields=fields)
    here = Scope(dag_id="d", run_id="r/1", task_id="store", map_index=3)
    task = queries.find_transfer(database.session, here)
    assert task is not None
    assert task.result == stored
    assert task.fields == fields
    for other in (
        Scope(dag_id="d", run_id="r/1", task_id="store", map_index=-1),
        Scope(dag_id="d", run_id="r", task_id="store", map_index=3),
        Scope(dag_id="D", run_id="r/1", task_id="store", map_index=3),
    ):
        assert queries.find_transfer(database.session, other) is None


def test_recent_runs(database: Database) -> None:
    database.run(run_id="old", run_after=NOW.replace(hour=1), state="success")
    database.run(run_id="new", run_after=NOW.replace(hour=2))
    database.run(run_id="without")
    database.run(dag_id="hidden")
    for run_id in ("old", "new"):
        database.task("video", VIDEO, run_id=run_id, map_index=0)
        database.task("video", VIDEO, run_id=run_id, map_index=1, state=None)
    database.task("store", STORE, run_id="without")
    database.task("video", VIDEO, dag_id="hidden")
    assert queries.dag_ids_with_renders(database.session) == {"d", "hidden"}
    found = queries.recent_runs(database.session, {"d"}, 10)
    assert [(run["run_id"], run["tasks"]) for run in found] == [
        ("new", {"success": 1, "none": 1}),
        ("old", {"success": 1, "none": 1}),
    ]
    assert [run["run_id"] for run in queries.recent_runs(database.session, {"d"}, 1)] == ["new"]
    assert queries.recent_runs(database.session, set(), 10) == []
