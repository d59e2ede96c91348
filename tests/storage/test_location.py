"""Locations: what users write, and what a store says of a file."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from airflow.sdk import ObjectStoragePath

from airflow_provider_seedance.exceptions import SeedanceConfigurationError, SeedanceMediaError
from airflow_provider_seedance.storage import location
from airflow_provider_seedance.storage.location import FileStat, StorageLocation
from storage.stores import ObjectStore

DATA = bytes(range(256)) * 100
NOW = datetime(2026, 2, 7, 10, 40, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "display"),
    [
        ("/data/a.mp4", "/data/a.mp4"),
        ("file:///data/a.mp4", "file:///data/a.mp4"),
        # Versions of universal_pathlib write a path in memory differently.
        ("memory://bucket/a.mp4", str(ObjectStoragePath("memory://bucket/a.mp4"))),
    ],
)
@pytest.mark.parametrize("kind", [str, ObjectStoragePath])
def test_destination(text: str, display: str, kind: Any) -> None:
    assert StorageLocation.of(kind(text), None).display == display


@pytest.mark.parametrize("text", ["file:///data/", "/data/", "memory://bucket/data/", "/"])
def test_file_in_a_directory(text: str) -> None:
    file = StorageLocation.of(text, None).child("x/a.mp4")
    assert file.display == str(ObjectStoragePath(f"{text}x/a.mp4"))
    assert file.path.endswith("/x/a.mp4")
    assert "//" not in file.path


@pytest.mark.parametrize(
    ("scheme", "conn_id", "message"),
    [
        ("nosuch", None, "nosuch"),
        ("nosuch", "store", "nosuch"),
        ("abfs", None, "install the provider of that store"),
    ],
)
def test_unknown_scheme(scheme: str, conn_id: str | None, message: str) -> None:
    with pytest.raises(SeedanceConfigurationError, match=message) as caught:
        StorageLocation.of(f"{scheme}://bucket/a.mp4", conn_id)
    assert "Nothing was sent" in str(caught.value)


def test_local_directory(tmp_path: Path) -> None:
    assert StorageLocation.of(str(tmp_path), None).is_local_directory
    assert StorageLocation.of(str(tmp_path), None).stat() is None
    assert not StorageLocation.of(f"{tmp_path}/a", None).is_local_directory
    assert not StorageLocation.of("memory://bucket", None).is_local_directory


def test_local_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(location, "_READ_BYTES", 10_000)
    file = StorageLocation.of(f"{tmp_path}/a.mp4", None)
    assert file.stat() is None
    assert file.read(10) is None
    (tmp_path / "a.mp4").write_bytes(DATA)
    modified = datetime.fromtimestamp((tmp_path / "a.mp4").stat().st_mtime, UTC)
    assert file.stat() == FileStat(len(DATA), None, modified)
    assert file.read(10) == DATA[:11]
    assert file.digest() == (len(DATA), hashlib.sha256(DATA).hexdigest())


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"size": 3, "ETag": '"abc"'}, FileStat(3, "abc")),
        ({"size": 3, "etag": "abc", "md5Hash": "x"}, FileStat(3, "abc")),
        ({"size": 3, "md5Hash": "x"}, FileStat(3, "x")),
        ({"size": None}, FileStat(0, None)),
        ({"size": 3, "type": "directory"}, None),
        ({"size": 3, "LastModified": NOW}, FileStat(3, None, NOW)),
        ({"size": 3, "last_modified": NOW.replace(tzinfo=None)}, FileStat(3, None, NOW)),
        ({"size": 3, "mtime": NOW.timestamp()}, FileStat(3, None, NOW)),
        ({"size": 3, "mtime": 1e300, "updated": "2026-02-07T10:40:00Z"}, FileStat(3, None, NOW)),
        ({"size": 3, "mtime": "yesterday"}, FileStat(3)),
    ],
)
def test_stat_of_a_store(
    monkeypatch: pytest.MonkeyPatch, info: dict[str, Any], expected: FileStat | None
) -> None:
    fs = ObjectStore()
    monkeypatch.setattr(fs, "info", lambda path: info)
    assert StorageLocation(display="object://a", fs=fs, path="a").stat() == expected


def test_unreachable_store(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = ObjectStore()
    monkeypatch.setattr(fs, "info", Mock(side_effect=ConnectionError("the store hung up")))
    with pytest.raises(SeedanceMediaError, match=r"object://a could not be looked at: .*hung up") as caught:
        StorageLocation(display="object://a", fs=fs, path="a").stat()
    assert caught.value.retry_helps
