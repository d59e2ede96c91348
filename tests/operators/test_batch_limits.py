"""Limits on credits, the manifest, and requests from files."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hostile.targets import check_storable
from support import Log

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.ledger import task_state
from airflow_provider_seedance.triggers import events
from operators.batch_runner import Connect, Runner, keys, lines, make, paid

# ---------------------------------------------------------------------- max_credits


def test_max_credits_stops_before_the_next_could_exceed_it(
    services: SeedanceEmulator, connect: Connect, log: Log
) -> None:
    connect("seedanceapi-v1")
    price = Runner().run(make(["a"]))["credits"]
    result = Runner().run(make(["a", "b", "c", "d"], max_credits=2.5 * price, on_item_failure="keep"))
    assert (keys(result["succeeded"]), result["not_submitted"]) == (["0", "1"], ["2", "3"])
    assert result["credits"] == 2 * price
    assert any(
        line.startswith(
            f"max_credits={2.5 * price:g}: {2 * price:g} credits are spent and {0.5 * price:g} left"
        )
        and line.endswith("2 renders were not submitted: 2, 3.")
        for line in log.lines
    )
    runner, op = Runner(), make(["a", "b", "c", "d"], max_credits=2.5 * price)
    with pytest.raises(errors.SeedanceBatchFinalError, match=r"2 were not submitted.*max_credits"):
        runner.run(op)


def test_max_credits_holds_over_a_clear_for_other_takes(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v1")
    price = Runner().run(make(["z"]))["credits"]
    runner, op = Runner(), make(["a", "b"], max_credits=3 * price, on_clear="new", on_item_failure="keep")
    assert runner.run(op)["counts"]["succeeded"] == 2
    runner.ti.clear()
    result = runner.run(op)
    assert result["not_submitted"] == ["1"]
    assert sorted(paid(services)) == ["a", "a", "b", "z"]
    runner.ti.clear()
    runner.run(op)
    assert sorted(paid(services)) == ["a", "a", "b", "z"]


def test_max_credits_holds_over_retries(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v1")
    price = Runner().run(make(["z"]))["credits"]
    services.fault("fail", times=None, message="no")
    runner, op = Runner(), make(["a", "b"], max_credits=3 * price)
    for _ in range(3):
        with pytest.raises(errors.SeedanceBatchError):
            runner.run(op)
        runner.ti.retry()
    assert len(paid(services)) == 1 + 3


def test_failed_render_that_consumed_nothing_is_not_counted(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("seedanceapi-v1")
    price = Runner().run(make(["z"]))["credits"]
    read_event = events.read_event

    def nothing_consumed(event: Any, generation_id: str) -> Any:
        generation = read_event(event, generation_id)
        return generation and replace(generation, credits=0.0 if generation.error_message else price)

    monkeypatch.setattr(events, "read_event", nothing_consumed)
    services.fault("fail", prompt="a", message="no")
    runner, op = Runner(), make(["a", "b"], max_credits=2 * price)
    with pytest.raises(errors.SeedanceBatchError):
        runner.run(op)
    runner.ti.retry()
    assert runner.run(op)["credits"] == 2 * price
    assert sorted(paid(services)) == ["a", "a", "b", "z"]


def test_uncertain_item_counts_against_max_credits(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v1")
    price = Runner().run(make(["z"]))["credits"]
    services.fault("drop_reply", prompt="a")
    result = Runner().run(make(["a", "b", "c"], max_credits=2 * price, on_item_failure="keep"))
    assert (keys(result["succeeded"]), keys(result["failed"])) == (["1"], ["0"])
    assert result["not_submitted"] == ["2"]


def test_max_credits_without_prices_is_refused(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    with pytest.raises(errors.SeedanceConfigurationError, match="publishes no price"):
        Runner().run(make(["a"], max_credits=10))
    assert paid(services) == []


@pytest.mark.parametrize("api", ["seedanceapi-v1", "ark"])
def test_dry_run_sends_nothing(services: SeedanceEmulator, connect: Connect, log: Log, api: str) -> None:
    connect(api)
    result = Runner().run(make(["a", "b"], dry_run=True))
    assert services.ledger.requests == []
    assert result["not_submitted"] == ["0", "1"]
    assert result["estimate"]["renders"] == 2
    if api == "ark":
        assert (result["credits"], result["estimate"]["unknown"]) == (None, 2)
        assert "unknown" in " ".join(log.lines)
    else:
        assert result["credits"] == 2 * Runner().run(make(["a"]))["credits"]


# ---------------------------------------------------------------------- manifest and files


def test_manifest_contains_the_items(services: SeedanceEmulator, connect: Connect, tmp_path: Path) -> None:
    connect("seedanceapi-v2")
    services.fault("fail", prompt="b", message="no")
    path = tmp_path / "out" / "manifest.jsonl"
    path.parent.mkdir()
    op = make(["a", "b", "c"], manifest_path=f"file://{path}", on_item_failure="keep", max_in_flight=1)
    runner = Runner()
    seen: list[int] = []
    runner.before_resume = lambda _: seen.append(len(lines(path)) if path.exists() else 0)
    result = runner.run(op)
    assert (result["succeeded"], result["failed"], result["not_submitted"]) == ([], [], [])
    assert result["manifest"] == f"file://{path}"
    assert result["counts"] == {"total": 3, "succeeded": 2, "failed": 1, "not_submitted": 0}
    written = lines(path)
    assert [(line["key"], line["status"]) for line in written] == [
        ("0", "succeeded"),
        ("1", "failed"),
        ("2", "succeeded"),
    ]
    assert written[0]["url"]
    assert written[1]["kind"] == "failed"
    assert seen == [0, 1, 2]


def test_unwritable_manifest_fails_before_anything_is_paid(
    services: SeedanceEmulator, connect: Connect, tmp_path: Path
) -> None:
    connect("seedanceapi-v2")
    (tmp_path / "file").write_text("")
    for path in ("nosuchstore://bucket/m.jsonl", f"{tmp_path}/file/m.jsonl"):
        with pytest.raises((errors.SeedanceConfigurationError, errors.SeedanceMediaError)):
            Runner().run(make(["a"], manifest_path=path))
    assert paid(services) == []


def test_results_are_restored_from_the_manifest(
    services: SeedanceEmulator, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("seedanceapi-v2")
    monkeypatch.setattr(task_state, "MAX_VALUE_BYTES", 1)
    path = tmp_path / "manifest.jsonl"
    runner, op = Runner(), make(["a", "b"], manifest_path=str(path))
    runner.run(op)
    requests, before = len(services.ledger.requests), lines(path)
    runner.ti.clear()
    runner.run(op)
    assert len(services.ledger.requests) == requests
    assert lines(path) == before


def test_results_of_ended_generations_are_not_overdue(
    services: SeedanceEmulator, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("seedanceapi-v2")
    monkeypatch.setattr(task_state, "MAX_VALUE_BYTES", 1)
    runner = Runner()
    runner.before_resume = lambda _: time.sleep(0.6)
    op = make(["a", "b", "c"], max_in_flight=1, timeout=1, manifest_path=str(tmp_path / "manifest.jsonl"))
    assert runner.run(op)["counts"]["succeeded"] == 3
    first = services.ledger.submissions[0].generation_id
    reads = [request for request in services.ledger.requests if request.generation_id == first]
    assert [request.kind for request in reads if request.kind != "submit"] == ["status"]


DAMAGES: tuple[dict[str, Any], ...] = (
    {"generation_id": ["g"]},
    {"generation_id": {}},
    {"urls": []},
    {"urls": "x"},
    {"media": ["video"]},
    {"status": ["succeeded"]},
    {"expires_at": "2001-01-01T00:00:00Z"},
    {"credits": "abc"},
    {"credits": [1]},
    {"credits": math.nan},
    {"cost_usd": math.inf},
    {"duration": "long"},
    {"model": {"a": 1}, "resolution": "\ud800\0"},
)


def test_damaged_manifest_line_neither_stops_the_batch_nor_loses_a_render(
    services: SeedanceEmulator, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("seedance2api")
    monkeypatch.setattr(task_state, "MAX_VALUE_BYTES", 1)
    path = tmp_path / "manifest.jsonl"
    runner, op = Runner(), make(["a", "b"], manifest_path=str(path))
    runner.run(op)
    first, second = lines(path)
    for damage in DAMAGES:
        path.write_text(f"{json.dumps({**first, **damage})}\n{json.dumps(second)}\n")
        runner.ti.clear()
        result = runner.run(op)
        assert result["counts"]["succeeded"] == 2, damage
        check_storable([result, lines(path)])
        assert [line["urls"] for line in lines(path)] == [first["urls"], second["urls"]], damage
        assert len(paid(services)) == 2, damage


def test_too_deeply_nested_request_fails_alone(
    services: SeedanceEmulator, connect: Connect, tmp_path: Path
) -> None:
    connect("seedanceapi-v2")
    path = tmp_path / "requests.jsonl"
    deep = '{"prompt": "b", "extra_params": {"x": ' + "[" * 600 + "]" * 600 + "}}"
    path.write_text(f'{{"prompt": "a"}}\n{deep}\n')
    result = Runner().run(make(str(path), on_item_failure="keep"))
    assert paid(services) == ["a"]
    assert [(entry["key"], entry["kind"]) for entry in result["failed"]] == [("1", "request")]


def test_requests_from_a_file(services: SeedanceEmulator, connect: Connect, tmp_path: Path) -> None:
    connect("seedanceapi-v2")
    path = tmp_path / "requests.csv"
    path.write_text("key,prompt,duration\nlamp,a lamp,5\nshoe,a shoe,10\n")
    result = Runner().run(make(str(path)))
    assert [(entry["key"], entry["duration"]) for entry in result["succeeded"]] == [("lamp", 5), ("shoe", 10)]
