"""The Renders page of batches that go on, and of tasks that failed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from airflow_provider_seedance.api_server.renders import Task
from airflow_provider_seedance.api_server.totals import batches_of, totals_of
from api_server.render_samples import ENDED, batch, result, shown, video

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


def reported(state: str, **xcoms: Any) -> Task:
    counts = {"total": 4, "succeeded": 1, "failed": 1, "in_flight": 1, "not_submitted": 1}
    report = {
        "items": ITEMS,
        "counts": counts,
        "credits": 42,
        "cost_usd": 0.21,
        "ends_at": "2026-05-01T12:09:00Z",
    }
    xcoms = {"seedance_report": report, **xcoms}
    return replace(batch(None), state=state, xcoms=xcoms, ended_at=ENDED if state == "failed" else None)


def test_a_batch_that_goes_on_shows_its_items_with_their_own_prompts_and_times() -> None:
    done, failed, in_flight, waiting = shown(reported("deferred"))
    states = [render["state"] for render in (done, failed, in_flight, waiting)]
    assert states == ["succeeded", "failed", "running", "waiting"]
    assert done["urls"] == ["https://media.example/g1.mp4"]
    assert done["prompt"] == "A shoe"
    assert done["request"] == {**REQUEST, "images": '["https://b.example/a.png"]', "fixed_lens": "true"}
    assert (failed["started_at"], failed["ended_at"]) == (
        "2026-05-01T12:00:00+00:00",
        "2026-05-01T12:00:40+00:00",
    )
    assert (in_flight["started_at"], in_flight["ended_at"]) == ("2026-05-01T12:00:02+00:00", None)
    assert (waiting["started_at"], waiting["ended_at"], waiting["prompt"]) == (None, None, "A cup")
    (summary,) = batches_of([reported("deferred")], {})
    assert summary["counts"]["in_flight"] == 1
    assert (summary["credits"], summary["ends_at"], summary["error"]) == (42, "2026-05-01T12:09:00Z", None)


def test_what_has_ended_since_the_task_deferred_plays_at_once() -> None:
    renders = shown(reported("deferred", seedance_progress=[result("g3"), result("unknown"), None]))
    assert [render["state"] for render in renders] == ["succeeded", "failed", "succeeded", "waiting"]
    assert renders[2]["urls"] == ["https://media.example/g3.mp4"]


def test_the_line_of_a_batch_counts_what_has_ended_since_the_task_deferred() -> None:
    progress = [result("g3"), result("g1"), result("unknown")]
    (summary,) = batches_of([reported("deferred", seedance_progress=progress)], {})
    assert summary["counts"] == {"total": 4, "succeeded": 2, "failed": 1, "in_flight": 0, "not_submitted": 1}
    assert (summary["credits"], summary["cost_usd"]) == (70, 0.35)


def test_an_item_keeps_the_time_of_its_submission_if_the_service_reports_none() -> None:
    ended = {**result("g3"), "created_at": None}
    render = shown(reported("deferred", seedance_progress=[ended]))[2]
    assert (render["started_at"], render["ended_at"]) == (
        "2026-05-01T12:00:02+00:00",
        "2026-05-01T12:01:35+00:00",
    )


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
    assert (done["state"], done["credits"], done["urls"]) == (
        "succeeded",
        28,
        ["https://media.example/g1.mp4"],
    )
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


def test_a_failed_task_shows_its_error_and_its_cost() -> None:
    for state, expected in [("failed", "failed"), ("up_for_retry", "retrying")]:
        failed = {**result("g1", status="failed", urls=[], credits=28), "status": "failed"}
        xcoms = {
            "generation_id": "g1",
            "seedance_error": "The service failed: oops.",
            "seedance_report": failed,
        }
        (render,) = shown(video(state, xcoms=xcoms))
        assert (render["state"], render["error"], render["credits"]) == (
            expected,
            "The service failed: oops.",
            28,
        )
        assert totals_of([render], [], {})["spent"]["credits"] == 28
        assert totals_of([render], [], {})["credits"] is None


def test_the_error_of_an_earlier_try_is_not_that_of_the_running_one() -> None:
    (render,) = shown(video("running", xcoms={"seedance_error": "an earlier one"}))
    assert render["error"] is None


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
