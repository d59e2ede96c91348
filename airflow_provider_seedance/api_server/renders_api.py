"""
JSON routes of the Renders page. They change nothing, and send no request to a service.

Responses carry an ``ETag``: a page that polls gets 304 while nothing has changed, for three small queries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from time import monotonic
from typing import Annotated, Any

from airflow.utils.session import create_session
from fastapi import APIRouter, Header, HTTPException, Query, Response
from pydantic import AwareDatetime

from airflow_provider_seedance.api_server import queries
from airflow_provider_seedance.api_server.permissions import (
    CAN_READ_RENDERS,
    GetUserDep,
    can_answer,
    can_edit,
    readable_dag_ids,
)
from airflow_provider_seedance.api_server.queries import Scope
from airflow_provider_seedance.api_server.renders import renders_of
from airflow_provider_seedance.api_server.runs import RunList, RunSearch
from airflow_provider_seedance.api_server.totals import batches_of, read_costs, totals_of
from airflow_provider_seedance.batch.manifest import read_manifest
from airflow_provider_seedance.ledger.configuration import read_config

router = APIRouter(prefix="/api")

#: Maximum runs in the list of the navigation entry.
MAX_RUNS = 1000

#: Maximum cached pages, one for each run or task that is viewed.
MAX_CACHED_PAGES = 16

#: Maximum age of a cached page, because a manifest may change without a change in the database.
MAX_PAGE_AGE_SECONDS = 60

_run_list = RunList()


@router.get("/dags/{dag_id}/runs/{run_id:path}/renders", dependencies=CAN_READ_RENDERS)
def renders(
    dag_id: str,
    run_id: str,
    task_id: str | None = None,
    map_index: Annotated[int | None, Query(ge=-1)] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Return the renders of a run, or of one of its tasks."""
    scope = Scope(dag_id=dag_id, run_id=run_id, task_id=task_id, map_index=map_index)
    with create_session() as session:
        run = queries.find_run(session, scope)
        if run is None:
            raise HTTPException(404, "There is no such run.")
        revision = queries.revision(session, scope)
    period = int(monotonic() // MAX_PAGE_AGE_SECONDS)
    return _respond(_page_of(scope, tuple(run.items()), revision, period), if_none_match)


@lru_cache(maxsize=MAX_CACHED_PAGES)
def _page_of(
    scope: Scope, run: tuple[tuple[str, Any], ...], _revision: tuple[Any, ...], _period: int
) -> bytes:
    """Return the page for every user who may read the Dag; the last two arguments are keys of the cache."""
    with create_session() as session:
        tasks = queries.tasks_of(session, scope)
    # Outside the session: reading a manifest from object storage may take long.
    found = [render for render in renders_of(tasks, read_manifest) if _in_scope(render, scope)]
    own = [task for task in tasks if _in_scope({**vars(task), "files": ()}, scope)]
    key = scope.dag_id, scope.run_id
    costs = (read_costs({key: own}) or {key: {}})[key]
    shown = dict(run)
    return _page(
        {
            "run": shown,
            "active": shown["state"] in ("queued", "running"),
            "totals": totals_of(found, own, costs),
            "batches": batches_of(own, costs),
            "renders": found,
            "ledger": read_config() is not None,
        }
    )


@router.get("/runs")
def runs(
    user: GetUserDep,
    text: Annotated[str, Query(max_length=500)] = "",
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_RUNS)] = 50,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Return the latest runs with renders, of the Dags that the user may read."""
    with create_session() as session:
        dag_ids = readable_dag_ids(_run_list.dag_ids(session), user)
        found = _run_list.read(session, dag_ids, RunSearch(text=text, since=since, until=until), limit + 1)
    shown = found[:limit]
    page = {
        "runs": shown,
        "more": len(found) > limit,
        "active": any(run["state"] == "running" for run in shown),
        "ledger": read_config() is not None,
    }
    return _respond(_page(page), if_none_match)


@router.get("/dags/{dag_id}/rights", dependencies=CAN_READ_RENDERS)
def rights(
    dag_id: str, user: GetUserDep, assigned: Annotated[Sequence[str], Query(max_length=1000)] = ()
) -> dict[str, bool]:
    """Return the user's permissions: to edit renders of a Dag, and to answer a question, which may be assigned to users."""
    return {"edit": can_edit(dag_id, user), "answer": can_answer(dag_id, assigned, user)}


def _in_scope(render: Mapping[str, Any], scope: Scope) -> bool:
    """Return whether the task of the scope made or stored a render."""
    return scope.task_id is None or any(
        owner["task_id"] == scope.task_id and scope.map_index in (None, owner["map_index"])
        for owner in (render, *render["files"])
    )


def _page(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def _respond(page: bytes, if_none_match: str | None) -> Response:
    headers = {"ETag": f'"{sha256(page).hexdigest()[:32]}"'}
    # A proxy that compresses turns the ETag into a weak one.
    if if_none_match and if_none_match.removeprefix("W/") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(page, media_type="application/json", headers=headers)
