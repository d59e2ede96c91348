"""
Download of one file through broken connections, expired URLs and servers of all kinds, in constant memory.

Invariant: the sink has received ``received`` bytes from the beginning of the file, and the hash is theirs. A reply
is used only if it continues exactly there and belongs to the same file; otherwise the sink starts over. The caller
makes the file visible after :func:`download` has returned, that is, after the length was checked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.rate_limits import read_retry_after
from airflow_provider_seedance.client import media_client
from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.storage.location import RETRY_IS_FREE, StorageLocation
from airflow_provider_seedance.urls import redact_url, split_signature

log = logging.getLogger(__name__)

#: Consecutive attempts without new bytes; a host that is down for longer is left to Airflow's retry.
MAX_FUTILE_ATTEMPTS = 5

#: Attempts of one download in all, so that a host that sends a few bytes at a time ends as well.
MAX_ATTEMPTS = 200

#: Consecutive URL refreshes that all fail (each costs one request of the quota).
MAX_URL_REFRESHES = 2

#: Types of error pages, which some hosts send with status 200.
_ERROR_PAGE_TYPE = re.compile(r"[/+](html|xml|json)$")


@dataclass(frozen=True, kw_only=True)
class DownloadTiming:
    """
    Pauses of a download, in seconds.

    :param first_backoff: Before the first retry; it doubles with every futile attempt.
    :param max_backoff: Limit of the doubling pauses.
    :param confirmed_url_backoff: Before a refused URL is retried that the service confirmed: a host may be late with a
        new file.
    :param max_retry_after: Limit of a Retry-After that a worker waits for; a longer one is left to Airflow's retry.
    """

    first_backoff: float = 0.25
    max_backoff: float = 30.0
    confirmed_url_backoff: float = 2.0
    max_retry_after: float = 60.0


TIMING = DownloadTiming()


class Sink(Protocol):
    """Destination of a download."""

    def write(self, data: bytes) -> None:
        """Append bytes."""

    def restart(self) -> None:
        """Discard all bytes."""


class Announced(NamedTuple):
    """Length of the whole file and its media type in the first reply, ``None`` and empty where it has none."""

    length: int | None
    content_type: str


class Downloaded(NamedTuple):
    """Bytes of a complete download, and their SHA-256 in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """
    Origin of a download.

    :param label: Its name in messages: ``output 2 of 3 of generation gen-1``.
    :param generation_id: For errors.
    :param stale: The URL has expired by the service's own account.
    :param refresh: Requests the URL from the service again, which may turn out to be the same. It raises
        :class:`SeedanceOutputGoneError` where there is none, and costs a request of the quota.
    :param copy: Location at which another task has stored it.
    """

    label: str
    generation_id: str
    url: str
    refresh: Callable[[], str]
    stale: bool = False
    copy: StorageLocation | None = None

    @property
    def subject(self) -> str:
        """The label at the beginning of a sentence."""
        return self.label[:1].upper() + self.label[1:]


Begin = Callable[[Announced], Sink | None]
Progress = Callable[[int, int | None], None]


def download(
    client: media_client.MediaClient,
    source: Source,
    begin: Begin,
    *,
    progress: Progress,
    stop: threading.Event | None = None,
    timing: DownloadTiming | None = None,
) -> Downloaded | None:
    """
    Download a file, copy a stored one, or decode a ``data:`` URL, into a sink.

    :param begin: Opens the sink at the first good reply, or returns ``None`` to leave the file.
    :param progress: Called after every piece with the bytes so far and in all.
    :param stop: Ends the download, and every pause, when set.
    :returns: ``None`` if ``begin`` left the file.
    :raises SeedanceOutputGoneError: the output is no longer available.
    :raises SeedanceMediaTooLargeError: it is larger than the connection allows.
    :raises SeedanceMediaError: it could not be downloaded this time.
    """
    if source.url.startswith("data:"):
        return store_data_url(source, begin, max_bytes=client.max_bytes)
    if source.copy:
        return _store_copy(source, source.copy, begin, progress)
    stop = stop or threading.Event()
    return _Download(client, source, begin, progress, stop, timing or TIMING, source.url, source.url).run()


def _store_copy(
    source: Source, location: StorageLocation, begin: Begin, progress: Progress
) -> Downloaded | None:
    found = location.stat()
    if found is None:
        raise output_gone_error(
            f"{source.subject} is no longer stored at {location.display}.", source.generation_id
        )
    sink, digest, size = begin(Announced(length=found.size, content_type="")), hashlib.sha256(), 0
    if sink is None:
        return None
    for piece in location.pieces():
        sink.write(piece)
        digest.update(piece)
        size += len(piece)
        progress(size, found.size)
    return Downloaded(size=size, sha256=digest.hexdigest())


def store_data_url(source: Source, begin: Begin, *, max_bytes: int) -> Downloaded | None:
    """
    Store the content of a ``data:`` URL, which ``ark`` can answer with.

    :raises SeedanceMediaError: it cannot be decoded.
    :raises SeedanceMediaTooLargeError: it holds more than ``max_bytes``.
    """
    head, comma, payload = source.url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise _undecodable(source, "it is not in base64")
    payload = unquote(payload) if "%" in payload else payload
    # Checked before decoding, so that a payload that is too large is not held twice.
    size = len(payload) * 3 // 4 - payload[-2:].count("=")
    if size > max_bytes:
        raise _too_large(source, "its URL", size, max_bytes)
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _undecodable(source, str(error)) from None
    if not data:
        raise _undecodable(source, "it is empty")
    content_type = head[len("data:") :].partition(";")[0].lower()
    sink = begin(Announced(length=len(data), content_type=content_type))
    if sink is None:
        return None
    sink.write(data)
    return Downloaded(size=len(data), sha256=hashlib.sha256(data).hexdigest())


@dataclass(eq=False)
class _AttemptFailed(Exception):
    """
    An attempt failed in a way that another one may not.

    :param slow: It brought so little that it does not count as progress.
    :param refused: The host does not deliver the file under this URL.
    """

    reason: str
    status: int | None = None
    retry_after: float | None = None
    slow: bool = False
    refused: bool = False


@dataclass
class _Download:
    client: media_client.MediaClient
    source: Source
    begin: Begin
    progress: Progress
    stop: threading.Event
    timing: DownloadTiming
    url: str
    #: The URL of the first byte in the sink.
    started_from: str
    sink: Sink | None = None
    hash: Any = field(default_factory=hashlib.sha256)
    received: int = 0
    total: int | None = None
    #: ETag or date of the file, for `If-Range`.
    validator: str | None = None
    ranges: bool = True
    #: Most bytes that counted as progress, over attempts and restarts.
    furthest: int = 0
    attempts: int = 0
    futile: int = 0
    refreshes: int = 0
    confirmed: bool = False

    def run(self) -> Downloaded | None:
        if self.source.stale:
            self._refresh_early()
        while True:
            self._check_stop()
            try:
                stored = self._attempt()
                return Downloaded(size=self.received, sha256=self.hash.hexdigest()) if stored else None
            except media_client.MediaAddressError as error:
                raise errors.SeedanceMediaHostError(
                    f"{self.source.subject} may not be downloaded from {redact_url(self.url)}: {error}. The "
                    "render is paid for and is not lost by this. If that host is to be trusted, name it in "
                    "media_hosts in the connection's extra and clear this task, which pays nothing.",
                    generation_id=self.source.generation_id,
                ) from error
            except media_client.MediaConnectionError as error:
                self._retry_later(
                    _AttemptFailed(str(error), slow=isinstance(error, media_client.MediaTooSlowError))
                )
            except _AttemptFailed as failure:
                (self._refresh_url if failure.refused else self._retry_later)(failure)

    def _attempt(self) -> bool:
        """Receive the file, or the rest of it; returns ``False`` if ``begin`` left the file."""
        offset = self.received if self._resumable() else 0
        self.attempts += 1
        with self.client.open(self.url, offset=offset, validator=self.validator) as stream:
            part = stream.content_range
            whole = part and part.total == offset and self.total in (None, offset)
            if stream.status == 416 and offset and whole:
                return True  # the connection broke at the end of a file of unannounced length
            self._check_reply(stream, offset)
            return self._receive(stream, offset)

    def _resumable(self) -> bool:
        # Without a validator only the same link is trusted to be the same file; its signature may differ.
        same_link = split_signature(self.url)[0] == split_signature(self.started_from)[0]
        return self.ranges and (self.validator is not None or same_link)

    def _check_reply(self, stream: media_client.MediaStream, offset: int) -> None:
        """Raise unless the reply holds the file, or the rest of it."""
        status = stream.status
        if status == 416 and offset:
            whole = stream.content_range
            self.ranges = False
            raise _AttemptFailed(
                f"the host has no bytes from {offset} on (of {whole.total if whole else 'unknown'})",
                status=status,
            )
        if status in (408, 425, 429) or status >= 500:
            raise _AttemptFailed(
                f"HTTP {status}", status=status, retry_after=read_retry_after(stream.headers, utc_now())
            )
        if status >= 400:
            raise _AttemptFailed(f"HTTP {status}", status=status, refused=True)
        if status not in (200, 206):
            raise _AttemptFailed(f"unexpected HTTP {status}", status=status)
        if _ERROR_PAGE_TYPE.search(stream.content_type):
            raise _AttemptFailed(
                f"a page of type {stream.content_type} in place of the file", status=status, refused=True
            )
        if stream.content_encoding:
            raise self._error(
                f"is sent with content encoding {stream.content_encoding} although none was requested"
            )

    def _receive(self, stream: media_client.MediaStream, offset: int) -> bool:
        self._align(stream, offset)
        self._check_size(self.total or 0)
        if self.sink is None:
            self.sink = self.begin(Announced(length=self.total, content_type=stream.content_type))
            if self.sink is None:
                return False
            if self.total is None:
                log.warning("The host announces no length for %s: it cannot be checked.", self.source.label)
        for chunk in stream.chunks():
            self._check_stop()
            self._check_size(self.received + len(chunk))
            self.sink.write(chunk)
            self.hash.update(chunk)
            self.received += len(chunk)
            self.progress(self.received, self.total)
        if not self.received:
            raise _AttemptFailed("the file is empty")
        if self.total is not None and self.received != self.total:
            if self.received > self.total:
                self.ranges = False
            raise _AttemptFailed(f"{self.received} bytes came, {self.total} were announced")
        return True

    def _align(self, stream: media_client.MediaStream, offset: int) -> None:
        """Move to the first byte of the reply, and note the announced length of the file."""
        if stream.status == 200:
            self._restart(stream, stream.content_length)
            return
        part = stream.content_range
        if part is None or part.start != offset:
            self.ranges = False
            raise _AttemptFailed(f"the host sent another range than from {offset} on", status=206)
        if not offset:
            self._restart(stream, part.total)
            return
        other_length = part.total is not None and self.total is not None and part.total != self.total
        other_file = self.validator and stream.validator and stream.validator != self.validator
        if other_length or other_file:
            self.ranges = False
            raise _AttemptFailed("the file changed while it was downloaded", status=206)
        if self.total is None:
            self.total = part.total

    def _restart(self, stream: media_client.MediaStream, total: int | None) -> None:
        if self.received and self.sink is not None:
            log.info("The host sends %s from its first byte.", self.source.label)
            self.sink.restart()
        self.received = 0
        self.hash = hashlib.sha256()
        self.total = total
        self.validator = stream.validator
        self.started_from = self.url
        self.ranges = True

    def _count_progress(self, *, slow: bool = False) -> None:
        if self.received > self.furthest and not slow:
            self.furthest = self.received
            self.futile = self.refreshes = 0
            self.confirmed = False
        self.futile += 1

    def _retry_later(self, failure: _AttemptFailed) -> None:
        self._count_progress(slow=failure.slow)
        wait = failure.retry_after
        exhausted = self.futile >= MAX_FUTILE_ATTEMPTS or self.attempts >= MAX_ATTEMPTS
        if exhausted or (wait or 0) > self.timing.max_retry_after:
            raise self._error(
                f"could not be downloaded from {redact_url(self.url)}: {failure.reason} "
                f"(after {self.attempts} attempts and {self._received_of_total()})",
                status=failure.status,
                retry_after=wait,
            )
        backoff = min(self.timing.first_backoff * 2 ** (self.futile - 1), self.timing.max_backoff)
        pause = wait if wait is not None else backoff
        then = "it is resumed" if self.received and self._resumable() else "it is tried again"
        log.warning(
            "The download of %s broke after %s: %s; %s in %.1f s.",
            self.source.label,
            self._received_of_total(),
            failure.reason,
            then,
            pause,
        )
        self.stop.wait(pause)

    def _refresh_url(self, refusal: _AttemptFailed) -> None:
        self._count_progress()
        if self.confirmed:
            raise output_gone_error(
                f"{self.source.subject} is no longer there: {redact_url(self.url)} answers {refusal.reason}, and "
                "the service gives no other URL.",
                self.source.generation_id,
                refusal.status,
            )
        if self.refreshes >= MAX_URL_REFRESHES:
            raise self._error(
                f"could not be downloaded: the host refuses every URL the service gives, the last one "
                f"({redact_url(self.url)}) with {refusal.reason}",
                status=refusal.status,
            )
        self.refreshes += 1
        log.warning(
            "%s is refused at %s (%s); requesting its URL from the service.",
            self.source.subject,
            redact_url(self.url),
            refusal.reason,
        )
        try:
            fresh = self.source.refresh()
        except errors.SeedanceError as error:
            raise type(error)(
                f"{self.source.subject} is refused at {redact_url(self.url)} ({refusal.reason}), and no new URL "
                f"is available: {error.message}",
                **{**error.details(), "generation_id": self.source.generation_id},
            ) from error
        if fresh == self.url:
            self.confirmed = True
            self.stop.wait(self.timing.confirmed_url_backoff)
        self.url = fresh

    def _refresh_early(self) -> None:
        try:
            fresh = self.source.refresh()
        except errors.SeedanceError as error:
            # Clocks differ and services round: the URL may work all the same, and trying it costs nothing.
            log.warning(
                "The URL of %s has expired, and there is no new one (%s); trying it.",
                self.source.label,
                error,
            )
        else:
            log.info("The URL of %s had expired and was renewed.", self.source.label)
            self.url = fresh

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise self._error("is not downloaded: the task was stopped")

    def _check_size(self, size: int) -> None:
        max_bytes = self.client.max_bytes
        if size > max_bytes:
            raise _too_large(self.source, redact_url(self.url), size, max_bytes)

    def _received_of_total(self) -> str:
        return f"{self.received} of {self.total if self.total is not None else 'unknown'} bytes"

    def _error(
        self, problem: str, *, status: int | None = None, retry_after: float | None = None
    ) -> errors.SeedanceMediaError:
        return errors.SeedanceMediaError(
            f"{self.source.subject} {problem}. {RETRY_IS_FREE}",
            http_status=status,
            retry_after=retry_after,
            generation_id=self.source.generation_id,
        )


def output_gone_error(
    reason: str, generation_id: str, http_status: int | None = None
) -> errors.SeedanceOutputGoneError:
    """Return the error for an output that is no longer available."""
    return errors.SeedanceOutputGoneError(
        f"{reason} It was rendered and is billed; look for it in the console of the service. Only a new generation "
        'makes it again, and is paid for: clear the generating task with on_clear="new" or a changed request; as it '
        "is, a clear may deliver the same dead URL. Transfer outputs soon after they are made.",
        http_status=http_status,
        generation_id=generation_id,
    )


def _undecodable(source: Source, reason: str) -> errors.SeedanceMediaError:
    return errors.SeedanceMediaError(
        f"{source.subject} came as data in its URL, which cannot be read: {reason}. It is billed; look for it in the "
        "console of the service.",
        generation_id=source.generation_id,
    )


def _too_large(source: Source, origin: str, size: int, max_bytes: int) -> errors.SeedanceMediaTooLargeError:
    return errors.SeedanceMediaTooLargeError(
        f"{source.subject} is larger than media may be: {origin} has at least {size} bytes, and {max_bytes} are "
        "allowed. Nothing of it is kept; the render is paid for and not lost. If the file is what it should be, "
        "raise max_media_bytes in the connection's extra and clear this task, which pays nothing.",
        generation_id=source.generation_id,
    )
