"""Dry runs, the manifest, requests from files, and the report of a batch for the Renders page."""

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
from airflow_provider_seedance.batch.items import BatchItem, Phase
from airflow_provider_seedance.batch.results import MAX_REPORTED_ITEMS, report_of, request_of
from operators.batch_runner import Batch, keys, kinds, lines


@pytest.fixture
def api() -> str:
    return "seedanceapi-v1"


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


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "manifest.jsonl"


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
    reads = [request for request in batch.services.ledger.requests if request.generation_id == batch.ids[0]]
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


def test_too_deeply_nested_request_fails_alone(batch: Batch, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    deep = '{"prompt": "b", "extra_params": {"x": ' + "[" * 600 + "]" * 600 + "}}"
    path.write_text(f'{{"prompt": "a"}}\n{deep}\n')
    result = batch.run(str(path), on_item_failure="keep")
    assert batch.paid == ["a"]
    assert kinds(result) == [("1", "request")]


def test_requests_from_a_file_that_no_manifest_replaces(batch: Batch, tmp_path: Path) -> None:
    path, text = tmp_path / "requests.csv", "key,prompt,duration\nlamp,a lamp,4\nshoe,a shoe,8\n"
    path.write_text(text)
    with pytest.raises(errors.SeedanceConfigurationError, match="file of the requests"):
        batch.run(str(path), manifest_path=str(path))
    assert path.read_text() == text
    result = batch.run(str(path))
    assert [(entry["key"], entry["duration"]) for entry in result["succeeded"]] == [("lamp", 4), ("shoe", 8)]


def states(report: dict[str, Any]) -> list[str]:
    return [item["status"] for item in report["items"]]


def test_a_batch_reports_its_items_before_it_defers(batch: Batch) -> None:
    batch.defer(["a lamp", "a shoe", "a hat"], max_in_flight=2)
    report = batch.ti.pushed["seedance_report"]
    assert states(report) == ["running", "running", "not_submitted"]
    assert [item["request"] for item in report["items"]] == [
        {"prompt": p} for p in ("a lamp", "a shoe", "a hat")
    ]
    assert report["items"][0]["created_at"] is not None
    assert report["counts"] == {"total": 3, "succeeded": 0, "failed": 0, "in_flight": 2, "not_submitted": 1}
    assert "seedance_error" not in batch.ti.pushed


def test_a_batch_that_fails_reports_what_it_paid_for_and_why(batch: Batch) -> None:
    with pytest.raises(errors.SeedanceError) as failed:
        batch.run(["a lamp", "a shoe"], max_credits=30)
    report = batch.ti.pushed["seedance_report"]
    assert sorted(states(report)) == ["not_submitted", "succeeded"]
    assert report["credits"] == 28
    assert batch.ti.pushed["seedance_error"] == str(failed.value)


@pytest.mark.parametrize("deferrable", [True, False])
def test_an_item_has_its_own_times_where_the_service_reports_none(batch: Batch, deferrable: bool) -> None:
    batch.services.fault("fail", prompt="a shoe")
    result = batch.run(["a lamp", "a shoe"], deferrable=deferrable, on_item_failure="keep")
    for item in (*result["succeeded"], *result["failed"]):
        assert item["created_at"] <= item["completed_at"]


def test_the_advice_about_an_uncertain_item_is_given_once(batch: Batch) -> None:
    batch.services.fault("drop_reply", prompt="a bell")
    result = batch.run(["a bell", "a lamp"], on_item_failure="keep")
    (error,) = [item["error"] for item in result["failed"]]
    assert error.count("may have been billed") == 1
    assert "…" not in error


@pytest.mark.parametrize("included", [True, False])
def test_result_and_manifest_hold_the_requests_if_wanted(
    batch: Batch, manifest: Path, included: bool
) -> None:
    arguments = {"duration": "8", "include_requests": included}
    result = batch.run([{"prompt": "a lamp", "key": "lamp"}], **arguments)
    request = {"prompt": "a lamp", "duration": 8}
    assert result["succeeded"][0].get("request") == (request if included else None)
    batch.other_task().run(["a hat"], manifest_path=str(manifest), **arguments)
    assert lines(manifest)[0].get("request") == ({**request, "prompt": "a hat"} if included else None)


@pytest.mark.parametrize("api", ["ark"])
def test_inputs_have_no_signatures(batch: Batch) -> None:
    shown = [{"url": f"https://b.example/{name}.png", "role": f"{name}_frame"} for name in ("first", "last")]
    inputs = [{**one, "url": f"{one['url']}?token=abc"} for one in shown]
    (clip,) = batch.run([{"prompt": "a lamp", "images": inputs}])["succeeded"]
    assert clip["request"]["images"] == shown
    (clip,) = batch.other_task().run([{"prompt": "a hat", "images": inputs[0]["url"]}])["succeeded"]
    assert clip["request"]["images"] == ["https://b.example/first.png"]


def test_a_request_keeps_the_types_that_the_transfer_compares(batch: Batch) -> None:
    (clip,) = batch.run([{"prompt": "a lamp", "duration": "8", "generate_audio": "true"}])["succeeded"]
    assert clip["request"] == {"prompt": "a lamp", "duration": 8, "generate_audio": True}


def test_a_readable_request_has_neither_signatures_nor_data() -> None:
    images = ["https://user:pw@b.example/a.png?v=2&access_token=abc", "data:image/png;base64,AAAA"]
    extra = {"a": {1}, "b": "https://c.example/?key=abc"}
    arguments = {"prompt": "x", "images": images, "seed": float("nan"), "extra_params": extra}
    request = request_of(BatchItem(key="0", arguments=arguments))
    assert request["images"] == ["https://b.example/a.png", "data:…"]
    assert "abc" not in json.dumps(request, allow_nan=False)


def test_the_report_of_a_large_batch_has_what_was_submitted_first() -> None:
    items = [BatchItem(key=str(index), arguments={}) for index in range(MAX_REPORTED_ITEMS + 5)]
    items[-1].phase = Phase.IN_FLIGHT
    report = report_of(items, ends_at=None)
    assert len(report["items"]) == MAX_REPORTED_ITEMS
    assert report["items"][-1]["key"] == items[-1].key
    assert report["counts"]["total"] == len(items)
