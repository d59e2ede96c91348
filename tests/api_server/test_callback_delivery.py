"""What a callback does to a task, in a metadata database of Airflow's own making."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow import settings as airflow_settings
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.dag import DagModel
from airflow.models.dag_version import DagVersion
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import delete, insert, select
from sqlalchemy.exc import OperationalError

from airflow_provider_seedance.api_server import callback_delivery
from airflow_provider_seedance.callbacks.inbox import key_for, with_id
from airflow_provider_seedance.callbacks.payload import CallbackPayload
from airflow_provider_seedance.callbacks.tokens import CallbackClaims
from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_3_PLUS

RUN = "manual__2026-01-01T00:00:00+00:00/odd"
TICKET = CallbackClaims(
    dag_id="dag", run_id=RUN, task_id="task", map_index=2, conn_id="seedance", nonce="n1", expires=2**40
)
ENDED = CallbackPayload(generation_id="g1", status=GenerationStatus.SUCCEEDED)
WAITS = {"generation_id": "g1", "media": "video", "callback_nonce": "n1", "result_defaults": {}}
VERSION = DagVersion.__table__.c.id.type.python_type(str(uuid.uuid4()))
OURS = "airflow_provider_seedance.triggers.seedance.SeedanceGenerationTrigger"

needs_store = pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="the task state store came with Airflow 3.3")


@pytest.fixture(scope="module")
def tables() -> Iterator[None]:
    import_all_models()
    engine = airflow_settings.engine
    assert engine is not None
    Base.metadata.create_all(engine)
    yield
    Base.metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture
def database(tables: None) -> Iterator[None]:
    """An empty database with one run."""
    with create_session() as session:
        session.add(DagBundleModel(name="bundle"))
        session.flush()
        session.add(
            DagModel(dag_id="dag", bundle_name="bundle", fileloc="/dags/f.py", relative_fileloc="f.py")
        )
        session.flush()
        session.execute(
            insert(DagVersion.__table__).values(
                id=VERSION, dag_id="dag", version_number=1, bundle_name="bundle"
            )
        )
        session.execute(
            insert(DagRun.__table__).values(
                dag_id="dag", run_id=RUN, run_type="manual", state="running", run_after=datetime.now(UTC)
            )
        )
    yield
    with create_session() as session:
        for model in (XComModel, TaskInstance, Trigger, DagRun, DagVersion, DagModel, DagBundleModel):
            session.execute(delete(model))
        if AIRFLOW_V_3_3_PLUS:
            session.execute(delete(_store()))


def _store() -> Any:
    from airflow.models.task_state_store import TaskStateStoreModel

    return TaskStateStoreModel


def add(
    state: str | None = "deferred",
    *,
    waits: dict[str, Any] | None = WAITS,
    classpath: str = OURS,
    age: float = 60.0,
    map_index: int = 2,
) -> None:
    """Put the task instance there, with its trigger."""
    with create_session() as session:
        trigger_id = None
        if state == "deferred" and waits is not None:
            trigger = Trigger(classpath, waits)
            trigger.created_date = datetime.now(UTC) - timedelta(seconds=age)
            session.add(trigger)
            session.flush()
            trigger_id = trigger.id
        values = {
            "id": TaskInstance.__table__.c.id.type.python_type(str(uuid.uuid4())),
            "dag_id": "dag",
            "run_id": RUN,
            "task_id": "task",
            "map_index": map_index,
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
        }
        session.execute(insert(TaskInstance.__table__).values(values))


def test_on_postgresql_a_row_that_somebody_holds_is_not_waited_for_without_end() -> None:
    said: list[str] = []
    session = SimpleNamespace(
        get_bind=lambda: SimpleNamespace(dialect=SimpleNamespace(name="postgresql")),
        connection=lambda: SimpleNamespace(exec_driver_sql=said.append),
    )
    callback_delivery._prepare(session)
    assert said == ["SET LOCAL lock_timeout = '3s'"]


def found(map_index: int = 2) -> Any:
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


def kept(nonce: str = "n1") -> Any:
    with create_session() as session:
        value = session.scalar(select(_store().value).where(_store().key == key_for(nonce)))
    return value if value is None else json.loads(value)


def unchanged(look: Callable[[], callback_delivery.Outcome], map_index: int = 2) -> callback_delivery.Outcome:
    """Do something and check that the task waits as it did."""
    before = found(map_index)
    outcome = look()
    after = found(map_index)
    for name in ("state", "trigger_id", "next_method", "next_kwargs", "try_number", "updated_at"):
        assert getattr(after, name) == getattr(before, name), name
    return outcome


# ---------------------------------------------------------------------- resuming


def test_a_task_that_waits_is_resumed(database: None) -> None:
    add()
    assert callback_delivery.deliver(TICKET, ENDED).kind == "resumed"
    ti = found()
    assert (ti.state, ti.trigger_id, ti.next_method) == ("scheduled", None, "execute_complete")
    assert event_of(ti) == {"outcome": "callback", "generation_id": "g1"}


def test_a_call_that_names_no_id_is_about_the_render_of_its_address(database: None) -> None:
    add()
    assert (
        callback_delivery.deliver(TICKET, CallbackPayload(status=GenerationStatus.FAILED)).kind == "resumed"
    )
    assert event_of(found()) == {"outcome": "callback", "generation_id": "g1"}


def test_of_many_at_once_one_resumes(database: None) -> None:
    add()
    kinds: list[str] = []
    together = threading.Barrier(8)

    def call() -> None:
        together.wait()
        for _ in range(20):
            try:
                kinds.append(callback_delivery.deliver(TICKET, ENDED).kind)
                return
            except OperationalError:
                pass  # the database is locked: whoever pursues a callback tries again

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Those who come second find a task that is scheduled: what they tell is kept, and it is let alone.
    assert sorted(kinds) == ["later"] * 7 + ["resumed"]
    assert found().state == "scheduled"


def test_what_the_service_told_goes_to_the_worker(database: None) -> None:
    add()
    event = {"outcome": "ended", "generation_id": "g1"}
    assert callback_delivery.deliver(TICKET, ENDED, on_worker=True, event=event).kind == "resumed"
    assert event_of(found()) == event


@pytest.mark.parametrize(
    "hint",
    [
        CallbackPayload(generation_id="g1", status=GenerationStatus.RUNNING),
        CallbackPayload(generation_id="g1", status=GenerationStatus.QUEUED),
        CallbackPayload(generation_id="another", status=GenerationStatus.RUNNING),
        CallbackPayload(),
    ],
)
def test_what_tells_of_no_end_changes_nothing(database: None, hint: CallbackPayload) -> None:
    add()
    assert unchanged(lambda: callback_delivery.deliver(TICKET, hint)).kind == "ignored"


def test_an_id_and_nothing_else_is_a_reason_to_ask(database: None) -> None:
    add()
    outcome = unchanged(lambda: callback_delivery.deliver(TICKET, CallbackPayload(generation_id="g1")))
    assert outcome.kind == "ask"
    assert outcome.waits["generation_id"] == "g1"


@pytest.mark.parametrize("status", [None, GenerationStatus.SUCCEEDED, GenerationStatus.FAILED])
@pytest.mark.parametrize("ends", [True, False])
def test_an_id_that_is_not_ours_is_a_reason_to_ask_about_ours(
    database: None, status: GenerationStatus | None, ends: bool
) -> None:
    add(waits={**WAITS, "end_from_trigger": ends})
    outcome = unchanged(
        lambda: callback_delivery.deliver(TICKET, CallbackPayload(generation_id="another", status=status))
    )
    assert outcome.kind == "ask"
    assert outcome.waits["generation_id"] == "g1"
    if AIRFLOW_V_3_3_PLUS:
        assert kept() is None


def test_what_the_service_says_about_ours_goes_to_the_worker(database: None) -> None:
    add()
    event = {"outcome": "ended", "generation_id": "g1"}
    hint = CallbackPayload(generation_id="another", status=GenerationStatus.FAILED)
    assert callback_delivery.deliver(TICKET, hint, on_worker=True, event=event).kind == "resumed"
    assert event_of(found()) == event
    if AIRFLOW_V_3_3_PLUS:
        assert kept() is None


def test_a_callback_for_another_submission_changes_nothing(database: None) -> None:
    add(waits={**WAITS, "callback_nonce": "n2"})
    assert unchanged(lambda: callback_delivery.deliver(TICKET, ENDED)).kind == "ignored"
    assert not callback_delivery.finish(TICKET, {})


@pytest.mark.parametrize(
    "trigger",
    [
        {"waits": {**WAITS, "callback_nonce": None}},
        {"waits": {"generation_id": "g1"}},
        {"classpath": "somebody.elses.Trigger"},
        {"waits": None},
    ],
)
def test_a_trigger_that_expects_no_call_changes_nothing(database: None, trigger: dict[str, Any]) -> None:
    add(**trigger)
    assert unchanged(lambda: callback_delivery.deliver(TICKET, ENDED)).kind == "ignored"


def test_a_task_that_has_just_deferred_is_left_alone_for_some_seconds(database: None) -> None:
    add(age=1.0)
    outcome = unchanged(lambda: callback_delivery.deliver(TICKET, ENDED))
    assert outcome.kind == "later"
    assert 0 < outcome.seconds <= callback_delivery.EARLIEST


def test_another_item_of_a_mapped_task_is_left_alone(database: None) -> None:
    add()
    add(map_index=3, waits={**WAITS, "callback_nonce": "n3"})
    assert unchanged(lambda: callback_delivery.deliver(TICKET, ENDED), map_index=3).kind == "resumed"


@pytest.mark.parametrize(
    "other",
    [{"dag_id": "none"}, {"run_id": "none"}, {"task_id": "none"}, {"map_index": 9}, {"map_index": -(2**40)}],
)
def test_a_task_that_does_not_exist(database: None, other: dict[str, Any]) -> None:
    add()
    ticket = CallbackClaims(**{**vars(TICKET), **other})
    assert unchanged(lambda: callback_delivery.deliver(ticket, ENDED)).kind == "ignored"
    assert not callback_delivery.finish(ticket, {})


# ---------------------------------------------------------------------- keeping


@needs_store
@pytest.mark.parametrize("state", ["running", "queued", "scheduled", "restarting"])
def test_who_is_about_to_defer_finds_what_was_told(database: None, state: str) -> None:
    add(state)
    assert unchanged(lambda: callback_delivery.deliver(TICKET, ENDED)).kind == "later"
    assert kept() == with_id(None, "g1")


@needs_store
@pytest.mark.parametrize("state", ["failed", "up_for_retry", None])
def test_whoever_comes_next_finds_what_was_told(database: None, state: str | None) -> None:
    add(state)
    assert unchanged(lambda: callback_delivery.deliver(TICKET, ENDED)).kind == "kept"
    assert kept() == with_id(None, "g1")
    assert kept("n2") is None


@needs_store
@pytest.mark.parametrize("state", ["success", "skipped", "removed", "upstream_failed", "up_for_reschedule"])
def test_nobody_comes_next(database: None, state: str) -> None:
    add(state)
    outcome = unchanged(lambda: callback_delivery.deliver(TICKET, ENDED))
    assert outcome.kind == ("kept" if state == "up_for_reschedule" else "ignored")


@needs_store
def test_what_names_no_id_is_not_kept(database: None) -> None:
    add("failed")
    assert (
        callback_delivery.deliver(TICKET, CallbackPayload(status=GenerationStatus.SUCCEEDED)).kind
        == "ignored"
    )
    assert kept() is None


@needs_store
def test_no_call_makes_another_forgotten(database: None) -> None:
    add("running")
    for told in ("g1", "rubbish", "g1"):
        callback_delivery.deliver(TICKET, CallbackPayload(generation_id=told))
    assert kept() == with_id(with_id(None, "g1"), "rubbish")


def test_without_a_store_nothing_is_kept(database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback_delivery, "_keep", lambda *_: False)
    add("failed")
    assert callback_delivery.deliver(TICKET, ENDED).kind == "ignored"


# ---------------------------------------------------------------------- an uncertain submission


@pytest.mark.parametrize("status", [None, GenerationStatus.RUNNING, GenerationStatus.SUCCEEDED])
def test_an_uncertain_submission_learns_its_id(database: None, status: GenerationStatus | None) -> None:
    add(waits={"moment": 1.0, "callback_nonce": "n1"})
    hint = CallbackPayload(generation_id="g7", status=status)
    assert callback_delivery.deliver(TICKET, hint).kind == "resumed"
    assert event_of(found()) == {"outcome": "callback", "generation_id": "g7"}
    if AIRFLOW_V_3_3_PLUS:
        assert kept() == with_id(None, "g7")


def test_an_uncertain_submission_needs_an_id(database: None) -> None:
    add(waits={"moment": 1.0, "callback_nonce": "n1"})
    hint = CallbackPayload(status=GenerationStatus.SUCCEEDED)
    assert unchanged(lambda: callback_delivery.deliver(TICKET, hint)).kind == "ignored"


# ---------------------------------------------------------------------- ending from here


RESULT = Generation(
    generation_id="g1",
    api="ark",
    media="video",
    status=GenerationStatus.SUCCEEDED,
    urls=("https://c.example/1.mp4",),
).result()


@needs_store
def test_a_task_is_ended_with_its_result(database: None) -> None:
    add(waits={**WAITS, "end_from_trigger": True})
    outcome = unchanged(lambda: callback_delivery.deliver(TICKET, ENDED))
    assert outcome.kind == "finish"
    assert outcome.waits["generation_id"] == "g1"
    with create_session() as session:
        session.execute(
            insert(XComModel.__table__).values(
                dag_run_id=session.scalar(select(DagRun.id)),
                key="return_value",
                value="of an earlier try",
                dag_id="dag",
                run_id=RUN,
                task_id="task",
                map_index=2,
            )
        )
    assert callback_delivery.finish(TICKET, RESULT)
    assert found().state == "success"
    with create_session() as session:
        rows = session.execute(select(XComModel.key, XComModel.value, XComModel.map_index)).all()
    assert {key: value for key, value, _ in rows} == {
        "return_value": RESULT,
        "_link_SeedanceOutputLink": RESULT["url"],
    }
    assert {map_index for *_, map_index in rows} == {2}
    assert not callback_delivery.finish(TICKET, RESULT)


def test_xcom_of_another_kind_is_left_to_a_worker(database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__XCOM_BACKEND", "somewhere.Else")
    add(waits={**WAITS, "end_from_trigger": True})
    assert callback_delivery.deliver(TICKET, ENDED).kind == "resumed"


def test_on_a_worker_where_that_is_asked_for(database: None) -> None:
    add(waits={**WAITS, "end_from_trigger": True})
    assert callback_delivery.deliver(TICKET, ENDED, on_worker=True).kind == "resumed"


# ---------------------------------------------------------------------- connections


def test_connections(monkeypatch: pytest.MonkeyPatch, tables: None) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_OURS", json.dumps({"conn_type": "seedance", "password": "key"}))
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps({"conn_type": "http", "password": "key"}))
    assert callback_delivery.look_up("ours").password == "key"
    assert callback_delivery.look_up("other") is None
    assert callback_delivery.look_up("none") is None
