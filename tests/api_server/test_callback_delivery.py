"""Delivery of callbacks to task instances, in a metadata database of Airflow."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from metadata_rows import MODELS_OF_3_4, XCOM_MODEL, add_region, add_row, add_xcom, new_id, place
from sqlalchemy import delete, insert, select
from sqlalchemy.exc import OperationalError
from versions import REGIONS, needs

from airflow_provider_seedance.api_server import callback_delivery
from airflow_provider_seedance.callbacks.inbox import key_for, with_id
from airflow_provider_seedance.callbacks.payload import CallbackPayload
from airflow_provider_seedance.callbacks.tokens import CallbackClaims
from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.polling.wait_state import default_timing
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_3_PLUS

RUN = "manual__2026-01-01T00:00:00+00:00/odd"
CLAIMS = CallbackClaims(
    dag_id="dag", run_id=RUN, task_id="task", map_index=2, conn_id="seedance", nonce="n1", expires=2**40
)
SUCCEEDED = CallbackPayload(generation_id="g1", status=GenerationStatus.SUCCEEDED)
KWARGS = {"generation_id": "g1", "media": "video", "callback_nonce": "n1", "result_defaults": {}}
VERSION = DagVersion.__table__.c.id.type.python_type(str(uuid.uuid4()))
GENERATION_TRIGGER = "airflow_provider_seedance.triggers.seedance.SeedanceGenerationTrigger"

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
        models = (
            XCOM_MODEL,
            *MODELS_OF_3_4,
            TaskInstance,
            Trigger,
            DagRun,
            DagVersion,
            DagModel,
            DagBundleModel,
        )
        for model in models:
            session.execute(delete(model.__table__))
        if AIRFLOW_V_3_3_PLUS:
            session.execute(delete(_store()))


def _store() -> Any:
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


@pytest.mark.parametrize(
    ("dialect", "statements"),
    [
        ("sqlite", ["BEGIN IMMEDIATE", "the query"]),
        ("postgresql", ["SET LOCAL lock_timeout = '3s'", "the query"]),
        (
            "mysql",
            [
                "SET SESSION innodb_lock_wait_timeout = 3",
                "the query",
                "SET SESSION innodb_lock_wait_timeout = DEFAULT",
            ],
        ),
    ],
)
def test_a_row_lock_times_out(dialect: str, statements: list[str]) -> None:
    done: list[str] = []
    session = SimpleNamespace(
        get_bind=lambda: SimpleNamespace(dialect=SimpleNamespace(name=dialect)),
        connection=lambda: SimpleNamespace(exec_driver_sql=done.append),
        scalar=done.append,
    )
    callback_delivery._lock(session, "the query")
    assert done == statements


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
        value = session.scalar(select(_store().value).where(_store().key == key_for(nonce)))
    return value if value is None else json.loads(value)


def assert_unchanged(
    call: Callable[[], callback_delivery.Outcome], map_index: int = 2
) -> callback_delivery.Outcome:
    """Deliver, and check that the task instance is unchanged."""
    before = task_instance(map_index)
    outcome = call()
    after = task_instance(map_index)
    for name in ("state", "trigger_id", "next_method", "next_kwargs", "try_number", "updated_at"):
        assert getattr(after, name) == getattr(before, name), name
    return outcome


# ---------------------------------------------------------------------- resuming


def test_a_deferred_task_is_resumed(database: None) -> None:
    add()
    assert callback_delivery.deliver(CLAIMS, SUCCEEDED).kind == "resumed"
    ti = task_instance()
    assert (ti.state, ti.trigger_id, ti.next_method) == ("scheduled", None, "execute_complete")
    assert event_of(ti) == {"outcome": "callback", "generation_id": "g1"}


def test_a_payload_without_an_id_is_about_the_generation_of_its_token(database: None) -> None:
    add()
    assert (
        callback_delivery.deliver(CLAIMS, CallbackPayload(status=GenerationStatus.FAILED)).kind == "resumed"
    )
    assert event_of(task_instance()) == {"outcome": "callback", "generation_id": "g1"}


def test_one_of_many_concurrent_callbacks_resumes(database: None) -> None:
    add()
    kinds: list[str] = []
    together = threading.Barrier(8)

    def call() -> None:
        together.wait()
        for _ in range(20):
            try:
                kinds.append(callback_delivery.deliver(CLAIMS, SUCCEEDED).kind)
                return
            except OperationalError:
                pass  # the database is locked: the queue retries

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The others find a scheduled task: their id is stored, and the task is not touched.
    assert sorted(kinds) == ["resumed"] + ["retry"] * 7
    assert task_instance().state == "scheduled"


def test_the_event_goes_to_the_worker(database: None) -> None:
    add()
    event = {"outcome": "ended", "generation_id": "g1"}
    assert callback_delivery.deliver(CLAIMS, SUCCEEDED, on_worker=True, event=event).kind == "resumed"
    assert event_of(task_instance()) == event


@pytest.mark.parametrize(
    "payload",
    [
        CallbackPayload(generation_id="g1", status=GenerationStatus.RUNNING),
        CallbackPayload(generation_id="g1", status=GenerationStatus.QUEUED),
        CallbackPayload(generation_id="another", status=GenerationStatus.RUNNING),
        CallbackPayload(),
    ],
)
def test_a_status_that_is_not_terminal_changes_nothing(database: None, payload: CallbackPayload) -> None:
    add()
    assert assert_unchanged(lambda: callback_delivery.deliver(CLAIMS, payload)).kind == "ignored"


def test_an_id_without_a_status_has_to_be_confirmed(database: None) -> None:
    add()
    outcome = assert_unchanged(lambda: callback_delivery.deliver(CLAIMS, CallbackPayload(generation_id="g1")))
    assert outcome.kind == "confirm"
    assert outcome.trigger_kwargs["generation_id"] == "g1"


@pytest.mark.parametrize("status", [None, GenerationStatus.SUCCEEDED, GenerationStatus.FAILED])
@pytest.mark.parametrize("ends", [True, False])
def test_another_id_has_to_be_confirmed(database: None, status: GenerationStatus | None, ends: bool) -> None:
    add(kwargs={**KWARGS, "end_from_trigger": ends})
    outcome = assert_unchanged(
        lambda: callback_delivery.deliver(CLAIMS, CallbackPayload(generation_id="another", status=status))
    )
    assert outcome.kind == "confirm"
    assert outcome.trigger_kwargs["generation_id"] == "g1"
    if AIRFLOW_V_3_3_PLUS:
        assert stored_ids() is None


def test_a_confirmed_end_goes_to_the_worker_without_storing_another_id(database: None) -> None:
    add()
    event = {"outcome": "ended", "generation_id": "g1"}
    payload = CallbackPayload(generation_id="another", status=GenerationStatus.FAILED)
    assert callback_delivery.deliver(CLAIMS, payload, on_worker=True, event=event).kind == "resumed"
    assert event_of(task_instance()) == event
    if AIRFLOW_V_3_3_PLUS:
        assert stored_ids() is None


def test_a_callback_for_another_submission_changes_nothing(database: None) -> None:
    add(kwargs={**KWARGS, "callback_nonce": "n2"})
    assert assert_unchanged(lambda: callback_delivery.deliver(CLAIMS, SUCCEEDED)).kind == "ignored"
    assert callback_delivery.complete_task(CLAIMS, {}).kind == "ignored"


@pytest.mark.parametrize(
    "trigger",
    [
        {"kwargs": {**KWARGS, "callback_nonce": None}},
        {"kwargs": {"generation_id": "g1"}},
        {"classpath": "another.provider.Trigger"},
        {"kwargs": None},
    ],
)
def test_a_task_with_another_trigger_is_not_resumed(database: None, trigger: dict[str, Any]) -> None:
    add(**trigger)
    assert assert_unchanged(lambda: callback_delivery.deliver(CLAIMS, SUCCEEDED)).kind == "ignored"


def test_a_task_is_not_resumed_right_after_its_deferral(database: None) -> None:
    add(age=1.0)
    outcome = assert_unchanged(lambda: callback_delivery.deliver(CLAIMS, SUCCEEDED))
    assert outcome.kind == "retry"
    assert 0 < outcome.seconds <= default_timing().min_trigger_time


def test_another_mapped_instance_is_not_resumed(database: None) -> None:
    add()
    add(map_index=3, kwargs={**KWARGS, "callback_nonce": "n3"})
    assert (
        assert_unchanged(lambda: callback_delivery.deliver(CLAIMS, SUCCEEDED), map_index=3).kind == "resumed"
    )


@pytest.mark.parametrize(
    "other",
    [
        {"dag_id": "none"},
        {"run_id": "none"},
        {"task_id": "none"},
        {"map_index": 9},
        {"map_index": -(2**40)},
        # MySQL compares text without regard to case by default.
        {"dag_id": "DAG"},
        {"run_id": RUN.upper()},
        {"task_id": "Task"},
    ],
)
def test_a_task_that_does_not_exist(database: None, other: dict[str, Any]) -> None:
    add()
    claims = CallbackClaims(**{**vars(CLAIMS), **other})
    assert assert_unchanged(lambda: callback_delivery.deliver(claims, SUCCEEDED)).kind == "ignored"
    assert callback_delivery.complete_task(claims, {}).kind == "ignored"


# ---------------------------------------------------------------------- storing ids


@needs_store
@pytest.mark.parametrize("state", ["running", "queued", "scheduled", "restarting"])
def test_the_id_is_stored_for_a_task_that_has_not_deferred(database: None, state: str) -> None:
    add(state)
    assert assert_unchanged(lambda: callback_delivery.deliver(CLAIMS, SUCCEEDED)).kind == "retry"
    assert stored_ids() == with_id(None, "g1")


@needs_store
@pytest.mark.parametrize("state", ["failed", "up_for_retry", None])
def test_the_id_is_stored_for_the_next_try(database: None, state: str | None) -> None:
    add(state)
    assert assert_unchanged(lambda: callback_delivery.deliver(CLAIMS, SUCCEEDED)).kind == "stored"
    assert stored_ids() == with_id(None, "g1")
    assert stored_ids("n2") is None


@needs_store
@pytest.mark.parametrize("state", ["success", "skipped", "removed", "upstream_failed", "up_for_reschedule"])
def test_no_id_is_stored_for_an_ended_task(database: None, state: str) -> None:
    add(state)
    outcome = assert_unchanged(lambda: callback_delivery.deliver(CLAIMS, SUCCEEDED))
    assert outcome.kind == ("stored" if state == "up_for_reschedule" else "ignored")


@needs_store
def test_nothing_is_stored_without_an_id(database: None) -> None:
    add("failed")
    assert (
        callback_delivery.deliver(CLAIMS, CallbackPayload(status=GenerationStatus.SUCCEEDED)).kind
        == "ignored"
    )
    assert stored_ids() is None


@needs_store
def test_later_ids_do_not_replace_earlier_ones(database: None) -> None:
    add("running")
    for generation_id in ("g1", "rubbish", "g1"):
        callback_delivery.deliver(CLAIMS, CallbackPayload(generation_id=generation_id))
    assert stored_ids() == with_id(with_id(None, "g1"), "rubbish")


def test_without_a_store_nothing_is_stored(database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback_delivery, "_store_id", lambda *_: False)
    add("failed")
    assert callback_delivery.deliver(CLAIMS, SUCCEEDED).kind == "ignored"


# ---------------------------------------------------------------------- an uncertain submission


@pytest.mark.parametrize("status", [None, GenerationStatus.RUNNING, GenerationStatus.SUCCEEDED])
def test_an_uncertain_submission_gets_its_id(database: None, status: GenerationStatus | None) -> None:
    add(kwargs={"deadline": 1.0, "callback_nonce": "n1"})
    payload = CallbackPayload(generation_id="g7", status=status)
    assert callback_delivery.deliver(CLAIMS, payload).kind == "resumed"
    assert event_of(task_instance()) == {"outcome": "callback", "generation_id": "g7"}
    if AIRFLOW_V_3_3_PLUS:
        assert stored_ids() == with_id(None, "g7")


def test_an_uncertain_submission_needs_an_id(database: None) -> None:
    add(kwargs={"deadline": 1.0, "callback_nonce": "n1"})
    payload = CallbackPayload(status=GenerationStatus.SUCCEEDED)
    assert assert_unchanged(lambda: callback_delivery.deliver(CLAIMS, payload)).kind == "ignored"


# ---------------------------------------------------------------------- completing a task


RESULT = Generation(
    generation_id="g1",
    api="ark",
    media="video",
    status=GenerationStatus.SUCCEEDED,
    urls=("https://c.example/1.mp4",),
).result()


@needs_store
def test_a_task_is_completed_with_its_result(database: None) -> None:
    ti_id = add(kwargs={**KWARGS, "end_from_trigger": True})
    outcome = assert_unchanged(lambda: callback_delivery.deliver(CLAIMS, SUCCEEDED))
    assert outcome.kind == "confirm"
    assert outcome.trigger_kwargs["generation_id"] == "g1"
    with create_session() as session:
        run = {"dag_run_id": session.scalar(select(DagRun.id)), "dag_id": "dag", "run_id": RUN}
        add_xcom(session, ti_id, "return_value", "of an earlier try", **run, task_id="task", map_index=2)
    assert callback_delivery.complete_task(CLAIMS, RESULT).kind == "resumed"
    assert task_instance().state == "success"
    with create_session() as session:
        rows = session.execute(select(XComModel.key, XComModel.value, XComModel.map_index)).all()
    assert {key: value for key, value, _ in rows} == {
        "return_value": RESULT,
        "_link_SeedanceOutputLink": RESULT["url"],
    }
    assert {map_index for *_, map_index in rows} == {2}
    assert callback_delivery.complete_task(CLAIMS, RESULT).kind == "ignored"


def test_with_a_custom_xcom_backend_a_worker_ends_the_task(
    database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__XCOM_BACKEND", "somewhere.Else")
    add(kwargs={**KWARGS, "end_from_trigger": True})
    assert callback_delivery.deliver(CLAIMS, SUCCEEDED).kind == "resumed"


def test_on_worker_overrides_end_from_trigger(database: None) -> None:
    add(kwargs={**KWARGS, "end_from_trigger": True})
    assert callback_delivery.deliver(CLAIMS, SUCCEEDED, on_worker=True).kind == "resumed"


# ---------------------------------------------------------------------- regions (Airflow 3.4)


@pytest.fixture
def region(database: None) -> str:
    with create_session() as session:
        return add_region(session, "task", dag_id="dag", run_id=RUN)


@pytest.fixture
def loop(database: None) -> str:
    with create_session() as session:
        return add_region(session, "improve", dag_id="dag", run_id=RUN)


def claims_in(region: str, index: int = 2) -> CallbackClaims:
    return replace(CLAIMS, map_index=index, region_id=region)


def scopes() -> set[tuple[str, int]]:
    """Return the regions and indexes with stored ids."""
    model = _store()
    with create_session() as session:
        rows = session.execute(select(model.region_id, model.region_index))
        return {(region_id.hex, index) for region_id, index in rows}


def results() -> dict[Any, Any]:
    with create_session() as session:
        query = select(XCOM_MODEL.task_instance_id, XCOM_MODEL.value).where(XCOM_MODEL.key == "return_value")
        return {row.task_instance_id: row.value for row in session.execute(query)}


@needs(REGIONS)
def test_a_mapped_task_reads_the_id_that_was_stored_for_it(region: str) -> None:
    add("running", region=region)
    assert callback_delivery.deliver(claims_in(region), SUCCEEDED).kind == "retry"
    assert scopes() == {(region, 2)}
    assert stored_ids() == with_id(None, "g1")


@needs(REGIONS)
@pytest.mark.parametrize("claims_region", ["", "another"])
def test_a_callback_for_another_region_changes_nothing(region: str, claims_region: str) -> None:
    add(region=region)
    claims = claims_in(claims_region and uuid.uuid4().hex)
    assert assert_unchanged(lambda: callback_delivery.deliver(claims, SUCCEEDED)).kind == "ignored"
    assert callback_delivery.complete_task(claims, {}).kind == "ignored"
    assert scopes() == set()


@needs(REGIONS)
def test_each_pass_of_a_loop_gets_its_own_callback(loop: str) -> None:
    passes = [
        add("success" if number == 0 else "deferred", map_index=number, region=loop) for number in (0, 1)
    ]
    assert callback_delivery.deliver(claims_in(loop, 0), SUCCEEDED).kind == "ignored"
    assert task_instance(1).state == "deferred"
    assert callback_delivery.deliver(claims_in(loop, 1), SUCCEEDED).kind == "resumed"
    assert task_instance(1).state == "scheduled"
    assert scopes() == {(loop, 1)}
    assert len(set(passes)) == 2


@needs(REGIONS)
@pytest.mark.parametrize("which", ["mapped", "looped", "plain"])
def test_the_result_belongs_to_the_attempt(region: str, loop: str, which: str) -> None:
    place_of = {"mapped": (2, region), "looped": (1, loop), "plain": (-1, "")}
    index, of_region = place_of[which]
    earlier = add("failed", map_index=index, region=of_region, working_set=None, try_number=1)
    ends = {**KWARGS, "end_from_trigger": True}
    other = add(map_index=index + 7, region=of_region or region, kwargs={**ends, "callback_nonce": "n3"})
    now = add(map_index=index, region=of_region, try_number=2, kwargs=ends)
    assert callback_delivery.complete_task(claims_in(of_region, index), RESULT).kind == "resumed"
    assert results() == {now: RESULT}
    assert len({earlier, other, now}) == 3


@needs(REGIONS)
def test_a_callback_for_an_attempt_that_was_cleared_finds_its_successor(region: str) -> None:
    """A clear archives the attempt and inserts a new one, whose trigger waits for another submission."""
    add("failed", region=region, working_set=None, try_number=1)
    add(region=region, try_number=2, kwargs={**KWARGS, "callback_nonce": "n2"})
    assert callback_delivery.deliver(claims_in(region), SUCCEEDED).kind == "ignored"
    assert task_instance().state == "deferred"
