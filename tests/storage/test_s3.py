"""Writing to an S3 API: uploads in parts, completed or aborted, and the permissions that they need."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from s3_store import s3_filesystem, s3_server
from s3fs import S3FileSystem

from airflow_provider_seedance.exceptions import SeedanceDestinationExistsError, SeedanceMediaError
from airflow_provider_seedance.storage import writers
from airflow_provider_seedance.storage.location import StorageLocation
from airflow_provider_seedance.storage.writers import open_writer
from storage.stores import size_of

PART = 5 * 1024 * 1024
#: Three parts: s3fs sends what is smaller than two in one request.
DATA = bytes(range(256)) * (PART // 256 * 2 + 1000)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3FileSystem]:
    with s3_server() as endpoint:
        fs = s3_filesystem(endpoint)
        fs.call_s3("create_bucket", Bucket="bucket")
        yield fs


@pytest.fixture(autouse=True)
def smallest_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "PART_BYTES", PART)


@pytest.fixture
def location(s3: S3FileSystem) -> Iterator[StorageLocation]:
    yield StorageLocation(display="s3://bucket/v/a.mp4", fs=s3, path="bucket/v/a.mp4")
    s3.invalidate_cache()
    if s3.exists("bucket/v/a.mp4"):
        s3.rm("bucket/v/a.mp4")


def store(location: StorageLocation, data: bytes = DATA, *, exclusive: bool = False) -> None:
    with open_writer(location, exclusive=exclusive) as writer:
        for start in range(0, len(data), 1 << 20):
            writer.write(data[start : start + (1 << 20)])
        writer.commit()


def break_completion(fs: S3FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every multipart upload fail at its end."""
    call = fs._call_s3

    async def broken(method: str, *arguments: Any, **options: Any) -> Any:
        if method == "complete_multipart_upload":
            raise ConnectionError("the store hung up")
        return await call(method, *arguments, **options)

    monkeypatch.setattr(fs, "_call_s3", broken)


def pending(s3: S3FileSystem) -> list[Any]:
    return list(s3.call_s3("list_multipart_uploads", Bucket="bucket").get("Uploads", []))


@pytest.mark.parametrize("data", [b"x", DATA[:PART], DATA], ids=["small", "one part", "parts"])
@pytest.mark.parametrize("exclusive", [False, True])
def test_object(location: StorageLocation, s3: S3FileSystem, data: bytes, exclusive: bool) -> None:
    store(location, data, exclusive=exclusive)
    assert size_of(location) == len(data)
    assert location.digest() == (len(data), hashlib.sha256(data).hexdigest())
    assert s3.info(location.path)["ContentType"] == "video/mp4"
    assert pending(s3) == []


def test_nothing_is_sent_before_the_commit(location: StorageLocation, s3: S3FileSystem) -> None:
    with open_writer(location, exclusive=False) as writer:
        writer.write(DATA)
        assert pending(s3) == []
        assert size_of(location) is None
        writer.commit()
    assert size_of(location) == len(DATA)


@pytest.mark.parametrize("exclusive", [False, True])
def test_failed_upload_is_aborted(
    location: StorageLocation, s3: S3FileSystem, monkeypatch: pytest.MonkeyPatch, exclusive: bool
) -> None:
    break_completion(s3, monkeypatch)
    with pytest.raises(SeedanceMediaError, match="hung up"):
        store(location, exclusive=exclusive)
    assert size_of(location) is None
    assert pending(s3) == []


@pytest.mark.parametrize("data", [b"x", DATA], ids=["small", "parts"])
def test_exclusive_upload_replaces_nothing(
    location: StorageLocation, s3: S3FileSystem, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    with open_writer(location, exclusive=True) as writer:
        writer.write(data)
        store(location, b"another task was faster")
        # As if the object had appeared after it was looked for: S3 has the last word.
        with monkeypatch.context() as patch:
            patch.setattr(type(writer), "_refuse_existing", lambda self: None)
            with pytest.raises((SeedanceDestinationExistsError, SeedanceMediaError)):
                writer.commit()
        with pytest.raises(SeedanceDestinationExistsError):
            writer.commit()
    assert size_of(location) == len(b"another task was faster")
    assert pending(s3) == []


def test_missing_bucket(s3: S3FileSystem) -> None:
    location = StorageLocation(display="s3://nowhere/a.mp4", fs=s3, path="nowhere/a.mp4")
    with pytest.raises(SeedanceMediaError, match=r"s3://nowhere/a\.mp4 could not be written"):
        store(location)


def test_version_changes_with_the_content(location: StorageLocation) -> None:
    assert location.stat() is None
    store(location, b"one")
    first = location.stat()
    store(location, b"one")
    assert (first.size, bool(first.version), bool(first.modified)) == (3, True, True)
    assert location.stat().version == first.version
    store(location, b"two")
    assert location.stat().version not in (None, first.version)
    assert not location.is_local


# ---------------------------------------------------------------------- permissions

ROOT = {"aws_access_key_id": "root", "aws_secret_access_key": "root"}
#: Permissions that SECURITY.md recommends.
PERMISSIONS = ["s3:PutObject", "s3:GetObject", "s3:ListBucket", "s3:AbortMultipartUpload"]


@contextmanager
def permitted(actions: list[str]) -> Iterator[S3FileSystem]:
    """Yield a bucket that permits these actions only."""

    def tell(what: str, value: object = "") -> None:
        request = urllib.request.Request(
            f"{url}/moto-api/{what}", str(value).encode(), {"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(request).close()

    def client(service: str) -> Any:
        return boto3.client(service, "us-east-1", endpoint_url=url, **ROOT)

    with s3_server() as url:
        client("s3").create_bucket(Bucket="ours")
        iam = client("iam")
        iam.create_user(UserName="airflow")
        allowed = [{"Effect": "Allow", "Action": actions, "Resource": "*"}]
        policy = json.dumps({"Version": "2012-10-17", "Statement": allowed})
        iam.put_user_policy(UserName="airflow", PolicyName="ours", PolicyDocument=policy)
        key = iam.create_access_key(UserName="airflow")["AccessKey"]
        tell("reset-auth", 0)  # from here on every request is checked
        try:
            yield s3_filesystem(url, key["AccessKeyId"], key["SecretAccessKey"])
        finally:
            tell("reset-auth", "inf")
            # The state of one server is there for the next one of this process, too.
            tell("reset")


def transfer(fs: S3FileSystem) -> StorageLocation:
    """Use a store as the transfer does: look, upload in one request and in parts, read."""
    location = StorageLocation(display="s3://ours/a.mp4", fs=fs, path="ours/a.mp4")
    assert location.stat() is None
    for exclusive, data in ((True, b"small"), (False, DATA)):
        store(location, data, exclusive=exclusive)
        assert location.read(len(data)) == data
    return location


def test_documented_permissions_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    with permitted(PERMISSIONS) as fs:
        location = transfer(fs)
        break_completion(fs, monkeypatch)
        with pytest.raises(SeedanceMediaError, match="hung up"):
            store(location)
        assert size_of(location) == len(DATA)


@pytest.mark.parametrize("missing", PERMISSIONS)
def test_each_permission_is_needed(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with permitted([action for action in PERMISSIONS if action != missing]) as fs:
        if missing == "s3:AbortMultipartUpload":
            # Needed only after a failed upload; without it the parts stay until a lifecycle rule removes them.
            location = transfer(fs)
            break_completion(fs, monkeypatch)
            with pytest.raises(SeedanceMediaError, match="Access Denied"):
                store(location)
            assert size_of(location) == len(DATA)
        else:
            with pytest.raises(SeedanceMediaError, match="paid for and is not lost"):
                transfer(fs)
