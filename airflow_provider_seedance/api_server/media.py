"""
The stored files, for the player: a part of a file at a time, from wherever the transfer has put it.

A file is named by the task instance whose result names it, and its place there; never by a path. That task instance
has to be a transfer, and the path below the destination that was rendered for it, on the same connection: XCom can be
changed by people who may not read everything that Airflow can. And only whoever may read the run's XComs can read it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, NoReturn
from urllib.parse import quote

from airflow.utils.session import create_session
from fastapi import APIRouter, Header, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse

from airflow_provider_seedance.api_server import queries
from airflow_provider_seedance.api_server.http_range import Span, UnsatisfiableRange, wanted
from airflow_provider_seedance.api_server.permissions import MAY_SEE_RENDERS
from airflow_provider_seedance.api_server.queries import Scope
from airflow_provider_seedance.api_server.renders import Task, media_type_of, served_path

if TYPE_CHECKING:
    from airflow_provider_seedance.storage.location import StorageLocation

log = logging.getLogger(__name__)

router = APIRouter(prefix="/api")

#: Bytes that are read at a time, and held in memory for each viewer.
PIECE = 256 * 1024

_NOT_FOUND = "There is no such file."


@router.api_route(
    "/dags/{dag_id}/runs/{run_id:path}/media",
    methods=["GET", "HEAD"],
    dependencies=MAY_SEE_RENDERS,
)
def media(
    request: Request,
    dag_id: str,
    run_id: str,
    task_id: str,
    index: Annotated[int, Query(ge=0)] = 0,
    map_index: Annotated[int, Query(ge=-1)] = -1,
    wanted_range: Annotated[str | None, Header(alias="Range")] = None,
    if_range: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Return a stored file, or a part of it. Runs in a thread, as everything that reads a store does."""
    scope = Scope(dag_id=dag_id, run_id=run_id, task_id=task_id, map_index=map_index)
    with create_session() as session:
        task = queries.one_task(session, scope)
    path = served_path(task, index) if task else None
    if task is None or path is None:
        raise HTTPException(404, _NOT_FOUND)
    kind = media_type_of(path)
    place = _place(path, task)
    size, etag = _look(place)
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(path.rsplit('/', 1)[-1], safe='')}",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        # What is compressed already is left as it is; a part of a file must not be changed at all.
        "Content-Encoding": "identity",
    }
    if if_none_match and if_none_match.removeprefix("W/") == etag:
        return Response(status_code=304, headers=headers)
    try:
        # A part of another version of the file is of no use.
        span = wanted(wanted_range, size) if if_range in (None, etag) else None
    except UnsatisfiableRange:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    part = span or Span(first=0, last=size - 1)
    if span:
        headers["Content-Range"] = f"bytes {part.first}-{part.last}/{size}"
    headers["Content-Length"] = str(part.length)
    status = 206 if span else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=kind)
    return StreamingResponse(_pieces(place, part), status_code=status, headers=headers, media_type=kind)


def _place(path: str, task: Task) -> StorageLocation:
    """Find the store: with the connection that the path names, or else with that of the transfer."""
    from airflow_provider_seedance.storage.location import StorageLocation

    told = task.fields.get("object_storage_conn_id")
    conn_id = told if isinstance(told, str) and told not in ("", "None") else None
    if "@" in path.partition("://")[2].partition("/")[0]:
        conn_id = None
    try:
        return StorageLocation.of(path, conn_id, what="stored file")
    except Exception as error:
        _unreachable(error)


def _look(place: StorageLocation) -> tuple[int, str]:
    """Return the length of a file and an entity tag that changes when it is written again."""
    try:
        seen = place.stat()
        if seen is None:
            raise HTTPException(404, _NOT_FOUND)
        size, tag = seen
        # A local file has no version but its time.
        version = tag if tag is not None else place.fs.info(place.path).get("mtime")
    except HTTPException:
        raise
    except Exception as error:
        _unreachable(error)
    return size, f'"{sha256(f"{place.display}|{size}|{version}".encode()).hexdigest()[:32]}"'


def _unreachable(error: Exception) -> NoReturn:
    log.warning("A stored file cannot be read for the Renders page.", exc_info=error)
    raise HTTPException(502, "The store of this file cannot be read from Airflow's API server.") from None


def _pieces(place: StorageLocation, span: Span) -> Iterator[bytes]:
    left = span.length
    if left <= 0:
        return
    with place.fs.open(place.path, "rb") as file:
        file.seek(span.first)
        while left > 0:
            piece = file.read(min(PIECE, left))
            if not piece:
                # The length was promised: a connection that ends early is how a reader learns of it.
                raise OSError(f"{place.display} has become shorter while it was read")
            left -= len(piece)
            yield piece
