"""Transfers that run again: after failures, after a clear, after the worker was killed, and with unchanged files."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
from support import TaskInstance

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.transfers.output import OutputTransfer, Stored
from transfers.conftest import Service
from transfers.results import Transfer, batch, data_of, items, names_in, run_into, single
from transfers.server import MediaServer, Reply

pytestmark = pytest.mark.usefixtures("conn")


# ---------------------------------------------------------------------- retries


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("many", [True, False], ids=["batch", "generation"])
def test_retry_stores_only_what_is_missing(
    transfer: Transfer, tmp_path: Path, many: bool, overwrite: bool
) -> None:
    results = items(transfer.host, "a", "b", "c")
    value = results if many else single(*[one["url"] for one in results])
    failed = r"b \(" if many else r"gen-1 \(Output 2 of 3 of generation gen-1"
    message = rf"1 of 3 files could not be stored: {failed}.* 2 are stored and stay"
    transfer.fail_for_the_second_file(value, message, overwrite=overwrite)
    transfer.ti.retry()
    first, third = (tmp_path / name for name in names_in(tmp_path))
    before = [path.stat().st_mtime_ns for path in (first, third)]
    result = transfer.run(value, overwrite=overwrite)
    assert [path.stat().st_mtime_ns for path in (first, third)] == before
    assert len(result["paths"]) == len(names_in(tmp_path)) == 3
    assert not many or (result["stored"], result["skipped"]) == (1, 2)


@pytest.mark.parametrize("overwrite", [False, "False"])
def test_overwrite_false_names_existing_files(transfer: Transfer, tmp_path: Path, overwrite: Any) -> None:
    results = items(transfer.host, "a", "b")
    (tmp_path / "b.mp4").write_bytes(b"mine")
    kind, message = errors.SeedanceDestinationExistsError, r"the destination exists: .*b\.mp4\. It"
    assert not transfer.fail(kind, results, message, overwrite=overwrite).retry_helps
    assert transfer.host.requests == []
    assert names_in(tmp_path) == ["b.mp4"]
    # A retry does not count it as a file of the first try: it has another length.
    transfer.ti.retry()
    transfer.fail(kind, results, overwrite=overwrite)
    assert (tmp_path / "b.mp4").read_bytes() == b"mine"


@pytest.mark.parametrize("overwrite", [True, "True", "true"])
def test_the_first_try_after_a_clear_or_of_another_run_replaces_the_files(
    transfer: Transfer, overwrite: Any
) -> None:
    results = items(transfer.host, "a", "b")
    transfer.run(results)
    transfer.ti.retry()
    transfer.ti.clear()
    assert transfer.run(results, overwrite=overwrite)["stored"] == 2
    transfer.ti.retry()
    assert transfer.run(results, overwrite=overwrite)["skipped"] == 2
    transfer.ti = TaskInstance()
    assert transfer.run(results, overwrite=overwrite)["stored"] == 2
    assert len(transfer.host.requests) == 8
    transfer.fail(errors.SeedanceDestinationExistsError, results, overwrite=False)


def test_overwrite_false_replaces_nothing_that_another_task_wrote_meanwhile(
    transfer: Transfer, tmp_path: Path
) -> None:
    results = items(transfer.host, "a", "b")
    transfer.fail_for_the_second_file(results, "1 of 2", overwrite=False)
    transfer.ti.retry()
    (tmp_path / "a.mp4").write_bytes(b"of another task")
    message = r"1 of 2 files could not be stored: a \("
    transfer.fail(errors.SeedanceDestinationExistsError, results, message, overwrite=False)
    assert (tmp_path / "a.mp4").read_bytes() == b"of another task"
    assert (tmp_path / "b.mp4").read_bytes() == data_of("b")


def test_name_with_the_extension_of_the_media_type(transfer: Transfer, tmp_path: Path) -> None:
    (one,) = items(transfer.host, "a")
    one["urls"] = [transfer.host.put("/a", data_of("a"), content_type="video/webm")]
    for expected in (1, 0):
        result = transfer.run([one], overwrite="if-changed")
        assert (result["paths"], result["stored"]) == ([f"{tmp_path}/a.webm"], expected)
    transfer.fail(errors.SeedanceDestinationExistsError, [one], overwrite=False)
    transfer.ti.retry()
    assert transfer.run([one], overwrite=False)["skipped"] == 1


ENDED_LONG_AGO = {"completed_at": "2026-01-01T00:00:00+00:00", "expires_at": "2026-01-01T01:00:00+00:00"}


@pytest.mark.parametrize("overwrite", [True, False])
def test_retry_after_the_urls_expired_costs_no_request_for_stored_files(
    transfer: Transfer, tmp_path: Path, service: Service, overwrite: bool
) -> None:
    stored, missing = [{**one, **ENDED_LONG_AGO} for one in items(transfer.host, "a", "b")]
    (tmp_path / "a.mp4").write_bytes(data_of("a"))
    service.answers = [missing]
    transfer.ti.retry()
    result = transfer.run([stored, missing], overwrite=overwrite)
    assert (result["stored"], result["skipped"]) == (1, 1)
    assert service.requests == [("gen-b", "video")]


@pytest.mark.parametrize(
    ("content", "expires"),
    [(data_of("b"), False), (b"of another generation", True)],
    ids=["same length", "expired URL"],
)
def test_retry_replaces_a_file_older_than_its_generation(
    transfer: Transfer, tmp_path: Path, service: Service, content: bytes, expires: bool
) -> None:
    assert len(data_of("a")) == len(data_of("b"))
    (one,) = items(transfer.host, "a")
    one |= ENDED_LONG_AGO if expires else {"completed_at": ENDED_LONG_AGO["completed_at"]}
    (tmp_path / "a.mp4").write_bytes(content)
    os.utime(tmp_path / "a.mp4", (1.7e9, 1.7e9))
    service.answers = [one]
    transfer.ti.retry()
    assert transfer.run([one])["stored"] == 1
    assert (tmp_path / "a.mp4").read_bytes() == data_of("a")


def test_a_task_that_its_policy_rescheduled_keeps_its_own_files(transfer: Transfer, tmp_path: Path) -> None:
    """The run before had the same try number (Airflow 3.4)."""
    results = items(transfer.host, "a", "b")
    transfer.host.script("/1.mp4", Reply(status=429, headers={"Retry-After": "900"}))
    error: Any = transfer.fail(errors.SeedanceMediaError, results, overwrite=False)
    assert error.retry_after == 900
    again = {"ti": transfer.ti, "task_reschedule_count": 1}
    result = run_into(tmp_path, batch(results), again, overwrite=False)
    assert (result["stored"], result["skipped"]) == (1, 1)


def test_files_that_are_finished_while_the_task_is_stopped_count(
    transfer: Transfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = OutputTransfer.run

    def run(self: OutputTransfer) -> Stored:
        stored = store(self)
        self._options.stop.set()
        return stored

    monkeypatch.setattr(OutputTransfer, "run", run)
    results = items(transfer.host, "a", "b", "c")
    transfer.fail(errors.SeedanceMediaError, results, "stopped when 1 of 3", max_parallel=1)


# The other threads are those of the host, whose locks the worker does not take.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_killed_worker(host: MediaServer, tmp_path: Path) -> None:
    out, results = tmp_path / "out", items(host, "a", "b", "c", "d")
    arguments = {"overwrite": False, "max_parallel": 1}
    worker = multiprocessing.get_context("fork").Process(
        target=run_into, args=(out, batch(results), {"ti": TaskInstance()}), kwargs=arguments, daemon=True
    )

    def kill() -> None:
        os.kill(worker.pid or 0, signal.SIGKILL)
        wait([worker.sentinel], 60)

    host.always["/2.mp4"] = Reply(during=kill)
    worker.start()
    worker.join(120)
    assert worker.exitcode == -signal.SIGKILL
    assert sorted(path.name for path in out.glob("[a-z]*.mp4")) == ["a.mp4", "b.mp4"]
    del host.always["/2.mp4"]
    for overwrite in (True, False):
        again = Transfer(host, shutil.copytree(out, tmp_path / str(overwrite)))
        again.ti.retry()
        result = again.run(results, overwrite=overwrite)
        assert (result["stored"], result["skipped"]) == (2, 2)
        assert [Path(path).read_bytes() for path in result["paths"]] == [data_of(key) for key in "abcd"]


# ---------------------------------------------------------------------- unchanged files


def test_unexpected_hash_is_logged(transfer: Transfer, caplog: pytest.LogCaptureFixture) -> None:
    (one,) = items(transfer.host, "a")
    transfer.run([{**one, "sha256": ["0" * 64]}])
    assert "its item has another sha256" in caplog.text


def test_malformed_hash_is_ignored(transfer: Transfer, tmp_path: Path) -> None:
    (one,) = items(transfer.host, "a")
    (tmp_path / "a.mp4").write_bytes(data_of("a"))
    for value in ("md5:1", "", 7, None, [None], []):
        assert transfer.run([{**one, "sha256": value}], overwrite="if-changed")["skipped"] == 1
    assert len(transfer.host.requests) == 6


def test_if_changed_compares_the_announced_length(
    transfer: Transfer, tmp_path: Path, info: pytest.LogCaptureFixture
) -> None:
    results = items(transfer.host, "a", "b")
    first = transfer.run(results)
    (tmp_path / "a.mp4").write_bytes(b"shorter")
    before = (tmp_path / "b.mp4").stat()
    transfer.host.requests.clear()
    assert transfer.run(results, overwrite="if-changed") == {**first, "stored": 1, "skipped": 1}
    assert (tmp_path / "b.mp4").stat().st_mtime_ns == before.st_mtime_ns
    assert sorted(seen.path for seen in transfer.host.requests) == ["/0.mp4", "/1.mp4"]
    assert "b.mp4 is left as it is (size compared)" in info.text
    assert "1 stored, 1 left as they are (0 by hash, 1 by length, 0 by time), 0 failed" in info.text
    # A host that announces no length shows nothing of the file.
    transfer.host.script("/1.mp4", Reply(headers={"Content-Length": None}))
    assert transfer.run(results, overwrite="if-changed") == {**first, "stored": 1, "skipped": 1}


def test_if_changed_compares_the_hash_of_the_item(transfer: Transfer, tmp_path: Path) -> None:
    (one,) = items(transfer.host, "a")
    hashed = {**one, "sha256": hashlib.sha256(data_of("a")).hexdigest()}
    (tmp_path / "a.mp4").write_bytes(data_of("a"))
    assert transfer.run([hashed], overwrite="if-changed")["skipped"] == 1
    assert transfer.host.requests == []
    # Another content of the announced length is replaced.
    (tmp_path / "a.mp4").write_bytes(b"x" * len(data_of("a")))
    assert transfer.run([hashed], overwrite="if-changed")["stored"] == 1
    assert (tmp_path / "a.mp4").read_bytes() == data_of("a")
