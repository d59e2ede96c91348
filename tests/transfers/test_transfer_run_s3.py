"""The transfer of a batch into an S3 API, from a manifest there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from s3_store import s3_server
from s3fs import S3FileSystem
from support import TaskInstance

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch.manifest import read_manifest, write_manifest
from transfers.results import Transfer, batch, data_of, items
from transfers.server import MediaServer

pytestmark = pytest.mark.usefixtures("conn")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3FileSystem]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    S3FileSystem.clear_instance_cache()
    fs = S3FileSystem()
    if not fs.exists("batch"):
        fs.call_s3("create_bucket", Bucket="batch")
    yield fs
    fs.invalidate_cache()
    if names := fs.find("batch"):
        fs.rm(names)
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def transfer(host: MediaServer, s3: S3FileSystem) -> Transfer:
    return Transfer(host, "s3://batch/out")


def test_from_a_manifest_into_a_directory(transfer: Transfer, s3: S3FileSystem) -> None:
    manifest = "s3://batch/manifest.jsonl"
    written = [*items(transfer.host, "lamp", "shoe"), {"key": "hat", "status": "not_submitted"}]
    write_manifest(manifest, written)
    result = transfer.run(batch([], manifest=manifest))
    assert result["path"] == "s3://batch/out/"
    assert result["paths"] == ["s3://batch/out/lamp.mp4", "s3://batch/out/shoe.mp4"]
    assert s3.cat("batch/out/shoe.mp4") == data_of("shoe")
    s3.invalidate_cache()
    assert sorted(s3.find("batch/out")) == ["batch/out/lamp.mp4", "batch/out/shoe.mp4"]


def test_if_changed_compares_the_length(
    transfer: Transfer, s3: S3FileSystem, info: pytest.LogCaptureFixture
) -> None:
    results = items(transfer.host, "a", "b")
    first = transfer.run(results, overwrite="if-changed")
    assert transfer.run(results, overwrite="if-changed") == {**first, "stored": 0, "skipped": 2}
    assert "2 by length" in info.text
    s3.pipe_file("batch/out/a.mp4", b"shorter")
    assert transfer.run(results, overwrite="if-changed")["stored"] == 1
    assert s3.cat("batch/out/a.mp4") == data_of("a")


def test_overwrite_false_in_a_retry(transfer: Transfer) -> None:
    results = items(transfer.host, "a", "b")
    transfer.fail_for_the_second_file(results, "1 of 2 files", overwrite=False)
    transfer.ti.retry()
    assert transfer.run(results, overwrite=False)["skipped"] == 1
    transfer.ti = TaskInstance()
    message = r"the destination exists: .*a\.mp4, .*b\.mp4"
    transfer.fail(errors.SeedanceDestinationExistsError, results, message, overwrite=False)


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
