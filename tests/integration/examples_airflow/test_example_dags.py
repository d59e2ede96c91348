"""Every example Dag, run by a real Airflow against the emulator."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import pytest
from harness import TestAirflow
from renders_stage import EXAMPLES
from versions import REGIONS, needs

POOL = "seedance_renders"
RUNS: dict[str, dict[str, Any]] = {
    "example_seedance_daily": {},
    "example_seedance_callbacks": {},
    "example_seedance_upload": {"conf": {"prompt": "A paper boat, from the test"}},
    "example_seedance_image_to_video": {"conf": {"subject": "a kiosk in the snow"}},
    "example_seedance_choose": {"conf": {"prompt": "A watch in four previews"}},
    "example_seedance_preview_approval": {"conf": {"prompt": "A watch that waits for approval"}},
    "example_seedance_backfill": {"logical_date": datetime(2026, 1, 5, tzinfo=UTC)},
    "example_seedance_batch": {"logical_date": datetime(2026, 1, 6, tzinfo=UTC)},
    "example_seedance_refine": {},
    "example_seedance_sequence": {},
    "example_seedance_draft": {"conf": {"prompt": "A watch, from the draft"}},
    "example_seedance_fallback": {},
}
#: The task of a Dag that asks a person, and the answer.
QUESTIONS = {
    "example_seedance_preview_approval": ("approve", "Approve"),
    "example_seedance_choose": ("choose", "Orbit"),
    "example_seedance_draft": ("approve", "Approve"),
}
#: Dags that exist from this feature on only.
NEEDS = {"example_seedance_refine": REGIONS}


@pytest.fixture(scope="module")
def runs(examples: TestAirflow, emulator: Any) -> dict[str, str]:
    """A run of every example, all begun at once: Dag id to run id."""
    emulator.fault("refuse", api="runbase", status=402, times=None)
    examples.create_pool(POOL, 2)
    begun = {}
    examples.wait_parsed("example_seedance_batch_report")
    examples.unpause("example_seedance_batch_report")
    for dag_id, arguments in RUNS.items():
        if dag_id in NEEDS and not NEEDS[dag_id].there:
            continue
        examples.wait_parsed(dag_id)
        examples.unpause_unscheduled(dag_id)
        begun[dag_id] = examples.trigger(dag_id, **arguments)
    return begun


@pytest.fixture(scope="module")
def paid_before(examples: TestAirflow, runs: dict[str, str], emulator: Any) -> dict[str, Any]:
    """Answer all questions, when none is left out: what had been paid for by then, by prompt."""
    for dag_id, (task_id, _) in QUESTIONS.items():
        _wait_for_question(examples, dag_id, runs[dag_id], task_id)
    paid = {
        item.prompt: item.request["model"] for item in emulator.ledger.submissions if "model" in item.request
    }
    for dag_id, (task_id, option) in QUESTIONS.items():
        path = _question(dag_id, runs[dag_id], task_id)
        examples.rest("PATCH", path, {"chosen_options": [option], "params_input": {}})
    return paid


def _question(dag_id: str, run_id: str, task_id: str) -> str:
    return f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails"


def succeeded(airflow: TestAirflow, runs: dict[str, str], dag_id: str) -> str:
    """Wait for the success of an example; returns its run id."""
    run_id = runs[dag_id]
    state = airflow.wait_run(dag_id, run_id)
    failed = [row["task_id"] for row in airflow.task_instances(dag_id, run_id) if row["state"] == "failed"]
    logs = "\n".join(airflow.task_log(dag_id, run_id, task_id) for task_id in failed)
    assert state == "success", f"{failed} failed\n{logs}"
    return run_id


def seconds(path: Path) -> float:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None
        assert stream.time_base is not None
        return float(stream.duration * stream.time_base)


def test_there_is_a_test_for_every_example() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(RUNS)


def test_daily_generation(examples: TestAirflow, runs: dict[str, str]) -> None:
    run_id = succeeded(examples, runs, "example_seedance_daily")
    result = examples.xcom("example_seedance_daily", run_id, "generate")
    assert result["status"] == "succeeded"
    assert result["model"] == "seedance-2.0"


def test_called_back(examples: TestAirflow, runs: dict[str, str], emulator: Any) -> None:
    run_id = succeeded(examples, runs, "example_seedance_callbacks")
    for map_index in (0, 1):
        result = examples.xcom("example_seedance_callbacks", run_id, "render", map_index=map_index)
        about = [call for call in emulator.ledger.callbacks if call.generation_id == result["generation_id"]]
        assert [call.status for call in about] == [202]
        assert emulator.ledger.count("status", generation_id=result["generation_id"]) == 1


def test_render_and_upload(examples: TestAirflow, runs: dict[str, str], stored: Path) -> None:
    run_id = succeeded(examples, runs, "example_seedance_upload")
    result = examples.xcom("example_seedance_upload", run_id, "upload")
    path = Path(result["path"].removeprefix("file://"))
    assert path.parent == stored / "example_seedance_upload"
    assert path.stat().st_size == result["bytes"]
    assert seconds(path) == pytest.approx(5, abs=0.2)


def test_image_to_video(examples: TestAirflow, runs: dict[str, str], emulator: Any) -> None:
    dag_id = "example_seedance_image_to_video"
    run_id = succeeded(examples, runs, dag_id)
    image = examples.xcom(dag_id, run_id, "image")
    submission = next(
        item for item in emulator.ledger.submissions if "circles a kiosk in the snow" in item.prompt
    )
    assert submission.request["images"] == image["urls"]
    report = examples.xcom(dag_id, run_id, "report")
    assert examples.xcom(dag_id, run_id, "store")["path"] in report


def test_mapped_tasks_in_a_pool(examples: TestAirflow, runs: dict[str, str], stored: Path) -> None:
    run_id = succeeded(examples, runs, "example_seedance_backfill")
    files = sorted((stored / "example_seedance_backfill" / "2026-01-05").iterdir())
    assert len(files) == 3
    prompts = {
        examples.xcom("example_seedance_backfill", run_id, "render", map_index=index)["generation_id"]
        for index in range(3)
    }
    assert len(prompts) == 3


def test_a_batch_in_one_task(examples: TestAirflow, runs: dict[str, str], stored: Path) -> None:
    dag_id = "example_seedance_batch"
    run_id = succeeded(examples, runs, dag_id)
    folder = stored / dag_id / "2026-01-06"
    result = examples.xcom(dag_id, run_id, "render")
    assert (result["succeeded"], result["counts"]["succeeded"]) == ([], 3)
    assert result["manifest"] == f"{folder.as_uri()}/manifest.jsonl"
    names = ["lamp.mp4", "manifest.jsonl", "satchel.mp4", "shoes.mp4"]
    assert sorted(path.name for path in folder.iterdir()) == names
    clips = ["lamp.mp4", "satchel.mp4", "shoes.mp4"]
    (event,) = examples.asset_events(source_dag_id=dag_id, source_run_id=run_id)
    assert [Path(path).name for path in event["extra"]["paths"]] == clips
    # Airflow 3.1 also makes a run of today, which stores clips as well: Airflow may start one run for both events, with
    # one of them only if they come at the same moment.
    report = "example_seedance_batch_report"
    paths: list[str] = []

    def look() -> bool:
        found = examples.rest("GET", f"/dags/{report}/dagRuns")["dag_runs"]
        ended = [run["dag_run_id"] for run in found if run["state"] == "success"]
        paths[:] = [path for run in ended for path in examples.xcom(report, run, "report")]
        return bool(paths)

    examples.wait_until(look, 480, "the run that the asset starts")
    assert {Path(path).name for path in paths} == set(clips)


def test_full_render_waits_for_approval(
    examples: TestAirflow, runs: dict[str, str], emulator: Any, paid_before: dict[str, Any]
) -> None:
    dag_id = "example_seedance_preview_approval"
    models = [model for prompt, model in paid_before.items() if "waits for approval" in prompt]
    assert models == ["seedance-2.0-fast"] * 2, "the full render was paid for before the approval"
    run_id = succeeded(examples, runs, dag_id)
    assert "preview 2" in examples.rest("GET", _question(dag_id, run_id, "approve"))["body"]
    assert examples.xcom(dag_id, run_id, "full_render")["model"] == "seedance-2.0"
    assert sum("waits for approval" in item.prompt for item in emulator.ledger.submissions) == 3


def test_the_chosen_preview_is_rendered_in_full(
    examples: TestAirflow, runs: dict[str, str], emulator: Any, paid_before: dict[str, Any]
) -> None:
    succeeded(examples, runs, "example_seedance_choose")
    prompts = [(item.request.get("model"), item.prompt) for item in emulator.ledger.submissions]
    full = [prompt for model, prompt in prompts if "four previews" in prompt and model == "seedance-2.0"]
    assert full == ["A watch in four previews, the camera orbits slowly"]


def test_the_final_is_made_from_the_approved_draft(
    examples: TestAirflow, runs: dict[str, str], emulator: Any, paid_before: dict[str, Any]
) -> None:
    dag_id = "example_seedance_draft"
    run_id = succeeded(examples, runs, dag_id)
    draft = examples.xcom(dag_id, run_id, "draft")
    assert draft["url"] in examples.rest("GET", _question(dag_id, run_id, "approve"))["body"]
    final = examples.xcom(dag_id, run_id, "final")
    (paid,) = (item for item in emulator.ledger.submissions if item.generation_id == final["generation_id"])
    assert paid.request["content"] == [{"type": "draft_task", "draft_task": {"id": draft["generation_id"]}}]


def test_each_shot_begins_with_the_last_frame_of_the_one_before(
    examples: TestAirflow, runs: dict[str, str], emulator: Any
) -> None:
    dag_id = "example_seedance_sequence"
    run_id = succeeded(examples, runs, dag_id)
    shots = [examples.xcom(dag_id, run_id, f"shot_{number}") for number in (1, 2, 3)]
    requests = {item.generation_id: item.request for item in emulator.ledger.submissions}
    for earlier, later in itertools.pairwise(shots):
        first = requests[later["generation_id"]]["content"][1]
        assert first["image_url"]["url"] == earlier["last_frame_url"]


def test_the_second_service_renders_what_the_first_one_refuses(
    examples: TestAirflow, runs: dict[str, str], emulator: Any, stored: Path
) -> None:
    dag_id = "example_seedance_fallback"
    run_id = succeeded(examples, runs, dag_id)
    assert examples.xcom(dag_id, run_id, "render")["api"] == "seedanceapi-v1"
    assert examples.xcom(dag_id, run_id, "render", key="seedance_conn_id") == "seedance_fallback"
    assert list((stored / dag_id).glob("*.mp4"))
    items = examples.xcom(dag_id, run_id, "render_many")["succeeded"]
    assert [item["seedance_conn_id"] for item in items] == ["seedance_fallback"] * 2


def _wait_for_question(airflow: TestAirflow, dag_id: str, run_id: str, task_id: str) -> None:
    """
    Wait until the question of a task is pending, and its task process has ended.

    Airflow fails a task that goes on before the scheduler has seen the end of its first process; no person
    answers that quickly, but a test does.
    """

    def pending() -> bool:
        row = airflow.task_instance(dag_id, run_id, task_id)
        log = (airflow.home / "logs" / "scheduler.log").read_text()
        seen = f"TaskInstance Finished: dag_id={dag_id}, task_id={task_id}, run_id={run_id}" in log
        return seen and row.get("state") in ("deferred", "awaiting_input")

    airflow.wait_until(pending, 480, f"the question of task {task_id}", dag_id, run_id)


@needs(REGIONS)
def test_a_loop_pays_once_for_each_pass(examples: TestAirflow, runs: dict[str, str], emulator: Any) -> None:
    dag_id = "example_seedance_refine"
    run_id = succeeded(examples, runs, dag_id)
    prompts = ["A paper boat in the rain"]
    prompts += [f"{prompts[0]}, at dusk", f"{prompts[0]}, at dusk, the camera follows it"]
    paid = [item for item in emulator.ledger.submissions if item.prompt.startswith(prompts[0])]
    assert [item.prompt for item in paid] == prompts
    assert examples.xcom(dag_id, run_id, "report").startswith("3 renders, accepted: http")
    records = examples.database.rows(
        "SELECT region_index, value FROM task_state_store WHERE run_id = ? AND task_id = 'refine.render'"
        " ORDER BY region_index",
        run_id,
    )
    found = [json.loads(row["value"])["records"]["generation"]["generation_id"] for row in records]
    assert found == [item.generation_id for item in paid]
