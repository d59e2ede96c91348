"""
One download, through broken connections, expired URLs and servers of all kinds, in constant memory.

What holds at every moment: the sink has been given ``received`` bytes from the beginning of the file, and
the hash is theirs. A reply is taken only if it goes on exactly there and belongs to the same file;
otherwise the sink starts over. The caller makes the sink visible after :func:`download` has returned, that
is, after the length was checked.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from airflow_provider_seedance.apis.rate_limits import read_retry_after
from airflow_provider_seedance.client.media_client import (
    MediaAddressError,
    MediaClient,
    MediaConnectionError,
    MediaStream,
    MediaTooSlowError,
)
from airflow_provider_seedance.exceptions import (
    SeedanceError,
    SeedanceMediaError,
    SeedanceMediaHostError,
    SeedanceMediaTooLargeError,
    SeedanceOutputGoneError,
)
from airflow_provider_seedance.storage.location import RETRY_IS_FREE
from airflow_provider_seedance.urls import redact_url, without_query

log = logging.getLogger(__name__)

#: Tries in a row that may bring nothing new.
MAX_FUTILE_TRIES = 5

#: Tries of one download in all.
MAX_TRIES = 200

#: URLs asked for in a row, each costing a request of the quota, while none of them works.
MAX_REFRESHES = 2

#: Seconds before the next try after something new came; they double with every futile try.
FIRST_PAUSE = 0.25

#: Seconds before a refused URL is tried again that the service stands by: a host may be late with a new file.
SAME_URL_PAUSE = 2.0

#: Longest pause on a worker, in seconds; a longer one is for Airflow to make.
LONGEST_PAUSE = 60.0

#: Types of error pages, which some hosts send with status 200.
_PAGES = frozenset(
    {
        "text/html",
        "text/xml",
        "application/json",
        "application/problem+json",
        "application/xhtml+xml",
        "application/xml",
    }
)


class Sink(Protocol):
    """Where a download goes."""

    def write(self, data: bytes) -> None:
        """Take the next bytes."""

    def restart(self) -> None:
        """Forget every byte taken so far."""


@dataclass(frozen=True, kw_only=True)
class Announced:
    """
    What the first reply told of the file.

    :param length: Bytes of the whole file, or ``None`` where the server did not tell.
    :param content_type: Media type, empty where the server did not tell.
    """

    length: int | None
    content_type: str


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """
    A complete download.

    :param size: In bytes.
    :param sha256: Of those bytes, in hexadecimal.
    """

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """
    What is downloaded.

    :param what: What it is called in messages: ``output 2 of 3 of generation gen-1``.
    :param generation_id: For errors.
    :param url: Where it is.
    :param stale: Whether the URL has expired by what the service said of it.
    :param refresh: Asks the service for the URL again, which may turn out to be the same. It raises
        :class:`SeedanceOutputGoneError` where there is none, and costs a request of the quota.
    """

    what: str
    generation_id: str
    url: str
    refresh: Callable[[], str]
    stale: bool = False


Begin = Callable[[Announced], Sink | None]
Progress = Callable[[int, int | None], None]


def download(
    client: MediaClient,
    source: Source,
    begin: Begin,
    *,
    progress: Progress,
    now: Callable[[], datetime],
    stop: threading.Event | None = None,
    sleep: Callable[[float], None] | None = None,
) -> Downloaded | None:
    """
    Download a file into a sink.

    :param begin: Makes the sink when the first good reply has come, or returns ``None`` to leave it.
    :param progress: Called after every piece with the bytes so far and in all.
    :param stop: WaitResult the download when set.
    :param sleep: Replaces waiting, for tests.
    :returns: What was downloaded, or ``None`` if ``begin`` left it.
    :raises SeedanceOutputGoneError: the output is no longer to be had.
    :raises SeedanceMediaTooLargeError: it is larger than the connection allows.
    :raises SeedanceMediaError: it could not be downloaded this time.
    """
    run = _Run(client, source, begin, progress, now, stop or threading.Event(), sleep)
    return run.to_the_end()


class _Failed(Exception):
    """A try failed in a way that another one may not."""

    def __init__(self, reason: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.retry_after = retry_after


class _Slow(_Failed):
    """A try brought so little that it counts for nothing."""


class _Refused(_Failed):
    """The host does not give out the file under this URL."""


class _Left(Exception):
    """``begin`` left the file."""


class _Run:
    def __init__(
        self,
        client: MediaClient,
        source: Source,
        begin: Begin,
        progress: Progress,
        now: Callable[[], datetime],
        stop: threading.Event,
        sleep: Callable[[float], None] | None,
    ) -> None:
        self.client = client
        self.source = source
        self.begin = begin
        self.progress = progress
        self.now = now
        self.stop = stop
        self.sleep: Callable[[float], object] = sleep or stop.wait
        self.url = source.url
        self.sink: Sink | None = None
        self.hash = hashlib.sha256()
        self.received = 0
        self.total: int | None = None
        #: What tells whether it is still the same file, and the URL that it was begun from.
        self.validator: str | None = None
        self.begun_from = source.url
        self.ranges = True
        #: Most bytes ever received: what shows progress over tries and new beginnings.
        self.furthest = 0
        self.furthest_before = 0
        self.tries = 0
        self.futile = 0
        self.refreshes = 0
        self.same_again = False

    # ------------------------------------------------------------------ tries

    def to_the_end(self) -> Downloaded | None:
        if self.source.stale:
            self._refresh_early()
        while True:
            self._check_stop()
            try:
                self._attempt()
                return Downloaded(size=self.received, sha256=self.hash.hexdigest())
            except _Left:
                return None
            except MediaAddressError as error:
                raise SeedanceMediaHostError(
                    f"{capital(self.source.what)} may not be downloaded from {redact_url(self.url)}: {error}. The "
                    "render is paid for and is not lost by this. If that host is to be trusted, name it in "
                    "media_hosts in the connection's extra and clear this task, which pays nothing.",
                    generation_id=self.source.generation_id,
                ) from error
            except MediaTooSlowError as error:
                self._failed(_Slow(str(error)))
            except MediaConnectionError as error:
                self._failed(_Failed(str(error)))
            except _Refused as refusal:
                self._refused(refusal)
            except _Failed as failure:
                self._failed(failure)

    def _attempt(self) -> None:
        offset = self.received if self._resumable() else 0
        self.tries += 1
        with self.client.open(self.url, offset=offset, validator=self.validator) as stream:
            if stream.status == 416 and self._is_whole(stream, offset):
                return
            self._judge(stream, offset)
            self._take(stream, offset)

    def _is_whole(self, stream: MediaStream, offset: int) -> bool:
        """Whether there is nothing left: the connection broke at the end of a file of unannounced length."""
        part = stream.content_range
        return bool(offset and part and part.total == offset and self.total in (None, offset))

    def _resumable(self) -> bool:
        if not self.ranges:
            return False
        # Without a validator only the same path is trusted to be the same file; its signature may differ.
        return self.validator is not None or without_query(self.url) == without_query(self.begun_from)

    def _judge(self, stream: MediaStream, offset: int) -> None:
        """Raise unless the reply holds (the rest of) the file."""
        status = stream.status
        if status == 416 and offset:
            whole = stream.content_range
            self.ranges = False
            raise _Failed(
                f"the host has no bytes from {offset} on (of {whole.total if whole else 'unknown'})",
                status=status,
            )
        if status in (408, 425, 429) or status >= 500:
            raise _Failed(
                f"HTTP {status}", status=status, retry_after=read_retry_after(stream.headers, self.now())
            )
        if status >= 400:
            raise _Refused(f"HTTP {status}", status=status)
        if status not in (200, 206):
            raise _Failed(f"HTTP {status}, which is no reply to a download", status=status)
        if stream.content_type in _PAGES:
            raise _Refused(f"a page of type {stream.content_type} in place of the file", status=status)
        if stream.content_encoding:
            raise self._error(
                f"is sent with content encoding {stream.content_encoding} although it was asked for as it is"
            )

    def _take(self, stream: MediaStream, offset: int) -> None:
        total = self._position(stream, offset)
        self._check_size(total or 0)
        if self.sink is None:
            self.sink = self.begin(Announced(length=total, content_type=stream.content_type))
            if self.sink is None:
                raise _Left
            if total is None:
                log.warning("The host announces no length for %s: it cannot be checked.", self.source.what)
        for chunk in stream.chunks():
            self._check_stop()
            self._check_size(self.received + len(chunk))
            self.sink.write(chunk)
            self.hash.update(chunk)
            self.received += len(chunk)
            self.progress(self.received, self.total)
        self.furthest = max(self.furthest, self.received)
        if not self.received:
            raise _Failed("the file is empty")
        if self.total is not None and self.received != self.total:
            if self.received > self.total:
                self.ranges = False
            raise _Failed(f"{self.received} bytes came, {self.total} were announced")

    def _position(self, stream: MediaStream, offset: int) -> int | None:
        """Come to the byte that the reply begins with, and return the announced length of the file."""
        if stream.status == 200:
            self._start_over(stream)
            return self.total
        part = stream.content_range
        if part is None or part.start != offset:
            self.ranges = False
            raise _Failed(f"the host sent another range than from {offset} on", status=206)
        if not offset:
            self._start_over(stream)
            self.total = part.total
            return self.total
        other_length = part.total is not None and self.total is not None and part.total != self.total
        other_file = self.validator and stream.validator and stream.validator != self.validator
        if other_length or other_file:
            self.ranges = False
            raise _Failed("the file changed while it was downloaded", status=206)
        if self.total is None:
            self.total = part.total
        return self.total

    def _start_over(self, stream: MediaStream) -> None:
        if self.received and self.sink is not None:
            log.info("The host sends %s from its first byte.", self.source.what)
            self.sink.restart()
        self.furthest = max(self.furthest, self.received)
        self.received = 0
        self.hash = hashlib.sha256()
        self.total = stream.content_length
        self.validator = stream.validator
        self.begun_from = self.url
        self.ranges = True

    # ------------------------------------------------------------------ failures

    def _note_progress(self, *, slow: bool = False) -> None:
        self.furthest = max(self.furthest, self.received)
        if self.furthest > self.furthest_before and not slow:
            self.furthest_before = self.furthest
            self.futile = 0
            self.refreshes = 0
            self.same_again = False
        self.futile += 1

    def _failed(self, failure: _Failed) -> None:
        self._note_progress(slow=isinstance(failure, _Slow))
        wait = failure.retry_after
        if self.futile >= MAX_FUTILE_TRIES or self.tries >= MAX_TRIES or (wait or 0) > LONGEST_PAUSE:
            raise self._error(
                f"could not be downloaded from {redact_url(self.url)}: {failure.reason} "
                f"(after {self.tries} tries and {self._so_far()})",
                status=failure.status,
                retry_after=wait,
            )
        pause = wait if wait is not None else self._backoff()
        then = "it is resumed" if self.received and self._resumable() else "it is tried again"
        log.warning(
            "The download of %s broke after %s: %s; %s in %.1f s.",
            self.source.what,
            self._so_far(),
            failure.reason,
            then,
            pause,
        )
        self.sleep(pause)

    def _backoff(self) -> float:
        return float(min(FIRST_PAUSE * 2 ** (self.futile - 1), 30.0))

    def _refused(self, refusal: _Refused) -> None:
        self._note_progress()
        if self.same_again:
            raise SeedanceOutputGoneError(
                f"{capital(self.source.what)} is no longer there: {redact_url(self.url)} answers "
                f"{refusal.reason}, and the service gives no other URL. It was rendered and is billed; look for "
                "it in the console of the service. Only a new generation makes it again, and is paid for: clear "
                'the generating task with on_clear="new" or a changed request; as it is, a clear may deliver the '
                "same dead URL.",
                http_status=refusal.status,
                generation_id=self.source.generation_id,
            )
        if self.refreshes >= MAX_REFRESHES:
            raise self._error(
                f"could not be downloaded: the host refuses every URL the service gives, the last one "
                f"({redact_url(self.url)}) with {refusal.reason}",
                status=refusal.status,
            )
        self.refreshes += 1
        log.warning(
            "%s is refused at %s (%s); asking the service for its URL again.",
            capital(self.source.what),
            redact_url(self.url),
            refusal.reason,
        )
        try:
            fresh = self.source.refresh()
        except SeedanceError as error:
            raise self._explained(error, refusal) from error
        if fresh == self.url:
            self.same_again = True
            self.sleep(SAME_URL_PAUSE)
        self.url = fresh

    def _refresh_early(self) -> None:
        try:
            fresh = self.source.refresh()
        except SeedanceError as error:
            # Clocks differ and services round: the URL may work all the same, and trying it costs nothing.
            log.warning(
                "The URL of %s has expired, and there is no new one (%s); trying it.", self.source.what, error
            )
        else:
            log.info("The URL of %s has expired; the service was asked again.", self.source.what)
            self.url = fresh

    def _explained(self, error: SeedanceError, refusal: _Refused) -> SeedanceError:
        details = {**error.details(), "generation_id": self.source.generation_id}
        return type(error)(
            f"{capital(self.source.what)} is refused at {redact_url(self.url)} ({refusal.reason}), and no new URL "
            f"could be had: {error.message}",
            **details,
        )

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise self._error("is not downloaded: the task was stopped")

    def _check_size(self, size: int) -> None:
        most = self.client.max_bytes
        if size > most:
            raise too_large(self.source, redact_url(self.url), size, most)

    def _so_far(self) -> str:
        return f"{self.received} of {self.total if self.total is not None else 'unknown'} bytes"

    def _error(
        self, what: str, *, status: int | None = None, retry_after: float | None = None
    ) -> SeedanceMediaError:
        return SeedanceMediaError(
            f"{capital(self.source.what)} {what}. {RETRY_IS_FREE}",
            http_status=status,
            retry_after=retry_after,
            generation_id=self.source.generation_id,
        )


def too_large(source: Source, where: str, size: int, most: int) -> SeedanceMediaTooLargeError:
    """Return the error for an output of more bytes than the connection allows."""
    return SeedanceMediaTooLargeError(
        f"{capital(source.what)} is larger than media may be: {where} has at least {size} bytes, "
        f"and {most} are allowed. Nothing of it is kept; the render is paid for and not lost. If the file is what "
        "it should be, raise max_media_bytes in the connection's extra and clear this task, which pays nothing.",
        generation_id=source.generation_id,
    )


def capital(text: str) -> str:
    """Return a text that begins a sentence."""
    return text[:1].upper() + text[1:]
