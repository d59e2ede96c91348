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
from airflow_provider_seedance.client.media_client import MediaClient, MediaStream
from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.transfers import transfer_run
from transfers.conftest import connection_json
from transfers.results import batch, data_of, items, names_in, operator, run, run_into
from transfers.server import MediaServer, Reply


@pytest.fixture(autouse=True)
def conn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", connection_json())


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


def test_items_without_a_key_are_named_by_generation(host: MediaServer, tmp_path: Path) -> None:
    results = [{**one, "key": None} for one in items(host, "a", "b")]
    assert [Path(path).name for path in run_into(tmp_path, results)["paths"]] == ["gen-a.mp4", "gen-b.mp4"]


def with_failures(succeeded: list[Any]) -> Any:
    return batch(succeeded, failed=[{"key": "x", "error": "no", "kind": "failed"}], not_submitted=["y"])


def failed_results(succeeded: list[Any]) -> Any:
    return [*succeeded, *[{**succeeded[0], "key": key, "status": "failed", "urls": []} for key in "xy"]]


@pytest.mark.parametrize("form", [with_failures, failed_results, as_manifest])
def test_failed_items_are_left_out(
    host: MediaServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, form: Any
) -> None:
    succeeded = items(host, "lamp")
    if form is as_manifest:
        failed = {"key": "x", "generation_id": "gen-x", "status": "failed", "error": "no", "kind": "failed"}
        value = as_manifest(batch([*succeeded, failed, {"key": "y", "status": "not_submitted"}]), tmp_path)
        with (tmp_path / "manifest.jsonl").open("a") as file:
            file.write('{"key": "d", "sta')
    else:
        value = form(succeeded)
    assert run_into(tmp_path / "out", value, verify=None) == expected(tmp_path / "out", "lamp")
    assert "2 items without an output: failed" in caplog.text
    assert ("incomplete" in caplog.text) is (form is as_manifest)


def test_batch_without_a_success(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run_into(tmp_path / "out", batch([], not_submitted=["y"])) == expected(tmp_path / "out")
    assert "No item of the batch has succeeded" in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "value", [["gen-1"], [{"path": "s3://bucket/a.mp4"}], [7], "['gen-1']", b"gen-1", "'gen-1'"]
)
def test_values_without_results(tmp_path: Path, value: Any) -> None:
    with pytest.raises(errors.SeedanceRequestError, match="Nothing was sent"):
        run_into(tmp_path, value)


def test_batch_needs_a_directory(host: MediaServer, tmp_path: Path) -> None:
    with pytest.raises(errors.SeedanceConfigurationError, match="directory"):
        run(batch(items(host, "a")), f"{tmp_path}/a.mp4")
    assert host.requests == []


# ---------------------------------------------------------------------- names


def test_names_from_the_item(host: MediaServer, tmp_path: Path) -> None:
    (one,) = items(host, "lamp")
    one["urls"] = [*one["urls"], host.put("/second.mp4", b"second")]
    result = run_into(tmp_path, batch([one]), name_template="{model}/{key}-{index}.mp4")
    assert result["paths"] == [f"{tmp_path}/seedance-2.0/lamp-{index}.mp4" for index in (1, 2)]
    assert result["generation_ids"] == ["gen-lamp", "gen-lamp"]


def test_keys_with_equal_names_get_different_files(host: MediaServer, tmp_path: Path) -> None:
    """Names that differ only in case are equal on many disks."""
    long = "x" * 199
    result = run_into(tmp_path, batch(items(host, "a b", "a_b", "A_B", f"{long}灯1"[:200], f"{long}/")))
    names = [Path(path).name.casefold() for path in result["paths"]]
    assert len(set(names)) == 5
    assert names[1] == "a_b.mp4"
    assert all(name.startswith(("a_b", "xxx")) for name in names)
    alone = run_into(tmp_path / "2", batch(items(host, "a b")))
    assert alone["paths"] == [f"{tmp_path}/2/a_b.mp4"]


@pytest.mark.parametrize(
    ("template", "name"), [("{generation_id}.{ext}", r"g\.ext"), ("clip.mp4", r"clip\.mp4")]
)
def test_equal_names_are_refused_before_anything_is_sent(
    host: MediaServer, tmp_path: Path, template: str, name: str
) -> None:
    """Many disks do not distinguish names by case."""
    results = [{**one, "generation_id": name} for one, name in zip(items(host, "a", "b"), "Gg", strict=True)]
    message = f"'a' and 'b' would both be stored as '{name}'"
    with pytest.raises(errors.SeedanceConfigurationError, match=message):
        run_into(tmp_path, batch(results), name_template=template)
    assert host.requests == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["../../etc/passwd", "a/b", "line\nbreak", "x" * 300, "灯", "..", "a\x00b"])
def test_keys_stay_in_the_directory(host: MediaServer, tmp_path: Path, key: str) -> None:
    out = tmp_path / "deep" / "out"
    result = run_into(out, batch(items(host, key)))
    stored = Path(result["paths"][0])
    assert stored.parent == out
    assert stored.read_bytes() == data_of(key)
    assert sorted(path.name for path in out.iterdir()) == [stored.name]


# ---------------------------------------------------------------------- failures of items


def test_failed_item_does_not_stop_the_rest(host: MediaServer, tmp_path: Path) -> None:
    results = items(host, "a", "b", "c")
    host.always["/1.mp4"] = Reply(status=500)
    message = r"1 of 3 files could not be stored: b \(.*2 are stored"
    with pytest.raises(errors.SeedanceMediaError, match=message) as caught:
        run_into(tmp_path, batch(results))
    assert caught.value.retry_helps
    assert names_in(tmp_path) == ["a.mp4", "c.mp4"]


def test_max_parallel(host: MediaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"clip-{number}" for number in range(12)]
    results = items(host, *names)
    lock, open_now, most, threads = threading.Lock(), set(), [0], [0]
    together = threading.Barrier(4)
    first = iter(range(4))
    really_open, really_close = MediaClient.open, MediaStream.close

    def opened(self: Any, *arguments: Any, **options: Any) -> Any:
        with lock:
            open_now.add(threading.get_ident())
            most[0] = max(most[0], len(open_now))
            workers = [one for one in threading.enumerate() if one.name.startswith("seedance-transfer")]
            threads[0] = max(threads[0], len(workers))
        return really_open(self, *arguments, **options)

    def closed(self: Any) -> None:
        really_close(self)
        with lock:
            open_now.discard(threading.get_ident())

    def during() -> None:
        with lock:
            wait = next(first, None) is not None
        if wait:
            together.wait(30)  # breaks, and with it the download, if there are fewer than four

    monkeypatch.setattr(MediaClient, "open", opened)
    monkeypatch.setattr(MediaStream, "close", closed)
    for number in range(12):
        host.always[f"/{number}.mp4"] = Reply(during=during)
    result = run_into(tmp_path, batch(results), max_parallel=4)
    assert len(result["paths"]) == len({path.name for path in tmp_path.glob("*.mp4")}) == 12
    assert not together.broken
    assert (most[0], threads[0]) == (4, 4)
    assert len(host.requests) == 12


def test_expired_urls_are_renewed_per_generation(
    host: MediaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[str] = []
    fresh = {one["generation_id"]: one for one in items(host, "a", "b")}

    def get_generation(hook: SeedanceHook, generation_id: str, media: Any = "video") -> Generation:
        requests.append(generation_id)
        return Generation.from_result(fresh[generation_id])

    monkeypatch.setattr(SeedanceHook, "get_generation", get_generation)
    expired = "2020-01-01T00:00:00+00:00"
    results = [{**one, "urls": [host.url("/gone.mp4")], "expires_at": expired} for one in fresh.values()]
    assert run_into(tmp_path, batch(results))["stored"] == 2
    assert sorted(requests) == ["gen-a", "gen-b"]
    assert (tmp_path / "b.mp4").read_bytes() == data_of("b")


def test_item_without_urls_does_not_stop_the_rest(host: MediaServer, tmp_path: Path) -> None:
    results = items(host, "a", "b")
    broken = {**results[0], "key": "broken", "urls": []}
    nothing = {"key": "nothing", "status": "succeeded"}
    message = r"2 of 4 files could not be stored: broken \("
    with pytest.raises(errors.SeedanceRequestError, match=message) as caught:
        run_into(tmp_path, batch([broken, *results, nothing]))
    assert "nothing (" in caught.value.message
    assert "A retry cannot help" in caught.value.message
    assert names_in(tmp_path) == ["a.mp4", "b.mp4"]


def test_error_is_short_and_begins_with_a_curable_failure(host: MediaServer, tmp_path: Path) -> None:
    results = items(host, *(f"{number}-{'long' * 100}" for number in range(40)))
    for number in range(39):
        page = Reply(status=200, body=b"<html>", headers={"Content-Type": "text/html"})
        host.always[f"/{number}.mp4"] = page
        results[number]["generation_id"] = f"local-{number}"  # has no record at the service
    host.always["/39.mp4"] = Reply(status=500)
    with pytest.raises(errors.SeedanceMediaError, match=r"^40 of 40 files .* stored: 39-long") as caught:
        run_into(tmp_path, batch(results))
    assert type(caught.value) is errors.SeedanceMediaError
    assert caught.value.retry_helps
    assert "it may help 1 of them" in caught.value.message
    assert "and 30 more" in caught.value.message
    assert len(caught.value.message) < 5000


def test_killed_transfer_starts_no_more_downloads(host: MediaServer, tmp_path: Path) -> None:
    results = items(host, *(f"clip-{number}" for number in range(50)))
    task = operator(batch(results), f"{tmp_path}/", max_parallel=1)
    host.always["/2.mp4"] = Reply(during=task.on_kill)
    with pytest.raises(errors.SeedanceMediaError, match="stopped when 2 of 50 files were stored"):
        task.execute({})
    assert len(host.requests) == 3
    assert names_in(tmp_path) == ["clip-0.mp4", "clip-1.mp4"]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_progress_log(
    host: MediaServer, tmp_path: Path, info: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer_run, "PROGRESS_INTERVAL_SECONDS", 0.01)
    run_into(tmp_path, batch(items(host, "a")))
    host.always["/1.mp4"] = Reply(status=500)
    left = "1 left as they are (0 by hash, 1 by length, 0 by time), 1 failed"
    progress = f"2 of 3 files done: 0 stored, {left}. 500 bytes"
    host.always["/2.mp4"] = Reply(during=lambda: wait_for(lambda: progress in info.text))
    with pytest.raises(errors.SeedanceMediaError):
        run_into(tmp_path, batch(items(host, "a", "b", "c")), overwrite="if-changed", max_parallel=1)
    assert f"3 of 3 files done: 1 stored, {left}. 1000 bytes" in info.text


# ---------------------------------------------------------------------- asset events


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
