"""Stored copies and prompts of generations, as their rows name them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.ledger import (
    read_prompt,
    record_end,
    record_stored_files,
    stored_copy,
    stored_files,
)
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.stored_files import find_copy
from airflow_provider_seedance.submission import records as rec

from . import record_samples as samples
from .rows import NOON, add, content, generation, row

FRAME = {"last_frame_url": "https://m.example/l.png", "expires_at": NOON}
RESULT = samples.generation(0, generation_id="g-0", **FRAME).result()
MOVED = {"paths": ["file:///a.mp4"], "sha256": ["1"], "generation_id": "g-0"}


def file(path: object, conn_id: str | None = None) -> dict[str, Any]:
    return {"path": str(path), "sha256": "1", "conn_id": conn_id}


def test_files_are_written_into_the_rows_of_their_generations(database: Database) -> None:
    older = [file("file:///old.mp4")]
    unlike = [row(1, generation_id="g-0", namespace="n"), row(2, generation_id="g-0", api="fal"), row(3)]
    add(database, [row(0, stored_files=older), *unlike])
    record_stored_files([replace(generation("g-0"), reused_from={"dag_id": "d"})], MOVED, "aws")
    assert content(database, "stored_files")[0] == (older,)  # another task may be copying it
    record_stored_files([generation("g-0"), generation("g-3")], MOVED, "aws")
    assert content(database, "stored_files") == [([file("file:///a.mp4", "aws")],), (None,), (None,), (None,)]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, True),
        ({"status": "failed"}, False),
        ({"namespace": "n"}, False),
        ({"api": "fal"}, False),
        ({"generation_id": "g-1"}, False),
        ({"result": None}, False),
        ({"stored_files": None}, False),
        ({"stored_files": []}, False),
        ({"stored_files": [file("file:///nowhere/a.mp4")]}, False),
        ({"stored_files": [file("odd://bucket/a.mp4")]}, False),
    ],
    ids=str,
)
def test_a_copy_is_delivered_where_all_of_it_is_stored(
    database: Database, tmp_path: Path, change: dict[str, Any], found: bool
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"video")
    values = {"result": RESULT, "stored_files": [file(f"file://{path}")], **change}
    add(database, [row(0, **values)])
    record = rec.replace(samples.intent(credits=14), generation_id="g-0")
    copy = find_copy(database, record)
    assert bool(copy) is found
    if copy:
        assert (copy.urls, copy.expires_at, copy.last_frame_url) == ((f"file://{path}",), None, None)
        assert (copy.generation_id, copy.credits, copy.resolution) == ("g-0", 14, "720p")


def test_the_latest_copy_that_is_there_is_delivered(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [tmp_path / f"{number}.mp4" for number in range(3)]
    for path in paths[:2]:
        path.write_bytes(b"video")
    stored = [[file(f"file://{path}")] for path in paths] + [[file("odd://bucket/a.mp4")]]
    same = {"generation_id": "g-0", "result": RESULT}
    ends = [NOON.replace(hour=hour) for hour in range(4)]
    copies = enumerate(zip(ends, stored, strict=True))
    add(database, [row(number, **same, ended_at=end, stored_files=one) for number, (end, one) in copies])
    copy = find_copy(database, rec.replace(samples.intent(), generation_id="g-0"))
    assert copy is not None
    assert copy.urls == (f"file://{paths[1]}",)
    (line,) = caplog.messages
    assert line.startswith("A stored copy of generation g-0 cannot be used: ")
    assert "odd" in line


def test_only_a_path_of_the_ledger_is_a_copy(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ("file:///a.mp4", "file:///b.mp4")
    stored = [file(path, conn) for path, conn in zip(paths, ("one", "two"), strict=True)]
    add(database, [row(0, generation_id="g-0", result=RESULT, stored_files=stored)])
    copied = replace(generation("g-0"), urls=paths)
    with monkeypatch.context() as patched:
        patched.setattr(stored_files, "location_of", lambda path, conn_id: (path, conn_id))
        assert stored_copy(copied, 1) == (paths[1], "two")
    assert stored_copy(replace(copied, urls=paths[::-1]), 1) is None
    for url in ("http://m.example/a", "https://m.example/a", "data:image/png;base64,AA"):
        assert stored_copy(replace(copied, urls=(paths[0], url)), 1) is None
    monkeypatch.delenv("AIRFLOW__SEEDANCE__LEDGER")
    assert stored_copy(copied, 1) is None


def test_the_prompt_of_a_generation(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    same = {"generation_id": "g-0"}
    add(database, [row(1, **same, namespace="n"), row(2, **same, api="fal"), row(3), row(0, **same)])
    assert read_prompt(generation("g-0")) == "A heron, 0"
    assert read_prompt(generation("g-9")) is None
    monkeypatch.delenv("AIRFLOW__SEEDANCE__LEDGER")
    assert read_prompt(generation("g-0")) is None


@pytest.mark.parametrize(
    ("use", "left_out"),
    [
        (read_prompt, "The prompt of generation g-0 is not read."),
        (record_end, "The end of generation g-0 is not recorded."),
        (
            lambda one: record_stored_files([one], MOVED, None),
            "The library does not know where these files are stored.",
        ),
    ],
    ids=["prompt", "end", "files"],
)
def test_a_ledger_that_is_away_fails_nothing(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    use: Callable[[Generation], Any],
    left_out: str,
) -> None:
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", "sqlite:////nowhere/ledger.db")
    assert use(generation("g-0")) is None
    (line,) = caplog.messages
    assert line == (
        "The ledger ([seedance] ledger) cannot be used: the directory of /nowhere/ledger.db does not exist. It is not "
        f"taken for an empty one. {left_out}"
    )
