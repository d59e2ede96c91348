"""The transfer of many into an S3 API: a manifest from there, and what the store says of versions."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem
from support import TaskInstance

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch.manifest import read_manifest, write_manifest
from transfers.campaigns import RECORD, batch, data_of, made, run
from transfers.conftest import connection_json
from transfers.server import MediaServer, Reply


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def s3(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[S3FileSystem]:
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AIRFLOW_CONN_SEEDANCE_DEFAULT": connection_json(),
    }.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    fs = S3FileSystem()
    if not fs.exists("campaign"):
        fs.call_s3("create_bucket", Bucket="campaign")
    yield fs
    fs.invalidate_cache()
    if names := fs.find("campaign"):
        fs.rm(names)
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def info(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "airflow_provider_seedance")
    return caplog


def names_in(fs: S3FileSystem) -> list[str]:
    fs.invalidate_cache()
    return sorted(path.removeprefix("campaign/") for path in fs.find("campaign"))


def record(fs: S3FileSystem) -> list[dict[str, Any]]:
    return [json.loads(line) for line in fs.cat(f"campaign/out/{RECORD}").splitlines()]


def test_from_a_manifest_into_a_directory(host: MediaServer, s3: S3FileSystem) -> None:
    manifest = "s3://campaign/manifest.jsonl"
    write_manifest(manifest, [*made(host, "lamp", "shoe"), {"key": "hat", "status": "not_submitted"}])
    result = run(batch([], manifest=manifest), "s3://campaign/out")
    assert result["path"] == "s3://campaign/out/"
    assert result["paths"] == ["s3://campaign/out/lamp.mp4", "s3://campaign/out/shoe.mp4"]
    assert result["manifest"] == f"s3://campaign/out/{RECORD}"
    assert s3.cat("campaign/out/shoe.mp4") == data_of("shoe")
    assert names_in(s3) == ["manifest.jsonl", "out/lamp.mp4", f"out/{RECORD}", "out/shoe.mp4"]


def test_if_changed_goes_by_the_version(
    host: MediaServer, s3: S3FileSystem, info: pytest.LogCaptureFixture
) -> None:
    results = made(host, "a", "b")
    first = run(batch(results), "s3://campaign/out", overwrite="if-changed")
    assert all(line["tag"] for line in record(s3))
    host.requests.clear()
    second = run(batch(results), "s3://campaign/out", overwrite="if-changed")
    assert host.requests == []
    assert second == {**first, "stored": 0, "skipped": 2}
    assert "2 left as they are by what the store says of their version" in info.text
    s3.pipe_file("campaign/out/a.mp4", b"x" * len(data_of("a")))
    assert run(batch(results), "s3://campaign/out", overwrite="if-changed")["stored"] == 1
    assert [seen.path for seen in host.requests] == ["/0.mp4"]
    assert s3.cat("campaign/out/a.mp4") == data_of("a")


def test_a_record_without_versions_goes_by_the_length(
    host: MediaServer, s3: S3FileSystem, info: pytest.LogCaptureFixture
) -> None:
    results = made(host, "a")
    run(batch(results), "s3://campaign/out")
    lines = [{name: value for name, value in line.items() if name != "tag"} for line in record(s3)]
    write_manifest(f"s3://campaign/out/{RECORD}", lines)
    host.requests.clear()
    assert run(batch(results), "s3://campaign/out", overwrite="if-changed")["skipped"] == 1
    assert host.requests == []
    assert "1 left as they are by their length" in info.text
    s3.pipe_file("campaign/out/a.mp4", b"shorter")
    write_manifest(f"s3://campaign/out/{RECORD}", lines)
    assert run(batch(results), "s3://campaign/out", overwrite="if-changed")["stored"] == 1
    assert s3.cat("campaign/out/a.mp4") == data_of("a")


def test_a_retry_where_nothing_may_be_overwritten(host: MediaServer, s3: S3FileSystem) -> None:
    results, ti = made(host, "a", "b"), TaskInstance()
    host.always["/1.mp4"] = Reply(status=500)
    with pytest.raises(errors.SeedanceMediaError, match="1 of 2 files"):
        run(batch(results), "s3://campaign/out", {"ti": ti}, overwrite=False)
    del host.always["/1.mp4"]
    host.requests.clear()
    ti.retry()
    assert run(batch(results), "s3://campaign/out", {"ti": ti}, overwrite=False)["skipped"] == 1
    assert [seen.path for seen in host.requests] == ["/1.mp4"]
    other = TaskInstance()
    other.run_id = "another"
    with pytest.raises(errors.SeedanceDestinationExistsError, match="2 of 2 files exist"):
        run(batch(results), "s3://campaign/out", {"ti": other}, overwrite=False)


@pytest.mark.parametrize("path", ["s3://campaign/none.jsonl", "s3://campaign/dir/", "s3://nowhere/m.jsonl"])
def test_no_manifest(s3: S3FileSystem, tmp_path: Path, path: str) -> None:
    s3.pipe_file("campaign/dir/file", b"x")
    with pytest.raises(errors.SeedanceConfigurationError, match="no such file"):
        read_manifest(path)


def test_a_manifest_is_replaced_and_read_afresh(s3: S3FileSystem) -> None:
    path = "s3://campaign/m.jsonl"
    for count in (1, 3, 2):
        write_manifest(path, [{"key": str(number)} for number in range(count)])
        assert len(read_manifest(path)) == count
        # Another worker's, behind the back of this one's listing.
        assert s3.ls("campaign")
        S3FileSystem(skip_instance_cache=True).pipe_file("campaign/m.jsonl", b'{"key": "other"}\n' * 5)
        assert len(read_manifest(path)) == 5
