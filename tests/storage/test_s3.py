"""Writing to an S3 API: uploads in parts, completed or aborted, and the permissions that they need."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import boto3
import pytest
from s3_store import s3_filesystem, s3_server
from s3fs import S3FileSystem

from airflow_provider_seedance.exceptions import SeedanceDestinationExistsError, SeedanceMediaError
from airflow_provider_seedance.storage import writers
from airflow_provider_seedance.storage.location import StorageLocation
from airflow_provider_seedance.storage.writers import open_writer
from storage.stores import size_of, write_file

#: S3 takes no parts below 5 MiB, which would only cost time here.
PART = 64 * 1024
#: Three parts: s3fs sends what is smaller than two in one request.
DATA = bytes(range(256)) * (PART // 256 * 2 + 100)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(scope="module")
def s3(endpoint: str) -> S3FileSystem:
    fs = s3_filesystem(endpoint)
    fs.call_s3("create_bucket", Bucket="bucket")
    return fs


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "PART_BYTES", PART)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", PART)


@pytest.fixture
def location(s3: S3FileSystem, request: pytest.FixtureRequest) -> StorageLocation:
    """A location of the test's own."""
    path = f"bucket/{hashlib.sha256(request.node.name.encode()).hexdigest()}.mp4"
    return StorageLocation(display=f"s3://{path}", fs=s3, path=path)


def break_completion(fs: S3FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every multipart upload fail at its end."""
    call = fs._call_s3

    async def broken(method: str, *arguments: Any, **options: Any) -> Any:
        if method == "complete_multipart_upload":
            raise ConnectionError("the store hung up")
        return await call(method, *arguments, **options)

    monkeypatch.setattr(fs, "_call_s3", broken)


def pending(location: StorageLocation) -> list[Any]:
    """Return the uploads of a location that were neither completed nor aborted."""
    uploads = location.fs.call_s3("list_multipart_uploads", Bucket="bucket").get("Uploads", [])
    return [upload for upload in uploads if location.path == f"bucket/{upload['Key']}"]


@pytest.mark.parametrize("exclusive", [False, True])
def test_failed_upload_is_aborted(
    location: StorageLocation, s3: S3FileSystem, monkeypatch: pytest.MonkeyPatch, exclusive: bool
) -> None:
    break_completion(s3, monkeypatch)
    with pytest.raises(SeedanceMediaError, match="hung up"):
        write_file(location, DATA, exclusive=exclusive)
    assert size_of(location) is None
    assert pending(location) == []


@pytest.mark.parametrize("data", [b"x", DATA], ids=["small", "parts"])
def test_exclusive_upload_replaces_nothing(
    location: StorageLocation, s3: S3FileSystem, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    with open_writer(location, exclusive=True) as writer:
        writer.write(data)
        write_file(location, b"another task was faster")
        # As if the object had appeared after it was looked for: S3 has the last word.
        with monkeypatch.context() as patch:
            patch.setattr(type(writer), "_refuse_existing", lambda self: None)
            with pytest.raises((SeedanceDestinationExistsError, SeedanceMediaError)):
                writer.commit()
        with pytest.raises(SeedanceDestinationExistsError):
            writer.commit()
    assert size_of(location) == len(b"another task was faster")
    assert pending(location) == []


@pytest.mark.parametrize("data", [b"x", DATA[:PART], DATA], ids=["small", "one part", "parts"])
@pytest.mark.parametrize("exclusive", [False, True])
def test_object(location: StorageLocation, s3: S3FileSystem, data: bytes, exclusive: bool) -> None:
    with open_writer(location, exclusive=exclusive) as writer:
        writer.write(data)
        assert (size_of(location), pending(location)) == (None, [])
        writer.commit()
    assert location.digest() == (len(data), hashlib.sha256(data).hexdigest())
    assert s3.info(location.path)["ContentType"] == "video/mp4"
    assert pending(location) == []


def test_missing_bucket(s3: S3FileSystem) -> None:
    location = StorageLocation(display="s3://nowhere/a.mp4", fs=s3, path="nowhere/a.mp4")
    with pytest.raises(SeedanceMediaError, match=r"s3://nowhere/a\.mp4 could not be written"):
        write_file(location, DATA)


def test_version_changes_with_the_content(location: StorageLocation) -> None:
    assert location.stat() is None
    write_file(location, b"one")
    first = location.stat()
    write_file(location, b"one")
    assert (first.size, bool(first.version), bool(first.modified)) == (3, True, True)
    assert location.stat().version == first.version
    write_file(location, b"two")
    assert location.stat().version not in (None, first.version)
    assert not location.is_local


# ---------------------------------------------------------------------- permissions

#: Permissions that SECURITY.md recommends.
PERMISSIONS = ["s3:PutObject", "s3:GetObject", "s3:ListBucket", "s3:AbortMultipartUpload"]


@pytest.fixture
def permit(
    endpoint: str, s3: S3FileSystem, location: StorageLocation
) -> Iterator[Callable[..., StorageLocation]]:
    """Return what takes all rights from the filesystem of the location, but for some actions."""

    def check_requests_after(count: object) -> None:
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", str(count).encode(), headers)
        urllib.request.urlopen(request).close()

    def limit(actions: list[str]) -> StorageLocation:
        root = {"aws_access_key_id": "root", "aws_secret_access_key": "root"}
        iam = boto3.client("iam", "us-east-1", endpoint_url=endpoint, **root)
        iam.create_user(UserName=location.path[-20:])
        allowed = [{"Effect": "Allow", "Action": actions, "Resource": "*"}]
        policy = json.dumps({"Version": "2012-10-17", "Statement": allowed})
        iam.put_user_policy(UserName=location.path[-20:], PolicyName="ours", PolicyDocument=policy)
        key = iam.create_access_key(UserName=location.path[-20:])["AccessKey"]
        check_requests_after(0)
        return replace(location, fs=s3_filesystem(endpoint, key["AccessKeyId"], key["SecretAccessKey"]))

    yield limit
    check_requests_after("inf")


def transfer(location: StorageLocation) -> None:
    """Use a store as the transfer does: look, upload in one request and in parts, read."""
    assert location.stat() is None
    for exclusive, data in ((True, b"small"), (False, DATA)):
        write_file(location, data, exclusive=exclusive)
        assert location.read(len(data)) == data


@pytest.mark.parametrize(
    ("missing", "message"), [(None, "hung up"), ("s3:AbortMultipartUpload", "Access Denied")]
)
def test_a_failed_upload_needs_one_more_permission(
    permit: Any, missing: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the parts stay until a lifecycle rule removes them."""
    location = permit([action for action in PERMISSIONS if action != missing])
    transfer(location)
    break_completion(location.fs, monkeypatch)
    with pytest.raises(SeedanceMediaError, match=message):
        write_file(location, DATA)
    assert size_of(location) == len(DATA)


@pytest.mark.parametrize("missing", PERMISSIONS[:3])
def test_each_permission_is_needed(permit: Any, missing: str) -> None:
    location = permit([action for action in PERMISSIONS if action != missing])
    with pytest.raises(SeedanceMediaError, match="paid for and is not lost"):
        transfer(location)
