"""Dry runs, the manifest, and requests from files."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from hostile.targets import check_storable
from support import Log

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.ledger import task_state
from operators.batch_runner import Batch, keys, kinds, lines


@pytest.mark.parametrize("api", ["seedanceapi-v1", "ark"])
def test_dry_run_sends_nothing(batch: Batch, log: Log, api: str) -> None:
    result = batch.run(["a", "b"], dry_run=True)
    assert batch.services.ledger.requests == []
    assert result["not_submitted"] == ["0", "1"]
    assert result["estimate"]["renders"] == 2
    if api == "ark":
        assert (result["credits"], result["estimate"]["unknown"]) == (None, 2)
        assert "unknown" in " ".join(log.lines)
    else:
        assert result["credits"] == 2 * batch.other_task().run(["a"])["credits"]


# ---------------------------------------------------------------------- manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "manifest.jsonl"


@pytest.fixture
def nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every result out of the state store, for its size."""
    monkeypatch.setattr(task_state, "MAX_VALUE_BYTES", 1)


def test_manifest_contains_the_items(batch: Batch, manifest: Path) -> None:
    batch.services.fault("fail", prompt="b", message="no")
    seen: list[int] = []
    batch.before_resume = lambda _: seen.append(len(lines(manifest)) if manifest.exists() else 0)
    url = f"file://{manifest}"
    result = batch.run(["a", "b", "c"], manifest_path=url, on_item_failure="keep", max_in_flight=1)
    assert (result["succeeded"], result["failed"], result["not_submitted"]) == ([], [], [])
    assert result["manifest"] == url
    assert result["counts"] == {"total": 3, "succeeded": 2, "failed": 1, "not_submitted": 0}
    written = lines(manifest)
    assert keys(written) == ["0", "1", "2"]
    assert [line["status"] for line in written] == ["succeeded", "failed", "succeeded"]
    assert written[0]["url"]
    assert written[1]["kind"] == "failed"
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("path", ["nosuchstore://bucket/m.jsonl", "{}/file/m.jsonl"])
def test_unwritable_manifest_fails_before_anything_is_paid(batch: Batch, tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((errors.SeedanceConfigurationError, errors.SeedanceMediaError)):
        batch.run(["a"], manifest_path=path.format(tmp_path))
    assert batch.paid == []


def test_results_are_restored_from_the_manifest(batch: Batch, manifest: Path, nothing_fits: None) -> None:
    batch.run(["a", "b"], manifest_path=str(manifest))
    requests, before = len(batch.services.ledger.requests), lines(manifest)
    batch.clear()
    assert len(batch.services.ledger.requests) == requests
    assert lines(manifest) == before


def test_results_of_ended_generations_are_not_overdue(
    batch: Batch, manifest: Path, nothing_fits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 600 * len(batch.deferrals))
    result = batch.run(["a", "b", "c"], max_in_flight=1, timeout=1000, manifest_path=str(manifest))
    assert result["counts"]["succeeded"] == 3
    first = batch.services.ledger.submissions[0].generation_id
    reads = [request for request in batch.services.ledger.requests if request.generation_id == first]
    assert [request.kind for request in reads if request.kind != "submit"] == ["status"]


#: ``tests/batch/test_manifest.py`` has more.
DAMAGES: tuple[dict[str, Any], ...] = (
    {"generation_id": ["g"]},
    {"urls": []},
    {"media": ["video"]},
    {"status": ["succeeded"]},
    {"expires_at": "2001-01-01T00:00:00Z"},
    {"credits": math.nan},
    {"model": {"a": 1}, "resolution": "\ud800\0"},
)


@pytest.mark.parametrize("api", ["seedance2api"])
def test_damaged_manifest_line_loses_no_render(batch: Batch, manifest: Path, nothing_fits: None) -> None:
    batch.run(["a", "b"], manifest_path=str(manifest))
    first, second = lines(manifest)
    for damage in DAMAGES:
        manifest.write_text(f"{json.dumps({**first, **damage})}\n{json.dumps(second)}\n")
        result = batch.clear()
        assert result["counts"]["succeeded"] == 2, damage
        check_storable([result, lines(manifest)])
        assert [line["urls"] for line in lines(manifest)] == [first["urls"], second["urls"]], damage
        assert len(batch.paid) == 2, damage


@pytest.mark.parametrize("emulator_options", [{"render_seconds": 0.1, "speed": 1}], ids=["real time"])
def test_manifest_is_complete_when_the_task_fails_later(batch: Batch, manifest: Path) -> None:
    batch.services.fault("rate_limit", on="submit", prompt="c", times=None, retry_after=3600)
    with pytest.raises(errors.SeedanceRateLimitError):
        batch.run(["a", "b", "c"], deferrable=False, max_in_flight=2, manifest_path=str(manifest))
    assert [line["status"] for line in lines(manifest)] == ["succeeded", "succeeded"]


# ---------------------------------------------------------------------- requests from files


def test_too_deeply_nested_request_fails_alone(batch: Batch, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    deep = '{"prompt": "b", "extra_params": {"x": ' + "[" * 600 + "]" * 600 + "}}"
    path.write_text(f'{{"prompt": "a"}}\n{deep}\n')
    result = batch.run(str(path), on_item_failure="keep")
    assert batch.paid == ["a"]
    assert kinds(result) == [("1", "request")]


def test_requests_from_a_file_that_no_manifest_replaces(batch: Batch, tmp_path: Path) -> None:
    path, text = tmp_path / "requests.csv", "key,prompt,duration\nlamp,a lamp,5\nshoe,a shoe,10\n"
    path.write_text(text)
    with pytest.raises(errors.SeedanceConfigurationError, match="file of the requests"):
        batch.run(str(path), manifest_path=str(path))
    assert path.read_text() == text
    result = batch.run(str(path))
    assert [(entry["key"], entry["duration"]) for entry in result["succeeded"]] == [("lamp", 5), ("shoe", 10)]
