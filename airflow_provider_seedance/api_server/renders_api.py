"""
What the page asks for, as JSON. Nothing here changes anything, and nothing asks the service.

Answers carry an ``ETag``; a page that looks again every few seconds is answered 304 as long as nothing has changed,
at the price of three small queries.
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
from airflow_provider_seedance.api_server.permissions import MAY_SEE_RENDERS, GetUserDep, readable
from airflow_provider_seedance.api_server.queries import Run, Scope
from airflow_provider_seedance.api_server.renders import Task, renders_of, totals_of
from airflow_provider_seedance.batch.manifest import read_manifest

log = logging.getLogger(__name__)

router = APIRouter(prefix="/api")

#: Runs in the list of the navigation entry.
MOST_RUNS = 50

#: Answers that are kept for the next viewer of the same run, and for how many seconds.
_KEPT = 16
_KEPT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class _Answer:
    stamp: tuple[Any, ...]
    body: bytes
    etag: str
    made_at: float


class _Answers:
    """The latest answers. They are the same for every user who may see the Dag, which is checked before."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Scope, _Answer] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, scope: Scope, stamp: tuple[Any, ...]) -> _Answer | None:
        with self._lock:
            kept = self._answers.get(scope)
        fresh = kept and kept.stamp == stamp and monotonic() - kept.made_at < _KEPT_SECONDS
        return kept if fresh else None

    def keep(self, scope: Scope, answer: _Answer) -> None:
        with self._lock:
            self._answers[scope] = answer
            self._answers.move_to_end(scope)
            while len(self._answers) > _KEPT:
                self._answers.popitem(last=False)


_answers = _Answers()


@router.get("/dags/{dag_id}/runs/{run_id:path}/renders", dependencies=MAY_SEE_RENDERS)
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
        stamp = (run, *queries.stamp(session, scope))
        answer = _answers.get(scope, stamp)
        tasks = queries.tasks_of(session, scope) if answer is None else []
    # Outside the session: a manifest is read from object storage, which may take its time.
    if answer is None:
        answer = _answer(_page(run, scope, tasks), stamp)
        _answers.keep(scope, answer)
    return _respond(answer.body, answer.etag, if_none_match)


def _page(run: Run, scope: Scope, tasks: list[Task]) -> dict[str, Any]:
    found = [render for render in renders_of(tasks, _manifest) if _within(render, scope)]
    return {"run": run.as_dict(), "active": run.active, "totals": totals_of(found), "renders": found}


def _within(render: Mapping[str, Any], scope: Scope) -> bool:
    """Whether a render belongs to the page: made by its task, or stored by it."""
    if scope.task_id is None:
        return True
    own = [(render["task_id"], render["map_index"])]
    own += [(file["task_id"], file["map_index"]) for file in render["files"]]
    return any(
        task_id == scope.task_id and scope.map_index in (None, map_index) for task_id, map_index in own
    )


def _manifest(path: str) -> Iterable[Mapping[str, Any]]:
    try:
        return read_manifest(path)
    except Exception:
        log.warning("A manifest that a result names cannot be read for the Renders page.", exc_info=True)
        raise


@router.get("/runs")
def runs(user: GetUserDep, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """Return the latest runs with renders, of the Dags that the user may read."""
    with create_session() as session:
        dag_ids = readable(queries.run_dag_ids(session), user)
        found = queries.recent_runs(session, dag_ids, MOST_RUNS)
    answer = _answer({"runs": found, "active": any(run["state"] == "running" for run in found)}, ())
    return _respond(answer.body, answer.etag, if_none_match)


def _answer(value: Any, stamp: tuple[Any, ...]) -> _Answer:
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    return _Answer(stamp=stamp, body=body, etag=f'"{sha256(body).hexdigest()[:32]}"', made_at=monotonic())


def _respond(body: bytes, etag: str, if_none_match: str | None) -> Response:
    headers = {"ETag": etag}
    # A proxy that compresses makes it a weak one.
    if if_none_match and if_none_match.removeprefix("W/") == etag:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)
