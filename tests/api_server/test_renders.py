"""Content of the Renders page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_seedance.api_server import renders
from airflow_provider_seedance.api_server.renders import Task, renders_of
from airflow_provider_seedance.api_server.totals import totals_of
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
    for usage, tokens in [
        ({"output_tokens": 108_900}, 108_900),
        ({"output_tokens": "x"}, None),
        ({}, None),
        (5, None),
    ]:
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


def test_only_a_running_render_has_progress() -> None:
    xcoms = {"generation_id": "g1", "seedance_progress": 42}
    assert shown(video("deferred", xcoms=xcoms))[0]["progress"] == 42
    assert shown(video("failed", xcoms=xcoms))[0]["progress"] is None
    assert shown(video("deferred", xcoms={**xcoms, "seedance_progress": 5000}))[0]["progress"] == 100
    assert shown(video("deferred", xcoms={**xcoms, "seedance_progress": "lots"}))[0]["progress"] is None


def test_only_a_running_render_has_an_expected_end() -> None:
    xcoms = {"generation_id": "g1", "seedance_ends_at": "2026-03-10T12:00:00+00:00"}
    assert shown(video("deferred", xcoms=xcoms))[0]["ends_at"] == "2026-03-10T12:00:00+00:00"
    assert shown(video("failed", xcoms=xcoms))[0]["ends_at"] is None
    assert shown(video("deferred", xcoms={**xcoms, "seedance_ends_at": 5}))[0]["ends_at"] is None


def test_the_result_of_an_earlier_try_is_ignored() -> None:
    (render,) = shown(video("queued", result(), xcoms={"generation_id": "g1"}))
    assert (render["state"], render["generation_id"], render["urls"]) == ("queued", None, [])


def test_other_operators_are_ignored() -> None:
    other = Task(task_id="other", operator="BashOperator", state="success", xcoms={"return_value": {"a": 1}})
    assert shown(other) == []


def test_a_custom_operator_is_recognised_by_its_result() -> None:
    (render,) = shown(video("success", result(), operator="OurOwnVideoOperator"))
    assert render["generation_id"] == "g1"


def test_one_generation_is_one_render() -> None:
    passed_on, waited = (
        Task(task_id=task_id, operator=operator, state="success", xcoms={"return_value": result()})
        for task_id, operator in (
            ("choose", "_PythonDecoratedOperator"),
            ("wait", "SeedanceGenerationSensor"),
        )
    )
    submitted = video("success", xcoms={"generation_id": "g1"})
    found = shown(passed_on, waited, submitted)
    assert [render["task_id"] for render in found] == ["video"]
    assert found[0]["urls"] == ["https://media.example/g1.mp4"]


def test_a_sensor_for_another_generation_is_a_render() -> None:
    (render,) = shown(Task(task_id="wait", operator="SeedanceGenerationSensor", state="deferred"))
    assert render["state"] == "running"


def test_mapped_tasks_keep_their_order() -> None:
    tasks = [video("success", result(f"g{index}"), map_index=index) for index in range(12)]
    assert [render["map_index"] for render in shown(*tasks)] == list(range(12))
    assert len({render["id"] for render in shown(*tasks)}) == 12


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


def test_a_running_batch_has_a_count() -> None:
    (render,) = shown(
        video("deferred", operator="SeedanceGenerateVideoBatchOperator", fields={"requests": ["a", "b"]})
    )
    assert (render["state"], render["count"]) == ("running", 2)


def test_a_dry_run_has_no_renders() -> None:
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


def test_a_cleared_task_that_waits_has_no_time_of_its_earlier_try() -> None:
    (render,) = shown(video(None, try_number=1))
    assert (render["state"], render["started_at"], render["ended_at"]) == ("waiting", None, None)


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


def test_a_thousand_renders() -> None:
    tasks = [video("success", result(f"g{index}"), map_index=index) for index in range(1000)]
    assert totals_of(shown(*tasks), [], {})["total"] == 1000


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
