"""Files become visible when they are whole, and leave nothing behind when they do not."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest
from airflow.sdk import ObjectStoragePath
from fsspec.implementations.memory import MemoryFileSystem
from transfers.stores import DirectStore, EagerStore, HoldingStore

from airflow_provider_seedance.exceptions import (
    SeedanceConfigurationError,
    SeedanceDestinationExistsError,
    SeedanceMediaError,
)
from airflow_provider_seedance.storage import location
from airflow_provider_seedance.storage.location import StorageLocation

DATA = bytes(range(256)) * 400
OTHER = b"what was there before"


@pytest.fixture(autouse=True)
def spool(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files of the worker go."""
    directory = tmp_path_factory.mktemp("spool")
    monkeypatch.setattr(location.tempfile, "tempdir", str(directory))
    return directory


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(location, "PART", 30_000)
    monkeypatch.setattr(location, "_PIECE", 10_000)


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def place_in(fs: Any, path: str = "bucket/v/a.mp4") -> StorageLocation:
    return StorageLocation(shown=f"{fs.protocol}://{path}", fs=fs, path=path)


def local(path: Path) -> StorageLocation:
    return StorageLocation.of(str(path), None)


def store(place: StorageLocation, data: bytes = DATA, *, exclusive: bool = False) -> None:
    with place.write(exclusive=exclusive) as writer:
        for start in range(0, len(data), 7000):
            writer.write(data[start : start + 7000])
        writer.commit()


def fail_midway(place: StorageLocation) -> None:
    with suppress(ZeroDivisionError), place.write(exclusive=False) as writer:
        writer.write(DATA)
        raise ZeroDivisionError


# ---------------------------------------------------------------------- every kind of place

Make = Callable[[], StorageLocation]


@pytest.fixture(params=["local", "memory", "holding", "eager", "direct"])
def place(request: pytest.FixtureRequest, tmp_path: Path, memory: MemoryFileSystem) -> StorageLocation:
    return {
        "local": lambda: local(tmp_path / "v" / "a.mp4"),
        "memory": lambda: StorageLocation.of("memory://bucket/v/a.mp4", None),
        "holding": lambda: place_in(HoldingStore()),
        "eager": lambda: place_in(EagerStore()),
        "direct": lambda: place_in(DirectStore()),
    }[request.param]()


def test_a_file_is_stored(place: StorageLocation, spool: Path) -> None:
    assert place.size() is None
    store(place)
    assert place.size() == len(DATA)
    assert place.digest() == (len(DATA), hashlib.sha256(DATA).hexdigest())
    assert list(spool.iterdir()) == []


def test_nothing_is_visible_before_the_commit(place: StorageLocation) -> None:
    with place.write(exclusive=False) as writer:
        writer.write(DATA)
        assert place.size() is None
        writer.commit()
        assert place.size() == len(DATA)


def test_what_was_there_stays_until_the_commit(place: StorageLocation) -> None:
    store(place, OTHER)
    with place.write(exclusive=False) as writer:
        writer.write(DATA)
        assert place.size() == len(OTHER)
        writer.commit()
    assert place.size() == len(DATA)


def test_an_error_leaves_nothing(place: StorageLocation, spool: Path) -> None:
    fail_midway(place)
    assert place.size() is None
    assert list(spool.iterdir()) == []


def test_an_error_leaves_what_was_there(place: StorageLocation) -> None:
    store(place, OTHER)
    fail_midway(place)
    assert place.digest()[1] == hashlib.sha256(OTHER).hexdigest()


def test_a_fresh_start(place: StorageLocation) -> None:
    with place.write(exclusive=False) as writer:
        writer.write(OTHER * 5000)
        writer.restart()
        writer.write(DATA)
        writer.commit()
    assert place.digest() == (len(DATA), hashlib.sha256(DATA).hexdigest())


def test_nothing_is_overwritten(place: StorageLocation) -> None:
    store(place, OTHER)
    with pytest.raises(SeedanceDestinationExistsError, match="overwrite=False"):
        store(place, exclusive=True)
    assert place.digest()[1] == hashlib.sha256(OTHER).hexdigest()


def test_a_file_that_comes_in_between_is_not_overwritten(place: StorageLocation) -> None:
    with place.write(exclusive=True) as writer:
        writer.write(DATA)
        store(place, OTHER)
        with pytest.raises(SeedanceDestinationExistsError):
            writer.commit()
    assert place.size() == len(OTHER)


def test_an_empty_restart_and_an_abort(place: StorageLocation) -> None:
    with place.write(exclusive=False) as writer:
        writer.restart()
    assert place.size() is None


# ---------------------------------------------------------------------- local files


def test_the_temporary_name_is_beside_the_file(tmp_path: Path) -> None:
    with local(tmp_path / "deep" / "er" / "a.mp4").write(exclusive=False) as writer:
        (temporary,) = (tmp_path / "deep" / "er").iterdir()
        assert temporary.name.startswith(".a.mp4.")
        assert temporary.name.endswith(".part")
        writer.write(DATA)
        writer.commit()
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("exclusive", [False, True])
def test_no_temporary_file_stays(tmp_path: Path, exclusive: bool) -> None:
    path = tmp_path / ("ü" * 120 + ".mp4")
    store(local(path), exclusive=exclusive)
    assert list(tmp_path.iterdir()) == [path]
    path.unlink()
    fail_midway(local(path))
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        store(local(tmp_path / "a.mp4"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.mp4").stat().st_mode) == 0o640


def test_of_two_at_once_one_wins(tmp_path: Path) -> None:
    place = local(tmp_path / "a.mp4")
    barrier = threading.Barrier(2)
    won: list[bytes] = []
    lost: list[BaseException] = []

    def race(data: bytes) -> None:
        try:
            with place.write(exclusive=True) as writer:
                writer.write(data)
                barrier.wait()
                writer.commit()
            won.append(data)
        except SeedanceDestinationExistsError as error:
            lost.append(error)

    threads = [threading.Thread(target=race, args=(data,)) for data in (DATA, OTHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lost) == 1
    assert [(tmp_path / "a.mp4").read_bytes()] == won
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    place = local(tmp_path / "a.mp4")
    store(place, exclusive=True)
    with pytest.raises(SeedanceDestinationExistsError):
        store(place, OTHER, exclusive=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert place.size() == len(DATA)


@pytest.mark.parametrize("step", ["_write", "fsync", "replace"])
def test_a_disk_in_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def attempt() -> None:
        with local(tmp_path / "a.mp4").write(exclusive=False) as writer:
            target: Any = writer if step == "_write" else os
            monkeypatch.setattr(target, step, full)
            writer.write(DATA)
            writer.commit()

    with pytest.raises(SeedanceMediaError, match="No space left") as caught:
        attempt()
    assert "pays nothing" in str(caught.value)
    assert caught.value.retry_helps
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SeedanceMediaError, match="could not be written"):
        local(tmp_path / "file" / "a.mp4").write(exclusive=False)


def test_a_directory(tmp_path: Path) -> None:
    assert local(tmp_path).is_local_directory
    assert not local(tmp_path / "a").is_local_directory
    assert local(tmp_path).size() is None


# ---------------------------------------------------------------------- stores that hold files back


def test_parts_are_uploaded_while_they_come(spool: Path) -> None:
    fs = HoldingStore()
    with place_in(fs).write(exclusive=False) as writer:
        writer.write(DATA[:40_000])
        assert fs.events == ["begin", "part"]
        assert list(spool.iterdir()) == []
        writer.write(DATA[40_000:])
        writer.commit()
    assert (fs.events[-1], fs.events.count("complete")) == ("complete", 1)
    assert fs.objects == {"bucket/v/a.mp4": DATA}


def test_an_upload_is_aborted_on_error() -> None:
    fs = HoldingStore()
    fail_midway(place_in(fs))
    assert fs.events[-1] == "abort"
    assert "complete" not in fs.events


@pytest.mark.parametrize("part", [0, 1, 2, 4])
def test_an_upload_is_aborted_when_the_store_hangs_up(part: int) -> None:
    fs = HoldingStore()
    fs.breaks_at = part
    with pytest.raises(SeedanceMediaError, match=r"holding://bucket/v/a\.mp4.*hung up"):
        store(place_in(fs))
    assert fs.events[-1] == "abort"
    assert fs.objects == {}


def test_a_fresh_start_aborts_the_upload() -> None:
    fs = HoldingStore()
    with place_in(fs).write(exclusive=False) as writer:
        writer.write(OTHER * 5000)
        writer.restart()
        assert fs.events[-1] == "abort"
        writer.write(DATA)
        writer.commit()
    assert fs.objects == {"bucket/v/a.mp4": DATA}


def test_a_later_transaction_does_not_find_our_upload() -> None:
    fs = HoldingStore()
    with place_in(fs).write(exclusive=False) as writer:
        writer.write(DATA)
        with fs.transaction:
            pass
        assert fs.objects == {}
        writer.commit()


def test_a_store_that_does_not_know_exclusive_files() -> None:
    fs = HoldingStore()
    fs.exclusive = False
    place = place_in(fs)
    store(place, exclusive=True)
    with pytest.raises(SeedanceDestinationExistsError):
        store(place, OTHER, exclusive=True)
    assert fs.objects == {"bucket/v/a.mp4": DATA}
    assert fs.events[-1] == "abort"


# ---------------------------------------------------------------------- stores that do not


@pytest.mark.parametrize("kind", [EagerStore, DirectStore])
def test_such_a_store_hears_nothing_before_the_commit(kind: Any, spool: Path) -> None:
    fs = kind()
    with place_in(fs).write(exclusive=False) as writer:
        writer.write(DATA)
        assert (fs.events, len(list(spool.iterdir()))) == ([], 1)
        writer.commit()
    assert fs.objects == {"bucket/v/a.mp4": DATA}
    assert list(spool.iterdir()) == []


def test_closing_does_not_complete_a_broken_upload(spool: Path) -> None:
    fs = EagerStore()
    fs.blocksize = 1000
    fs.breaks_at = 1
    with pytest.raises(SeedanceMediaError, match="hung up"):
        store(place_in(fs))
    assert fs.objects == {}
    assert "complete" not in fs.events
    assert list(spool.iterdir()) == []


def test_a_partial_file_is_removed() -> None:
    fs = DirectStore()
    fs.breaks_at = 20_000
    with pytest.raises(SeedanceMediaError, match="hung up"):
        store(place_in(fs))
    assert fs.events == ["open", "close", "remove"]
    assert fs.objects == {}


def test_a_store_with_an_upload_of_its_own(spool: Path) -> None:
    class Own(EagerStore):
        async_impl = True
        modes: list[Any] = []

        def put_file(self, local: str, path: str, **options: Any) -> None:
            self.modes.append(options)
            if options.get("mode") == "create" and path in self.objects:
                raise FileExistsError(path)
            self.objects[path] = Path(local).read_bytes()

    fs = Own()
    store(place_in(fs))
    fs.objects.clear()
    store(place_in(fs), exclusive=True)
    assert fs.objects == {"bucket/v/a.mp4": DATA}
    assert fs.modes == [{}, {"mode": "create"}]


# ---------------------------------------------------------------------- destinations


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/data/a.mp4", "/data/a.mp4"),
        ("file:///data/a.mp4", "file:///data/a.mp4"),
        # How a place in memory is written differs between versions of universal_pathlib.
        ("memory://bucket/a.mp4", str(ObjectStoragePath("memory://bucket/a.mp4"))),
    ],
)
@pytest.mark.parametrize("kind", [str, ObjectStoragePath])
def test_a_destination(text: str, shown: str, kind: Any) -> None:
    assert StorageLocation.of(kind(text), None).shown == shown


@pytest.mark.parametrize("text", ["file:///data/", "/data/", "memory://bucket/data/", "/"])
def test_a_file_in_a_directory(text: str) -> None:
    below = StorageLocation.of(text, None).below("x/a.mp4")
    assert below.shown == str(ObjectStoragePath(f"{text}x/a.mp4"))
    assert below.path.endswith("/x/a.mp4")
    assert "//" not in below.path


@pytest.mark.parametrize("conn_id", [None, "store"])
def test_a_store_nobody_knows(conn_id: str | None) -> None:
    with pytest.raises(SeedanceConfigurationError, match="nosuch") as caught:
        StorageLocation.of("nosuch://bucket/a.mp4", conn_id)
    assert "Nothing was sent" in str(caught.value)
