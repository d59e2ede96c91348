"""The JSON routes of the Renders page: caching, and the renders of one task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.models.dag import DagModel
from fastapi import HTTPException
from ledger.rows import add, row

from airflow_provider_seedance.api_server import permissions, renders_api
from airflow_provider_seedance.api_server.renders import Task
from airflow_provider_seedance.ledger.database import Database
from api_server.render_samples import result, store, video

RUN = {"dag_id": "d", "run_id": "r", "state": "running"}


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The rows of the database, and the number of full reads."""
    unpriced = [result(f"g{index}", credits=None, cost_usd=None) for index in range(2)]
    mapped = [video(returned=unpriced[index], map_index=index) for index in range(2)]
    here = SimpleNamespace(run=RUN, revision=(1,), tasks=[*mapped, store("/x/1.mp4")], read=0)

    def tasks_of(session: Any, scope: Any) -> list[Task]:
        here.read += 1
        return list(here.tasks)

    monkeypatch.setattr(renders_api, "create_session", nullcontext)
    renders_api._page_of.cache_clear()
    monkeypatch.setattr(renders_api.queries, "find_run", lambda session, scope: here.run)
    monkeypatch.setattr(renders_api.queries, "revision", lambda session, scope: here.revision)
    monkeypatch.setattr(renders_api.queries, "tasks_of", tasks_of)
    return here


def body(answer: Any) -> Any:
    return json.loads(answer.body)


def test_renders_of_a_run(airflow: SimpleNamespace) -> None:
    page = body(renders_api.renders("d", "r"))
    assert page["active"] is True
    assert page["totals"]["total"] == 2
    assert [render["generation_id"] for render in page["renders"]] == ["g0", "g1"]


def test_renders_of_one_task(airflow: SimpleNamespace) -> None:
    assert len(body(renders_api.renders("d", "r", "video"))["renders"]) == 2
    (one,) = body(renders_api.renders("d", "r", "video", 1))["renders"]
    assert one["generation_id"] == "g1"
    # The page of a transfer shows the renders that it stored.
    (one,) = body(renders_api.renders("d", "r", "store"))["renders"]
    assert one["generation_id"] == "g1"
    assert body(renders_api.renders("d", "r", "another"))["totals"]["total"] == 0


def test_nothing_is_read_until_something_changes(airflow: SimpleNamespace) -> None:
    etag = renders_api.renders("d", "r").headers["etag"]
    again = renders_api.renders("d", "r", if_none_match=etag)
    assert (again.status_code, again.body, airflow.read) == (304, b"", 1)
    assert renders_api.renders("d", "r", if_none_match=f"W/{etag}").status_code == 304
    airflow.revision = (2,)
    assert renders_api.renders("d", "r", if_none_match=etag).status_code == 304  # the content is the same
    assert airflow.read == 2
    airflow.revision, airflow.tasks = (3,), airflow.tasks[:1]
    changed = renders_api.renders("d", "r", if_none_match=etag)
    assert (changed.status_code, body(changed)["totals"]["total"]) == (200, 1)


def test_a_run_is_active_until_it_has_ended(airflow: SimpleNamespace) -> None:
    for state, active in [("queued", True), ("success", False)]:
        airflow.run, airflow.revision = {**RUN, "state": state}, (state,)
        assert body(renders_api.renders("d", "r"))["active"] is active


def test_the_cache_is_bounded(airflow: SimpleNamespace) -> None:
    for number in range(100):
        renders_api.renders("d", "r", f"task {number}")
    assert renders_api._page_of.cache_info().currsize <= renders_api.MAX_CACHED_PAGES


def test_a_missing_run(airflow: SimpleNamespace) -> None:
    airflow.run = None
    with pytest.raises(HTTPException) as refused:
        renders_api.renders("d", "r")
    assert refused.value.status_code == 404


def test_what_was_spent_is_that_of_the_ledger(airflow: SimpleNamespace, ledger_database: Database) -> None:
    place = {"dag_id": "d", "run_id": "r"}
    takes = [{**row(index, **place), "number": number} for index in (0, 1) for number in (1, 2)]
    add(ledger_database, takes)
    assert body(renders_api.renders("d", "r"))["totals"]["spent"]["cost_usd"] == 0.28
    assert body(renders_api.renders("d", "r", "video", 1))["totals"]["spent"]["cost_usd"] == 0.14
    assert body(renders_api.renders("d", "r", "store"))["totals"]["spent"]["cost_usd"] is None


@pytest.mark.parametrize(
    ("edits", "assigned", "answer"),
    [
        ((), [], False),
        ((DagAccessEntity.HITL_DETAIL,), [], True),
        ((DagAccessEntity.HITL_DETAIL,), ["ann", "bob"], True),
        ((DagAccessEntity.HITL_DETAIL,), ["bob"], False),
        ((DagAccessEntity.TASK_INSTANCE,), ["ann"], False),
    ],
)
@pytest.mark.parametrize("asks", [True, False], ids=["", "Airflow 3.1.0"])
def test_who_may_answer(
    monkeypatch: pytest.MonkeyPatch, edits: Sequence[Any], assigned: list[str], answer: bool, asks: bool
) -> None:
    manager: Any = SimpleNamespace(is_authorized_dag=lambda *, access_entity, **_: access_entity in edits)
    if asks:
        manager.is_authorized_hitl_task = lambda *, assigned_users, user: user.get_id() in assigned_users
    monkeypatch.setattr(permissions, "get_auth_manager", lambda: manager)
    monkeypatch.setattr(DagModel, "get_team_name", lambda dag_id: None)
    user: Any = SimpleNamespace(get_id=lambda: "ann")
    rights = renders_api.rights("d", user, assigned)
    assert rights == {"edit": DagAccessEntity.TASK_INSTANCE in edits, "answer": answer}
