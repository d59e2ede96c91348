"""
Quota state shared between the processes of one machine: a file in the directory for temporary files.

Each task process starts without knowledge; without the file, every task that starts while a quota is used up would
learn it from a refused request of its own. The file is advice: if it cannot be read or written (another machine,
another user), the service's refusal says the same, one request later. So nothing here raises, and an event loop
never waits for it. It holds numbers only. Replies are recorded, refusals are not: what a reply says is left is true
for every process. Where a service limits the submissions of a model by the minute, another file counts these.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from airflow_provider_seedance.apis.rate_limits import RateLimit, is_plausible_reset
from airflow_provider_seedance.generations import GenerationRequest, read_number
from airflow_provider_seedance.polling.quota import Quota, default_policy
from airflow_provider_seedance.polling.submission_rate import MIN_REFUSED_SECONDS, SubmissionRate
from airflow_provider_seedance.settings import Settings

log = logging.getLogger(__name__)

#: Maximum size of the file that is read; it holds some numbers.
_MAX_FILE_BYTES = 100_000

#: Attempts of a worker to lock the file, and the time between them: other processes hold the lock for a short time.
_LOCK_ATTEMPTS = 20
_LOCK_INTERVAL_SECONDS = 0.005


def directory() -> Path:
    """Return the directory of the files of this user."""
    return Path(tempfile.gettempdir()) / f"airflow-provider-seedance-{os.getuid()}"


class _SharedFile:
    """File of the processes of one machine, for a base URL and key."""

    def __init__(self, *identity: str, prefix: str) -> None:
        home = os.environ.get("AIRFLOW_HOME", "")
        digest = hashlib.sha256("\n".join((home, *identity)).encode()).hexdigest()[:32]
        self._name = f"{prefix}-{digest}.json"

    @property
    def _path(self) -> Path:
        # Resolved on use: on a full disk there may be no directory for temporary files.
        return directory() / self._name

    @contextmanager
    def _opened(self, *, attempts: int = 1) -> Iterator[io.FileIO | None]:
        """Open and lock the file; ``None`` if that is not possible now."""
        file = None
        try:
            file = self._open()
        except OSError as error:
            log.debug("No shared quota: %s", error)
        try:
            yield file if file and _try_lock(file, attempts) else None
        finally:
            if file:
                with suppress(OSError):
                    file.close()

    def _open(self) -> io.FileIO:
        path = self._path
        path.parent.mkdir(mode=0o700, exist_ok=True)
        found = path.parent.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            # Another user made it and could delay all submissions.
            raise PermissionError(f"{path.parent} does not belong to this user alone")
        # Unbuffered: closing a buffer would repeat a failed write.
        return io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+")


class SharedQuota(_SharedFile):
    """Shared state of the quota of a base URL and key; observes the replies to a client."""

    def __init__(self, identity: tuple[str, str]) -> None:
        super().__init__(*identity, prefix="quota")

    def read(self, now: float) -> Quota:
        """Return the quota as it was recorded; an empty one if nothing usable is."""
        with self._opened() as file:
            return _read(file, now)[0] if file else Quota()

    def learn(self, reported: RateLimit, now: float) -> None:
        """Record the headers of a reply."""
        if reported.remaining is None or reported.limit is None or reported.reset_at is None:
            return
        with self._opened() as file:
            if file:
                quota, queue_until = _read(file, now)
                quota.learn(reported, now)
                _write(file, quota, queue_until)

    def sent(self) -> None:
        """Do nothing: the request was reserved before."""

    def answered(self, limit: RateLimit, *, refused: bool) -> None:
        """Record the headers of a reply."""
        if not refused:
            self.learn(limit, time.time())

    def record_queue(self, now: float) -> None:
        """Record that submissions are queued in a triggerer, so that new ones queue behind them."""
        with self._opened() as file:
            if file:
                _write(file, _read(file, now)[0], now + default_policy().queue_lifetime)

    def reserve(self, now: float) -> float:
        """Reserve a request, or return the seconds until one may be left. May wait for the lock."""
        with self._opened(attempts=_LOCK_ATTEMPTS) as file:
            if file is None:
                return 0.0
            quota, queue_until = _read(file, now)
            if queue_until > now:
                return quota.policy.queue_lifetime
            if quota.free(now) < 1:
                return max(0.0, quota.opens_at(now) - now)
            if quota.limit is not None:
                quota.spend(now)
                _write(file, quota, queue_until)
            return 0.0


class SharedRate(_SharedFile):
    """
    Shared rate of submissions of one kind.

    :param identity: Base URL and a digest of the key.
    :param kind: What the service limits together, such as a model.
    :param count: What one submission counts.
    """

    def __init__(self, identity: tuple[str, str], kind: str, per_minute: float, count: int = 1) -> None:
        super().__init__(*identity, kind, prefix="rate")
        self._per_minute, self._count = per_minute, count

    @classmethod
    def of(cls, settings: Settings, request: GenerationRequest) -> SharedRate | None:
        """Return the rate for a prepared request: as configured, else as documented, else ``None``."""
        kind = settings.api.submission_kind(request)
        limits = (*settings.submissions_per_minute, *settings.api.submissions_per_minute.items())
        limit = next((limit for pattern, limit in limits if fnmatchcase(kind, pattern)), None)
        count = getattr(request, "num_images", None) or 1
        return cls(settings.identity, kind, limit, count) if limit else None

    def reserve(self, now: float, max_wait: float = math.inf) -> float:
        """Book a submission, unless its time is too far ahead; return the seconds until then. May wait for the lock."""
        with self._opened(attempts=_LOCK_ATTEMPTS) as file:
            return self._reserve(file, now, max_wait) if file else 0.0

    def refuse(self, now: float) -> float:
        """Lower the rate after a refusal, and book the next attempt; return the seconds until its time."""
        wait = 0.0
        with self._opened(attempts=_LOCK_ATTEMPTS) as file:
            if file:
                wait = self._reserve(file, now, refused=True)
        return max(wait, MIN_REFUSED_SECONDS)

    def _reserve(
        self, file: io.FileIO, now: float, max_wait: float = math.inf, *, refused: bool = False
    ) -> float:
        rate = SubmissionRate(self._per_minute)
        recorded = _load(file)
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            learned = recorded["learned"]
            rate.learned = (float(learned[0]), float(learned[1])) if learned else None
            rate.booked = [(float(start), int(count)) for start, count in recorded["booked"]]
        if refused:
            rate.refuse(now)
        wait = rate.reserve(now, self._count)
        if wait <= max_wait:
            _save(file, {"learned": rate.learned, "booked": rate.booked})
        return wait


def _try_lock(file: io.FileIO, attempts: int) -> bool:
    """Return whether the file could be locked; on a file system without locks it cannot be shared."""
    for attempt in range(attempts):
        if attempt:
            time.sleep(_LOCK_INTERVAL_SECONDS)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        except OSError as error:
            log.debug("The shared quota cannot be locked: %s", error)
            return False
        return True
    return False


def _read(file: io.FileIO, now: float) -> tuple[Quota, float]:
    """Return the quota as it was recorded, and until when submissions are queued."""
    recorded = _load(file)
    try:
        limit, remaining = read_number(recorded["limit"]), read_number(recorded["remaining"])
        reset_at, window = read_number(recorded["reset_at"]), read_number(recorded["window"])
        queue_until = read_number(recorded["queue_until"]) or 0.0
    except (KeyError, TypeError):
        return Quota(), 0.0
    policy = default_policy()
    if queue_until > now + policy.queue_lifetime:
        queue_until = 0.0
    if limit is None or remaining is None or reset_at is None:
        return Quota(), queue_until
    if not now - policy.reset_margin < reset_at or not is_plausible_reset(reset_at, now):
        return Quota(), queue_until
    quota = Quota(limit=int(limit), remaining=int(remaining), reset_at=float(reset_at), window=window)
    return quota, queue_until


def _write(file: io.FileIO, quota: Quota, queue_until: float) -> None:
    recorded = {name: getattr(quota, name) for name in ("limit", "remaining", "reset_at", "window")}
    _save(file, {**recorded, "queue_until": queue_until})


def _load(file: io.FileIO) -> Any:
    """Return what was recorded, or an empty object if nothing readable is."""
    try:
        file.seek(0)
        return json.loads(file.read(_MAX_FILE_BYTES) or "{}")
    except (OSError, ValueError, RecursionError):
        return {}


def _save(file: io.FileIO, recorded: Mapping[str, Any]) -> None:
    try:
        file.seek(0)
        file.truncate()
        file.write(json.dumps(recorded).encode())
    except OSError as error:
        log.debug("The shared quota was not written: %s", error)
