"""Transfers that run again: after failures, after a clear, after the worker was killed, and with unchanged files."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
from multiprocessing.connection import wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import TaskInstance

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.transfers.output import OutputTransfer, Stored
from transfers.conftest import Service
from transfers.results import batch, data_of, items, names_in, operator, run_into, single
from transfers.server import MediaServer, Reply

pytestmark = pytest.mark.usefixtures("conn")


class Transfer:
    """Tries of one task that stores a batch in a directory."""

    def __init__(self, host: MediaServer, directory: Path) -> None:
        self.host, self.directory, self.ti = host, directory, TaskInstance()

    def run(self, results: Any, **arguments: Any) -> dict[str, Any]:
        """Run a try; a list is the result of a batch."""
        value = batch(results) if isinstance(results, list) else results
        return run_into(self.directory, value, {"ti": self.ti}, **arguments)

    def fail_once(self, results: Any, message: str = "could not be stored", **arguments: Any) -> None:
        """Run a try in which the host fails for the second file, and go on to a retry."""
        self.host.always["/1.mp4"] = Reply(status=500)
        with pytest.raises(errors.SeedanceMediaError, match=message):
            self.run(results, **arguments)
        del self.host.always["/1.mp4"]
        self.host.requests.clear()
        self.ti.retry()


@pytest.fixture
def transfer(host: MediaServer, tmp_path: Path) -> Transfer:
    return Transfer(host, tmp_path)


@pytest.fixture
def retry(transfer: Transfer) -> Transfer:
    """A retry of a task."""
    transfer.ti.retry()
    return transfer


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
    transfer.fail_once(value, message, overwrite=overwrite)
    first, third = (tmp_path / name for name in names_in(tmp_path))
    before = [path.stat().st_mtime_ns for path in (first, third)]
    result = transfer.run(value, overwrite=overwrite)
    assert [path.stat().st_mtime_ns for path in (first, third)] == before
    assert len(result["paths"]) == len(names_in(tmp_path)) == 3
    assert not many or (result["stored"], result["skipped"]) == (1, 2)


def test_clear_stores_everything_again(transfer: Transfer) -> None:
    results = items(transfer.host, "a", "b", "c")
    transfer.run(results)
    transfer.host.requests.clear()
    transfer.ti.clear()
    assert transfer.run(results)["stored"] == 3
    assert len(transfer.host.requests) == 3


def test_overwrite_false_names_existing_files(transfer: Transfer, tmp_path: Path) -> None:
    results = items(transfer.host, "a", "b")
    (tmp_path / "b.mp4").write_bytes(b"mine")
    message = r"the destination exists: .*b\.mp4\. It"
    with pytest.raises(errors.SeedanceDestinationExistsError, match=message) as caught:
        transfer.run(results, overwrite=False)
    assert not caught.value.retry_helps
    assert transfer.host.requests == []
    assert names_in(tmp_path) == ["b.mp4"]
    # A retry does not count it as a file of the first try: it has another length.
    transfer.ti.retry()
    with pytest.raises(errors.SeedanceDestinationExistsError):
        transfer.run(results, overwrite=False)
    assert (tmp_path / "b.mp4").read_bytes() == b"mine"


def test_the_first_try_of_another_run_replaces_the_files(transfer: Transfer) -> None:
    results = items(transfer.host, "a", "b")
    transfer.run(results)
    transfer.ti = TaskInstance()
    assert transfer.run(results)["stored"] == 2
    transfer.ti = TaskInstance()
    with pytest.raises(errors.SeedanceDestinationExistsError):
        transfer.run(results, overwrite=False)


def test_overwrite_false_replaces_nothing_that_another_task_wrote_meanwhile(
    transfer: Transfer, tmp_path: Path
) -> None:
    results = items(transfer.host, "a", "b")
    transfer.fail_once(results, overwrite=False)
    (tmp_path / "a.mp4").write_bytes(b"of another task")
    message = r"1 of 2 files could not be stored: a \("
    with pytest.raises(errors.SeedanceDestinationExistsError, match=message):
        transfer.run(results, overwrite=False)
    assert (tmp_path / "a.mp4").read_bytes() == b"of another task"
    assert (tmp_path / "b.mp4").read_bytes() == data_of("b")


def test_name_with_the_extension_of_the_media_type(transfer: Transfer, tmp_path: Path) -> None:
    (one,) = items(transfer.host, "a")
    one["urls"] = [transfer.host.put("/a", data_of("a"), content_type="video/webm")]
    for expected in (1, 0):
        result = transfer.run([one], overwrite="if-changed")
        assert (result["paths"], result["stored"]) == ([f"{tmp_path}/a.webm"], expected)
    transfer.ti.retry()
    assert transfer.run([one], overwrite=False)["skipped"] == 1


ENDED_LONG_AGO = {"completed_at": "2026-01-01T00:00:00+00:00", "expires_at": "2026-01-01T01:00:00+00:00"}


@pytest.mark.parametrize("overwrite", [True, False])
def test_retry_after_the_urls_expired_costs_no_request_for_stored_files(
    retry: Transfer, tmp_path: Path, service: Service, overwrite: bool
) -> None:
    stored, missing = [{**one, **ENDED_LONG_AGO} for one in items(retry.host, "a", "b")]
    (tmp_path / "a.mp4").write_bytes(data_of("a"))
    service.answers = [missing]
    result = retry.run([stored, missing], overwrite=overwrite)
    assert (result["stored"], result["skipped"]) == (1, 1)
    assert [generation_id for generation_id, _ in service.requests] == ["gen-b"]


@pytest.mark.parametrize(
    ("content", "expires"),
    [(data_of("b"), False), (b"of another generation", True)],
    ids=["same length", "expired URL"],
)
def test_retry_replaces_a_file_older_than_its_generation(
    retry: Transfer, tmp_path: Path, service: Service, content: bytes, expires: bool
) -> None:
    assert len(data_of("a")) == len(data_of("b"))
    (one,) = items(retry.host, "a")
    one |= ENDED_LONG_AGO if expires else {"completed_at": ENDED_LONG_AGO["completed_at"]}
    (tmp_path / "a.mp4").write_bytes(content)
    os.utime(tmp_path / "a.mp4", (1.7e9, 1.7e9))
    service.answers = [one]
    assert retry.run([one])["stored"] == 1
    assert (tmp_path / "a.mp4").read_bytes() == data_of("a")


@pytest.mark.parametrize(
    ("try_number", "max_tries", "expected"),
    [(1, 2, False), (2, 2, True), (3, 2, True), (3, 4, False), (4, 4, True), (None, None, False)],
)
def test_is_retry(try_number: Any, max_tries: Any, expected: bool) -> None:
    ti = SimpleNamespace(try_number=try_number, max_tries=max_tries)
    assert operator(None, "/x", retries=2)._is_retry({"ti": ti}) is expected


def test_a_task_that_its_policy_rescheduled_keeps_its_own_files(host: MediaServer, tmp_path: Path) -> None:
    """The run before had the same try number (Airflow 3.4)."""
    results, context = items(host, "a", "b"), {"ti": TaskInstance()}
    host.always["/1.mp4"] = Reply(status=429, headers={"Retry-After": "900"})
    with pytest.raises(errors.SeedanceMediaError) as caught:
        run_into(tmp_path, batch(results), context, overwrite=False)
    assert caught.value.retry_after == 900
    del host.always["/1.mp4"]
    again = {**context, "task_reschedule_count": 1}
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
    with pytest.raises(errors.SeedanceMediaError, match="stopped when 1 of 3"):
        transfer.run(items(transfer.host, "a", "b", "c"), max_parallel=1)


# ---------------------------------------------------------------------- killed workers


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
        copy = shutil.copytree(out, tmp_path / str(overwrite))
        ti = TaskInstance()
        ti.retry()
        result = run_into(copy, batch(results), {"ti": ti}, overwrite=overwrite)
        assert (result["stored"], result["skipped"]) == (2, 2)
        assert [Path(path).read_bytes() for path in result["paths"]] == [data_of(key) for key in "abcd"]


# ---------------------------------------------------------------------- unchanged files


def test_if_changed_replaces_another_generation_of_the_same_key(host: MediaServer, tmp_path: Path) -> None:
    run_into(tmp_path, batch(items(host, "a")))
    (other,) = items(host, "a")
    other = {**other, "generation_id": "gen-other", "urls": [host.put("/other.mp4", b"y" * 5000)]}
    assert run_into(tmp_path, batch([other]), overwrite="if-changed")["stored"] == 1
    assert (tmp_path / "a.mp4").read_bytes() == b"y" * 5000


def test_unexpected_hash_is_logged(
    host: MediaServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (one,) = items(host, "a")
    run_into(tmp_path, batch([{**one, "sha256": ["0" * 64]}]))
    assert "its item has another sha256" in caplog.text


def test_malformed_hash_is_ignored(host: MediaServer, tmp_path: Path) -> None:
    (one,) = items(host, "a")
    (tmp_path / "a.mp4").write_bytes(data_of("a"))
    for value in ("md5:1", "", 7, None, [None], []):
        assert run_into(tmp_path, batch([{**one, "sha256": value}]), overwrite="if-changed")["skipped"] == 1
    assert len(host.requests) == 6


def test_if_changed_compares_the_announced_length(
    host: MediaServer, tmp_path: Path, info: pytest.LogCaptureFixture
) -> None:
    results = items(host, "a", "b")
    first = run_into(tmp_path, batch(results))
    (tmp_path / "a.mp4").write_bytes(b"shorter")
    before = (tmp_path / "b.mp4").stat()
    host.requests.clear()
    assert run_into(tmp_path, batch(results), overwrite="if-changed") == {**first, "stored": 1, "skipped": 1}
    assert (tmp_path / "b.mp4").stat().st_mtime_ns == before.st_mtime_ns
    assert sorted(seen.path for seen in host.requests) == ["/0.mp4", "/1.mp4"]
    assert "1 stored, 1 left as they are (0 by hash, 1 by length, 0 by time), 0 failed" in info.text


def test_if_changed_compares_the_hash_of_the_item(host: MediaServer, tmp_path: Path) -> None:
    (one,) = items(host, "a")
    hashed = {**one, "sha256": hashlib.sha256(data_of("a")).hexdigest()}
    (tmp_path / "a.mp4").write_bytes(data_of("a"))
    assert run_into(tmp_path, batch([hashed]), overwrite="if-changed")["skipped"] == 1
    assert host.requests == []
    # Another content of the announced length is replaced.
    (tmp_path / "a.mp4").write_bytes(b"x" * len(data_of("a")))
    assert run_into(tmp_path, batch([hashed]), overwrite="if-changed")["stored"] == 1
    assert (tmp_path / "a.mp4").read_bytes() == data_of("a")
