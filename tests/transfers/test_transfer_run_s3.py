"""The transfer of a batch into an S3 API, from a manifest there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from s3_store import s3_server
from s3fs import S3FileSystem
from support import TaskInstance

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch.manifest import read_manifest, write_manifest
from transfers.conftest import connection_json
from transfers.results import batch, data_of, items, run_into
from transfers.server import MediaServer, Reply


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


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
    if not fs.exists("batch"):
        fs.call_s3("create_bucket", Bucket="batch")
    yield fs
    fs.invalidate_cache()
    if names := fs.find("batch"):
        fs.rm(names)
    S3FileSystem.clear_instance_cache()


def names_in(fs: S3FileSystem) -> list[str]:
    fs.invalidate_cache()
    return sorted(path.removeprefix("batch/") for path in fs.find("batch"))


def test_from_a_manifest_into_a_directory(host: MediaServer, s3: S3FileSystem) -> None:
    manifest = "s3://batch/manifest.jsonl"
    write_manifest(manifest, [*items(host, "lamp", "shoe"), {"key": "hat", "status": "not_submitted"}])
    result = run_into("s3://batch/out", batch([], manifest=manifest))
    assert result["path"] == "s3://batch/out/"
    assert result["paths"] == ["s3://batch/out/lamp.mp4", "s3://batch/out/shoe.mp4"]
    assert s3.cat("batch/out/shoe.mp4") == data_of("shoe")
    assert names_in(s3) == ["manifest.jsonl", "out/lamp.mp4", "out/shoe.mp4"]


def test_if_changed_compares_the_length(
    host: MediaServer, s3: S3FileSystem, info: pytest.LogCaptureFixture
) -> None:
    results = items(host, "a", "b")
    first = run_into("s3://batch/out", batch(results), overwrite="if-changed")
    second = run_into("s3://batch/out", batch(results), overwrite="if-changed")
    assert second == {**first, "stored": 0, "skipped": 2}
    assert "2 by length" in info.text
    s3.pipe_file("batch/out/a.mp4", b"shorter")
    assert run_into("s3://batch/out", batch(results), overwrite="if-changed")["stored"] == 1
    assert s3.cat("batch/out/a.mp4") == data_of("a")


def test_overwrite_false_in_a_retry(host: MediaServer, s3: S3FileSystem) -> None:
    results, ti = items(host, "a", "b"), TaskInstance()
    host.always["/1.mp4"] = Reply(status=500)
    with pytest.raises(errors.SeedanceMediaError, match="1 of 2 files"):
        run_into("s3://batch/out", batch(results), {"ti": ti}, overwrite=False)
    del host.always["/1.mp4"]
    host.requests.clear()
    ti.retry()
    assert run_into("s3://batch/out", batch(results), {"ti": ti}, overwrite=False)["skipped"] == 1
    other = TaskInstance()
    with pytest.raises(
        errors.SeedanceDestinationExistsError, match=r"the destination exists: .*a\.mp4, .*b\.mp4"
    ):
        run_into("s3://batch/out", batch(results), {"ti": other}, overwrite=False)


def test_missing_manifest(s3: S3FileSystem) -> None:
    s3.pipe_file("batch/dir/file", b"x")
    for path in ("s3://batch/none.jsonl", "s3://batch/dir/", "s3://nowhere/m.jsonl"):
        with pytest.raises(errors.SeedanceConfigurationError, match="no such file"):
            read_manifest(path)


def test_manifest_is_replaced_and_read_again(s3: S3FileSystem) -> None:
    path = "s3://batch/m.jsonl"
    for count in (3, 2):
        write_manifest(path, [{"key": str(number)} for number in range(count)])
        assert len(read_manifest(path)) == count
        # Another worker's, behind the back of this one's listing.
        assert s3.ls("batch")
        S3FileSystem(skip_instance_cache=True).pipe_file("batch/m.jsonl", b'{"key": "other"}\n' * 5)
        assert len(read_manifest(path)) == 5
