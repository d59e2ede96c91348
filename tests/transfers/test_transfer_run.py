"""The transfer of a batch: its forms, names, failures of single items, asset events."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import UserList
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Asset, ObjectStoragePath
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.transfers import transfer_run
from transfers.conftest import Service
from transfers.results import Transfer, batch, data_of, items, names_in, operator, run_into
from transfers.server import MediaServer, Reply

pytestmark = pytest.mark.usefixtures("conn")


# ---------------------------------------------------------------------- forms of a batch


def as_manifest(value: Any, tmp_path: Path) -> Any:
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in value["succeeded"]))
    return batch([], manifest=f"file://{path}")


def as_path(value: Any, tmp_path: Path) -> Any:
    return as_manifest(value, tmp_path)["manifest"]


FORMS: dict[str, Callable[[Any, Path], Any]] = {
    "result": lambda value, tmp_path: value,
    "text": lambda value, tmp_path: str(value),
    "JSON": lambda value, tmp_path: json.dumps(value),
    "manifest": as_manifest,
    "text of a manifest": lambda value, tmp_path: str(as_manifest(value, tmp_path)),
    "URL": as_path,
    "path": lambda value, tmp_path: as_path(value, tmp_path).removeprefix("file://"),
    "quoted URL": lambda value, tmp_path: json.dumps(as_path(value, tmp_path)),
    "ObjectStoragePath": lambda value, tmp_path: ObjectStoragePath(as_path(value, tmp_path)),
    "list": lambda value, tmp_path: value["succeeded"],
    "text of a list": lambda value, tmp_path: str(value["succeeded"]),
    # A sequence other than a list, as Airflow has for the outputs of mapped tasks.
    "sequence": lambda value, tmp_path: UserList(value["succeeded"]),
}


def expected(out: Path, *keys: str) -> dict[str, Any]:
    """Return the result of a transfer that has stored items."""
    return {
        "path": f"{out}/",
        "paths": [f"{out}/{key}.mp4" for key in keys],
        "bytes": sum(len(data_of(key)) for key in keys),
        "sha256": [hashlib.sha256(data_of(key)).hexdigest() for key in keys],
        "generation_id": None,
        "generation_ids": [f"gen-{key}" for key in keys],
        "stored": len(keys),
        "skipped": 0,
        "problems": [],
    }


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_forms_of_a_batch(host: MediaServer, tmp_path: Path, form: Callable[..., Any]) -> None:
    out = tmp_path / "out"
    result = run_into(out, form(batch(items(host, "lamp", "shoe")), tmp_path), verify=None)
    assert result == expected(out, "lamp", "shoe")
    assert (out / "lamp.mp4").read_bytes() == data_of("lamp")


def with_failures(succeeded: list[Any], tmp_path: Path) -> Any:
    return batch(succeeded, failed=[{"key": "x", "error": "no", "kind": "failed"}], not_submitted=["y"])


def failed_results(succeeded: list[Any], tmp_path: Path) -> Any:
    return [*succeeded, *[{**succeeded[0], "key": key, "status": "failed", "urls": []} for key in "xy"]]


def torn_manifest(succeeded: list[Any], tmp_path: Path) -> Any:
    failed = {"key": "x", "generation_id": "gen-x", "status": "failed", "error": "no", "kind": "failed"}
    value = as_manifest(batch([*succeeded, failed, {"key": "y", "status": "not_submitted"}]), tmp_path)
    with (tmp_path / "manifest.jsonl").open("a") as file:
        file.write('{"key": "d", "sta')
    return value


@pytest.mark.parametrize("form", [with_failures, failed_results, torn_manifest])
def test_failed_items_are_left_out(
    host: MediaServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, form: Any
) -> None:
    out = tmp_path / "out"
    assert run_into(out, form(items(host, "lamp"), tmp_path), verify=None) == expected(out, "lamp")
    assert "2 items without an output: failed" in caplog.text
    assert ("incomplete" in caplog.text) is (form is torn_manifest)


def test_batch_without_a_success(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run_into(tmp_path / "out", batch([], not_submitted=["y"])) == expected(tmp_path / "out")
    assert "No item of the batch has succeeded" in caplog.text
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- names


def test_names_from_the_item(transfer: Transfer, tmp_path: Path) -> None:
    (one,) = items(transfer.host, "lamp")
    one["urls"] = [*one["urls"], transfer.host.put("/second.mp4", b"second")]
    result = transfer.run([one], name_template="{model}/{key}-{index}.mp4")
    assert result["paths"] == [f"{tmp_path}/seedance-2.0/lamp-{index}.mp4" for index in (1, 2)]
    assert result["generation_ids"] == ["gen-lamp", "gen-lamp"]
    unnamed = [{**one, "key": None} for one in items(transfer.host, "a", "b")]
    assert transfer.run(unnamed)["paths"] == [f"{tmp_path}/gen-{key}.mp4" for key in "ab"]


def test_keys_with_equal_names_get_different_files(transfer: Transfer) -> None:
    """Names that differ only in case are equal on many disks."""
    long = "x" * 199
    result = transfer.run(items(transfer.host, "a b", "a_b", "A_B", f"{long}灯1"[:200], f"{long}/"))
    names = [Path(path).name.casefold() for path in result["paths"]]
    assert len(set(names)) == 5
    assert names[1] == "a_b.mp4"
    assert all(name.startswith(("a_b", "xxx")) for name in names)
    assert Path(transfer.run(items(transfer.host, "a b"))["path"], "a_b.mp4").read_bytes() == data_of("a b")


@pytest.mark.parametrize(
    ("template", "name"), [("{generation_id}.{ext}", r"g\.ext"), ("clip.mp4", r"clip\.mp4")]
)
def test_equal_names_are_refused_before_anything_is_sent(
    transfer: Transfer, tmp_path: Path, template: str, name: str
) -> None:
    """Many disks do not distinguish names by case."""
    pair = zip(items(transfer.host, "a", "b"), "Gg", strict=True)
    results = [{**one, "generation_id": letter} for one, letter in pair]
    message = f"'a' and 'b' would both be stored as '{name}'"
    transfer.fail(errors.SeedanceConfigurationError, results, message, name_template=template)
    assert transfer.host.requests == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["../../etc/passwd", "a/b", "line\nbreak", "x" * 300, "灯", "..", "a\x00b"])
def test_keys_stay_in_the_directory(host: MediaServer, tmp_path: Path, key: str) -> None:
    out = tmp_path / "deep" / "out"
    (stored,) = run_into(out, batch(items(host, key)))["paths"]
    assert list(out.iterdir()) == [Path(stored)]
    assert Path(stored).read_bytes() == data_of(key)


# ---------------------------------------------------------------------- failures of items


def test_failed_item_does_not_stop_the_rest(transfer: Transfer, tmp_path: Path) -> None:
    message = r"1 of 3 files could not be stored: b \(.*2 are stored"
    error = transfer.fail_for_the_second_file(items(transfer.host, "a", "b", "c"), message)
    assert error.retry_helps
    assert names_in(tmp_path) == ["a.mp4", "c.mp4"]


def test_max_parallel(transfer: Transfer, tmp_path: Path) -> None:
    together, workers = threading.Barrier(4), list[int]()

    def during() -> None:
        together.wait(30)  # breaks, and with it the download, if there are fewer than four
        workers.append(sum(one.name.startswith("seedance-transfer") for one in threading.enumerate()))

    transfer.host.always = {f"/{number}.mp4": Reply(during=during) for number in range(12)}
    result = transfer.run(items(transfer.host, *map(str, range(12))), max_parallel=4)
    assert len(result["paths"]) == len(names_in(tmp_path)) == len(transfer.host.requests) == 12
    assert workers == [4] * 12


def test_expired_urls_are_renewed_per_generation(
    transfer: Transfer, tmp_path: Path, service: Service
) -> None:
    service.answers = fresh = items(transfer.host, "a", "b")
    gone = {"urls": [transfer.host.url("/gone.mp4")], "expires_at": "2020-01-01T00:00:00+00:00"}
    assert transfer.run([{**one, **gone} for one in fresh], max_parallel=1)["stored"] == 2
    assert service.requests == [("gen-a", "video"), ("gen-b", "video")]
    assert (tmp_path / "b.mp4").read_bytes() == data_of("b")


def test_item_without_urls_does_not_stop_the_rest(transfer: Transfer, tmp_path: Path) -> None:
    results = items(transfer.host, "a", "b")
    broken = {**results[0], "key": "broken", "urls": []}
    nothing = {"key": "nothing", "status": "succeeded"}
    message = r"2 of 4 files could not be stored: broken \(.*nothing \(.*A retry cannot help"
    transfer.fail(errors.SeedanceRequestError, [broken, *results, nothing], message)
    assert names_in(tmp_path) == ["a.mp4", "b.mp4"]


def test_error_is_short_and_begins_with_a_curable_failure(transfer: Transfer) -> None:
    results = items(transfer.host, *(f"{number}-{'long' * 100}" for number in range(40)))
    page = Reply(status=200, body=b"<html>", headers={"Content-Type": "text/html"})
    for number in range(39):
        transfer.host.always[f"/{number}.mp4"] = page
        results[number]["generation_id"] = f"local-{number}"  # has no record at the service
    transfer.host.always["/39.mp4"] = Reply(status=500)
    error = transfer.fail(errors.SeedanceMediaError, results, r"^40 of 40 files .* stored: 39-long")
    assert type(error) is errors.SeedanceMediaError
    assert error.retry_helps
    assert "it may help 1 of them" in error.message
    assert "and 30 more" in error.message
    assert len(error.message) < 5000


def test_killed_transfer_starts_no_more_downloads(host: MediaServer, tmp_path: Path) -> None:
    results = items(host, *(f"clip-{number}" for number in range(50)))
    task = operator(batch(results), f"{tmp_path}/", max_parallel=1)
    host.always["/2.mp4"] = Reply(during=task.on_kill)
    with pytest.raises(errors.SeedanceMediaError, match="stopped when 2 of 50 files were stored"):
        task.execute({})
    assert len(host.requests) == 3
    assert names_in(tmp_path) == ["clip-0.mp4", "clip-1.mp4"]


def test_progress_log(
    transfer: Transfer, info: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = "1 left as they are (0 by hash, 1 by length, 0 by time), 1 failed"
    progress = f"2 of 3 files done: 0 stored, {left}. 500 bytes"

    def wait_for_progress() -> None:
        deadline = time.monotonic() + 30
        while progress not in info.text and time.monotonic() < deadline:
            time.sleep(0.01)

    monkeypatch.setattr(transfer_run, "PROGRESS_INTERVAL_SECONDS", 0.01)
    transfer.run(items(transfer.host, "a"))
    transfer.host.always["/2.mp4"] = Reply(during=wait_for_progress)
    results = items(transfer.host, "a", "b", "c")
    transfer.fail_for_the_second_file(results, "1 of 3", overwrite="if-changed", max_parallel=1)
    assert progress in info.text
    assert f"3 of 3 files done: 1 stored, {left}. 1000 bytes" in info.text


def test_asset_event(host: MediaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset, events = Asset("batch"), OutletEventAccessors()
    monkeypatch.setattr(transfer_run, "MAX_PATHS_IN_EVENT", 2)
    run_into(tmp_path, batch(items(host, "a", "b", "c")), {"outlet_events": events}, outlets=[asset])
    extra = events[asset].extra
    assert extra["path"] == extra["url"] == f"{tmp_path}/"
    # The first ones only: Airflow stores events in its database.
    assert extra["generation_ids"] == ["gen-a", "gen-b"]
    assert extra["paths"] == [f"{tmp_path}/a.mp4", f"{tmp_path}/b.mp4"]
    assert (extra["files"], extra["stored"], extra["skipped"], extra["bytes"]) == (3, 3, 0, 3000)
