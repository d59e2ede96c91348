"""
What the processes of one machine tell each other about a quota: a note in the directory for temporary files.

Each task process is new and knows nothing; without the note, every task that starts while a quota is
used up would learn so by a refused request of its own. The note is advice: where it cannot be written
or read (another machine, another user, no such directory), the service's refusal says the same, one
request later. So nothing here raises, and nobody on an event loop waits for it. It holds numbers only.
Refusals are not noted, replies are: what a reply says is left is true for everybody.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from airflow_provider_seedance.apis.rate_limits import RateLimit, is_plausible_reset
from airflow_provider_seedance.generations import read_number
from airflow_provider_seedance.polling.quota import MARGIN, Quota

log = logging.getLogger(__name__)

#: Seconds for which a triggerer's word counts that others wait for the quota already.
QUEUE_LIFETIME = 20.0

_LONGEST_NOTE = 1000

#: So often a worker looks whether the note is free, and so many seconds apart: what others do with it is short.
_LOOKS = 20
_LOOK_AGAIN = 0.005


def directory() -> Path:
    """Return where the notes of this user are."""
    return Path(tempfile.gettempdir()) / f"airflow-provider-seedance-{os.getuid()}"


class SharedQuota:
    """
    The note about one base URL and key.

    :param identity: Base URL and digest of the key.
    """

    def __init__(self, identity: tuple[str, str]) -> None:
        home = os.environ.get("AIRFLOW_HOME", "")
        digest = hashlib.sha256("\n".join((home, *identity)).encode()).hexdigest()[:32]
        self._name = f"quota-{digest}.json"

    @property
    def _path(self) -> Path:
        # Not before it is used: on a full disk there may be no directory for temporary files at all.
        return directory() / self._name

    def read(self, now: float) -> Quota:
        """Return the quota as it was noted; an empty one where nothing usable is."""
        with self._opened() as file:
            return _read(file, now)[0] if file else Quota()

    def learn(self, told: RateLimit, now: float) -> None:
        """Note what a reply told."""
        if told.remaining is None or told.limit is None or told.reset_at is None:
            return
        with self._opened() as file:
            if file:
                quota, queue_until = _read(file, now)
                quota.learn(told, now)
                _write(file, quota, queue_until)

    def queue(self, now: float) -> None:
        """Note that submissions wait for their turn in a triggerer: whoever comes now stands behind them."""
        with self._opened() as file:
            if file:
                _write(file, _read(file, now)[0], now + QUEUE_LIFETIME)

    def reserve(self, now: float) -> float:
        """
        Take one request out of what is left. Not for an event loop: it may wait a moment for its turn.

        :return: Zero, or the seconds until there may be one.
        """
        with self._opened(looks=_LOOKS) as file:
            if file is None:
                return 0.0
            quota, queue_until = _read(file, now)
            if queue_until > now:
                return QUEUE_LIFETIME
            if quota.free(now) < 1:
                return max(0.0, quota.opens_at(now) - now)
            if quota.limit is not None:
                quota.spend(now)
                _write(file, quota, queue_until)
            return 0.0

    @contextmanager
    def _opened(self, *, looks: int = 1) -> Iterator[io.FileIO | None]:
        """Open the note for one process at a time; ``None`` if that cannot be had now."""
        file = self._lock(looks)
        try:
            yield file
        finally:
            if file is not None:
                _close(file)

    def _lock(self, looks: int) -> io.FileIO | None:
        try:
            file = self._open()
        except OSError as error:
            log.debug("No note about the quota: %s", error)
            return None
        if _locked(file, looks):
            return file
        _close(file)
        return None

    def _open(self) -> io.FileIO:
        path = self._path
        path.parent.mkdir(mode=0o700, exist_ok=True)
        place = path.parent.lstat()
        if place.st_uid != os.getuid() or place.st_mode & 0o077:
            # Somebody else made it: they could hold all submissions up.
            raise PermissionError(f"{path.parent} is not this user's own")
        # Without a buffer: closing one writes again what could not be written.
        return io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+")


class SharedQuotaObserver:
    """Writes down what the replies to one process tell."""

    def __init__(self, note: SharedQuota) -> None:
        self._note = note

    def sent(self) -> None:
        """Do nothing: what is sent was reserved before."""

    def answered(self, limit: RateLimit, *, refused: bool) -> None:
        """Note what a reply told."""
        if not refused:
            self._note.learn(limit, time.time())


def _locked(file: io.FileIO, looks: int) -> bool:
    """Whether the note is ours; a file system without locks has none that could be shared."""
    for look in range(looks):
        if look:
            time.sleep(_LOOK_AGAIN)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        except OSError as error:
            log.debug("The note about the quota cannot be locked: %s", error)
            return False
        return True
    return False


def _close(file: io.FileIO) -> None:
    try:
        file.close()
    except OSError as error:
        log.debug("The note about the quota was not closed: %s", error)


def _read(file: io.FileIO, now: float) -> tuple[Quota, float]:
    """Return the quota as it was noted, and until when submissions stand in line."""
    try:
        file.seek(0)
        noted = json.loads(file.read(_LONGEST_NOTE) or "{}")
        limit, remaining = read_number(noted["limit"]), read_number(noted["remaining"])
        reset_at, window = read_number(noted["reset_at"]), read_number(noted["window"])
        queue_until = read_number(noted["queue_until"]) or 0.0
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Quota(), 0.0
    if queue_until > now + QUEUE_LIFETIME:
        queue_until = 0.0
    if limit is None or remaining is None or reset_at is None:
        return Quota(), queue_until
    if not now - MARGIN < reset_at or not is_plausible_reset(reset_at, now):
        return Quota(), queue_until
    quota = Quota(limit=int(limit), remaining=int(remaining), reset_at=float(reset_at), window=window)
    return quota, queue_until


def _write(file: io.FileIO, quota: Quota, queue_until: float) -> None:
    noted = {name: getattr(quota, name) for name in ("limit", "remaining", "reset_at", "window")}
    try:
        file.seek(0)
        file.truncate()
        file.write(json.dumps({**noted, "queue_until": queue_until}).encode())
    except OSError as error:
        log.debug("The note about the quota was not written: %s", error)
