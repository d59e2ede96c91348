"""Lineage as the client of OpenLineage writes it."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from support import PROMPT, SECRET, Store, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance import observability
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.observability import lineage
from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoBatchOperator,
    SeedanceGenerateVideoOperator,
)
from airflow_provider_seedance.transfers.seedance_to_object_storage import SeedanceToObjectStorageOperator

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openlineage") is None, reason="the OpenLineage provider is not installed"
)

FACET = "seedance_generation"


def generation(number: int = 1, **changes: Any) -> Generation:
    made = Generation(
        generation_id=f"gen-{number}",
        api="seedanceapi-v1",
        media="video",
        status=GenerationStatus.SUCCEEDED,
        model="seedance-1.5-pro",
        urls=("https://media.example/v.mp4?X-Signature=topsecret",),
        credits=14,
        cost_usd=0.07,
    )
    return replace(made, **changes)


def batch(count: int) -> dict[str, Any]:
    counts = {"total": count + 1, "succeeded": count, "failed": 1, "not_submitted": 0}
    succeeded = [{**generation(number).result(), "key": str(number)} for number in range(count)]
    return {"succeeded": succeeded, "counts": counts, "credits": 14.0 * count, "cost_usd": None}


def stored(*paths: str, path: str | None = None) -> dict[str, Any]:
    return {
        "path": path or paths[0],
        "paths": list(paths),
        "bytes": 7,
        "sha256": ["ab"] * len(paths),
        "generation_id": None if path else "gen-1",
    }


def written(reported: Any) -> dict[str, Any]:
    """Return lineage as the client of OpenLineage writes it."""
    from openlineage.client.serde import Serde

    def write(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: Serde.to_dict(facet) for name, facet in value.items()}
        return [Serde.to_dict(one) for one in value]

    places = {"run": "run_facets", "job": "job_facets", "inputs": "inputs", "outputs": "outputs"}
    text = json.dumps({name: write(getattr(reported, place)) for name, place in places.items()})
    assert "topsecret" not in text
    return json.loads(text)  # type: ignore[no-any-return]


# ---------------------------------------------------------------------- generations


def test_a_single_generation() -> None:
    sent = written(lineage.of_generations(generation().result()))
    for place in ("run", "job"):
        facet = sent[place][FACET]
        assert (facet["generationIds"], facet["generations"]) == (["gen-1"], 1)
        assert (facet["model"], facet["api"]) == ("seedance-1.5-pro", "seedanceapi-v1")
        assert (facet["credits"], facet["costUsd"]) == (14, 0.07)
        assert facet["_schemaURL"]
    (output,) = sent["outputs"]
    assert (output["namespace"], output["name"]) == ("seedance://seedanceapi-v1", "gen-1")
    assert output["facets"][FACET]["credits"] == 14
    unknown = generation(model=None, credits=None, cost_usd=None).result()
    facet = written(lineage.of_generations(unknown))["run"][FACET]
    assert facet["generationIds"] == ["gen-1"]
    assert not {"model", "credits", "costUsd", "counts", "manifest"} & set(facet)


def test_a_batch_names_the_first_hundred_and_counts_all() -> None:
    result = batch(250)
    sent = written(lineage.of_generations(result))
    facet = sent["run"][FACET]
    assert len(facet["generationIds"]) == len(sent["outputs"]) == 100
    assert facet["generations"] == 250
    assert facet["credits"] == 14 * 250
    assert facet["counts"]["failed"] == 1
    for one, model in zip(result["succeeded"], "fbdacb" * 42, strict=False):
        one["model"] = model
    assert written(lineage.of_generations(result))["run"][FACET]["model"] == "a, b, c, d, f"


@pytest.mark.parametrize(
    ("manifest", "name"),
    [
        ("s3://some_conn@bucket/m.jsonl", "s3://bucket/m.jsonl"),
        ("s3://bucket/a@b.jsonl", "s3://bucket/a@b.jsonl"),
        ("/data/m.jsonl", "/data/m.jsonl"),
        ("file:///data/m.jsonl", "file:///data/m.jsonl"),
    ],
)
def test_the_manifest_is_named_without_the_connection(manifest: str, name: str) -> None:
    result = {**batch(1), "manifest": manifest}
    assert written(lineage.of_generations(result))["run"][FACET]["manifest"] == name


# ---------------------------------------------------------------------- the transfer


@pytest.mark.parametrize(
    ("path", "namespace", "name"),
    [
        ("s3://bucket/videos/a.mp4", "s3://bucket", "videos/a.mp4"),
        ("s3://aws_default@bucket/videos/", "s3://bucket", "videos"),
        ("s3a://bucket/a.mp4", "s3://bucket", "a.mp4"),
        ("s3://bucket/take #2?/a.mp4", "s3://bucket", "take #2?/a.mp4"),
        ("s3://bucket/me@home/a.mp4", "s3://bucket", "me@home/a.mp4"),
        ("gs://bucket", "gs://bucket", "/"),
        ("gcs://bucket/a.mp4", "gs://bucket", "a.mp4"),
        ("abfs://wasb_default@container/a.mp4", "abfs://container", "a.mp4"),
        ("file:///data/a.mp4", "file", "/data/a.mp4"),
        ("file://conn@/data/a.mp4", "file", "/data/a.mp4"),
        ("local:///data/videos/", "file", "/data/videos"),
        ("/data/videos/", "file", "/data/videos"),
        ("/data/take #2.mp4", "file", "/data/take #2.mp4"),
        ("/", "file", "/"),
    ],
)
def test_a_path_has_the_name_of_a_dataset(path: str, namespace: str, name: str) -> None:
    from airflow_provider_seedance.observability import lineage_facets

    assert lineage_facets.dataset_name(path) == (namespace, name)


def test_names_are_those_of_openlineage() -> None:
    from openlineage.client.naming import dataset as naming

    from airflow_provider_seedance.observability import lineage_facets

    for path, expected in {
        "s3://conn@bucket/videos/a.mp4": naming.S3("bucket", "videos/a.mp4"),
        "gcs://conn@bucket/videos/a.mp4": naming.GCS("bucket", "videos/a.mp4"),
        "file:///data/a.mp4": naming.LocalFileSystem("/data/a.mp4"),
    }.items():
        assert lineage_facets.dataset_name(path) == (expected.get_namespace(), expected.get_name())


def test_a_transfer_leads_from_the_generation_to_the_file() -> None:
    made = lineage.of_generations(generation().result())
    sent = written(lineage.of_transfer(stored("s3://bucket/a.mp4"), [generation()]))
    (one,), (output,) = sent["inputs"], sent["outputs"]
    assert (one["namespace"], one["name"]) == (made.outputs[0].namespace, made.outputs[0].name)
    assert (output["namespace"], output["name"]) == ("s3://bucket", "a.mp4")
    facet = output["facets"][FACET]
    assert (facet["generationIds"], facet["bytes"], facet["sha256"]) == (["gen-1"], 7, ["ab"])
    assert (facet["model"], facet["credits"], facet["costUsd"]) == ("seedance-1.5-pro", 14, 0.07)
    # A transfer pays for nothing: adding up what runs and jobs cost must not count the render twice.
    assert not sent["run"]
    assert "credits" not in sent["job"][FACET]


@pytest.mark.parametrize(
    ("result", "name"),
    [
        (stored("s3://c@b/set/1.png", "s3://c@b/set/2.png"), "set"),
        (stored("s3://b/set/x/1.png", "s3://b/set/y/2.png"), "set"),
        (stored("s3://b/1.png", "s3://b/2.png"), "/"),
        (stored("/set/1.png", "/set/2.png"), "/set"),
        (stored("s3://b/set/k/1.mp4", "s3://b/set/k/2.mp4", path="s3://b/set/"), "set"),
        (stored("s3://b/set/1.mp4", path="s3://b/set/"), "set"),
    ],
)
def test_several_files_are_one_dataset(result: dict[str, Any], name: str) -> None:
    (output,) = lineage.of_transfer(result, [generation()]).outputs
    assert output.name == name


def test_a_transfer_of_many_names_the_first_hundred_and_adds_up_all() -> None:
    result = stored(*(f"s3://b/set/{number}.mp4" for number in range(250)), path="s3://b/set/")
    sent = written(lineage.of_transfer(result, [generation(number) for number in range(250)]))
    assert len(sent["inputs"]) == 100
    (output,) = sent["outputs"]
    facet = output["facets"][FACET]
    assert len(facet["generationIds"]) == len(facet["sha256"]) == 100
    assert facet["generations"] == 250
    assert (facet["credits"], facet["costUsd"]) == (14 * 250, 17.5)


# ---------------------------------------------------------------------- operators with the listener of Airflow


def event(task: Any, state: str = "success") -> dict[str, Any]:
    """Return the event that the OpenLineage listener of Airflow sends about a task."""
    from airflow.providers.openlineage.extractors.manager import ExtractorManager
    from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter
    from airflow.utils.state import TaskInstanceState
    from openlineage.client import OpenLineageClient
    from openlineage.client.serde import Serde

    transport = Mock(kind="recorder")
    adapter = OpenLineageAdapter(OpenLineageClient(transport=transport))
    report = adapter.fail_task if state == "failed" else adapter.complete_task
    extracted = ExtractorManager().extract_metadata(
        SimpleNamespace(run_id="run"), task, TaskInstanceState(state), task_instance=None
    )
    report(
        run_id="01a1fcfd-0dae-79b7-a6ab-4fedb3ab9f3f",
        job_name="dag.task",
        end_time="2026-01-05T00:00:00+00:00",
        task=extracted,
        owners=[],
        tags=[],
        **dict.fromkeys(("nominal_start_time", "nominal_end_time", "job_description")),
    )
    (call,) = transport.emit.call_args_list
    return json.loads(Serde.to_json(call.args[0]))  # type: ignore[no-any-return]


def test_lineage_leads_from_the_generation_to_the_file(
    services: SeedanceEmulator, connect: Callable[..., None], tmp_path: Path
) -> None:
    connect("seedanceapi-v1")
    image = "https://b.example/i.png?X-Sig=s"
    render = SeedanceGenerateVideoOperator(
        task_id="render", prompt=PROMPT, duration=4, deferrable=False, images=image
    )
    result = render.execute(make_context(Store()))
    store = SeedanceToObjectStorageOperator(task_id="store", generation=result, destination=f"{tmp_path}/")
    path = store.execute({})["path"]
    rendered, kept = event(render), event(store)

    assert rendered["run"]["facets"][FACET]["generationIds"] == [result["generation_id"]]
    assert rendered["job"]["facets"][FACET]["credits"] == result["credits"] is not None
    named = [(one["namespace"], one["name"]) for one in rendered["outputs"]]
    assert named == [("seedance://seedanceapi-v1", result["generation_id"])]
    assert [(one["namespace"], one["name"]) for one in kept["inputs"]] == named
    assert [(one["namespace"], one["name"]) for one in kept["outputs"]] == [("file", path)]
    assert kept["outputs"][0]["facets"][FACET]["bytes"] == Path(path).stat().st_size
    sent = json.dumps([rendered, kept])
    for secret in (PROMPT, SECRET, result["url"], services.url, "X-Sig"):
        assert secret not in sent


def test_a_failed_batch_reports_its_paid_generations(
    services: SeedanceEmulator, connect: Callable[..., None]
) -> None:
    connect("seedanceapi-v1")
    services.fault("fail", prompt="bad", times=9)
    task = SeedanceGenerateVideoBatchOperator(
        task_id="batch", requests=["good", "bad"], duration=4, deferrable=False, poll_interval=0.01
    )
    with pytest.raises(errors.SeedanceError, match="1 of 2 renders failed"):
        task.execute(make_context(Store()))
    sent = event(task, "failed")
    assert sent["eventType"] == "FAIL"
    facet = sent["run"]["facets"][FACET]
    assert (facet["generations"], facet["counts"]["failed"]) == (1, 1)
    assert [one["name"] for one in sent["outputs"]] == facet["generationIds"]


def test_a_task_without_a_result_reports_nothing() -> None:
    task = SeedanceGenerateVideoOperator(task_id="render", prompt=PROMPT)
    sent = event(task, "failed")
    assert FACET not in sent["run"]["facets"]
    assert not sent["outputs"]
    # An empty answer: Airflow warns of None in the task's log.
    for nothing in (task.get_openlineage_facets_on_complete(None), lineage.of_transfer(None)):
        assert nothing is not None
        assert not any(written(nothing).values())


# ---------------------------------------------------------------------- without OpenLineage, and errors


@pytest.mark.parametrize(
    "missing", ["airflow.providers.openlineage.extractors", "openlineage.client.facet_v2"]
)
def test_without_openlineage_nothing_is_reported(
    missing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    # Another test may have imported this already.
    monkeypatch.delitem(sys.modules, "airflow_provider_seedance.observability.lineage_facets", raising=False)
    monkeypatch.delattr(observability, "lineage_facets", raising=False)
    assert lineage.of_generations(generation().result()) is None
    assert lineage.of_generations(batch(2)) is None
    assert lineage.of_transfer(stored("/x/a.mp4"), [generation()]) is None
    render = SeedanceGenerateVideoOperator(task_id="render", prompt=PROMPT)
    render.delivered = generation().result()
    assert render.get_openlineage_facets_on_complete(None) is None
    assert not caplog.records


def test_lineage_never_fails_a_task(caplog: pytest.LogCaptureFixture) -> None:
    odd: Any
    unwritable = {"generation_id": object(), "credits": object()}
    for odd in ({"succeeded": [{}]}, {"succeeded": 5}, generation().result() | unwritable):
        lineage.of_generations(odd)
    for odd in ([None], None):
        lineage.of_transfer(stored("/a"), odd)
    caplog.clear()
    assert lineage.of_transfer({"paths": []}, [generation()]) is None
    assert "could not be reported" in caplog.text
