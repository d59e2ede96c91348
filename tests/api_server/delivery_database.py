"""Task instances of one run in Airflow's metadata database, which get callbacks."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.models.dag_version import DagVersion
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session
from metadata_rows import add_row, new_id, place
from sqlalchemy import select

from airflow_provider_seedance.api_server import callback_delivery
from airflow_provider_seedance.callbacks.inbox import key_for
from airflow_provider_seedance.callbacks.payload import CallbackPayload
from airflow_provider_seedance.callbacks.tokens import CallbackClaims
from airflow_provider_seedance.generations import Generation, GenerationStatus

RUN = "manual__2026-01-01T00:00:00+00:00/odd"
CLAIMS = CallbackClaims(
    dag_id="dag", run_id=RUN, task_id="task", map_index=2, conn_id="seedance", nonce="n1", expires=2**40
)
SUCCEEDED = CallbackPayload(generation_id="g1", status=GenerationStatus.SUCCEEDED)
KWARGS = {"generation_id": "g1", "media": "video", "callback_nonce": "n1", "result_defaults": {}}
VERSION = DagVersion.__table__.c.id.type.python_type(str(uuid.uuid4()))
GENERATION_TRIGGER = "airflow_provider_seedance.triggers.seedance.SeedanceGenerationTrigger"
RESULT = Generation(
    generation_id="g1",
    api="ark",
    media="video",
    status=GenerationStatus.SUCCEEDED,
    urls=("https://c.example/1.mp4",),
).result()


def store_model() -> Any:
    from airflow.models.task_state_store import TaskStateStoreModel

    return TaskStateStoreModel


def add(
    state: str | None = "deferred",
    *,
    kwargs: dict[str, Any] | None = KWARGS,
    classpath: str = GENERATION_TRIGGER,
    age: float = 60.0,
    map_index: int = 2,
    region: str = "",
    **more: Any,
) -> Any:
    """Add the task instance, with its trigger, and return its id."""
    with create_session() as session:
        trigger_id = None
        if state == "deferred" and kwargs is not None:
            trigger = Trigger(classpath, kwargs)
            trigger.created_date = datetime.now(UTC) - timedelta(seconds=age)
            session.add(trigger)
            session.flush()
            trigger_id = trigger.id
        values = {
            "id": new_id(),
            "dag_id": "dag",
            "run_id": RUN,
            "task_id": "task",
            **place(map_index, region),
            "state": state,
            "trigger_id": trigger_id,
            "next_method": "execute_complete",
            "next_kwargs": {"generation_id": "g1"},
            "try_number": 1,
            "max_tries": 0,
            "pool": "default_pool",
            "pool_slots": 1,
            "hostname": "",
            "custom_operator_name": "",
            "executor_config": {},
            "queue": "default",
            "dag_version_id": VERSION,
            **more,
        }
        add_row(session, TaskInstance, **values)
        return values["id"]


def task_instance(map_index: int = 2) -> Any:
    with create_session() as session:
        ti = session.scalars(select(TaskInstance).where(TaskInstance.map_index == map_index)).one()
        session.expunge(ti)
        return ti


def event_of(ti: Any) -> Any:
    kwargs = ti.next_kwargs
    if "__classname__" in str(kwargs):
        from airflow.sdk.serde import deserialize

        kwargs = deserialize(kwargs)
    return kwargs["event"]


def stored_ids(nonce: str = "n1") -> Any:
    with create_session() as session:
        value = session.scalar(select(store_model().value).where(store_model().key == key_for(nonce)))
    return value if value is None else json.loads(value)


def deliver_unchanged(
    payload: CallbackPayload = SUCCEEDED, claims: CallbackClaims = CLAIMS, map_index: int = 2
) -> callback_delivery.Outcome:
    """Deliver, and check that the task instance is unchanged."""
    before = task_instance(map_index)
    outcome = callback_delivery.deliver(claims, payload)
    after = task_instance(map_index)
    for name in ("state", "trigger_id", "next_method", "next_kwargs", "try_number", "updated_at"):
        assert getattr(after, name) == getattr(before, name), name
    return outcome
