"""Queries of the Renders page, on a real schema in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from metadata_rows import MODELS_OF_3_4, add_row
from versions import REGIONS, needs

from airflow_provider_seedance.api_server import queries
from airflow_provider_seedance.api_server.queries import Scope
from airflow_provider_seedance.api_server.renders import TRANSFER_OPERATORS
from api_server.metadata_database import NOW, STORE, VIDEO, MetadataDatabase

HERE = Scope(dag_id="d", run_id="r/1")
LATER = NOW.replace(hour=13)


def transfer(map_index: int, region: str = "", **elsewhere: str) -> Scope:
    return replace(HERE, **{"task_id": "store", "map_index": map_index, "region": region, **elsewhere})


@pytest.fixture
def metadata(metadata: MetadataDatabase) -> MetadataDatabase:
    """A metadata database with a run."""
    metadata.run(state="queued")
    return metadata


def test_find_run(metadata: MetadataDatabase) -> None:
    run = queries.find_run(metadata.session, HERE)
    assert run == {
        "dag_id": "d",
        "run_id": "r/1",
        "state": "queued",
        "started_at": None,
        "ended_at": None,
        "logical_date": None,
        "run_after": "2026-05-01T12:00:00+00:00",
    }
    assert queries.find_run(metadata.session, Scope(dag_id="d", run_id="r")) is None


def test_tasks_with_their_xcoms_and_fields(metadata: MetadataDatabase) -> None:
    metadata.run(run_id="other")
    result = {"generation_id": "g", "urls": []}
    metadata.task(
        "video", VIDEO, xcoms={"return_value": result, "generation_id": "g"}, fields={"prompt": "p"}
    )
    metadata.task("video", VIDEO, run_id="other", xcoms={"generation_id": "of another run"})
    metadata.task("noise", "BashOperator", xcoms={"return_value": {"many": "things"}})
    metadata.task("own", "OurOwnOperator", xcoms={"return_value": result, "unrelated": "x"})
    metadata.task("waits", "SeedanceGenerationSensor", state=None, start_date=None)
    found = {task.task_id: task for task in queries.tasks_of(metadata.session, HERE)}
    assert set(found) == {"video", "own", "waits"}
    assert found["video"].xcoms == {"return_value": result, "generation_id": "g"}
    assert found["video"].fields == {"prompt": "p"}
    assert found["video"].started_at == NOW
    assert found["own"].xcoms == {"return_value": result}
    assert found["waits"].state is None


def test_mapped_tasks_are_in_order(metadata: MetadataDatabase) -> None:
    for index in (2, 0, 1):
        started = NOW.replace(minute=10 - index)
        metadata.task("video", VIDEO, map_index=index, start_date=started)
    metadata.task("before", VIDEO, start_date=NOW)
    found = queries.tasks_of(metadata.session, HERE)
    order = [("before", -1), ("video", 0), ("video", 1), ("video", 2)]
    assert [(task.task_id, task.map_index) for task in found] == order


def test_the_number_of_queries_does_not_depend_on_the_number_of_tasks(metadata: MetadataDatabase) -> None:
    metadata.task("video", VIDEO, map_index=0, xcoms={"generation_id": "g0"}, fields={})
    counts = []
    for number in (1, 100):
        for index in range(1, number):
            metadata.task("video", VIDEO, map_index=index, xcoms={"generation_id": f"g{index}"}, fields={})
        metadata.sent.clear()
        assert len(queries.tasks_of(metadata.session, HERE)) == number
        counts.append(len(metadata.sent))
    assert counts == [3, 3]


def test_the_revision_changes_with_the_content(metadata: MetadataDatabase) -> None:
    seen = [queries.revision(metadata.session, HERE)]
    for number, change in enumerate(({}, {"xcoms": {"generation_id": "g"}}, {"updated_at": LATER})):
        metadata.task(f"video-{number}", VIDEO, **change)
        seen.append(queries.revision(metadata.session, HERE))
    assert len(set(seen)) == 4
    assert queries.revision(metadata.session, HERE) == seen[-1]


def test_find_task(metadata: MetadataDatabase) -> None:
    metadata.task("video", VIDEO, map_index=1, state="deferred", fields={"on_clear": "new"})
    task = queries.find_task(metadata.session, replace(HERE, task_id="video", map_index=1))
    assert (task.shown_state, task.fields) == ("running", {"on_clear": "new"})
    assert queries.find_task(metadata.session, replace(HERE, task_id="video")) is None


def test_find_transfer(metadata: MetadataDatabase) -> None:
    stored = {"paths": ["s3://b/x.mp4"], "sha256": ["0"], "generation_id": "g"}
    fields = {"object_storage_conn_id": "aws"}
    metadata.task("store", STORE, map_index=3, xcoms={"return_value": stored}, fields=fields)
    task = queries.find_task(metadata.session, transfer(3), TRANSFER_OPERATORS)
    assert (task.result, task.fields) == (stored, fields)
    for other in (transfer(-1), transfer(3, run_id="r"), transfer(3, dag_id="D")):
        assert queries.find_task(metadata.session, other, TRANSFER_OPERATORS) is None


# ---------------------------------------------------------------------- Airflow 3.4


@needs(REGIONS)
def test_the_passes_of_a_loop_are_kept_apart(metadata: MetadataDatabase) -> None:
    loop = metadata.region("improve")
    for number in range(3):
        metadata.task(
            "video",
            VIDEO,
            map_index=number,
            region=loop,
            xcoms={"generation_id": f"g{number}"},
            fields={"prompt": f"pass {number}"},
            start_date=NOW.replace(minute=number),
        )
    found = queries.tasks_of(metadata.session, HERE)
    assert [(task.map_index, task.iteration, task.region) for task in found] == [
        (-1, number, f"{loop}.{number}") for number in range(3)
    ]
    assert [task.xcoms["generation_id"] for task in found] == ["g0", "g1", "g2"]
    assert [task.fields["prompt"] for task in found] == ["pass 0", "pass 1", "pass 2"]


@needs(REGIONS)
def test_the_transfer_of_each_pass_is_found(metadata: MetadataDatabase) -> None:
    loop = metadata.region("improve")
    for number in range(2):
        stored = {"paths": [f"s3://b/{number}.mp4"], "sha256": ["0"]}
        metadata.task("store", STORE, map_index=number, region=loop, xcoms={"return_value": stored})
    for number in range(2):
        task = queries.find_task(metadata.session, transfer(-1, f"{loop}.{number}"), TRANSFER_OPERATORS)
        assert task.result["paths"] == [f"s3://b/{number}.mp4"]
    for region in ("", f"{loop}.2", f"{'0' * 31}1.0"):
        assert queries.find_task(metadata.session, transfer(-1, region), TRANSFER_OPERATORS) is None


@needs(REGIONS)
def test_a_mapped_task_has_its_map_index(metadata: MetadataDatabase) -> None:
    expansion = metadata.region("video")
    metadata.task("video", VIDEO, map_index=2, region=expansion)
    (task,) = queries.tasks_of(metadata.session, HERE)
    assert (task.map_index, task.iteration, task.region) == (2, None, f"{expansion}.2")


@needs(REGIONS)
def test_earlier_attempts_are_not_shown(metadata: MetadataDatabase) -> None:
    earlier = {"working_set": None, "try_number": 1, "xcoms": {"generation_id": "earlier"}}
    metadata.task("video", VIDEO, fields={"prompt": "earlier"}, **earlier)
    metadata.task("video", VIDEO, xcoms={"generation_id": "now"}, fields={"prompt": "now"}, try_number=2)
    (task,) = queries.tasks_of(metadata.session, HERE)
    assert (task.xcoms["generation_id"], task.fields["prompt"]) == ("now", "now")


@needs(REGIONS)
def test_rows_from_before_the_upgrade_are_shown(metadata: MetadataDatabase) -> None:
    xcom, fields, owner, _ = MODELS_OF_3_4
    ti_id = metadata.task("video", VIDEO, map_index=1)
    at = {"dag_id": "d", "run_id": "r/1", "task_id": "video", "map_index": 1}
    add_row(metadata.session, owner, **at, task_instance_id=ti_id)
    add_row(metadata.session, fields, **at, rendered_fields={"prompt": "old"})
    add_row(metadata.session, xcom, **at, dag_run_id=1, key="generation_id", value="g", timestamp=NOW)
    (task,) = queries.tasks_of(metadata.session, HERE)
    assert (task.fields, task.xcoms) == ({"prompt": "old"}, {"generation_id": "g"})


@needs(REGIONS)
def test_find_task_by_the_map_index_that_the_library_knows(metadata: MetadataDatabase) -> None:
    metadata.task("video", VIDEO, map_index=1, region=metadata.region("video"), state="deferred")
    metadata.task("video", VIDEO, map_index=1, region=metadata.region("improve"))
    assert queries.find_task(metadata.session, transfer(1, task_id="video")).shown_state == "running"
    assert queries.find_task(metadata.session, transfer(-1, task_id="video")) is None
