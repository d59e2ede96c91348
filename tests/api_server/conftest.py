"""Fixtures of the API server's tests."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

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
from airflow.utils.session import create_session
from ledger.rows import configured
from metadata_rows import MODELS_OF_3_4, XCOM_MODEL, add_row
from sqlalchemy import delete

from airflow_provider_seedance.api_server import callback_delivery, totals
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_3_PLUS
from api_server.callback_server import CallbackServer
from api_server.delivery_database import RUN, VERSION, store_model
from api_server.metadata_database import MetadataDatabase


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[CallbackServer]:
    """A server that delivers to a script."""
    made = CallbackServer()
    monkeypatch.setattr(callback_delivery, "deliver", made.deliver)
    monkeypatch.setattr(callback_delivery, "complete_task", made.complete_task)
    monkeypatch.setattr(callback_delivery, "ends_from_trigger", lambda kwargs: "end_from_trigger" in kwargs)
    yield made
    assert not made.queue._in_flight
    assert not made.queue._payloads


@pytest.fixture
def metadata() -> Iterator[MetadataDatabase]:
    """A metadata database in memory."""
    made = MetadataDatabase()
    yield made
    made.session.close()
    made.engine.dispose()


@pytest.fixture
def ledger_database(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """An empty ledger; a failed read of an earlier test does not keep the page from reading it."""
    monkeypatch.setattr(totals, "_unreadable_until", {})
    return configured()


@pytest.fixture(scope="module")
def tables() -> Iterator[None]:
    import_all_models()
    engine = airflow_settings.engine
    Base.metadata.create_all(engine)
    yield
    Base.metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture
def database(tables: None) -> Iterator[None]:
    """A metadata database with one run."""
    dag = {"dag_id": "dag", "bundle_name": "bundle"}
    with create_session() as session:
        session.add(DagBundleModel(name="bundle"))
        session.flush()
        session.add(DagModel(**dag, fileloc="/dags/f.py", relative_fileloc="f.py"))
        session.flush()
        add_row(session, DagVersion, **dag, id=VERSION, version_number=1)
        run = {"run_type": "manual", "state": "running", "run_after": datetime.now(UTC)}
        add_row(session, DagRun, dag_id="dag", run_id=RUN, **run)
    yield
    with create_session() as session:
        if AIRFLOW_V_3_3_PLUS:
            session.execute(delete(store_model()))
        runs = (TaskInstance, Trigger, DagRun, DagVersion, DagModel, DagBundleModel)
        for model in (XCOM_MODEL, *MODELS_OF_3_4, *runs):
            session.execute(delete(model.__table__))
