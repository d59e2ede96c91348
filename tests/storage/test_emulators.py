"""Google Cloud Storage and Azure Blob Storage: the writer, the sidecar and the player, on their emulators."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_seedance.api_server import media
from airflow_provider_seedance.exceptions import SeedanceDestinationExistsError, SeedanceMediaError
from airflow_provider_seedance.storage import writers
from airflow_provider_seedance.storage.location import StorageLocation
from airflow_provider_seedance.storage.writers import open_writer
from airflow_provider_seedance.transfers.sidecar import write_sidecar
from storage.emulators import Store, azure_store, google_store
from storage.stores import size_of, write_file

# gcsfs sends a part as it is; aiohttp would like a file.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly with raw bytes:ResourceWarning")

#: Three parts, of the smallest size that every store takes.
PART = 5 * 1024 * 1024
DATA = bytes(range(256)) * (PART // 256 * 2 + 1000)


@pytest.fixture(scope="module", params=["google", "azure"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with (
        google_store() if request.param == "google" else azure_store(tmp_path_factory.mktemp("azure")) as made
    ):
        yield made


@pytest.fixture(autouse=True)
def smallest_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "PART_BYTES", PART)


@pytest.fixture
def location(store: Store, request: pytest.FixtureRequest) -> StorageLocation:
    """A location of the test's own."""
    path = f"bucket/v/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}.mp4"
    return StorageLocation(display=f"{store.scheme}://{path}", fs=store.fs, path=path)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("data", [b"x", DATA], ids=["small", "parts"])
def test_object(location: StorageLocation, data: bytes, exclusive: bool) -> None:
    with open_writer(location, exclusive=exclusive) as writer:
        writer.write(data)
        assert size_of(location) is None
        with writer.reader() as file:
            assert file.read(3) == data[:3]
        writer.commit()
    assert size_of(location) == len(data)
    assert location.digest() == (len(data), hashlib.sha256(data).hexdigest())
    write_sidecar(location.appended(".json"), {"of": "it"}, exclusive=exclusive)
    assert json.loads(location.appended(".json").read(1000) or b"") == {"of": "it"}


def test_missing_object(location: StorageLocation) -> None:
    assert location.stat() is None
    assert location.read(10) is None
    with pytest.raises(SeedanceMediaError, match="could not be read"):
        location.digest()


def test_version_changes_with_the_content(location: StorageLocation) -> None:
    versions = []
    for data in (b"one", b"two"):
        write_file(location, data)
        found = location.stat()
        assert found
        assert found.version
        assert found.modified
        versions.append(found.version)
    assert versions[0] != versions[1]


def test_existing_object_is_not_replaced(location: StorageLocation) -> None:
    write_file(location, b"first")
    with pytest.raises(SeedanceDestinationExistsError):
        write_file(location, b"second", exclusive=True)
    assert location.read(10) == b"first"
    write_file(location, b"third")
    assert location.read(10) == b"third"


@pytest.mark.parametrize("data", [b"x", DATA], ids=["small", "parts"])
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
    assert size_of(location) == len(b"another task was faster")


def test_no_rights(store: Store, location: StorageLocation) -> None:
    if store.forbidden is None:
        pytest.skip("this emulator checks no rights")
    write_file(location, b"x")
    forbidden = StorageLocation(display=location.display, fs=store.forbidden, path=location.path)
    for use in (forbidden.stat, forbidden.digest, lambda: write_file(forbidden, DATA)):
        with pytest.raises(SeedanceMediaError, match="paid for and is not lost"):
            use()


def test_range_costs_what_it_is(store: Store, location: StorageLocation) -> None:
    """A player that asks for 64 KiB of 10 MB makes the store send at most twice as much."""
    write_file(location, DATA)

    async def play() -> bytes:
        request: Any = SimpleNamespace(method="GET", headers={"Range": "bytes=100000-165535"})
        answer: Any = await media.respond_with_file(request, lambda: location)
        assert answer.status_code == 206
        return b"".join([piece async for piece in answer.body_iterator])

    before = store.counter.sent
    assert asyncio.run(play()) == DATA[100000:165536]
    assert store.counter.sent - before <= 128 * 1024
