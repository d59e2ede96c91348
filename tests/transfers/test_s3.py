"""The transfer into an S3 API: uploads in parts, completed or aborted."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from airflow_provider_seedance.exceptions import SeedanceDestinationExistsError, SeedanceMediaError
from airflow_provider_seedance.storage import location
from airflow_provider_seedance.storage.location import StorageLocation

PART = 5 * 1024 * 1024
DATA = bytes(range(256)) * (PART // 256 * 2 + 1000)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3FileSystem]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    fs = S3FileSystem(
        key="test",
        secret="test",
        endpoint_url=f"http://127.0.0.1:{port}",
        client_kwargs={"region_name": "us-east-1"},
        skip_instance_cache=True,
    )
    fs.call_s3("create_bucket", Bucket="bucket")
    yield fs
    server.stop()


@pytest.fixture(autouse=True)
def smallest_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(location, "PART", PART)


@pytest.fixture
def place(s3: S3FileSystem) -> Iterator[StorageLocation]:
    yield StorageLocation(shown="s3://bucket/v/a.mp4", fs=s3, path="bucket/v/a.mp4")
    s3.invalidate_cache()
    if s3.exists("bucket/v/a.mp4"):
        s3.rm("bucket/v/a.mp4")


def store(place: StorageLocation, data: bytes = DATA, *, exclusive: bool = False) -> None:
    with place.write(exclusive=exclusive) as writer:
        for start in range(0, len(data), 1 << 20):
            writer.write(data[start : start + (1 << 20)])
        writer.commit()


def pending(s3: S3FileSystem) -> list[Any]:
    return list(s3.call_s3("list_multipart_uploads", Bucket="bucket").get("Uploads", []))


@pytest.mark.parametrize("data", [b"x", DATA[:PART], DATA], ids=["small", "one part", "parts"])
@pytest.mark.parametrize("exclusive", [False, True])
def test_an_object(place: StorageLocation, s3: S3FileSystem, data: bytes, exclusive: bool) -> None:
    store(place, data, exclusive=exclusive)
    assert place.size() == len(data)
    assert place.digest() == (len(data), hashlib.sha256(data).hexdigest())
    assert pending(s3) == []


def test_nothing_is_visible_before_the_commit(place: StorageLocation, s3: S3FileSystem) -> None:
    with place.write(exclusive=False) as writer:
        writer.write(DATA)
        assert len(pending(s3)) == 1
        assert place.size() is None
        writer.commit()
    assert place.size() == len(DATA)


@pytest.mark.parametrize("data", [b"x", DATA], ids=["small", "parts"])
def test_an_error_aborts_the_upload(place: StorageLocation, s3: S3FileSystem, data: bytes) -> None:
    with suppress(ZeroDivisionError), place.write(exclusive=False) as writer:
        writer.write(data)
        raise ZeroDivisionError
    assert place.size() is None
    assert pending(s3) == []


def test_a_fresh_start(place: StorageLocation, s3: S3FileSystem) -> None:
    with place.write(exclusive=False) as writer:
        writer.write(DATA)
        writer.restart()
        writer.write(b"x")
        writer.commit()
    assert place.size() == 1
    assert pending(s3) == []


def test_nothing_is_overwritten(place: StorageLocation, s3: S3FileSystem) -> None:
    with place.write(exclusive=True) as writer:
        writer.write(DATA)
        store(place, b"another task was faster")
        with pytest.raises(SeedanceDestinationExistsError):
            writer.commit()
    assert place.size() == len(b"another task was faster")
    assert pending(s3) == []


def test_a_bucket_that_does_not_exist(s3: S3FileSystem) -> None:
    place = StorageLocation(shown="s3://nowhere/a.mp4", fs=s3, path="nowhere/a.mp4")
    with pytest.raises(SeedanceMediaError, match=r"s3://nowhere/a\.mp4 could not be written"):
        store(place)


def test_the_store_says_which_version_is_there(place: StorageLocation) -> None:
    assert place.look() is None
    store(place, b"one")
    first = place.look()
    store(place, b"one")
    assert first is not None
    assert (first[0], bool(first[1])) == (3, True)
    assert place.look() == first
    store(place, b"two")
    assert place.look() not in (None, first)
    assert not place.is_local


# ---------------------------------------------------------------------- permissions

ROOT = {"aws_access_key_id": "root", "aws_secret_access_key": "root"}
#: What SECURITY.md tells people to grant.
PERMISSIONS = ["s3:PutObject", "s3:GetObject", "s3:ListBucket", "s3:AbortMultipartUpload"]


@contextmanager
def permitted(actions: list[str]) -> Iterator[S3FileSystem]:
    """Reach a bucket as somebody who may do this and no more."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"

    def tell(what: str, value: object = "") -> None:
        request = urllib.request.Request(
            f"{url}/moto-api/{what}", str(value).encode(), {"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(request).close()

    def client(service: str) -> Any:
        return boto3.client(service, "us-east-1", endpoint_url=url, **ROOT)

    client("s3").create_bucket(Bucket="ours")
    iam = client("iam")
    iam.create_user(UserName="airflow")
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
    iam.put_user_policy(UserName="airflow", PolicyName="ours", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="airflow")["AccessKey"]
    tell("reset-auth", 0)  # from here on every request is checked
    try:
        yield S3FileSystem(
            key=key["AccessKeyId"],
            secret=key["SecretAccessKey"],
            endpoint_url=url,
            client_kwargs={"region_name": "us-east-1"},
            skip_instance_cache=True,
        )
    finally:
        tell("reset-auth", "inf")
        # What one server keeps is there for the next one of this process, too.
        tell("reset")
        server.stop()


def transfer(fs: S3FileSystem) -> int | None:
    """Store what the transfer stores: look, upload in parts, look again, and give one up."""
    place = StorageLocation(shown="s3://ours/a.mp4", fs=fs, path="ours/a.mp4")
    assert place.look() is None
    for exclusive, data in ((True, b"small"), (False, DATA)):
        store(place, data, exclusive=exclusive)
        assert place.read(len(data)) == data
    with suppress(ZeroDivisionError), place.write(exclusive=False) as writer:
        writer.write(DATA)
        raise ZeroDivisionError
    return place.size()


def test_the_permissions_that_are_documented_are_enough() -> None:
    with permitted(PERMISSIONS) as fs:
        assert transfer(fs) == len(DATA)


@pytest.mark.parametrize("missing", PERMISSIONS)
def test_each_of_the_permissions_is_needed(missing: str, caplog: pytest.LogCaptureFixture) -> None:
    with permitted([one for one in PERMISSIONS if one != missing]) as fs:
        if missing == "s3:AbortMultipartUpload":
            # What is missing shows only where something is given up, and costs no render.
            transfer(fs)
            assert "could not be removed: Access Denied" in caplog.text
        else:
            with pytest.raises(SeedanceMediaError, match="paid for and is not lost"):
                transfer(fs)
