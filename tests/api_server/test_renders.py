"""Content of the Renders page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_seedance.api_server import renders
from airflow_provider_seedance.api_server.renders import renders_of
from airflow_provider_seedance.api_server.totals import batches_of, totals_of
from airflow_provider_seedance.api_server.xcom_values import MAX_TEXT_CHARS, is_http_url, parse_xcom
from airflow_provider_seedance.apis.registry import console_of
from airflow_provider_seedance.decorators.seedance import _SeedanceVideoDecoratedOperator
from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoBatchOperator,
    SeedanceGenerateVideoOperator,
    SeedreamGenerateImageOperator,
)
from airflow_provider_seedance.sensors.seedance import SeedanceGenerationSensor
from airflow_provider_seedance.transfers.seedance_to_object_storage import SeedanceToObjectStorageOperator
from api_server.render_samples import batch, result, shown, store, video


def test_the_names_of_our_operators_are_those_of_the_classes() -> None:
    generating = (
        SeedanceGenerateVideoOperator,
        SeedreamGenerateImageOperator,
        SeedanceGenerateVideoBatchOperator,
        _SeedanceVideoDecoratedOperator,
    )
    names = {kind.__name__ for kind in generating} | {_SeedanceVideoDecoratedOperator.custom_operator_name}
    assert names == renders.GENERATION_OPERATORS
    assert {SeedanceGenerationSensor.__name__} == renders.SENSORS
    assert {SeedanceToObjectStorageOperator.__name__} == renders.TRANSFER_OPERATORS


def test_a_finished_render() -> None:
    (render,) = shown(video("success", result()))
    assert render["state"] == "succeeded"
    assert render["prompt"] == "A boat"
    assert render["model"] == "seedance-1.5-pro"
    assert (render["credits"], render["cost_usd"], render["duration"]) == (28, 0.14, 8)
    assert render["output_tokens"] is None
    assert render["started_at"] == "2026-05-01T12:00:05+00:00"
    assert render["ended_at"] == "2026-05-01T12:01:35+00:00"
    assert render["urls"] == ["https://media.example/g1.mp4"]
    assert render["files"] == []


def test_the_tokens_that_the_service_counted() -> None:
    for usage, tokens in (({"output_tokens": 9}, 9), ({"output_tokens": "x"}, None), ({}, None), (5, None)):
        (render,) = shown(video("success", result(usage=usage)))
        assert render["output_tokens"] == tokens


def test_state() -> None:
    for state, submitted, expected in [
        (None, False, "waiting"),
        ("scheduled", False, "waiting"),
        ("queued", False, "queued"),
        ("running", False, "running"),
        ("deferred", False, "queued"),
        ("deferred", True, "running"),
        ("restarting", True, "running"),
        ("up_for_retry", True, "retrying"),
        ("failed", True, "failed"),
        ("upstream_failed", False, "skipped"),
        ("skipped", False, "skipped"),
        ("removed", False, "cancelled"),
        ("a state of tomorrow", True, "running"),
    ]:
        (render,) = shown(video(state, xcoms={"generation_id": "g1"} if submitted else {}))
        assert render["state"] == expected
        assert render["state"] in renders.STATES
        assert (render["ended_at"] is not None) == (state == "failed")


@pytest.mark.parametrize(
    ("name", "stored", "expected"),
    [
        ("progress", 42, 42),
        ("progress", 5000, 100),
        ("progress", "lots", None),
        ("ends_at", "2026-03-10T12:00:00+00:00", "2026-03-10T12:00:00+00:00"),
        ("ends_at", 5, None),
    ],
)
def test_only_a_running_render_has_progress_and_an_expected_end(
    name: str, stored: Any, expected: Any
) -> None:
    xcoms = {"generation_id": "g1", f"seedance_{name}": stored}
    assert shown(video("deferred", xcoms=xcoms))[0][name] == expected
    assert shown(video("failed", xcoms=xcoms))[0][name] is None


def test_an_earlier_try_is_ignored() -> None:
    (render,) = shown(video("queued", result(), xcoms={"generation_id": "g1"}))
    assert (render["state"], render["generation_id"], render["urls"]) == ("queued", None, [])
    (cleared,) = shown(video(None, try_number=1))
    assert (cleared["state"], cleared["started_at"], cleared["ended_at"]) == ("waiting", None, None)


def test_other_operators_are_recognised_by_their_results() -> None:
    (render,) = shown(video("success", result(), operator="OurOwnVideoOperator"))
    assert render["generation_id"] == "g1"
    assert shown(video("success", {"a": 1}, operator="BashOperator")) == []


def test_one_generation_is_one_render() -> None:
    passed_on = video("success", result(), task_id="choose", operator="_PythonDecoratedOperator")
    waited = video("success", result(), task_id="wait", operator="SeedanceGenerationSensor")
    (found,) = shown(passed_on, waited, video("success", xcoms={"generation_id": "g1"}))
    assert found["task_id"] == "video"
    assert found["urls"] == ["https://media.example/g1.mp4"]


def test_a_sensor_for_another_generation_is_a_render() -> None:
    (render,) = shown(video("deferred", operator="SeedanceGenerationSensor"))
    assert render["state"] == "running"


def test_mapped_tasks_keep_their_order() -> None:
    found = shown(*(video("success", result(f"g{n}"), map_index=n) for n in range(1000)))
    assert [render["map_index"] for render in found] == list(range(1000))
    assert len({render["id"] for render in found}) == totals_of(found, [], {})["total"] == 1000


def test_stored_files_belong_to_their_generation() -> None:
    stored = store("s3://c@b/one.mp4", "s3://c@b/two.png", "s3://c@b/three.exe")
    files = shown(video("success", result()), stored)[0]["files"]
    assert [(file["index"], file["name"], file["media"]) for file in files] == [
        (0, "one.mp4", "video"),
        (1, "two.png", "image"),
    ]
    assert shown(video("success", result("g2")), store("s3://b/one.mp4"))[0]["files"] == []
    assert shown(video("success", result()), store("s3://b/one.mp4", state="running"))[0]["files"] == []


def test_stored_files_of_a_batch() -> None:
    batch_task = batch({"succeeded": [result("g1"), result("g2")], "counts": {}})
    stored = store("/a/1.mp4", "/a/2.mp4", generation_id=None, generation_ids=["g2", "g1"])
    first, second = shown(batch_task, stored)
    assert (first["files"][0]["index"], second["files"][0]["index"]) == (1, 0)


def test_a_batch() -> None:
    returned = {
        "succeeded": [{**result("g1"), "key": "shoes"}],
        "failed": [
            {"key": "lamp", "generation_id": "g2", "error": "moderation", "kind": "moderation"},
            {"key": "1", "generation_id": "g3", "error": "stopped", "kind": "cancelled"},
        ],
        "not_submitted": ["desk"],
        "counts": {"total": 4},
        "credits": 28,
        "cost_usd": 0.14,
        "manifest": None,
    }
    requests = [{"prompt": "Shoes", "key": "shoes"}, "By index", {"prompt": "Lamp", "key": "lamp"}]
    found = shown(batch(returned, fields={"requests": requests}))
    assert [(item["key"], item["state"], item["prompt"]) for item in found] == [
        ("shoes", "succeeded", "Shoes"),
        ("lamp", "failed", "Lamp"),
        ("1", "cancelled", "By index"),
        ("desk", "skipped", None),
    ]
    assert found[1]["error"] == "moderation"
    assert len({item["id"] for item in found}) == 4


def test_a_running_batch_has_a_count_and_a_dry_run_no_renders() -> None:
    (render,) = shown(batch(state="deferred", fields={"requests": ["a", "b"]}))
    assert (render["state"], render["count"]) == ("running", 2)
    assert shown(batch({"succeeded": [], "counts": {}, "not_submitted": ["a"], "estimate": {}})) == []


def test_a_batch_with_a_manifest() -> None:
    lines = [{**result("g1"), "key": "shoes", "prompt": "Shoes"}, {"key": "lamp", "status": "not_submitted"}]
    paths_read = []

    def read(path: str) -> Iterable[Mapping[str, Any]]:
        paths_read.append(path)
        return lines

    returned = {"succeeded": [], "counts": {"total": 2}, "manifest": "s3://b/m.jsonl"}
    task = replace(batch(returned), fields={"manifest_path": "s3://b/m.jsonl"})
    found = renders_of([task], read)
    assert paths_read == ["s3://b/m.jsonl"]
    # An XCom can name any path, and any task can return one.
    for other in (
        replace(task, fields={}),
        replace(task, fields={"manifest_path": "s3://b/another.jsonl"}),
        replace(task, operator="PythonOperator"),
    ):
        assert renders_of([other], read)[0]["count"] == 2
    assert paths_read == ["s3://b/m.jsonl"]
    assert [(item["key"], item["state"]) for item in found] == [("shoes", "succeeded"), ("lamp", "skipped")]


def test_an_unreadable_manifest_hides_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def read(path: str) -> Iterable[Mapping[str, Any]]:
        raise OSError("no such bucket: secret-name")

    task = batch({"succeeded": [], "counts": {"total": 7}, "manifest": "s3://b/m.jsonl", "credits": 3})
    other = video("success", result())
    found = renders_of([task, other], read)
    assert (found[0]["count"], found[0]["credits"]) == (7, 3)
    assert "secret" not in json.dumps(found)
    assert found[1]["generation_id"] == "g1"
    assert "cannot be read for the Renders page" in caplog.text


def test_results_of_any_shape() -> None:
    for strange in [
        {"generation_id": 7, "urls": "x"},
        {"generation_id": "g", "urls": [None, 5, {"a": 1}], "credits": float("nan"), "model": ["m"]},
        {"generation_id": "g", "urls": {}, "cost_usd": float("inf"), "prompt": {"x": 1}, "status": []},
        {"succeeded": "many", "counts": 3, "failed": [1, "x"], "not_submitted": {"a": 1}},
        {"succeeded": [[]], "counts": None, "manifest": 5},
        {"paths": "x", "sha256": None, "generation_id": "g"},
        {"paths": [1, None], "sha256": None, "generation_ids": "g"},
        [[], {}, None, 3],
        "text",
        7,
    ]:
        found = shown(video("success", strange, xcoms={"generation_id": ["x"], "seedance_progress": {}}))
        json.dumps(totals_of(found, [], {}), allow_nan=False)


def test_only_http_urls_reach_the_page() -> None:
    hostile = [
        "javascript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "file:///etc/passwd",
        "//host/x",
        "https:///x",
        "https://ok.example/a.mp4\nX: y",
        "http://[",
        "https://ok.example/<script>.mp4",
    ]
    (render,) = shown(video("success", result(urls=hostile)))
    assert render["urls"] == ["https://ok.example/<script>.mp4"]
    assert not is_http_url(None)


def test_a_long_prompt_is_truncated() -> None:
    (render,) = shown(video("success", result(), fields={"prompt": "x" * 100_000}))
    assert len(render["prompt"]) == MAX_TEXT_CHARS


def test_parse_xcom() -> None:
    wrapped = {"__classname__": "builtins.tuple", "__version__": 1, "__data__": [1, 2]}
    assert parse_xcom({"a": wrapped}) == {"a": [1, 2]}
    assert parse_xcom('{"a": 1}') == {"a": 1}
    assert parse_xcom("{no json") == "{no json"
    assert parse_xcom("plain") == "plain"


def test_totals() -> None:
    found = shown(
        video("success", result("g1")),
        video("success", result("g2", credits=None, cost_usd=None), map_index=1),
        video("failed", task_id="third"),
        store("s3://b/one.mp4"),
    )
    assert totals_of(found, [], {}) == {
        "total": 3,
        "states": {"succeeded": 2, "failed": 1},
        "credits": 28,
        "cost_usd": 0.14,
        "spent": {"credits": 28, "cost_usd": 0.14, "at_least": False},
        "unpriced": 1,
        "seconds": 16,
        "stored": 1,
    }
    assert totals_of([], [], {})["credits"] is None


def test_the_console_of_the_service() -> None:
    for api, generation_id, address in [
        ("replicate", "a/b", "https://replicate.com/p/a%2Fb"),
        ("ark", "cgt-1", "https://console.byteplus.com/ark"),
        ("seedanceapi-v1", "g1", None),
        ("unknown", "g1", None),
        (["ark"], "g1", None),
        ("ark", None, None),
    ]:
        assert console_of(api, generation_id) == address


# ---------------------------------------------------------------------- batches that go on, and tasks that failed


REQUEST = {"prompt": "A shoe", "duration": 8, "images": ["https://b.example/a.png"], "fixed_lens": True}

ITEMS = [
    {**result("g1"), "key": "shoe", "request": REQUEST},
    {
        "key": "lamp",
        "status": "failed",
        "generation_id": "g2",
        "error": "The service failed.",
        "kind": "failed",
        "credits": 14,
        "cost_usd": 0.07,
        "created_at": "2026-05-01T12:00:00+00:00",
        "completed_at": "2026-05-01T12:00:40+00:00",
    },
    {"key": "hat", "status": "running", "generation_id": "g3", "created_at": "2026-05-01T12:00:02+00:00"},
    {"key": "cup", "status": "not_submitted", "request": {"prompt": "A cup"}},
]


def reported(state: str, **xcoms: Any) -> renders.Task:
    counts = {"total": 4, "succeeded": 1, "failed": 1, "in_flight": 1, "not_submitted": 1}
    known = {"credits": 42, "cost_usd": 0.21, "ends_at": "2026-05-01T12:09:00Z"}
    report = {"items": ITEMS, "counts": counts, **known}
    return batch(state=state, xcoms={"seedance_report": report, **xcoms})


def times_of(render: dict[str, Any]) -> tuple[Any, Any]:
    return render["started_at"], render["ended_at"]


def test_a_batch_that_goes_on_shows_its_items_with_their_own_prompts_and_times() -> None:
    done, failed, in_flight, waiting = shown(reported("deferred"))
    states = [render["state"] for render in (done, failed, in_flight, waiting)]
    assert states == ["succeeded", "failed", "running", "waiting"]
    assert done["urls"] == ["https://media.example/g1.mp4"]
    assert done["prompt"] == "A shoe"
    assert done["request"] == {**REQUEST, "images": '["https://b.example/a.png"]', "fixed_lens": "true"}
    assert times_of(failed) == ("2026-05-01T12:00:00+00:00", "2026-05-01T12:00:40+00:00")
    assert times_of(in_flight) == ("2026-05-01T12:00:02+00:00", None)
    assert times_of(waiting) == (None, None)
    assert waiting["prompt"] == "A cup"
    (summary,) = batches_of([reported("deferred")], {})
    assert summary["counts"]["in_flight"] == 1
    assert (summary["credits"], summary["ends_at"], summary["error"]) == (42, "2026-05-01T12:09:00Z", None)


def test_what_has_ended_since_the_task_deferred_plays_at_once() -> None:
    found = shown(reported("deferred", seedance_progress=[result("g3"), result("unknown"), None]))
    assert [render["state"] for render in found] == ["succeeded", "failed", "succeeded", "waiting"]
    assert found[2]["urls"] == ["https://media.example/g3.mp4"]


def test_the_line_of_a_batch_counts_what_has_ended_since_the_task_deferred() -> None:
    progress = [result("g3"), result("g1"), result("unknown")]
    (summary,) = batches_of([reported("deferred", seedance_progress=progress)], {})
    assert summary["counts"] == {"total": 4, "succeeded": 2, "failed": 1, "in_flight": 0, "not_submitted": 1}
    assert (summary["credits"], summary["cost_usd"]) == (70, 0.35)


def test_an_item_keeps_the_time_of_its_submission_if_the_service_reports_none() -> None:
    ended = {**result("g3"), "created_at": None}
    render = shown(reported("deferred", seedance_progress=[ended]))[2]
    assert times_of(render) == ("2026-05-01T12:00:02+00:00", "2026-05-01T12:01:35+00:00")


def test_an_uncertain_submission_is_not_one_that_failed() -> None:
    report = {"items": [{"key": "bell", "status": "failed", "kind": "uncertain", "error": "unknown"}]}
    assert shown(reported("failed", seedance_report=report))[0]["state"] == "uncertain"
    (render,) = shown(video("failed", xcoms={"seedance_report": {"kind": "uncertain"}}))
    assert (render["state"], totals_of([render], [], {})["states"]) == ("uncertain", {"uncertain": 1})
    (render,) = shown(video("up_for_retry", xcoms={"seedance_report": {"kind": "uncertain"}}))
    assert render["state"] == "retrying"


def test_a_batch_that_failed_shows_what_it_paid_for() -> None:
    task = reported("failed", seedance_error="A budget of this connection is used up.")
    done, failed, in_flight, waiting = shown(task)
    assert (done["state"], done["credits"]) == ("succeeded", 28)
    assert done["urls"] == ["https://media.example/g1.mp4"]
    assert (failed["error"], failed["credits"]) == ("The service failed.", 14)
    assert (in_flight["state"], waiting["state"]) == ("failed", "skipped")
    assert "may go on and be billed" in in_flight["error"]
    totals = totals_of(shown(task), [], {})
    assert (totals["credits"], totals["cost_usd"]) == (28, 0.14)
    assert totals["spent"] == {"credits": 42, "cost_usd": 0.21, "at_least": False}
    (summary,) = batches_of([task], {})
    assert (summary["error"], summary["ends_at"]) == ("A budget of this connection is used up.", None)


def test_a_batch_with_a_result_has_no_report() -> None:
    task = batch({"succeeded": [], "counts": {"total": 0}}, xcoms={"seedance_report": {"items": ITEMS}})
    assert shown(task) == []
    assert batches_of([task], {}) == []


@pytest.mark.parametrize(
    ("state", "shown_state", "error"),
    [
        ("failed", "failed", "oops"),
        ("up_for_retry", "retrying", "oops"),
        ("running", "running", None),  # the error is that of an earlier try
    ],
)
def test_a_failed_task_shows_its_error_and_its_cost(state: str, shown_state: str, error: str | None) -> None:
    failed = result("g1", status="failed", urls=[])
    xcoms = {"generation_id": "g1", "seedance_error": "oops", "seedance_report": failed}
    (render,) = shown(video(state, xcoms=xcoms))
    assert (render["state"], render["error"], render["credits"]) == (shown_state, error, 28)
    found = totals_of([render], [], {})
    assert (found["credits"], found["spent"]["credits"]) == (None, 28)


def test_reports_of_any_shape() -> None:
    for strange in [
        *(7, [], "text", {"items": "x"}),
        {"items": [7, {"status": []}, {"status": "running", "generation_id": []}], "counts": 3},
        {"items": [{"status": "running"}], "counts": {"total": "x", "in_flight": None}},
    ]:
        task = reported("failed", seedance_report=strange, seedance_progress=strange, seedance_error=strange)
        totals_of(shown(task), [], {})
        batches_of([task], {})
        batches_of(
            [reported("deferred", seedance_report=strange, seedance_progress=[{}, {"generation_id": []}])], {}
        )


def test_what_a_result_says_of_its_request_is_added_to_the_rendered_arguments() -> None:
    returned = {**result("g1"), "request": {"generate_audio": True}}
    (render,) = shown(video(returned=returned, fields={"prompt": "A shoe", "fps": 24}))
    assert render["prompt"] == "A shoe"
    assert render["request"] == {"prompt": "A shoe", "fps": 24, "generate_audio": "true"}
