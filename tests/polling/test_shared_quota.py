"""The quota that the processes of one machine share, in a file."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import resource
import signal
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from airflow_provider_seedance.apis.rate_limits import RateLimit
from airflow_provider_seedance.polling import shared_quota
from airflow_provider_seedance.polling.quota import POLICY, Quota
from airflow_provider_seedance.polling.shared_quota import SharedQuota
from airflow_provider_seedance.polling.shared_quota import directory as real_directory

IDENTITY = ("https://vendor.example/v1", "digest-of-a-key")
NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shared_quota, "directory", lambda: tmp_path / "quotas")
    return tmp_path / "quotas"


@pytest.fixture
def shared() -> SharedQuota:
    return SharedQuota(IDENTITY)


def headers(remaining: int, *, left: float = 600.0) -> RateLimit:
    reset_at = datetime.fromtimestamp(NOW + left, UTC)
    return RateLimit(limit=10, remaining=remaining, reset_at=reset_at)


def test_one_process_uses_the_headers_that_another_has_read(shared: SharedQuota) -> None:
    SharedQuota(IDENTITY).learn(headers(2), NOW)
    read = shared.read(NOW + 60)
    assert (read.limit, read.remaining, read.reset_at, read.window) == (10, 2, NOW + 600, 600)
    assert shared.reserve(NOW) == 0
    assert SharedQuota(IDENTITY).reserve(NOW) == 0
    assert shared.reserve(NOW) == pytest.approx(600 + POLICY.reset_margin, abs=1)
    assert SharedQuota(("https://vendor.example/v1", "another key")).reserve(NOW) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_other_processes_share_the_quota(shared: SharedQuota) -> None:
    shared.learn(headers(1), NOW)
    other = os.fork()
    if not other:
        waits = 1.0
        try:
            waits = SharedQuota(IDENTITY).reserve(NOW)
        finally:
            os._exit(int(waits != 0))
    assert os.waitpid(other, 0)[1] == 0
    assert shared.reserve(NOW) > 0


AFTER = 600 + POLICY.reset_margin


@pytest.mark.parametrize(
    ("left", "later", "delays"),
    [(600, 600, True), (600, AFTER, False), (600, 5000, False), (86400, 0, True), (86401, 0, False)],
)
def test_a_window_delays_until_it_ends_unless_that_is_implausible(
    shared: SharedQuota, left: float, later: float, delays: bool
) -> None:
    shared.learn(headers(0, left=left), NOW)
    assert (shared.reserve(NOW + later) > 0) is delays


def test_a_refusal_is_not_shared(shared: SharedQuota, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    shared.answered(headers(0), refused=True)
    assert shared.reserve(NOW) == 0
    shared.answered(headers(0), refused=False)
    assert shared.reserve(NOW) > 0


def test_a_request_waits_behind_queued_submissions(shared: SharedQuota) -> None:
    shared.learn(headers(5), NOW)
    shared.record_queue(NOW)
    assert shared.reserve(NOW) == POLICY.queue_lifetime
    shared.learn(headers(4), NOW)
    assert shared.reserve(NOW + 1) == POLICY.queue_lifetime
    assert shared.reserve(NOW + POLICY.queue_lifetime) == 0
    assert shared.read(NOW).free(NOW) == 3


def test_each_airflow_has_its_own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", "/one")
    SharedQuota(IDENTITY).learn(headers(0), NOW)
    monkeypatch.setenv("AIRFLOW_HOME", "/two")
    assert SharedQuota(IDENTITY).reserve(NOW) == 0
    monkeypatch.delenv("AIRFLOW_HOME")
    assert SharedQuota(IDENTITY).reserve(NOW) == 0


# ---------------------------------------------------------------------- the file


@pytest.mark.parametrize("missing", ["limit", "remaining", "reset_at"])
def test_an_incomplete_window_is_neither_written_nor_read(
    shared: SharedQuota, directory: Path, missing: str
) -> None:
    shared.learn(replace(headers(0), **{missing: None}), NOW)
    assert not directory.exists()
    assert shared.reserve(NOW) == 0
    shared.learn(headers(0), NOW)
    shared._path.write_text(json.dumps({**json.loads(shared._path.read_text()), missing: None}))
    assert shared.reserve(NOW) == 0
    assert shared.read(NOW) == Quota()


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", '{"limit": 1}',
        '{"limit": "x", "remaining": 0, "reset_at": 1e99, "window": null}',
        '{"limit": 5, "remaining": 0, "reset_at": 99999999999, "window": 1}', "[" * 900,
        '{"limit": null, "remaining": null, "reset_at": null, "window": null, "queue_until": 1e99}',
        " " * 1_000_000 + f'{{"limit": 10, "remaining": 0, "reset_at": {NOW + 600}, "window": 600}}',
    ],
    ids=lambda content: content.strip()[:40],
)  # fmt: skip
def test_a_damaged_file_is_ignored_and_replaced(shared: SharedQuota, content: str) -> None:
    shared.learn(headers(3), NOW)
    shared._path.write_text(content)
    assert shared.reserve(NOW) == 0
    shared.learn(headers(0), NOW)
    assert shared.reserve(NOW) > 0


def test_the_file_belongs_to_its_user(shared: SharedQuota, directory: Path) -> None:
    shared.learn(headers(0), NOW)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(shared._path.stat().st_mode) == 0o600
    assert "digest-of-a-key" not in shared._path.name + shared._path.read_text()
    directory.chmod(0o777)  # any user could have written it
    assert shared.reserve(NOW) == 0


def test_a_link_is_not_followed(shared: SharedQuota, directory: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("keep")
    directory.mkdir(mode=0o700)
    os.symlink(target, shared._path)
    shared.learn(headers(0), NOW)
    assert target.read_text() == "keep"
    assert shared.reserve(NOW) == 0


def test_each_user_has_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert real_directory() == Path(tempfile.gettempdir()) / f"airflow-provider-seedance-{os.getuid()}"
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    assert real_directory().name == "airflow-provider-seedance-4711"


@contextmanager
def full_disk() -> Iterator[None]:
    """Let every write to a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def a_file_in_place_of_the_directory() -> AbstractContextManager[Any]:
    parent = shared_quota.directory().parent / "file"
    parent.touch()
    return patch.object(shared_quota, "directory", return_value=parent / "quotas")


@pytest.mark.parametrize(
    "trouble",
    [
        full_disk,
        lambda: patch.object(shared_quota, "directory", side_effect=FileNotFoundError("no usable one found")),
        a_file_in_place_of_the_directory,
        lambda: patch.object(fcntl, "flock", side_effect=OSError(errno.ENOLCK, "No locks available")),
    ],
    ids=["full disk", "no temporary directory", "a file in its place", "no locks"],
)
def test_a_file_system_that_fails_delays_nothing(
    shared: SharedQuota, trouble: Callable[[], AbstractContextManager[Any]]
) -> None:
    with trouble():
        shared.learn(headers(0), NOW)
        shared.record_queue(NOW)
        assert shared.reserve(NOW) == 0
        assert shared.read(NOW) == Quota()
        shared.answered(headers(0), refused=False)


def test_an_error_on_closing_the_file_is_ignored(shared: SharedQuota) -> None:
    class Late(io.FileIO):
        def close(self) -> None:
            super().close()
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with patch.object(shared_quota.io, "FileIO", Late):
        shared.learn(headers(3), NOW)
    assert shared.read(NOW).remaining == 3


def test_a_locked_file_is_not_waited_for_in_the_event_loop(
    shared: SharedQuota, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(shared_quota.time, "sleep", pauses.append)
    shared.learn(headers(0), NOW)
    with shared._path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        shared.learn(headers(5), NOW)
        shared.record_queue(NOW)
        assert shared.read(NOW) == Quota()
        assert pauses == []
        assert shared.reserve(NOW) == 0  # a worker tries again for a while
        assert 0 < len(pauses) < 100
    assert shared.read(NOW).remaining == 0
