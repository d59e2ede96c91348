"""The report of a batch for the Renders page, and the requests in its result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch.items import BatchItem, Phase
from airflow_provider_seedance.batch.results import MAX_REPORTED_ITEMS, report_of, request_of
from operators.batch_runner import Batch, lines


@pytest.fixture
def api() -> str:
    return "seedanceapi-v1"


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
    batch: Batch, tmp_path: Path, included: bool
) -> None:
    arguments = {"duration": 8, "include_requests": included}
    result = batch.run([{"prompt": "a lamp", "key": "lamp"}], **arguments)
    request = {"prompt": "a lamp", "duration": 8}
    assert result["succeeded"][0].get("request") == (request if included else None)
    path = tmp_path / "manifest.jsonl"
    batch.other_task().run(["a hat"], manifest_path=str(path), **arguments)
    assert lines(path)[0].get("request") == ({**request, "prompt": "a hat"} if included else None)


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
