"""Delivery of callbacks to the regions of Airflow 3.4: mapped tasks, passes of a loop, and their attempts."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from airflow.utils.session import create_session
from metadata_rows import XCOM_MODEL, add_region
from sqlalchemy import select
from versions import REGIONS, needs

from airflow_provider_seedance.api_server import callback_delivery
from airflow_provider_seedance.callbacks.inbox import with_id
from airflow_provider_seedance.callbacks.tokens import CallbackClaims
from api_server.delivery_database import (
    CLAIMS,
    KWARGS,
    RESULT,
    RUN,
    SUCCEEDED,
    add,
    deliver_unchanged,
    store_model,
    stored_ids,
    task_instance,
)

pytestmark = needs(REGIONS)


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
    model = store_model()
    with create_session() as session:
        rows = session.execute(select(model.region_id, model.region_index))
        return {(region_id.hex, index) for region_id, index in rows}


def test_a_mapped_task_reads_the_id_that_was_stored_for_it(region: str) -> None:
    add("running", region=region)
    assert callback_delivery.deliver(claims_in(region), SUCCEEDED).kind == "retry"
    assert scopes() == {(region, 2)}
    assert stored_ids() == with_id(None, "g1")


@pytest.mark.parametrize("claims_region", ["", "another"])
def test_a_callback_for_another_region_changes_nothing(region: str, claims_region: str) -> None:
    add(region=region)
    claims = claims_in(claims_region and uuid.uuid4().hex)
    assert deliver_unchanged(claims=claims).kind == "ignored"
    assert callback_delivery.complete_task(claims, {}).kind == "ignored"
    assert scopes() == set()


def test_each_pass_of_a_loop_gets_its_own_callback(loop: str) -> None:
    add("success", map_index=0, region=loop)
    add(map_index=1, region=loop)
    assert callback_delivery.deliver(claims_in(loop, 0), SUCCEEDED).kind == "ignored"
    assert task_instance(1).state == "deferred"
    assert callback_delivery.deliver(claims_in(loop, 1), SUCCEEDED).kind == "resumed"
    assert task_instance(1).state == "scheduled"
    assert scopes() == {(loop, 1)}


@pytest.mark.parametrize("which", ["mapped", "looped", "plain"])
def test_the_result_belongs_to_the_attempt(region: str, loop: str, which: str) -> None:
    place_of = {"mapped": (2, region), "looped": (1, loop), "plain": (-1, "")}
    index, of_region = place_of[which]
    add("failed", map_index=index, region=of_region, working_set=None, try_number=1)
    ends = {**KWARGS, "end_from_trigger": True}
    add(map_index=index + 7, region=of_region or region, kwargs={**ends, "callback_nonce": "n3"})
    now = add(map_index=index, region=of_region, try_number=2, kwargs=ends)
    assert callback_delivery.complete_task(claims_in(of_region, index), RESULT).kind == "resumed"
    query = select(XCOM_MODEL.task_instance_id, XCOM_MODEL.value).where(XCOM_MODEL.key == "return_value")
    with create_session() as session:
        assert [tuple(row) for row in session.execute(query)] == [(now, RESULT)]


def test_a_callback_for_an_attempt_that_was_cleared_finds_its_successor(region: str) -> None:
    """A clear archives the attempt and inserts a new one, whose trigger waits for another submission."""
    add("failed", region=region, working_set=None, try_number=1)
    add(region=region, try_number=2, kwargs={**KWARGS, "callback_nonce": "n2"})
    assert callback_delivery.deliver(claims_in(region), SUCCEEDED).kind == "ignored"
    assert task_instance().state == "deferred"
