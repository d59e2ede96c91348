"""The writer, the sidecar and the player on the APIs of S3, Google Cloud Storage and Azure Blob Storage."""

from __future__ import annotations

import asyncio
import hashlib
import json
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from s3_store import s3_filesystem

from airflow_provider_seedance.api_server import media
from airflow_provider_seedance.exceptions import SeedanceDestinationExistsError, SeedanceMediaError
from airflow_provider_seedance.storage import writers
from airflow_provider_seedance.storage.location import StorageLocation
from airflow_provider_seedance.storage.writers import open_writer
from airflow_provider_seedance.transfers.sidecar import write_sidecar
from storage.emulators import Store, amazon_store, azure_store, google_store
from storage.stores import size_of, write_file

# gcsfs sends a part as it is; aiohttp would like a file.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly with raw bytes:ResourceWarning")

STORES: dict[str, Any] = {"s3": amazon_store, "google": google_store, "azure": azure_store}


@pytest.fixture(scope="module", params=STORES)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with STORES[request.param]() as made:
        yield made


s3_only = pytest.mark.parametrize("store", ["s3"], indirect=True)


@pytest.fixture(autouse=True)
def smallest_parts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "PART_BYTES", store.part)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", store.part)


@pytest.fixture
def location(store: Store, request: pytest.FixtureRequest) -> StorageLocation:
    """A location of the test's own."""
    path = f"bucket/v/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}.mp4"
    return StorageLocation(display=f"{store.scheme}://{path}", fs=store.fs, path=path)


@pytest.fixture
def parts(store: Store) -> bytes:
    """Three parts or more: s3fs sends what is smaller than two in one request."""
    return bytes(range(256)) * (store.part // 256 * 2 + 1000)


@pytest.fixture(params=["small", "one part", "parts"])
def data(store: Store, parts: bytes, request: pytest.FixtureRequest) -> bytes:
    return parts[: {"small": 1, "one part": store.part}.get(request.param)]


def pending(location: StorageLocation) -> list[Any]:
    """Return the uploads to S3 that were neither completed nor aborted."""
    if not location.display.startswith("s3://"):
        return []
    uploads = location.fs.call_s3("list_multipart_uploads", Bucket="bucket").get("Uploads", [])
    return [upload for upload in uploads if location.path == f"bucket/{upload['Key']}"]


# ---------------------------------------------------------------------- every store


@pytest.mark.parametrize("exclusive", [False, True])
def test_object(location: StorageLocation, data: bytes, exclusive: bool) -> None:
    with open_writer(location, exclusive=exclusive) as writer:
        writer.write(data)
        assert (size_of(location), pending(location)) == (None, [])
        with writer.reader() as file:
            assert file.read(3) == data[:3]
        writer.commit()
    assert size_of(location) == len(data)
    assert location.digest() == (len(data), hashlib.sha256(data).hexdigest())
    assert pending(location) == []
    write_sidecar(location.appended(".json"), {"of": "it"}, exclusive=exclusive)
    assert json.loads(location.appended(".json").read(1000) or b"") == {"of": "it"}


def test_missing_object(location: StorageLocation) -> None:
    assert location.stat() is None
    assert location.read(10) is None
    with pytest.raises(SeedanceMediaError, match="could not be read"):
        location.digest()


def test_version_changes_with_the_content(store: Store, location: StorageLocation) -> None:
    found: list[Any] = []
    for data in (b"one", b"one", b"two"):
        write_file(location, data)
        found.append(location.stat())
    assert all(one.size == 3 and one.version and one.modified for one in found)
    assert found[1].version != found[2].version
    assert store.scheme != "s3" or found[0].version == found[1].version
    assert not location.is_local


def test_existing_object_is_not_replaced(location: StorageLocation) -> None:
    write_file(location, b"first")
    with pytest.raises(SeedanceDestinationExistsError):
        write_file(location, b"second", exclusive=True)
    assert location.read(10) == b"first"
    write_file(location, b"third")
    assert location.read(10) == b"third"


def test_faster_writer_is_not_replaced(
    store: Store, location: StorageLocation, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """As if the object had appeared after it was looked for: the store has the last word."""
    if store.scheme == "gs":
        pytest.skip("this emulator knows no ifGenerationMatch")
    with open_writer(location, exclusive=True) as writer:
        writer.write(data)
        write_file(location, b"another task was faster")
        with monkeypatch.context() as patch:
            patch.setattr(type(writer), "_refuse_existing", lambda self: None)
            with pytest.raises((SeedanceDestinationExistsError, SeedanceMediaError)):
                writer.commit()
        with pytest.raises(SeedanceDestinationExistsError):
            writer.commit()
    assert size_of(location) == len(b"another task was faster")
    assert pending(location) == []


def test_no_rights(store: Store, location: StorageLocation, parts: bytes) -> None:
    if store.forbidden is None:
        pytest.skip("this emulator checks no rights")
    write_file(location, b"x")
    forbidden = StorageLocation(display=location.display, fs=store.forbidden, path=location.path)
    for use in (forbidden.stat, forbidden.digest, lambda: write_file(forbidden, parts)):
        with pytest.raises(SeedanceMediaError, match="paid for and is not lost"):
            use()


def test_range_costs_what_it_is(store: Store, location: StorageLocation, parts: bytes) -> None:
    """A player that asks for 64 KiB of 10 MB makes the store send at most twice as much."""
    write_file(location, parts)

    async def play() -> bytes:
        request: Any = SimpleNamespace(method="GET", headers={"Range": "bytes=100000-165535"})
        answer: Any = await media.respond_with_file(request, lambda: location)
        assert answer.status_code == 206
        return b"".join([piece async for piece in answer.body_iterator])

    before = store.counter.sent
    assert asyncio.run(play()) == parts[100000:165536]
    assert store.counter.sent - before <= 128 * 1024


# ---------------------------------------------------------------------- S3: types, aborted uploads, permissions


@s3_only
def test_content_type_and_missing_bucket(location: StorageLocation) -> None:
    write_file(location, b"x")
    assert location.fs.info(location.path)["ContentType"] == "video/mp4"
    nowhere = StorageLocation(display="s3://nowhere/a.mp4", fs=location.fs, path="nowhere/a.mp4")
    with pytest.raises(SeedanceMediaError, match=r"s3://nowhere/a\.mp4 could not be written"):
        write_file(nowhere, b"x")


def break_completion(fs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every multipart upload fail at its end."""
    call = fs._call_s3

    async def broken(method: str, *arguments: Any, **options: Any) -> Any:
        if method == "complete_multipart_upload":
            raise ConnectionError("the store hung up")
        return await call(method, *arguments, **options)

    monkeypatch.setattr(fs, "_call_s3", broken)


@s3_only
@pytest.mark.parametrize("exclusive", [False, True])
def test_failed_upload_is_aborted(
    location: StorageLocation, monkeypatch: pytest.MonkeyPatch, parts: bytes, exclusive: bool
) -> None:
    break_completion(location.fs, monkeypatch)
    with pytest.raises(SeedanceMediaError, match="hung up"):
        write_file(location, parts, exclusive=exclusive)
    assert size_of(location) is None
    assert pending(location) == []


#: Permissions that SECURITY.md recommends.
PERMISSIONS = ["s3:PutObject", "s3:GetObject", "s3:ListBucket", "s3:AbortMultipartUpload"]


@pytest.fixture
def permit(store: Store, location: StorageLocation) -> Iterator[Callable[..., StorageLocation]]:
    """Return what takes all rights from the filesystem of the location, but for some actions."""

    def check_requests_after(count: object) -> None:
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{store.url}/moto-api/reset-auth", str(count).encode(), headers)
        urllib.request.urlopen(request).close()

    def limit(actions: list[str]) -> StorageLocation:
        root = {"aws_access_key_id": "root", "aws_secret_access_key": "root"}
        iam = boto3.client("iam", "us-east-1", endpoint_url=store.url, **root)
        iam.create_user(UserName=location.path[-20:])
        allowed = [{"Effect": "Allow", "Action": actions, "Resource": "*"}]
        policy = json.dumps({"Version": "2012-10-17", "Statement": allowed})
        iam.put_user_policy(UserName=location.path[-20:], PolicyName="ours", PolicyDocument=policy)
        key = iam.create_access_key(UserName=location.path[-20:])["AccessKey"]
        check_requests_after(0)
        return replace(location, fs=s3_filesystem(store.url, key["AccessKeyId"], key["SecretAccessKey"]))

    yield limit
    check_requests_after("inf")


def transfer(location: StorageLocation, parts: bytes) -> None:
    """Use a store as the transfer does: look, upload in one request and in parts, read."""
    assert location.stat() is None
    for exclusive, data in ((True, b"small"), (False, parts)):
        write_file(location, data, exclusive=exclusive)
        assert location.read(len(data)) == data


@s3_only
@pytest.mark.parametrize(
    ("missing", "message"), [(None, "hung up"), ("s3:AbortMultipartUpload", "Access Denied")]
)
def test_a_failed_upload_needs_one_more_permission(
    permit: Any, parts: bytes, monkeypatch: pytest.MonkeyPatch, missing: str | None, message: str
) -> None:
    """Without it the parts stay until a lifecycle rule removes them."""
    location = permit([action for action in PERMISSIONS if action != missing])
    transfer(location, parts)
    break_completion(location.fs, monkeypatch)
    with pytest.raises(SeedanceMediaError, match=message):
        write_file(location, parts)
    assert size_of(location) == len(parts)


@s3_only
@pytest.mark.parametrize("missing", PERMISSIONS[:3])
def test_each_permission_is_needed(permit: Any, parts: bytes, missing: str) -> None:
    location = permit([action for action in PERMISSIONS if action != missing])
    with pytest.raises(SeedanceMediaError, match="paid for and is not lost"):
        transfer(location, parts)
