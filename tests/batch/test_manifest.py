"""The manifest: replaced as a whole, read line by line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch import manifest
from airflow_provider_seedance.batch.manifest import read_manifest, read_result, write_manifest

TEXT = st.text(st.characters(codec="utf-8"))
LINES = [{"key": "a", "status": "succeeded", "url": "https://x.example/1"}, {"key": "b", "status": "failed"}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "manifest.jsonl"


def test_a_written_manifest_is_read(tmp_path: Path) -> None:
    path = f"file://{tmp_path}/deep/manifest.jsonl"
    write_manifest(path, LINES)
    assert read_manifest(path) == LINES
    write_manifest(path, LINES[:1])
    assert read_manifest(path) == LINES[:1]
    assert os.listdir(tmp_path / "deep") == ["manifest.jsonl"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.fixed_dictionaries({"key": TEXT, "x": values})))
def test_every_written_line_is_read(path: Path, lines: list[dict[str, Any]]) -> None:
    write_manifest(str(path), lines)
    assert read_manifest(str(path)) == lines
    assert len(path.read_text("utf-8").splitlines()) == len(lines)


def test_a_failed_write_leaves_the_previous_manifest(path: Path) -> None:
    write_manifest(str(path), LINES)
    with pytest.raises(ValueError, match="JSON"):
        write_manifest(str(path), [*LINES, {"key": "c", "x": float("nan")}])
    assert read_manifest(str(path)) == LINES
    assert os.listdir(path.parent) == ["manifest.jsonl"]


@pytest.mark.parametrize(
    "torn", [b'{"key": "b", "sta', '{"key": "灯'.encode()[:-1], '{"key": "灯'.encode()[:-2]]
)
def test_an_incomplete_line_is_left_out(path: Path, caplog: pytest.LogCaptureFixture, torn: bytes) -> None:
    path.write_bytes(b'{"key": "a"}\n' + torn)
    assert read_manifest(str(path)) == [{"key": "a"}]
    assert f"The last line of {path} (2) is incomplete" in caplog.text
    for whole in ('{"key": "a"}\n{"key": "b"}', '\ufeff{"key": "a"}\r\n\r\n{"key": "b"}\r\n'):
        path.write_bytes(whole.encode())
        assert read_manifest(str(path)) == [{"key": "a"}, {"key": "b"}]


def test_lines_are_compact_utf_8(path: Path) -> None:
    write_manifest(str(path), [{"key": "灯", "urls": ["x"]}, {"key": "\ud800"}])
    assert path.read_bytes() == '{"key":"灯","urls":["x"]}\n{"key":"\\ud800"}\n'.encode()
    write_manifest(str(path), [])
    assert path.read_bytes() == b""
    assert read_manifest(str(path)) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((line, "Line") for line in (b"rubbish\n", b'{"key": 1}\n', b"[]\n", b'{"key": "a"}\n{"sta\n{}\n')),
        ('{"key": "a"}\n{"key": "灯'.encode()[:-1] + b"\n", r"Line 2 .* not JSON in UTF-8"),
        *(
            (b'{"key": "a", "x": 1e3}\n{"key": "b", "x": [%s]}\n' % number, r"Line 2 .* not JSON compliant")
            for number in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999")
        ),
    ],
)
def test_a_malformed_line_is_named(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(errors.SeedanceConfigurationError, match=message):
        read_manifest(str(path))


DONE = {"generation_id": "g", "api": "ark", "media": "video", **LINES[0], "urls": ["https://x.example/1"]}


def test_the_result_of_a_line() -> None:
    found = read_result({**DONE, "key": "a", "model": "\ud800\0", "credits": [1]})
    assert found
    assert (found.generation_id, found.model, found.credits) == ("g", "\ufffd\ufffd", None)
    deep: Any = []
    for _ in range(20_000):
        deep = [deep]
    for line in (LINES[1], {**DONE, "urls": None}, {**DONE, "x": deep}):
        assert read_result(line) is None


@pytest.mark.parametrize("name", ["manifest.jsonl", "", "no/manifest.jsonl", "file/manifest.jsonl"])
def test_a_missing_manifest_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(errors.SeedanceConfigurationError, match="no such file"):
        read_manifest(f"{tmp_path}/{name}")
    unusable = r"manifest 'nosuch://x/m\.jsonl' cannot be used"
    with pytest.raises(errors.SeedanceConfigurationError, match=unusable):
        read_manifest("nosuch://x/m.jsonl")


def test_a_manifest_that_is_too_large_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MAX_MANIFEST_BYTES", 20)
    path.write_text('{"key": "a"}\n')
    assert len(read_manifest(str(path))) == 1
    path.write_text('{"key": "a"}\n' * 2)
    with pytest.raises(errors.SeedanceConfigurationError, match="larger than"):
        read_manifest(str(path))


@pytest.mark.parametrize("method", ["info", "open"])
@pytest.mark.parametrize("error", [ConnectionError("hung up"), PermissionError("not now")])
def test_an_unreachable_store_is_worth_a_retry(path: Path, method: str, error: Exception) -> None:
    write_manifest(str(path), LINES)
    with (
        patch.object(LocalFileSystem, method, side_effect=error),
        pytest.raises(errors.SeedanceMediaError, match=str(error)) as caught,
    ):
        read_manifest(f"file://{path}")
    assert caught.value.retry_helps
