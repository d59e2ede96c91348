"""The transfer of many, tried again: after failures, after a clear, after the worker was killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import TaskInstance

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.transfers.output import Output, Stored, Transfer
from transfers.campaigns import RECORD, batch, data_of, made, record, run
from transfers.conftest import connection_json
from transfers.server import MediaServer, Reply

TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def conn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", connection_json())


# ---------------------------------------------------------------------- by the same process


def test_a_retry_goes_on_with_the_rest_even_with_overwrite(host: MediaServer, tmp_path: Path) -> None:
    results = made(host, "a", "b", "c")
    ti = TaskInstance()
    host.always["/1.mp4"] = Reply(status=500)
    with pytest.raises(errors.SeedanceMediaError):
        run(batch(results), tmp_path, {"ti": ti})
    del host.always["/1.mp4"]
    host.requests.clear()
    ti.retry()
    result = run(batch(results), tmp_path, {"ti": ti})
    assert [seen.path for seen in host.requests] == ["/1.mp4"]
    assert (result["stored"], result["skipped"]) == (1, 2)
    # A person who clears the task wants it done again.
    host.requests.clear()
    ti.clear()
    assert run(batch(results), tmp_path, {"ti": ti})["stored"] == 3
    assert len(host.requests) == 3


def test_the_first_try_overwrites_what_another_run_stored(host: MediaServer, tmp_path: Path) -> None:
    results = made(host, "a", "b")
    run(batch(results), tmp_path, {"ti": TaskInstance()})
    other = TaskInstance(try_number=2)
    other.run_id = "another run"
    assert run(batch(results), tmp_path, {"ti": other})["stored"] == 2
    # A run that was deleted and made again has the same name, and is no retry.
    again = TaskInstance()
    again.run_id = "another run"
    assert run(batch(results), tmp_path, {"ti": again}, overwrite=True)["stored"] == 2
    with pytest.raises(errors.SeedanceDestinationExistsError):
        run(batch(results), tmp_path, {"ti": again}, overwrite=False)


def test_overwrite_false_names_what_is_there(host: MediaServer, tmp_path: Path) -> None:
    results, ti = made(host, "a", "b"), TaskInstance()
    (tmp_path / "b.mp4").write_bytes(b"mine")
    with pytest.raises(errors.SeedanceDestinationExistsError, match=r"1 of 2 files exist.*b\.mp4") as caught:
        run(batch(results), tmp_path, {"ti": ti}, overwrite=False)
    assert not caught.value.retry_helps
    assert host.requests == []
    assert [path.name for path in tmp_path.iterdir()] == ["b.mp4"]
    # It was refused before anything of it was stored: what is there is nobody's own, in a retry as well.
    ti.retry()
    with pytest.raises(errors.SeedanceDestinationExistsError):
        run(batch(results), tmp_path, {"ti": ti}, overwrite=False)
    assert (tmp_path / "b.mp4").read_bytes() == b"mine"


def test_overwrite_false_goes_on_in_a_retry(host: MediaServer, tmp_path: Path) -> None:
    results, ti = made(host, "a", "b"), TaskInstance()
    host.always["/1.mp4"] = Reply(status=500)
    with pytest.raises(errors.SeedanceMediaError):
        run(batch(results), tmp_path, {"ti": ti}, overwrite=False)
    del host.always["/1.mp4"]
    host.requests.clear()
    ti.retry()
    result = run(batch(results), tmp_path, {"ti": ti}, overwrite=False)
    assert (result["stored"], result["skipped"]) == (1, 1)
    assert [seen.path for seen in host.requests] == ["/1.mp4"]
    assert all(line["sha256"] for line in record(tmp_path))


@pytest.mark.parametrize("other", [b"short", b"x" * 1000])
def test_overwrite_false_spares_what_somebody_else_wrote_meanwhile(
    host: MediaServer, tmp_path: Path, other: bytes
) -> None:
    results, ti = made(host, "a", "b"), TaskInstance()
    host.always["/1.mp4"] = Reply(status=500)
    with pytest.raises(errors.SeedanceMediaError):
        run(batch(results), tmp_path, {"ti": ti}, overwrite=False)
    (tmp_path / "a.mp4").write_bytes(other)
    ti.retry()
    del host.always["/1.mp4"]
    with pytest.raises(
        errors.SeedanceDestinationExistsError, match=r"1 of 2 files could not be stored: a \("
    ):
        run(batch(results), tmp_path, {"ti": ti}, overwrite=False)
    assert (tmp_path / "a.mp4").read_bytes() == other
    assert (tmp_path / "b.mp4").read_bytes() == data_of("b")


def test_a_name_that_the_type_gives(host: MediaServer, tmp_path: Path) -> None:
    """The record knows a file whose extension its URL does not tell."""
    (one,) = made(host, "a")
    one["urls"] = [host.put("/a", data_of("a"), content_type="video/webm")]
    for expected in (1, 0):
        assert run(batch([one]), tmp_path, overwrite="if-changed")["stored"] == expected
    (tmp_path / "a.webm").unlink()
    ti = TaskInstance()
    run(batch([one]), tmp_path, {"ti": ti}, overwrite=False)
    assert [(line["name"], line["bytes"]) for line in record(tmp_path)] == [("a.webm", 1000)]
    ti.retry()
    host.requests.clear()
    assert run(batch([one]), tmp_path, {"ti": ti}, overwrite=False)["skipped"] == 1
    assert host.requests == []


def test_two_tasks_in_one_directory_keep_their_records(host: MediaServer, tmp_path: Path) -> None:
    run(batch(made(host, "a")), tmp_path)
    results = made(host, "b", "c")

    def meanwhile() -> None:
        host.put("/0.mp4", data_of("d"))
        (other,) = made(host, "d")
        other["urls"] = [host.put("/d.mp4", data_of("d"))]
        run(batch([other]), tmp_path)

    host.always["/1.mp4"] = Reply(during=meanwhile)
    run(batch(results), tmp_path)
    assert [line["key"] for line in record(tmp_path)] == ["a", "b", "c", "d"]


def test_nothing_is_written_where_nothing_is_new(host: MediaServer, tmp_path: Path) -> None:
    results = made(host, "a", "b")
    run(batch(results), tmp_path)
    before = (tmp_path / RECORD).stat()
    assert run(batch(results), tmp_path, overwrite="if-changed")["skipped"] == 2
    after = (tmp_path / RECORD).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_ends_while_the_task_is_stopped_is_noted(
    host: MediaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = Transfer.store

    def store(self: Transfer, output: Output) -> Stored:
        stored = really(self, output)
        self.stop.set()
        return stored

    monkeypatch.setattr(Transfer, "store", store)
    with pytest.raises(errors.SeedanceMediaError, match="stopped when 1 of 3"):
        run(batch(made(host, "a", "b", "c")), tmp_path, max_parallel=1)
    assert [line["key"] for line in record(tmp_path)] == ["a"]


def test_a_record_that_cannot_be_written_costs_only_knowledge(
    host: MediaServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / RECORD).mkdir()
    result = run(batch(made(host, "a")), tmp_path)
    assert (result["stored"], result["manifest"]) == (1, None)
    assert f"{RECORD} could not be written" in caplog.text


# ---------------------------------------------------------------------- by a worker that is killed

WORKER = """
import json, sys
from support import TaskInstance
from transfers.campaigns import run
from airflow_provider_seedance.transfers import transfer_run
transfer_run.PROGRESS_SECONDS = float(sys.argv[3])
run(json.loads(sys.argv[1]), sys.argv[2], {"ti": TaskInstance()}, overwrite=sys.argv[4], max_parallel=1)
"""


@pytest.mark.parametrize(
    ("overwrite", "noted"), [("True", True), ("True", False), ("False", True), ("False", False)]
)
def test_a_killed_worker(host: MediaServer, tmp_path: Path, overwrite: str, noted: bool) -> None:
    out = tmp_path / "out"
    results = made(host, "a", "b", "c", "d")
    worker: list[subprocess.Popen[bytes]] = []
    begun = threading.Event()

    def kill() -> None:
        begun.wait(60)
        while noted and worker[0].poll() is None and not _is_noted(out, "b"):
            threading.Event().wait(0.01)
        worker[0].kill()
        worker[0].wait()

    host.always["/2.mp4"] = Reply(during=kill)
    arguments = [json.dumps(batch(results)), str(out), "0" if noted else "1000", overwrite]
    paths = f"{TESTS.parent}{os.pathsep}{TESTS}"
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments], env={**os.environ, "PYTHONPATH": paths}
    ) as process:
        worker.append(process)
        begun.set()
        assert process.wait(120) == -9
    assert sorted(path.name for path in out.glob("[a-z]*.mp4")) == ["a.mp4", "b.mp4"]
    del host.always["/2.mp4"]
    host.requests.clear()
    ti = TaskInstance()
    ti.retry()
    result = run(batch(results), out, {"ti": ti}, overwrite=overwrite)
    stored = 4 if overwrite == "True" and not noted else 2
    assert (result["stored"], result["skipped"]) == (stored, 4 - stored)
    assert len(host.requests) == (2 if noted else 4)
    assert [Path(path).read_bytes() for path in result["paths"]] == [data_of(key) for key in "abcd"]
    assert [line["bytes"] for line in record(out)] == [1000] * 4


def _is_noted(out: Path, key: str) -> bool:
    return (out / RECORD).exists() and any(line["key"] == key and line["sha256"] for line in record(out))
