"""Files become visible when they are whole, and leave nothing behind when they do not."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_seedance.exceptions import SeedanceDestinationExistsError, SeedanceMediaError
from airflow_provider_seedance.storage import writers
from airflow_provider_seedance.storage.location import StorageLocation
from airflow_provider_seedance.storage.writers import open_writer
from storage.stores import BlobStore, DiskWithoutRename, ObjectStore, RemoteDisk, Share, size_of, write_file

DATA = bytes(range(256)) * 400
OTHER = b"the previous file"
PATH = "bucket/v/a.mp4"


@pytest.fixture(autouse=True)
def worker_disk(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory for temporary files of uploads."""
    directory = tmp_path_factory.mktemp("worker")
    monkeypatch.setattr(writers.tempfile, "tempdir", str(directory))
    return directory


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def location_in(fs: Any) -> StorageLocation:
    return StorageLocation(display=f"{fs.protocol}://{PATH}", fs=fs, path=PATH)


def local(path: Path) -> StorageLocation:
    return StorageLocation.of(str(path), None)


def hang_up(path: str) -> None:
    raise ConnectionError("the store hung up")


def fail_midway(location: StorageLocation) -> None:
    with suppress(ZeroDivisionError), open_writer(location, exclusive=False) as writer:
        writer.write(DATA)
        raise ZeroDivisionError


# ---------------------------------------------------------------------- every kind of store


@pytest.fixture(params=["local", "memory", ObjectStore, BlobStore, RemoteDisk, Share, DiskWithoutRename])
def location(request: pytest.FixtureRequest, tmp_path: Path, memory: MemoryFileSystem) -> StorageLocation:
    if request.param == "local":
        return local(tmp_path / "v" / "a.mp4")
    if request.param == "memory":
        return StorageLocation.of(f"memory://{PATH}", None)
    return location_in(request.param())


@pytest.mark.parametrize("previous", [None, OTHER])
def test_file_is_visible_when_it_is_whole(
    location: StorageLocation, worker_disk: Path, memory: MemoryFileSystem, previous: bytes | None
) -> None:
    if previous:
        write_file(location, previous)
    with open_writer(location, exclusive=False) as writer:
        writer.write(DATA)
        assert size_of(location) == (previous and len(previous))
        writer.commit()
    assert location.digest() == (len(DATA), hashlib.sha256(DATA).hexdigest())
    assert list(worker_disk.iterdir()) == []
    assert [path for path in memory.store if not path.endswith("a.mp4")] == []


@pytest.mark.parametrize("previous", [None, OTHER])
def test_error_leaves_what_was_there(
    location: StorageLocation, worker_disk: Path, previous: bytes | None
) -> None:
    if previous:
        write_file(location, previous)
    fail_midway(location)
    assert location.read(len(DATA)) == previous
    assert list(worker_disk.iterdir()) == []


def test_restart(location: StorageLocation) -> None:
    with open_writer(location, exclusive=False) as writer:
        writer.restart()
    assert size_of(location) is None
    with open_writer(location, exclusive=False) as writer:
        writer.write(OTHER * 5000)
        writer.restart()
        writer.write(DATA)
        writer.commit()
    assert location.digest() == (len(DATA), hashlib.sha256(DATA).hexdigest())


def test_exclusive_write_replaces_nothing(location: StorageLocation) -> None:
    with open_writer(location, exclusive=True) as writer:
        writer.write(DATA)
        write_file(location, OTHER)  # before the commit
        with pytest.raises(SeedanceDestinationExistsError):
            writer.commit()
    with pytest.raises(SeedanceDestinationExistsError, match="overwrite=False"):
        write_file(location, DATA, exclusive=True)
    assert location.read(len(DATA)) == OTHER


# ---------------------------------------------------------------------- local files


@pytest.mark.parametrize("exclusive", [False, True])
def test_temporary_file_is_beside_the_destination(tmp_path: Path, exclusive: bool) -> None:
    path = tmp_path / "deep" / "er" / ("ü" * 120 + ".mp4")
    with open_writer(local(path), exclusive=exclusive) as writer:
        (temporary,) = path.parent.iterdir()
        assert temporary.name.startswith(".ü")
        assert temporary.name.endswith(".part")
        writer.write(DATA)
        writer.commit()
    assert list(path.parent.iterdir()) == [path]
    path.unlink()
    fail_midway(local(path))
    assert list(path.parent.iterdir()) == []


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(local(tmp_path / "a.mp4"), DATA)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.mp4").stat().st_mode) == 0o640


def test_one_of_two_concurrent_exclusive_writers_wins(tmp_path: Path) -> None:
    location = local(tmp_path / "a.mp4")
    barrier = threading.Barrier(2)

    def race(data: bytes) -> bytes | None:
        with suppress(SeedanceDestinationExistsError), open_writer(location, exclusive=True) as writer:
            writer.write(data)
            barrier.wait()
            writer.commit()
            return data
        return None

    with ThreadPoolExecutor(2) as threads:
        outcomes = set(threads.map(race, (DATA, OTHER)))
    assert outcomes == {None, (tmp_path / "a.mp4").read_bytes()}
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", Mock(side_effect=OSError(errno.EPERM, "Operation not permitted")))
    location = local(tmp_path / "a.mp4")
    write_file(location, DATA, exclusive=True)
    with pytest.raises(SeedanceDestinationExistsError):
        write_file(location, OTHER, exclusive=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert size_of(location) == len(DATA)


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    class FullFile(io.FileIO):
        write = full  # type: ignore[assignment]

    def attempt() -> None:
        with open_writer(local(tmp_path / "a.mp4"), exclusive=False) as writer:
            if step == "write":
                writer._file.close()
                writer._file = FullFile(writer._file.name, "wb")  # type: ignore[assignment]
            else:
                monkeypatch.setattr(os, step, full)
            writer.write(DATA)
            writer.commit()

    with pytest.raises(SeedanceMediaError, match="No space left") as caught:
        attempt()
    assert "pays nothing" in str(caught.value)
    assert caught.value.retry_helps
    assert list(tmp_path.iterdir()) == []


def test_directory_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SeedanceMediaError, match="could not be written"):
        open_writer(local(tmp_path / "file" / "a.mp4"), exclusive=False)


# ---------------------------------------------------------------------- uploads


def test_object_store_gets_bounded_parts_and_a_precondition() -> None:
    fs = ObjectStore()
    for exclusive in (False, True):
        write_file(location_in(fs), DATA, exclusive=exclusive)
        fs.objects.clear()
    assert fs.options == [
        {"chunksize": writers.PART_BYTES, "mode": "overwrite"},
        {"chunksize": writers.PART_BYTES, "mode": "create"},
    ]


def test_object_created_during_an_exclusive_upload_is_not_replaced() -> None:
    fs = ObjectStore()
    fs.on_upload = lambda path: fs.objects.update({path: OTHER})
    with pytest.raises(SeedanceDestinationExistsError):
        write_file(location_in(fs), DATA, exclusive=True)
    assert fs.objects == {PATH: OTHER}


@pytest.mark.parametrize("previous", [None, OTHER])
def test_remote_file_is_renamed_when_it_is_whole(worker_disk: Path, previous: bytes | None) -> None:
    fs = RemoteDisk()
    fs.objects.update({PATH: previous} if previous else {})
    fs.on_upload = lambda path: visible.append(fs.objects.get(PATH))
    visible: list[bytes | None] = []
    with open_writer(location_in(fs), exclusive=False) as writer:
        writer.write(DATA)
        assert fs.events == []
        assert [path.suffix for path in worker_disk.iterdir()] == [".mp4"]
        writer.commit()
    assert visible == [previous]
    assert fs.events == ["upload", "rename"]
    assert fs.objects == {PATH: DATA}


@pytest.mark.parametrize("kind", [ObjectStore, RemoteDisk, DiskWithoutRename])
@pytest.mark.parametrize("previous", [None, OTHER])
def test_failed_upload_leaves_no_part(kind: Any, previous: bytes | None) -> None:
    fs = kind()
    fs.objects.update({PATH: previous} if previous else {})
    fs.on_upload = hang_up
    with pytest.raises(SeedanceMediaError, match=rf"{fs.protocol}://bucket/v/a\.mp4.*hung up") as caught:
        write_file(location_in(fs), DATA)
    assert caught.value.retry_helps
    assert fs.objects == ({PATH: previous} if previous else {})


def test_failed_copy_leaves_no_part() -> None:
    class CopyingDisk(RemoteDisk):
        """Disk that moves as fsspec does where a store has no rename: by a copy, here of half the file."""

        def mv(self, path1: str, path2: str, **options: Any) -> None:
            self.objects[path2] = self.objects[path1][:2]
            self.put_file = self.hang_up  # type: ignore[method-assign]
            raise ConnectionError("the store hung up")

        def hang_up(self, lpath: str, rpath: str, **options: Any) -> None:
            raise ConnectionError("the store is gone")

    fs = CopyingDisk()
    with pytest.raises(SeedanceMediaError, match="the store is gone"):
        write_file(location_in(fs), DATA)
    assert fs.objects == {}


def test_store_that_permits_uploads_only() -> None:
    class DropBox(DiskWithoutRename):
        def _rm(self, path: str) -> None:
            raise PermissionError(path)

    fs = DropBox()
    write_file(location_in(fs), DATA)
    assert fs.objects[PATH] == DATA


def test_failed_upload_under_the_final_name_is_removed() -> None:
    fs = DiskWithoutRename()
    fs.on_upload = lambda path: hang_up(path) if path == PATH else None
    with pytest.raises(SeedanceMediaError, match="hung up"):
        write_file(location_in(fs), DATA)
    assert fs.events == ["upload", "remove", "upload", "remove"]
    assert fs.objects == {}
