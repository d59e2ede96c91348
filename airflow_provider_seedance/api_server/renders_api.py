"""
JSON routes of the Renders page. They change nothing, and send no request to a service.

Responses carry an ``ETag``: a page that polls gets 304 while nothing has changed, for three small queries.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from time import monotonic
from typing import Annotated, Any

from airflow.utils.session import create_session
from fastapi import APIRouter, Header, HTTPException, Query, Response

from airflow_provider_seedance.api_server import queries
from airflow_provider_seedance.api_server.permissions import CAN_READ_RENDERS, GetUserDep, readable_dag_ids
from airflow_provider_seedance.api_server.queries import Run, Scope
from airflow_provider_seedance.api_server.renders import Task, renders_of, totals_of
from airflow_provider_seedance.batch.manifest import read_manifest

log = logging.getLogger(__name__)

router = APIRouter(prefix="/api")

#: Maximum runs in the list of the navigation entry.
MAX_RUNS = 50

#: Cached pages, one for each run or task that is viewed, and their lifetime: a manifest may change unnoticed.
MAX_CACHED_PAGES = 16
PAGE_TTL_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class _Page:
    revision: tuple[Any, ...]
    body: bytes
    etag: str
    created_at: float


class _PageCache:
    """The latest pages, for every user who may read the Dag; the route checks that before."""

    def __init__(self) -> None:
        self._pages: OrderedDict[Scope, _Page] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, scope: Scope, revision: tuple[Any, ...]) -> _Page | None:
        with self._lock:
            page = self._pages.get(scope)
        fresh = page and page.revision == revision and monotonic() - page.created_at < PAGE_TTL_SECONDS
        return page if fresh else None

    def put(self, scope: Scope, page: _Page) -> None:
        with self._lock:
            self._pages[scope] = page
            self._pages.move_to_end(scope)
            while len(self._pages) > MAX_CACHED_PAGES:
                self._pages.popitem(last=False)


_cache = _PageCache()


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
        revision = (run, *queries.revision(session, scope))
        page = _cache.get(scope, revision)
        tasks = queries.tasks_of(session, scope) if page is None else []
    # Outside the session: reading a manifest from object storage may take long.
    if page is None:
        page = _page(_content(run, scope, tasks), revision)
        _cache.put(scope, page)
    return _respond(page, if_none_match)


@router.get("/runs")
def runs(user: GetUserDep, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """Return the latest runs with renders, of the Dags that the user may read."""
    with create_session() as session:
        dag_ids = readable_dag_ids(queries.dag_ids_with_renders(session), user)
        found = queries.recent_runs(session, dag_ids, MAX_RUNS)
    return _respond(
        _page({"runs": found, "active": any(run["state"] == "running" for run in found)}), if_none_match
    )


def _content(run: Run, scope: Scope, tasks: list[Task]) -> dict[str, Any]:
    found = [render for render in renders_of(tasks, _read_manifest) if _in_scope(render, scope)]
    return {"run": run.as_dict(), "active": run.active, "totals": totals_of(found), "renders": found}


def _in_scope(render: Mapping[str, Any], scope: Scope) -> bool:
    """Return whether the task of the scope made or stored a render."""
    return scope.task_id is None or any(
        owner["task_id"] == scope.task_id and scope.map_index in (None, owner["map_index"])
        for owner in (render, *render["files"])
    )


def _read_manifest(path: str) -> Iterable[Mapping[str, Any]]:
    try:
        return read_manifest(path)
    except Exception:
        log.warning("A manifest that a result names cannot be read for the Renders page.", exc_info=True)
        raise


def _page(content: Any, revision: tuple[Any, ...] = ()) -> _Page:
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    etag = f'"{sha256(body).hexdigest()[:32]}"'
    return _Page(revision=revision, body=body, etag=etag, created_at=monotonic())


def _respond(page: _Page, if_none_match: str | None) -> Response:
    headers = {"ETag": page.etag}
    # A proxy that compresses turns the ETag into a weak one.
    if if_none_match and if_none_match.removeprefix("W/") == page.etag:
        return Response(status_code=304, headers=headers)
    return Response(page.body, media_type="application/json", headers=headers)
