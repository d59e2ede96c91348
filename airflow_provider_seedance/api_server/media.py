"""
Stored files for the player, read in pieces from wherever the transfer stored them.

A request names a file by the task instance whose result names it and its index, never by path. The task instance must
be a transfer, and the path must match its rendered destination and connection, because people who may not read
everything that Airflow can may still change XComs. The user needs read access to the XComs of the run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from airflow.utils.session import create_session
from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse

from airflow_provider_seedance.api_server import queries
from airflow_provider_seedance.api_server.http_range import UnsatisfiableRange, parse_range
from airflow_provider_seedance.api_server.permissions import CAN_READ_RENDERS
from airflow_provider_seedance.api_server.queries import Scope
from airflow_provider_seedance.api_server.renders import TRANSFER_OPERATORS, media_type_of, playable_path
from airflow_provider_seedance.storage.location import StorageLocation, location_of

log = logging.getLogger(__name__)

router = APIRouter(prefix="/api")

#: Bytes per read, which a stream holds in memory.
PIECE_BYTES = 256 * 1024

#: Maximum concurrent streams; a paused player keeps its stream.
MAX_STREAMS = 64

#: Maximum concurrent reads, in threads of their own: a slow store must not take those that serve heartbeats.
MAX_READS = 8

#: The region of a task instance, from Airflow 3.4 on, and its index there.
REGION_PATTERN = r"^([0-9a-f]{32}\.[0-9]{1,9})?$"

_T = TypeVar("_T")


class StoreReader:
    """Reader of stores, with bounds on threads and streams."""

    def __init__(self, max_streams: int = MAX_STREAMS) -> None:
        self.max_streams = max_streams
        self.streams = 0
        self._threads = ThreadPoolExecutor(MAX_READS, thread_name_prefix="seedance-media")

    async def run(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Run a function that blocks in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def stream(self, location: StorageLocation, positions: range) -> AsyncIterator[bytes]:
        """Yield these bytes of a file in pieces, and fetch nothing else."""
        self.streams += 1
        file = None
        try:
            file = await self.run(_open, location, positions.start)
            left = len(positions)
            while left:
                piece = await self.run(file.read, min(PIECE_BYTES, left))
                if not piece:
                    # The header promised a length: closing the connection early tells the client.
                    raise OSError(f"{location.display} has become shorter while it was read")
                left -= len(piece)
                yield piece
        finally:
            self.streams -= 1
            if file is not None:
                await self.run(file.close)


_reader = StoreReader()


@router.api_route(
    "/dags/{dag_id}/runs/{run_id:path}/media", methods=["GET", "HEAD"], dependencies=CAN_READ_RENDERS
)
async def media(
    request: Request,
    dag_id: str,
    run_id: str,
    task_id: str,
    index: Annotated[int, Query(ge=0)] = 0,
    map_index: Annotated[int, Query(ge=-1)] = -1,
    region: Annotated[str, Query(pattern=REGION_PATTERN)] = "",
) -> Response:
    """Return a file that a transfer of the run stored, or a range of it."""
    scope = Scope(dag_id=dag_id, run_id=run_id, task_id=task_id, map_index=map_index, region=region)
    return await respond_with_file(request, partial(_location_in_run, scope, index))


async def respond_with_file(request: Request, locate: Callable[[], StorageLocation | None]) -> Response:
    """
    Return a stored file, or a range of it.

    :param locate: Returns its location; it may block, and raise any error.
    """
    location, size, etag = await _reader.run(_find, locate)
    name = location.display.rsplit("/", 1)[-1]
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(name, safe='')}",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        # Airflow must not compress media, nor change a part of a file.
        "Content-Encoding": "identity",
    }
    if request.headers.get("If-None-Match", "").removeprefix("W/") == etag:
        return Response(status_code=304, headers=headers)
    try:
        # A range of another version of the file would be of no use.
        is_same = request.headers.get("If-Range", etag) == etag
        part = parse_range(request.headers.get("Range"), size) if is_same else None
    except UnsatisfiableRange:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    positions = part or range(size)
    headers["Content-Length"] = str(len(positions))
    if part:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    status, kind = 206 if part else 200, media_type_of(name)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=kind)
    if _reader.streams >= _reader.max_streams:
        raise HTTPException(503, "Too many files are being played.", headers={"Retry-After": "5"})
    content = _reader.stream(location, positions)
    return StreamingResponse(content, status_code=status, headers=headers, media_type=kind)


def _find(locate: Callable[[], StorageLocation | None]) -> tuple[StorageLocation, int, str]:
    """Return the location of a file, its size, and an entity tag that changes with its content."""
    try:
        location = locate()
        found = location.stat() if location else None
    except Exception as error:
        log.warning("A stored file cannot be read for the Renders page.", exc_info=error)
        raise HTTPException(502, "The store of this file cannot be read from Airflow's API server.") from None
    if location is None or found is None:
        raise HTTPException(404, "There is no such file.")
    version = found.version or found.modified  # a local file has no version
    tag = sha256(f"{location.display}|{found.size}|{version}".encode()).hexdigest()[:32]
    return location, found.size, f'"{tag}"'


def _location_in_run(scope: Scope, index: int) -> StorageLocation | None:
    with create_session() as session:
        task = queries.find_task(session, scope, TRANSFER_OPERATORS)
    path = playable_path(task, index) if task else None
    return location_of(path, task.fields.get("object_storage_conn_id")) if task and path else None


def _open(location: StorageLocation, position: int) -> Any:
    """Open a file at a position, without the read-ahead of fsspec: it fetches up to 50 MiB for a small range."""
    try:
        file = location.fs.open(location.path, "rb", block_size=PIECE_BYTES, cache_type="none")
    except TypeError:  # a filesystem without these options
        file = location.fs.open(location.path, "rb")
    if position:
        file.seek(position)
    return file
