"""The record of what is stored: found again, merged, and never trusted further than its directory."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from storage.stores import ObjectStore

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.storage.location import StorageLocation
from airflow_provider_seedance.transfers.stored_index import RECORD_NAME, StoredFile, StoredRecord


def file(name: str = "a.mp4", generation_id: str = "gen-a", **changes: Any) -> StoredFile:
    known: dict[str, Any] = {"key": "a", "index": 1, "bytes": 7, "sha256": "0" * 64, **changes}
    return StoredFile(name=name, generation_id=generation_id, **known)


def opened(directory: Path) -> StoredRecord:
    made = StoredRecord(StorageLocation.of(f"{directory}/", None))
    made.load()
    return made


def test_what_is_saved_is_found_again(tmp_path: Path) -> None:
    files = [file(tag="v1", by="dag/run/task"), file("ü/b.mp4", "gen-b", index=2, by_length=True)]
    record = opened(tmp_path)
    assert not record.exists
    for one in files:
        record.add(one)
    record.save()
    again = opened(tmp_path)
    assert again.exists
    assert list(again) == files
    assert again.find("gen-b", 2) == files[1]
    assert again.find("gen-b", 1) is None
    assert again.find("gen-c", 2) is None


def test_a_line_is_short(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.add(file())
    record.save()
    assert json.loads((tmp_path / RECORD_NAME).read_text()) == {
        "name": "a.mp4",
        "key": "a",
        "generation_id": "gen-a",
        "index": 1,
        "bytes": 7,
        "sha256": "0" * 64,
    }


def test_a_file_of_the_same_name_makes_room(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.add(file())
    record.add(file(generation_id="gen-b"))
    assert record.find("gen-a", 1) is None
    assert [one.generation_id for one in record] == ["gen-b"]


def test_one_output_under_two_names(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.add(file("one.mp4"))
    record.add(file("two.mp4"))
    assert [one.name for one in record] == ["one.mp4", "two.mp4"]
    found = [record.find("gen-a", 1, name) for name in ("one.mp4", "two.mp4", "three.mp4", None)]
    assert [one.name for one in found if one] == ["one.mp4", "two.mp4", "two.mp4", "two.mp4"]
    # The other name is another generation's now.
    record.add(file("one.mp4", "gen-b"))
    assert record.find("gen-a", 1, "one.mp4") == file("two.mp4")


def test_a_file_on_its_way_that_gets_another_name(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.add(file("a.mp4", bytes=None, sha256=None))
    record.save()
    record.add(file("a.webm"))
    record.save()
    assert [one.name for one in opened(tmp_path)] == ["a.webm"]


def test_what_others_wrote_meanwhile_is_kept(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    one.add(file("a.mp4", "gen-a"))
    one.add(file("both.mp4", "gen-one"))
    one.save()
    other.add(file("b.mp4", "gen-b"))
    other.add(file("both.mp4", "gen-other"))
    other.save()
    assert [(line.name, line.generation_id) for line in opened(tmp_path)] == [
        ("a.mp4", "gen-a"),
        ("b.mp4", "gen-b"),
        ("both.mp4", "gen-other"),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../a.mp4"},
        {"name": "/etc/passwd"},
        {"name": ""},
        {"name": None},
        {"generation_id": 7},
        {"index": "1"},
        {"bytes": "7"},
        {"sha256": 7},
        {"tag": {}},
        {"key": None},
    ],
)
def test_a_line_that_is_none(
    tmp_path: Path, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    record = opened(tmp_path)
    record.add(file())
    record.save()
    path = tmp_path / RECORD_NAME
    line = {**json.loads(path.read_text()), **changes}
    path.write_text(path.read_text() + json.dumps(line) + "\n")
    with caplog.at_level(logging.WARNING):
        again = opened(tmp_path)
    assert list(again) == []
    assert "is not a record of stored files" in caplog.text


def test_a_torn_line_costs_one_file(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.add(file())
    record.save()
    with (tmp_path / RECORD_NAME).open("a") as handle:
        handle.write('{"name": "b.mp4", "ke')
    assert list(opened(tmp_path)) == [file()]


def test_a_store_that_cannot_be_read_is_no_empty_record() -> None:
    class Down(ObjectStore):
        def info(self, path: str, **options: Any) -> dict[str, Any]:
            raise ConnectionError("the store hung up")

    fs = Down()
    fs.objects[f"dir/{RECORD_NAME}"] = b"precious"
    record = StoredRecord(StorageLocation(display="object://dir", fs=fs, path="dir"))
    with pytest.raises(errors.SeedanceMediaError, match="hung up") as caught:
        record.load()
    assert caught.value.retry_helps
    record.add(file())
    with pytest.raises(errors.SeedanceMediaError, match="hung up"):
        record.save()
    assert fs.objects == {f"dir/{RECORD_NAME}": b"precious"}
