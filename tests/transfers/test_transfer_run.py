"""The transfer of many: names, what is left as it is, failures of single items."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, Asset, ObjectStoragePath
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.client.media_client import MediaClient, MediaStream
from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.transfers import transfer_run
from airflow_provider_seedance.transfers.seedance_to_object_storage import SeedanceToObjectStorageOperator
from transfers.campaigns import RECORD, batch, data_of, made, record, run
from transfers.conftest import connection_json
from transfers.server import MediaServer, Reply


@pytest.fixture(autouse=True)
def conn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", connection_json())


# ---------------------------------------------------------------------- what is taken


def as_text(value: Any, tmp_path: Path) -> Any:
    return str(value)


def as_json(value: Any, tmp_path: Path) -> Any:
    return json.dumps(value)


def as_manifest(value: Any, tmp_path: Path) -> Any:
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in value["succeeded"]))
    return batch([], manifest=f"file://{path}")


def as_path(value: Any, tmp_path: Path) -> Any:
    return as_manifest(value, tmp_path)["manifest"]


def as_list(value: Any, tmp_path: Path) -> Any:
    return value["succeeded"]


def as_quoted_path(value: Any, tmp_path: Path) -> Any:
    return json.dumps(as_path(value, tmp_path))


def as_object_path(value: Any, tmp_path: Path) -> Any:
    return ObjectStoragePath(as_path(value, tmp_path))


def as_plain_path(value: Any, tmp_path: Path) -> Any:
    return as_path(value, tmp_path).removeprefix("file://")


def as_text_of_a_list(value: Any, tmp_path: Path) -> Any:
    return str(as_list(value, tmp_path))


def as_text_of_a_manifest(value: Any, tmp_path: Path) -> Any:
    return str(as_manifest(value, tmp_path))


class Lazy(Sequence[Any]):
    """What Airflow gives for the outputs of mapped tasks: a sequence that is no list."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, which: Any) -> Any:
        return self._values[which]


def as_lazy_sequence(value: Any, tmp_path: Path) -> Any:
    return Lazy(value["succeeded"])


def unchanged(value: Any, tmp_path: Path) -> Any:
    return value


@pytest.mark.parametrize(
    "form",
    [
        unchanged,
        as_text,
        as_json,
        as_manifest,
        as_text_of_a_manifest,
        as_path,
        as_plain_path,
        as_quoted_path,
        as_object_path,
        as_list,
        as_text_of_a_list,
        as_lazy_sequence,
    ],
)
def test_every_form_of_a_campaign(host: MediaServer, tmp_path: Path, form: Callable[..., Any]) -> None:
    out = tmp_path / "out"
    result = run(form(batch(made(host, "lamp", "shoe")), tmp_path), out)
    assert result == {
        "path": f"{out}/",
        "paths": [f"{out}/lamp.mp4", f"{out}/shoe.mp4"],
        "bytes": len(data_of("lamp")) + len(data_of("shoe")),
        "sha256": [hashlib.sha256(data_of(key)).hexdigest() for key in ("lamp", "shoe")],
        "generation_id": None,
        "generation_ids": ["gen-lamp", "gen-shoe"],
        "stored": 2,
        "skipped": 0,
        "manifest": f"{out}/{RECORD}",
    }
    assert (out / "lamp.mp4").read_bytes() == data_of("lamp")
    assert [line["name"] for line in record(out)] == ["lamp.mp4", "shoe.mp4"]


def test_items_without_a_key_are_called_by_their_generation(host: MediaServer, tmp_path: Path) -> None:
    results = [{**one, "key": None} for one in made(host, "a", "b")]
    assert [Path(path).name for path in run(results, tmp_path)["paths"]] == ["gen-a.mp4", "gen-b.mp4"]


def test_what_failed_is_left_out(host: MediaServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    failed = [{"key": "x", "generation_id": None, "error": "no", "kind": "failed"}]
    result = run(batch(made(host, "lamp"), failed=failed, not_submitted=["y", "z"]), tmp_path)
    assert len(result["paths"]) == 1
    assert "3 of the campaign failed or were not submitted" in caplog.text


def test_a_campaign_without_a_success_stores_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    assert run(batch([], not_submitted=["y"]), out) == {
        "path": f"{out}/",
        "paths": [],
        "bytes": 0,
        "sha256": [],
        "generation_id": None,
        "generation_ids": [],
        "stored": 0,
        "skipped": 0,
        "manifest": None,
    }
    assert "Nothing of the campaign has succeeded" in caplog.text
    assert not out.exists()


def test_results_that_did_not_succeed_are_left_out(
    host: MediaServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = made(host, "a", "b")
    assert len(run([one, {**other, "status": "failed", "urls": []}], tmp_path)["paths"]) == 1
    assert "1 of the campaign failed" in caplog.text


def test_the_lines_of_a_manifest_that_did_not_succeed_are_left_out(
    host: MediaServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [
        *made(host, "a"),
        {"key": "b", "generation_id": "gen-b", "status": "failed", "error": "no", "kind": "failed"},
        {"key": "c", "status": "not_submitted"},
    ]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"key": "d", "sta')
    assert len(run(str(manifest), tmp_path / "out")["paths"]) == 1
    assert "2 of the campaign failed" in caplog.text
    assert "incomplete" in caplog.text


@pytest.mark.parametrize(
    "value", [["gen-1"], [{"path": "s3://bucket/a.mp4"}], [7], "['gen-1']", b"gen-1", "'gen-1'"]
)
def test_a_list_of_something_else(tmp_path: Path, value: Any) -> None:
    with pytest.raises(errors.SeedanceRequestError, match="Nothing was sent"):
        run(value, tmp_path)


def test_one_file_is_no_place_for_many(host: MediaServer, tmp_path: Path) -> None:
    task = SeedanceToObjectStorageOperator(
        task_id="store", generation=batch(made(host, "a")), destination=f"{tmp_path}/a.mp4"
    )
    with pytest.raises(errors.SeedanceConfigurationError, match="directory"):
        task.execute({})
    assert host.requests == []


@pytest.mark.parametrize("path", ["/no/such/manifest.jsonl", "file:///no/such/manifest.jsonl"])
def test_a_manifest_that_is_not_there(tmp_path: Path, path: str) -> None:
    with pytest.raises(errors.SeedanceConfigurationError, match="no such file"):
        run(path, tmp_path)


# ---------------------------------------------------------------------- names


def test_names_come_from_the_item(host: MediaServer, tmp_path: Path) -> None:
    result = run(batch(made(host, "lamp")), tmp_path, name_template="{model}/{key}-{index}.mp4")
    assert result["paths"] == [f"{tmp_path}/seedance-2.0/lamp-1.mp4"]


def test_keys_that_look_the_same_in_a_name_are_told_apart(host: MediaServer, tmp_path: Path) -> None:
    long = "x" * 199
    result = run(batch(made(host, "a b", "a_b", f"{long}灯1"[:200], f"{long}/")), tmp_path)
    names = [Path(path).name for path in result["paths"]]
    assert len(set(names)) == 4
    assert names[1] == "a_b.mp4"
    assert all(name.startswith(("a_b", "xxx")) for name in names)
    assert [Path(path).name for path in run(batch(made(host, "a b")), tmp_path / "2")["paths"]] == ["a_b.mp4"]


def test_equal_names_are_refused_before_anything_is_sent(host: MediaServer, tmp_path: Path) -> None:
    with pytest.raises(errors.SeedanceConfigurationError, match="both"):
        run(batch(made(host, "a", "b")), tmp_path, name_template="clip.mp4")
    assert host.requests == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["../../etc/passwd", "a/b", "line\nbreak", "x" * 300, "灯", "..", "a\x00b"])
def test_a_key_cannot_leave_the_directory(host: MediaServer, tmp_path: Path, key: str) -> None:
    out = tmp_path / "deep" / "out"
    result = run(batch(made(host, key)), out)
    stored = Path(result["paths"][0])
    assert stored.parent == out
    assert stored.read_bytes() == data_of(key)
    assert sorted(path.name for path in out.iterdir()) == sorted([stored.name, RECORD])


def test_the_record_is_nobodys_name(host: MediaServer, tmp_path: Path) -> None:
    with pytest.raises(errors.SeedanceConfigurationError, match="the record of what is stored"):
        run(batch(made(host, "a")), tmp_path, name_template=RECORD)


# ---------------------------------------------------------------------- failures of items


def test_one_that_fails_stops_no_other(host: MediaServer, tmp_path: Path) -> None:
    results = made(host, "a", "b", "c")
    host.always["/1.mp4"] = Reply(status=500)
    with pytest.raises(
        errors.SeedanceMediaError, match=r"1 of 3 files could not be stored: b \(.*2 are stored"
    ) as caught:
        run(batch(results), tmp_path)
    assert caught.value.retry_helps
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "c.mp4", RECORD]
    assert [line["key"] for line in record(tmp_path)] == ["a", "c"]


def test_never_more_than_max_parallel_at_a_time(
    host: MediaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"clip-{number}" for number in range(300)]
    results = made(host, *names)
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
    for number in range(300):
        host.always[f"/{number}.mp4"] = Reply(during=during)
    result = run(batch(results), tmp_path, max_parallel=4)
    assert len(result["paths"]) == len({path.name for path in tmp_path.glob("*.mp4")}) == 300
    assert not together.broken
    assert (most[0], threads[0]) == (4, 4)
    assert len(host.requests) == 300


def test_several_outputs_of_an_item(host: MediaServer, tmp_path: Path) -> None:
    (one,) = made(host, "lamp")
    one["urls"] = [*one["urls"], host.put("/second.mp4", b"second")]
    result = run(batch([one]), tmp_path)
    assert [Path(path).name for path in result["paths"]] == ["lamp-1.mp4", "lamp-2.mp4"]
    assert result["generation_ids"] == ["gen-lamp", "gen-lamp"]
    assert [(line["name"], line["index"]) for line in record(tmp_path)] == [
        ("lamp-1.mp4", 1),
        ("lamp-2.mp4", 2),
    ]


def test_expired_urls_are_asked_for_one_by_one(
    host: MediaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    fresh = {one["generation_id"]: one for one in made(host, "a", "b")}

    def get_generation(hook: SeedanceHook, generation_id: str, media: Any = "video") -> Generation:
        asked.append(generation_id)
        return Generation.from_result(fresh[generation_id])

    monkeypatch.setattr(SeedanceHook, "get_generation", get_generation)
    expired = "2020-01-01T00:00:00+00:00"
    results = [{**one, "urls": [host.url("/gone.mp4")], "expires_at": expired} for one in fresh.values()]
    assert run(batch(results), tmp_path)["stored"] == 2
    assert sorted(asked) == ["gen-a", "gen-b"]
    assert (tmp_path / "b.mp4").read_bytes() == data_of("b")


def test_an_item_without_urls_stops_no_other(host: MediaServer, tmp_path: Path) -> None:
    results = made(host, "a", "b")
    broken = {**results[0], "key": "broken", "urls": []}
    nothing = {"key": "nothing", "status": "succeeded"}
    with pytest.raises(
        errors.SeedanceRequestError, match=r"2 of 4 files could not be stored: broken \("
    ) as caught:
        run(batch([broken, *results, nothing]), tmp_path)
    assert "nothing (" in caught.value.message
    assert "A retry cannot help" in caught.value.message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4", RECORD]


def test_the_error_of_many_stays_short_and_begins_with_what_a_retry_can_cure(
    host: MediaServer, tmp_path: Path
) -> None:
    results = made(host, *(f"{number}-{'long' * 100}" for number in range(40)))
    for number in range(39):
        host.always[f"/{number}.mp4"] = Reply(
            status=200, body=b"<html>", headers={"Content-Type": "text/html"}
        )
        results[number]["generation_id"] = f"local-{number}"  # cannot be asked for again
    host.always["/39.mp4"] = Reply(status=500)
    with pytest.raises(errors.SeedanceMediaError, match=r"^40 of 40 files .* stored: 39-long") as caught:
        run(batch(results), tmp_path)
    assert type(caught.value) is errors.SeedanceMediaError
    assert "it may help 1 of them" in caught.value.message
    assert "and 30 more" in caught.value.message
    assert len(caught.value.message) < 5000


def test_a_killed_transfer_begins_nothing_more(host: MediaServer, tmp_path: Path) -> None:
    results = made(host, *(f"clip-{number}" for number in range(50)))
    task = SeedanceToObjectStorageOperator(
        task_id="store", generation=batch(results), destination=f"{tmp_path}/", max_parallel=1
    )
    host.always["/2.mp4"] = Reply(during=task.on_kill)
    with pytest.raises(errors.SeedanceMediaError, match="was stopped when 2 of 50 files were stored"):
        task.execute({})
    assert len(host.requests) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip-0.mp4", "clip-1.mp4", RECORD]
    assert [line["key"] for line in record(tmp_path)] == ["clip-0", "clip-1"]


def test_progress_is_told(
    host: MediaServer, tmp_path: Path, info: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer_run, "PROGRESS_SECONDS", 0.0)
    run(batch(made(host, "a")), tmp_path)
    host.always["/1.mp4"] = Reply(status=500)
    with pytest.raises(errors.SeedanceMediaError):
        run(batch(made(host, "a", "b", "c")), tmp_path, overwrite="if-changed", max_parallel=1)
    assert "3 of 3 files: 1 stored (1000 bytes), 1 skipped, 1 failed." in info.text
    assert "1 of 3 files stored (1000 bytes), 1 left as they are by their hash, 1 failed." in info.text


# ---------------------------------------------------------------------- what is there already


@pytest.fixture
def info(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def test_if_changed_leaves_what_has_the_hash_without_a_request(
    host: MediaServer, tmp_path: Path, info: pytest.LogCaptureFixture
) -> None:
    results = made(host, "a", "b")
    first = run(batch(results), tmp_path, overwrite="if-changed")
    host.requests.clear()
    second = run(batch(results), tmp_path, overwrite="if-changed")
    assert host.requests == []
    assert second == {**first, "stored": 0, "skipped": 2}
    assert "2 left as they are by their hash" in info.text


def test_if_changed_sees_content_that_changed_at_equal_length(host: MediaServer, tmp_path: Path) -> None:
    results = made(host, "a", "b")
    run(batch(results), tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"x" * len(data_of("a")))
    assert run(batch(results), tmp_path, overwrite="if-changed")["stored"] == 1
    assert (tmp_path / "a.mp4").read_bytes() == data_of("a")


def test_if_changed_stores_another_take_of_the_same_key(host: MediaServer, tmp_path: Path) -> None:
    run(batch(made(host, "a")), tmp_path)
    (take,) = made(host, "a")
    take = {**take, "generation_id": "gen-other", "urls": [host.put("/other.mp4", b"y" * 5000)]}
    assert run(batch([take]), tmp_path, overwrite="if-changed")["stored"] == 1
    assert (tmp_path / "a.mp4").read_bytes() == b"y" * 5000
    assert [line["generation_id"] for line in record(tmp_path)] == ["gen-other"]


def test_if_changed_without_a_record_goes_by_the_length(
    host: MediaServer, tmp_path: Path, info: pytest.LogCaptureFixture
) -> None:
    results = made(host, "a", "b")
    run(batch(results), tmp_path)
    (tmp_path / RECORD).unlink()
    (tmp_path / "a.mp4").write_bytes(b"shorter")
    host.requests.clear()
    result = run(batch(results), tmp_path, overwrite="if-changed")
    assert (result["stored"], result["skipped"]) == (1, 1)
    assert len(host.requests) == 2
    assert "1 left as they are by their length, contents were not compared" in info.text


def test_what_was_never_compared_is_not_called_certain_later(
    host: MediaServer, tmp_path: Path, info: pytest.LogCaptureFixture
) -> None:
    results = made(host, "a")
    (tmp_path / "a.mp4").write_bytes(b"x" * len(data_of("a")))
    for _ in range(2):
        info.clear()
        assert run(batch(results), tmp_path, overwrite="if-changed")["skipped"] == 1
        assert "1 left as they are by their length, contents were not compared" in info.text
    assert len(host.requests) == 1
    assert record(tmp_path)[0]["by_length"] is True


def test_a_hash_that_the_file_has_not_is_told(
    host: MediaServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (one,) = made(host, "a")
    run(batch([{**one, "sha256": ["0" * 64]}]), tmp_path)
    assert "has not the sha256 that its item tells" in caplog.text


@pytest.mark.parametrize("told", ["md5:1", "", 7, None, [None], []])
def test_a_hash_that_is_none_is_not_known(host: MediaServer, tmp_path: Path, told: Any) -> None:
    (one,) = made(host, "a")
    (tmp_path / "a.mp4").write_bytes(data_of("a"))
    assert run(batch([{**one, "sha256": told}]), tmp_path, overwrite="if-changed")["skipped"] == 1
    assert len(host.requests) == 1


def test_if_changed_takes_the_hash_of_the_manifest(host: MediaServer, tmp_path: Path) -> None:
    (one,) = made(host, "a")
    told = {**one, "sha256": hashlib.sha256(data_of("a")).hexdigest()}
    (tmp_path / "a.mp4").write_bytes(data_of("a"))
    assert run(batch([told]), tmp_path, overwrite="if-changed")["skipped"] == 1
    assert host.requests == []
    (tmp_path / RECORD).unlink()
    (tmp_path / "a.mp4").write_bytes(b"x" * len(data_of("a")))
    assert run(batch([told]), tmp_path, overwrite="if-changed")["stored"] == 1


@pytest.mark.parametrize("rubbish", ["{", '{"key": "a"}\n', '{"key": "a", "name": 7}\n', "\x00\xff"])
def test_a_damaged_record_is_not_used(host: MediaServer, tmp_path: Path, rubbish: str) -> None:
    (tmp_path / RECORD).write_text(rubbish)
    assert run(batch(made(host, "a")), tmp_path, overwrite="if-changed")["stored"] == 1
    assert [line["key"] for line in record(tmp_path)] == ["a"]


def test_the_event_of_an_asset_tells_where_it_all_is(host: MediaServer, tmp_path: Path) -> None:
    asset = Asset("campaign")
    with DAG("dag"):
        task = SeedanceToObjectStorageOperator(
            task_id="store",
            generation=batch(made(host, "a", "b")),
            destination=f"{tmp_path}/",
            outlets=[asset],
        )
    events = OutletEventAccessors()
    task.execute({"outlet_events": events})
    extra = events[asset].extra
    assert extra["path"] == extra["url"] == f"{tmp_path}/"
    assert extra["generation_ids"] == ["gen-a", "gen-b"]
    assert extra["paths"] == [f"{tmp_path}/a.mp4", f"{tmp_path}/b.mp4"]
    assert extra["manifest"] == f"{tmp_path}/{RECORD}"
    assert (extra["files"], extra["stored"], extra["skipped"], extra["bytes"]) == (2, 2, 0, 2000)


def test_the_event_of_an_asset_stays_small(host: MediaServer, tmp_path: Path) -> None:
    result = run(batch(made(host, *(f"clip-{number}" for number in range(101)))), tmp_path)
    extra = transfer_run.describe(result)
    assert (extra["files"], len(extra["paths"]), len(extra["generation_ids"])) == (101, 100, 100)
