"""The note about a quota that the processes of one machine share."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import io
import json
import os
import resource
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_seedance.apis.rate_limits import RateLimit
from airflow_provider_seedance.polling import shared_quota
from airflow_provider_seedance.polling.quota import POLICY, Quota
from airflow_provider_seedance.polling.shared_quota import SharedQuota

IDENTITY = ("https://vendor.example/v1", "digest-of-a-key")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shared_quota, "directory", lambda: tmp_path / "notes")
    return tmp_path / "notes"


def told(remaining: int, *, now: float, left: float = 600.0) -> RateLimit:
    return RateLimit(
        limit=10, remaining=remaining, reset_at=datetime.fromtimestamp(now + left, UTC), retry_after=left
    )


def test_without_a_note_nothing_is_held_up(place: Path) -> None:
    now = float(int(time.time()))
    assert SharedQuota(IDENTITY).reserve(now) == 0
    assert SharedQuota(IDENTITY).read(now).limit is None


def test_what_one_process_was_told_another_knows() -> None:
    now = float(int(time.time()))
    SharedQuota(IDENTITY).learn(told(2, now=now), now)
    assert SharedQuota(IDENTITY).reserve(now) == 0
    assert SharedQuota(IDENTITY).reserve(now) == 0
    assert SharedQuota(IDENTITY).reserve(now) == pytest.approx(600 + POLICY.reset_margin, abs=1)
    assert SharedQuota(("https://vendor.example/v1", "another key")).reserve(now) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_other_processes_too() -> None:
    now = float(int(time.time()))
    SharedQuota(IDENTITY).learn(told(1, now=now), now)
    other = os.fork()
    if not other:
        waits = 1.0
        try:
            waits = SharedQuota(IDENTITY).reserve(now)
        finally:
            os._exit(int(waits != 0))
    assert os.waitpid(other, 0)[1] == 0
    assert SharedQuota(IDENTITY).reserve(now) > 0


def test_a_window_that_is_over_holds_nobody_up() -> None:
    now = float(int(time.time()))
    SharedQuota(IDENTITY).learn(told(0, now=now), now)
    assert SharedQuota(IDENTITY).reserve(now + 600) > 0
    assert SharedQuota(IDENTITY).reserve(now + 600 + POLICY.reset_margin) == 0
    assert SharedQuota(IDENTITY).reserve(now + 5000) == 0


def test_only_replies_are_noted_not_refusals() -> None:
    now = float(int(time.time()))
    taker = SharedQuota(IDENTITY)
    taker.answered(told(0, now=now), refused=True)
    assert SharedQuota(IDENTITY).reserve(now) == 0
    taker.answered(told(0, now=now), refused=False)
    assert SharedQuota(IDENTITY).reserve(now) > 0


def test_whoever_comes_stands_behind_those_who_wait() -> None:
    now = float(int(time.time()))
    SharedQuota(IDENTITY).learn(told(5, now=now), now)
    SharedQuota(IDENTITY).record_queue(now)
    assert SharedQuota(IDENTITY).reserve(now) == POLICY.queue_lifetime
    SharedQuota(IDENTITY).learn(told(4, now=now), now)
    assert SharedQuota(IDENTITY).reserve(now + 1) == POLICY.queue_lifetime
    assert SharedQuota(IDENTITY).reserve(now + POLICY.queue_lifetime) == 0
    assert SharedQuota(IDENTITY).read(now).free(now) == 3


@pytest.mark.parametrize("missing", ["limit", "remaining", "reset_at"])
def test_half_a_window_is_not_noted(place: Path, missing: str) -> None:
    now = float(int(time.time()))
    SharedQuota(IDENTITY).learn(replace(told(0, now=now), **{missing: None}), now)
    assert not place.exists()
    assert SharedQuota(IDENTITY).reserve(now) == 0


@pytest.mark.parametrize("missing", ["limit", "remaining", "reset_at"])
def test_half_a_note_is_none(missing: str) -> None:
    now = float(int(time.time()))
    note = SharedQuota(IDENTITY)
    note.learn(told(0, now=now), now)
    note._path.write_text(json.dumps({**json.loads(note._path.read_text()), missing: None}))
    assert note.reserve(now) == 0
    assert note.read(now) == Quota()


def test_a_note_of_any_length_is_not_read() -> None:
    now = float(int(time.time()))
    note = SharedQuota(IDENTITY)
    note.learn(told(0, now=now), now)
    note._path.write_text(" " * 1_000_000 + note._path.read_text())
    assert note.reserve(now) == 0


def test_a_window_is_noted_whole() -> None:
    now = float(int(time.time()))
    SharedQuota(IDENTITY).learn(told(4, now=now), now)
    noted = SharedQuota(IDENTITY).read(now + 60)
    assert (noted.limit, noted.remaining, noted.reset_at, noted.window) == (10, 4, now + 600, 600)


@pytest.mark.parametrize(
    "rubbish",
    [
        "",
        "{",
        "[]",
        "null",
        '{"limit": 1}',
        '{"limit": "x", "remaining": 0, "reset_at": 1e99, "window": null}',
        '{"limit": 5, "remaining": 0, "reset_at": 99999999999, "window": 1}',
        "[" * 900,
        '{"limit": null, "remaining": null, "reset_at": null, "window": null, "queue_until": 1e99}',
    ],
)
def test_a_damaged_note_is_none(place: Path, rubbish: str) -> None:
    now = float(int(time.time()))
    note = SharedQuota(IDENTITY)
    note.learn(told(3, now=now), now)
    note._path.write_text(rubbish)
    assert note.reserve(now) == 0
    note.learn(told(0, now=now), now)
    assert note.reserve(now) > 0


def test_the_note_is_this_users_own(place: Path) -> None:
    now = float(int(time.time()))
    note = SharedQuota(IDENTITY)
    note.learn(told(0, now=now), now)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE(note._path.stat().st_mode) == 0o600
    assert "digest-of-a-key" not in note._path.name + note._path.read_text()
    place.chmod(0o777)  # anybody could have written it
    assert note.reserve(now) == 0


def test_a_place_that_cannot_be_had_is_no_trouble(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(shared_quota, "directory", lambda: tmp_path / "file" / "notes")
    now = float(int(time.time()))
    SharedQuota(IDENTITY).learn(told(0, now=now), now)
    SharedQuota(IDENTITY).record_queue(now)
    assert SharedQuota(IDENTITY).reserve(now) == 0
    assert SharedQuota(IDENTITY).read(now) == Quota()


def test_a_link_is_not_followed(place: Path, tmp_path: Path) -> None:
    now = float(int(time.time()))
    target = tmp_path / "target"
    target.write_text("keep")
    place.mkdir(mode=0o700)
    note = SharedQuota(IDENTITY)
    os.symlink(target, note._path)
    note.learn(told(0, now=now), now)
    assert target.read_text() == "keep"
    assert note.reserve(now) == 0


def test_each_airflow_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now = float(int(time.time()))
    monkeypatch.setenv("AIRFLOW_HOME", "/one")
    SharedQuota(IDENTITY).learn(told(0, now=now), now)
    monkeypatch.setenv("AIRFLOW_HOME", "/two")
    assert SharedQuota(IDENTITY).reserve(now) == 0
    monkeypatch.delenv("AIRFLOW_HOME")
    assert SharedQuota(IDENTITY).reserve(now) == 0


def test_the_notes_of_each_user_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    again = importlib.util.find_spec(shared_quota.__name__)
    assert again is not None
    assert again.loader is not None
    fresh = importlib.util.module_from_spec(again)
    again.loader.exec_module(fresh)
    assert fresh.directory() == Path(tempfile.gettempdir()) / f"airflow-provider-seedance-{os.getuid()}"
    monkeypatch.setattr(fresh.os, "getuid", lambda: 4711)
    assert fresh.directory().name == "airflow-provider-seedance-4711"


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


def use(note: SharedQuota, now: float) -> None:
    """Do all that can be done with a note."""
    note.learn(told(0, now=now), now)
    note.record_queue(now)
    assert note.reserve(now) == 0
    assert note.read(now) == Quota()
    note.answered(told(0, now=now), refused=False)


def test_a_full_disk_is_no_trouble() -> None:
    with full_disk():
        use(SharedQuota(IDENTITY), float(int(time.time())))


def test_nor_is_having_no_directory_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise FileNotFoundError("no usable temporary directory found")

    monkeypatch.setattr(shared_quota, "directory", missing)
    use(SharedQuota(IDENTITY), float(int(time.time())))


def test_nor_is_a_file_system_without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*told: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(shared_quota.fcntl, "flock", flock)
    use(SharedQuota(IDENTITY), float(int(time.time())))


def test_nor_is_a_disk_that_complains_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(io.FileIO):
        def close(self) -> None:
            super().close()
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(shared_quota.io, "FileIO", Late)
    now = float(int(time.time()))
    SharedQuota(IDENTITY).learn(told(3, now=now), now)
    assert SharedQuota(IDENTITY).read(now).remaining == 3


def test_who_finds_the_note_in_use_does_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for whoever holds it: an event loop would stand still."""
    naps: list[float] = []
    monkeypatch.setattr(shared_quota.time, "sleep", naps.append)
    now = float(int(time.time()))
    note = SharedQuota(IDENTITY)
    note.learn(told(0, now=now), now)
    with note._path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        note.learn(told(5, now=now), now)
        note.record_queue(now)
        assert note.read(now) == Quota()
        assert naps == []
        assert note.reserve(now) == 0  # a worker may look again
        assert len(naps) < 100
    assert note.read(now).remaining == 0


def test_the_end_of_a_window_that_is_far_away_is_not_noted() -> None:
    now = float(int(time.time()))
    note = SharedQuota(IDENTITY)
    note.learn(told(0, now=now, left=86401.0), now)
    assert note.reserve(now) == 0
    note.learn(told(0, now=now, left=86400.0), now)
    assert note.reserve(now) > 86000
