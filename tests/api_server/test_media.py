"""The media route: which stored files it serves, from where, and in which ranges."""

from __future__ import annotations

import asyncio
import io
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import HTTPException
from fsspec import AbstractFileSystem
from s3_store import s3_filesystem, s3_server
from starlette.datastructures import Headers

from airflow_provider_seedance.api_server import media
from airflow_provider_seedance.api_server.media import StoreReader
from airflow_provider_seedance.api_server.renders import Task, is_in_destination
from airflow_provider_seedance.storage.location import StorageLocation
from api_server.render_samples import store as stored

CONTENT = bytes(range(256)) * 5000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "clip one.mp4"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The route, with a task of the test in place of the database."""
    here = SimpleNamespace(task=None)

    monkeypatch.setattr(media, "create_session", nullcontext)
    monkeypatch.setattr(media.queries, "find_task", lambda session, scope, operators: here.task)

    def get(index: int = 0, method: str = "GET", **headers: Any) -> Any:
        names = {name: name.removesuffix("_header").replace("_", "-") for name in headers}
        sent = Headers({names[name]: value for name, value in headers.items()})
        request: Any = SimpleNamespace(method=method, headers=sent)
        scope = {"dag_id": "d", "run_id": "r", "task_id": "store", "index": index}
        return asyncio.run(media.media(request, **scope))

    here.get = get
    return here


async def read(pieces: AsyncIterator[bytes]) -> list[bytes]:
    return [piece async for piece in pieces]


def body(answer: Any) -> bytes:
    return b"".join(asyncio.run(read(answer.body_iterator)))


def serve(monkeypatch: pytest.MonkeyPatch, serving: SimpleNamespace, location: StorageLocation) -> None:
    """Serve the file of a store that the test has opened."""
    monkeypatch.setattr(media, "location_of", lambda path, conn_id: location)
    serving.task = stored(location.display)


def test_whole_file(serving: SimpleNamespace, file: Path) -> None:
    serving.task = stored(file.as_uri().replace("%20", " "))
    answer = serving.get()
    assert answer.status_code == 200
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["content-type"] == "video/mp4"
    assert "clip%20one.mp4" in answer.headers["content-disposition"]
    assert body(answer) == CONTENT


def test_range(serving: SimpleNamespace, file: Path) -> None:
    serving.task = stored(str(file))
    answer = serving.get(range_header="bytes=1000-400000")
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes 1000-400000/{len(CONTENT)}"
    assert body(answer) == CONTENT[1000:400001]


def test_head_and_conditional_requests(serving: SimpleNamespace, file: Path) -> None:
    serving.task = stored(str(file))
    head = serving.get(method="HEAD")
    assert (head.status_code, head.body, head.headers["content-length"]) == (200, b"", str(len(CONTENT)))
    assert serving.get(if_none_match=head.headers["etag"]).status_code == 304
    beyond = serving.get(range_header=f"bytes={len(CONTENT)}-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(CONTENT)}")
    changed = serving.get(range_header="bytes=0-9", if_range='"of before"')
    assert changed.status_code == 200
    file.write_bytes(b"another")
    assert serving.get(method="HEAD").headers["etag"] != head.headers["etag"]


def test_files_that_no_result_names_are_not_served(
    serving: SimpleNamespace, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("private")
    (tmp_path / "picture.svg").write_text("<svg/>")
    for task, index in (
        (None, 0),
        (stored(str(file)), 1),
        (stored(str(file), state="running"), 0),
        (replace(stored(str(file)), operator="PythonOperator"), 0),
        (stored(str(tmp_path / "notes.txt")), 0),
        (stored(str(tmp_path / "picture.svg")), 0),
        (stored(str(tmp_path / "gone.mp4")), 0),
        (stored(str(tmp_path)), 0),
        (Task(task_id="t", state="success", xcoms={"return_value": {"paths": [str(file)]}}), 0),
        (Task(task_id="t", state="success", xcoms={"return_value": str(file)}), 0),
    ):
        serving.task = task
        with pytest.raises(HTTPException) as refused:
            serving.get(index)
        assert refused.value.status_code == 404
        assert str(tmp_path) not in str(refused.value.detail)


def test_an_unreachable_store_is_reported_without_details(serving: SimpleNamespace) -> None:
    serving.task = stored("nosuchstore://secret-bucket/clip.mp4")
    with pytest.raises(HTTPException) as refused:
        serving.get()
    assert refused.value.status_code == 502
    assert "secret" not in str(refused.value.detail)


@pytest.mark.parametrize(
    ("path", "rendered", "expected"),
    [
        ("s3://b/x.mp4", "aws", "aws"),
        ("s3://own@b/x.mp4", "aws", None),
        ("s3://b/x.mp4", None, None),
        ("s3://b/x.mp4", "None", None),
        ("s3://b/at@home.mp4", "aws", "aws"),
    ],
)
def test_connection_of_the_location(
    monkeypatch: pytest.MonkeyPatch, path: str, rendered: str | None, expected: str | None
) -> None:
    seen = []
    monkeypatch.setattr(StorageLocation, "of", lambda path, conn_id, what: seen.append((path, conn_id)))
    media.location_of(path, rendered)
    assert seen == [(path, expected)]


def stream(location: StorageLocation, positions: range) -> list[bytes]:
    return asyncio.run(read(StoreReader().stream(location, positions)))


def test_a_file_is_read_in_small_pieces(file: Path) -> None:
    location = StorageLocation.of(str(file), None)
    pieces = stream(location, range(5, len(CONTENT)))
    assert b"".join(pieces) == CONTENT[5:]
    assert max(map(len, pieces)) <= media.PIECE_BYTES
    assert stream(location, range(0)) == []


def test_a_file_that_becomes_shorter_ends_the_response(file: Path) -> None:
    with pytest.raises(OSError, match="shorter"):
        stream(StorageLocation.of(str(file), None), range(len(CONTENT) + 1))


@pytest.fixture(scope="module")
def store() -> Iterator[Any]:
    """A store with one bucket."""
    with s3_server() as endpoint:
        fs = s3_filesystem(endpoint)
        fs.call_s3("create_bucket", Bucket="bucket")
        yield fs


@pytest.fixture
def s3(store: Any) -> StorageLocation:
    store.pipe_file("bucket/clip.mp4", CONTENT)
    return StorageLocation(display="s3://bucket/clip.mp4", fs=store, path="bucket/clip.mp4")


def test_range_of_an_object(
    monkeypatch: pytest.MonkeyPatch, serving: SimpleNamespace, s3: StorageLocation
) -> None:
    serve(monkeypatch, serving, s3)
    part = serving.get(range_header="bytes=-1000")
    assert (part.status_code, body(part)) == (206, CONTENT[-1000:])
    etag = serving.get(method="HEAD").headers["etag"]
    assert serving.get(method="HEAD").headers["etag"] == etag
    s3.fs.pipe_file(s3.path, CONTENT[::-1])
    assert serving.get(method="HEAD").headers["etag"] != etag


def test_only_files_in_the_destination_are_served() -> None:
    for path, destination, expected in [
        ("s3://b/day/lamp.mp4", "s3://b/day/", True),
        ("s3://b/day/deep/lamp.mp4", "s3://b/day/", True),
        ("s3://b/clip.mp4", "s3://b/clip.mp4", True),
        ("s3://conn@b/day/lamp.mp4", "s3://conn@b/day/", True),
        ("file:///data/day/lamp.mp4", "/data/day/", True),
        ("/data/day/lamp.mp4", "file:///data/day/", True),
        ("/data/day/lamp.mp4", "/data/day", True),
        ("/data/clip.mp4", "/data/clip.mp4", True),
        ("s3://b/clip.mp4", "s3://b/", True),
        # A destination that is one file:
        ("s3://b/day/other.mp4", "s3://b/day/clip.mp4", False),
        ("s3://b/other.mp4", "s3://b/clip.mp4", False),
        ("s3://b/clip.mp4/other.mp4", "s3://b/clip.mp4", False),
        ("/data/other.mp4", "/data/clip.mp4", False),
        # The root of a bucket:
        ("s3://b/deep/secret.mp4", "s3://b/", False),
        ("s3://b/secret.mp4", "s3://b", False),
        ("/etc/secret.png", "/", False),
        ("s3://other@b/day/lamp.mp4", "s3://b/day/", False),
        ("s3://c/day/lamp.mp4", "s3://b/day/", False),
        ("gs://b/day/lamp.mp4", "s3://b/day/", False),
        ("s3://b/days/lamp.mp4", "s3://b/day/", False),
        ("/data/day/../secret.png", "/data/day/", False),
        ("/etc/secret.png", "/data/day/", False),
        ("http://169.254.169.254/x?y=.png", "http://169.254.169.254/", False),
        ("simplecache::s3://b/day/lamp.mp4", "simplecache::s3://b/day/", False),
        ("/data/day/lamp.mp4", None, False),
        ("/data/day/lamp.mp4", "", False),
    ]:
        assert is_in_destination(path, destination) is expected


# ---------------------------------------------------------------------- the cost of a range


class Store(AbstractFileSystem):  # type: ignore[misc, unused-ignore]
    """A store with one file, which is opened without options of its reads."""

    cachable = False
    sent = opened = closed = 0

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return {"name": path, "size": len(CONTENT), "type": "file"}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if "cache_type" in options:
            raise TypeError("_open() got an unexpected keyword argument 'cache_type'")
        self.opened += 1
        store = self

        class Stream(io.BytesIO):
            def read(self, length: int | None = -1) -> bytes:
                data = super().read(length)
                store.sent += len(data)
                return data

            def close(self) -> None:
                store.closed += not self.closed
                super().close()

        return Stream(CONTENT)


def test_a_range_of_a_stream_costs_what_it_is(
    monkeypatch: pytest.MonkeyPatch, serving: SimpleNamespace
) -> None:
    store = Store()
    serve(monkeypatch, serving, StorageLocation(display="store://b/clip.mp4", fs=store, path="b/clip.mp4"))
    part = serving.get(range_header="bytes=65536-131071")
    tracemalloc.start()
    assert body(part) == CONTENT[65536:131072]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert store.sent <= 128 * 1024
    assert peak < 4 * 1024 * 1024
    assert store.closed == store.opened == 1


def test_a_range_of_an_object_costs_what_it_is(
    monkeypatch: pytest.MonkeyPatch, serving: SimpleNamespace, s3: StorageLocation
) -> None:
    ranges: list[str] = []
    call = s3.fs._call_s3

    async def record(method: str, *arguments: Any, **named: Any) -> Any:
        if method == "get_object":
            ranges.append(named["Range"])
        return await call(method, *arguments, **named)

    monkeypatch.setattr(s3.fs, "_call_s3", record)
    serve(monkeypatch, serving, s3)
    assert len(body(serving.get(range_header="bytes=100000-165535"))) == 65536
    assert ranges == ["bytes=100000-165535"]


def test_streams_are_bounded(monkeypatch: pytest.MonkeyPatch, serving: SimpleNamespace, file: Path) -> None:
    monkeypatch.setattr(media, "_reader", StoreReader(max_streams=1))
    serving.task = stored(str(file))

    async def play() -> tuple[int, bytes]:
        request: Any = SimpleNamespace(method="GET", headers={})
        scope = {"dag_id": "d", "run_id": "r", "task_id": "store", "index": 0}
        first = await media.media(request, **scope)
        pieces = first.body_iterator
        await anext(pieces)
        with pytest.raises(HTTPException) as refused:
            await media.media(request, **scope)
        assert (await media.media(SimpleNamespace(method="HEAD", headers={}), **scope)).status_code == 200
        await pieces.aclose()
        again = await media.media(request, **scope)
        return refused.value.status_code, b"".join(await read(again.body_iterator))

    assert asyncio.run(play()) == (503, CONTENT)
    assert media._reader.streams == 0
