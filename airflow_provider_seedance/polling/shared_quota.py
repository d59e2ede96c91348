"""
Quota state shared between processes: a file in the directory for temporary files, and a row of the ledger.

Each task process starts without knowledge; without the file, every task that starts while a quota is used up would
learn it from a refused request of its own. The state is advice: if it cannot be read or written, the service's refusal
says the same, one request later. So nothing here raises, and an event loop never waits for it. It holds numbers only.
Replies are recorded, refusals are not: what a reply says is left is true for every process.

A reservation changes the file, which costs nothing. With a ledger, the machines exchange their files every few seconds.
Where a service limits the submissions of a model by the minute, another file counts these. Machines do not exchange it: a
row that every submission changes would cost two statements for each and make them wait for one another.
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
from asyncio import Task, create_task
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async

from airflow_provider_seedance.apis.rate_limits import RateLimit, is_plausible_reset
from airflow_provider_seedance.generations import GenerationRequest, read_number
from airflow_provider_seedance.polling.quota import Quota, default_policy
from airflow_provider_seedance.polling.submission_rate import MIN_REFUSED_SECONDS, SubmissionRate
from airflow_provider_seedance.settings import ChangeState, Settings

log = logging.getLogger(__name__)

#: Threads in which an event loop uses the ledger: a database that hangs must not hold those that resolve host names.
LEDGER_THREADS = ThreadPoolExecutor(4, "seedance-ledger")

#: Maximum size of the file that is read; it holds some numbers.
_MAX_FILE_BYTES = 100_000

#: Attempts of a worker to lock the file, and the time between them: other processes hold the lock for a short time.
_LOCK_ATTEMPTS = 20
_LOCK_INTERVAL_SECONDS = 0.005

#: Time between two exchanges of a machine with the ledger; shorter by the share of the quota that is used.
EXCHANGE_INTERVAL_SECONDS = 5.0


def directory() -> Path:
    """Return the directory of the files of this user."""
    return Path(tempfile.gettempdir()) / f"airflow-provider-seedance-{os.getuid()}"


def _digest(*identity: str) -> str:
    return hashlib.sha256("\n".join(identity).encode()).hexdigest()[:32]


class _SharedFile:
    """A file that the processes of one machine share."""

    def __init__(self, *identity: str, prefix: str) -> None:
        self._name = f"{prefix}-{_digest(os.environ.get('AIRFLOW_HOME', ''), *identity)}.json"

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


@dataclass(frozen=True, slots=True)
class _QuotaState:
    """
    State of a quota as it is recorded. Times are in seconds since 1970.

    :param queue_until: Time until which submissions are queued in a triggerer.
    :param exchanged_at: Time of the latest exchange with the ledger.
    """

    quota: Quota = field(default_factory=Quota)
    queue_until: float = 0.0
    exchanged_at: float = -math.inf

    @classmethod
    def of(cls, recorded: Any, now: float) -> _QuotaState:
        """Read a recorded state; an empty one if it is not usable."""
        try:
            values = {name: read_number(recorded.get(name)) for name in _QUOTA_FIELDS}
        except AttributeError:
            return cls()
        policy, queue_until = default_policy(), values["queue_until"] or 0.0
        exchanged_at = values["exchanged_at"]
        state = cls(
            # Clocks of machines differ; a clock that was set back must not delay submissions for long.
            queue_until=queue_until if queue_until <= now + 2 * policy.queue_lifetime else 0.0,
            exchanged_at=-math.inf if exchanged_at is None else exchanged_at,
        )
        limit, remaining, reset_at = values["limit"], values["remaining"], values["reset_at"]
        if limit is None or remaining is None or reset_at is None:
            return state
        if not now - policy.reset_margin < reset_at or not is_plausible_reset(reset_at, now):
            return state
        quota = Quota(
            limit=int(limit), remaining=int(remaining), reset_at=float(reset_at), window=values["window"]
        )
        return replace(state, quota=quota)

    def is_exchanged(self, now: float) -> bool:
        """Return whether the latest exchange is recent: the fewer requests are left, the more often machines exchange."""
        left = (self.quota.remaining or 0) / self.quota.limit if self.quota.limit else 1.0
        return abs(now - self.exchanged_at) < EXCHANGE_INTERVAL_SECONDS * left

    def record(self) -> dict[str, float]:
        """Return the values that are known."""
        values = {
            name: getattr(self.quota, name) for name in _QUOTA_FIELDS[:4] if self.quota.limit is not None
        }
        values |= {"queue_until": self.queue_until or None, "exchanged_at": self.exchanged_at}
        return {name: value for name, value in values.items() if value is not None and value > -math.inf}

    def merged(self, other: _QuotaState) -> _QuotaState:
        """Return the common state of two machines; of one window, the fewest requests that one of them has seen left."""
        first, last = sorted((self.quota, other.quota), key=lambda quota: quota.reset_at or 0.0)
        quota = replace(last, window=max(first.window or 0.0, last.window or 0.0) or None)
        if first.limit == last.limit and first.limit is not None:
            assert first.reset_at is not None
            assert last.reset_at is not None
            assert first.remaining is not None
            if last.reset_at - first.reset_at <= 2 * quota.policy.reset_margin:
                quota.remaining = min(first.remaining, last.remaining or 0)
        return replace(self, quota=quota, queue_until=max(self.queue_until, other.queue_until))


_QUOTA_FIELDS = ("limit", "remaining", "reset_at", "window", "queue_until", "exchanged_at")


class SharedQuota(_SharedFile):
    """
    Shared state of the quota of a base URL and key; observes the replies to a client.

    :param change_in_ledger: Changes what all machines know; ``None`` without a ledger.
    """

    def __init__(self, identity: tuple[str, str], change_in_ledger: ChangeState | None = None) -> None:
        super().__init__(*identity, prefix="quota")
        self._change_in_ledger = change_in_ledger
        self._row = f"quota-{_digest(*identity)}"
        self._exchanging: Task[None] | None = None

    @classmethod
    def open(cls, settings: Settings, stack: ExitStack) -> SharedQuota:
        """Return the quota of a connection, and exchange it at the end of a stack: after the records of submissions."""
        quota = cls(settings.identity, settings.change_in_ledger)
        stack.callback(lambda: quota.exchange(time.time()))
        return quota

    def read(self, now: float) -> Quota:
        """Return the quota as it was recorded; an empty one if nothing usable is."""
        with self._opened() as file:
            return _QuotaState.of(_load(file), now).quota if file else Quota()

    def learn(self, reported: RateLimit, now: float) -> None:
        """Record the headers of a reply."""
        if reported.remaining is None or reported.limit is None or reported.reset_at is None:
            return
        with self._opened() as file:
            if file:
                state = _QuotaState.of(_load(file), now)
                state.quota.learn(reported, now)
                _save(file, state.record())

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
                state = _QuotaState.of(_load(file), now)
                _save(file, replace(state, queue_until=now + default_policy().queue_lifetime).record())

    def reserve(self, now: float) -> float:
        """Reserve a request, or return the seconds until one may be left. May wait for the lock and the ledger."""
        self.exchange(now)
        with self._opened(attempts=_LOCK_ATTEMPTS) as file:
            if file is None:
                return 0.0
            state = _QuotaState.of(_load(file), now)
            quota = state.quota
            if state.queue_until > now:
                return quota.policy.queue_lifetime
            if quota.free(now) < 1:
                return max(0.0, quota.opens_at(now) - now)
            if quota.limit is not None:
                quota.spend(now)
                _save(file, state.record())
            return 0.0

    def exchange(self, now: float) -> None:
        """Exchange the state with the ledger, unless a process of this machine has just done that; waits for the ledger."""
        if self._change_in_ledger is None:
            return
        with self._opened() as file:
            known = _QuotaState.of(_load(file) if file else {}, now)
            if file is None or known.is_exchanged(now):
                return
            _save(file, replace(known, exchanged_at=now).record())
        own = replace(known, exchanged_at=-math.inf)
        try:
            shared = self._change_in_ledger(
                self._row, lambda recorded: _QuotaState.of(recorded, now).merged(own).record()
            )
        except Exception as error:
            log.debug("The quota is not shared with other machines: %s", error)
            return
        with self._opened(attempts=_LOCK_ATTEMPTS) as file:
            if file:
                _save(file, _QuotaState.of(_load(file), now).merged(_QuotaState.of(shared, now)).record())

    def exchange_in_background(self) -> None:
        """Exchange the state with the ledger in a thread: an event loop must not wait for a database."""
        if self._change_in_ledger and (self._exchanging is None or self._exchanging.done()):
            exchange = sync_to_async(self.exchange, thread_sensitive=False, executor=LEDGER_THREADS)
            self._exchanging = create_task(exchange(time.time()))


class SharedRate(_SharedFile):
    """
    Shared rate of submissions of one kind.

    :param identity: Base URL and a digest of the key.
    :param kind: Name of the submissions that the service limits together, such as a model.
    :param count: Count of one submission.
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

    def refuse(self, now: float, max_wait: float = math.inf) -> float:
        """Lower the rate after a refusal, and book the next attempt as :meth:`reserve` does."""
        wait = 0.0
        with self._opened(attempts=_LOCK_ATTEMPTS) as file:
            if file:
                wait = self._reserve(file, now, max_wait, refused=True)
        return max(wait, MIN_REFUSED_SECONDS)

    def _reserve(self, file: io.FileIO, now: float, max_wait: float, *, refused: bool = False) -> float:
        rate = SubmissionRate(self._per_minute)
        recorded = _load(file)
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            learned = recorded["learned"]
            rate.learned = (float(learned[0]), float(learned[1])) if learned else None
            rate.booked = [(float(start), int(count)) for start, count in recorded["booked"]]
        if refused:
            rate.refuse(now)
        booked = list(rate.booked)
        wait = rate.reserve(now, self._count)
        if wait > max_wait:
            rate.booked = booked
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


def _load(file: io.FileIO) -> Any:
    """Return the recorded object, or an empty one if it is not readable."""
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
