"""One output on its way: what it is called, where it goes, whether it has to, and what the log says of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, utc_now
from airflow_provider_seedance.storage.location import StorageLocation, exists_error
from airflow_provider_seedance.storage.writers import open_writer
from airflow_provider_seedance.transfers.download import (
    Announced,
    Downloaded,
    Sink,
    Source,
    download,
)
from airflow_provider_seedance.transfers.file_names import (
    Naming,
    default_extension,
    extension_of_type,
    extension_of_url,
)
from airflow_provider_seedance.transfers.inline import store_data_url
from airflow_provider_seedance.transfers.inputs import Overwrite
from airflow_provider_seedance.urls import redact_url

if TYPE_CHECKING:
    from airflow_provider_seedance.client.media_client import MediaClient
    from airflow_provider_seedance.hooks.seedance import SeedanceHook

log = logging.getLogger(__name__)

#: A line of progress is logged this often in seconds, and at every quarter of a file.
PROGRESS_SECONDS = 10.0


@dataclass(frozen=True)
class Output:
    """
    One output of a generation, and where it goes.

    :param index: Counted from 1.
    :param place: The file, or the directory if there is a naming.
    """

    index: int
    count: int
    generation: Generation
    url: str
    place: StorageLocation
    naming: Naming | None

    @property
    def what(self) -> str:
        """What it is called in messages."""
        number = f"output {self.index} of {self.count}" if self.count > 1 else "the output"
        return f"{number} of generation {self.generation.generation_id}"

    def known_place(self) -> StorageLocation | None:
        """Return where it goes, or ``None`` if that takes the type of the file, which is not known yet."""
        if self.naming is None:
            return self.place
        extension = extension_of_url(self.url)
        if extension is None and self.naming.needs_extension:
            return None
        return self.place.child(self.naming.name(self.index, extension or ""))

    def place_for(self, content_type: str) -> StorageLocation:
        """Return where it goes, given the type the media host tells."""
        known = self.known_place()
        if known is not None or self.naming is None:
            return known or self.place
        extension = extension_of_type(content_type) or default_extension(self.generation.media)
        return self.place.child(self.naming.name(self.index, extension))


@dataclass(frozen=True)
class Stored:
    """
    An output that is where it belongs.

    :param downloaded: Whether it was stored now; else it was there.
    """

    path: str
    size: int
    sha256: str
    downloaded: bool = True


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """
    What all outputs of a task have in common.

    :param begun_before: Whether an earlier try of this task may have stored the output and could not note it
        any more: a file that has the announced length is then its own, even if none may be overwritten.
    """

    client: MediaClient
    urls: FreshUrls
    overwrite: Overwrite
    stop: threading.Event
    begun_before: bool = False

    def store(self, output: Output) -> Stored:
        """
        Copy one output.

        :raises SeedanceDestinationExistsError: there is a file, and none may be overwritten.
        :raises SeedanceMediaError: it could not be downloaded or stored; nothing of it is visible.
        """
        with ExitStack() as stack:
            begun = _Begun(self, output, stack)
            source = Source(
                what=output.what,
                generation_id=output.generation.generation_id,
                url=output.url,
                refresh=lambda: self.urls.instead_of(output.index),
                stale=self.urls.stale(utc_now()),
            )
            done: Downloaded | None
            if output.url.startswith("data:"):
                done = store_data_url(source, begun.begin, most=self.client.max_bytes)
            else:
                done = download(
                    self.client, source, begun.begin, progress=begun.progress, now=utc_now, stop=self.stop
                )
            return begun.finish(done)


class _Begun:
    """One output between its first reply and its end."""

    def __init__(self, transfer: Transfer, output: Output, stack: ExitStack) -> None:
        self._transfer = transfer
        self._output = output
        self._stack = stack
        self._place: Any = None
        self._writer: Any = None
        self._started = time.monotonic()
        self._progress = Progress(time.monotonic)

    def begin(self, announced: Announced) -> Sink | None:
        """Decide by the first reply where the file goes, and whether it has to."""
        self._place = place = self._output.place_for(announced.content_type)
        overwrite = self._transfer.overwrite
        if overwrite != "yes":
            seen = place.stat()
            size = seen.size if seen else None
            may_be_left = overwrite == "if-changed" or self._transfer.begun_before
            if size is not None and size == announced.length and may_be_left:
                return None
            if size is not None and overwrite == "no":
                raise exists_error(place.display)
        length = megabytes(announced.length) if announced.length is not None else "length not announced"
        log.info(
            "Downloading %s from %s to %s (%s).",
            self._output.what,
            show_media_url(self._output.url),
            place.display,
            length,
        )
        self._writer = self._stack.enter_context(open_writer(place, exclusive=overwrite == "no"))
        writer: Sink = self._writer
        return writer

    def progress(self, received: int, total: int | None) -> None:
        """Log progress now and then."""
        if line := self._progress.line(received, total):
            log.info("%s: %s.", self._place.display, line)

    def finish(self, done: Downloaded | None) -> Stored:
        """Make the file visible and say so."""
        place = self._place
        if done is None:
            size, sha256 = place.digest()
            log.info(
                "%s is left as it is: it has the %d bytes that the media host announces (the length was "
                "compared, not the content). sha256 %s.",
                place.display,
                size,
                sha256,
            )
            return Stored(place.display, size, sha256, downloaded=False)
        self._writer.commit()
        seconds = max(time.monotonic() - self._started, 1e-3)
        log.info(
            "Stored %s: %d bytes, sha256 %s, %.1f MB/s.",
            place.display,
            done.size,
            done.sha256,
            done.size / 1e6 / seconds,
        )
        return Stored(place.display, done.size, done.sha256)


@dataclass
class Progress:
    """Says how far a download is: at every quarter, and every few seconds in between."""

    clock: Callable[[], float]
    _quarter: int = 0
    _last: float | None = field(default=None)

    def line(self, received: int, total: int | None) -> str | None:
        """Return what to log now, if anything."""
        now = self.clock()
        if self._last is None:
            self._last = now
        quarter = 4 * received // total if total else 0
        if quarter == self._quarter and now - self._last < PROGRESS_SECONDS:
            return None
        self._quarter, self._last = quarter, now
        share = f" of {megabytes(total)} ({100 * received // total} %)" if total else ""
        return f"{megabytes(received)}{share} downloaded"


class FreshUrls:
    """
    The URLs of a generation, asked for again when one of them does not work.

    Outputs expire together: what one download asked for serves the others.
    """

    def __init__(self, generation: Generation, hook: SeedanceHook) -> None:
        self._generation = generation
        self._hook = hook
        self._urls = generation.urls
        self._asked = False
        #: The outputs that know the latest answer.
        self._told: set[int] = set()
        self._lock = threading.Lock()

    def stale(self, now: Any) -> bool:
        """Whether the URLs have expired by what the service said, and it can be asked for others."""
        expires_at = self._generation.expires_at
        return expires_at is not None and expires_at <= now and self._can_be_asked

    @property
    def _can_be_asked(self) -> bool:
        return not self._generation.generation_id.startswith("local-")

    def instead_of(self, index: int) -> str:
        """
        Return another URL of an output; it costs a request of the quota.

        :param index: Counted from 1.
        :raises SeedanceOutputGoneError: the service has none.
        :raises SeedanceError: the service could not be asked.
        """
        with self._lock:
            if self._asked and index not in self._told:
                self._told.add(index)
                return self._urls[index - 1]
            fresh = self._ask()
            if len(fresh.urls) < len(self._urls):
                raise self._gone(
                    f"is {fresh.status.value} there and has {len(fresh.urls)} of {len(self._urls)} outputs now"
                )
            self._asked = True
            self._told = {index}
            self._urls = fresh.urls
            return fresh.urls[index - 1]

    def _ask(self) -> Generation:
        generation = self._generation
        if not self._can_be_asked:
            raise self._gone(
                "was answered with its outputs directly, and the service keeps no record that could be asked "
                "for new URLs"
            )
        try:
            return self._hook.get_generation(generation.generation_id, generation.media)
        except errors.SeedanceNotFoundError as error:
            raise self._gone("is not known to the service any more") from error

    def _gone(self, why: str) -> errors.SeedanceOutputGoneError:
        generation_id = self._generation.generation_id
        return errors.SeedanceOutputGoneError(
            f"Generation {generation_id} {why}. It was rendered and is billed; look for its output in the console "
            "of the service. Only a new generation makes it again, and is paid for: clear the generating task with "
            'on_clear="new" or a changed request; as it is, a clear may deliver the same dead URL. Transfer outputs '
            "soon after they are made.",
            generation_id=generation_id,
        )


def joined(failures: list[BaseException], done: list[Stored], count: int) -> BaseException:
    """
    Return the error of a task of which some outputs failed.

    One that a retry can cure comes first: a retry saves what can be saved, before it expires as well.
    """
    curable = [error for error in failures if getattr(error, "retry_helps", True)]
    first = (curable or failures)[0]
    if not isinstance(first, errors.SeedanceError):
        return first
    stored = f"stored: {', '.join(item.path for item in done)}" if done else "none is stored"
    error = type(first)(
        f"{len(failures)} of {count} outputs could not be transferred ({stored}). {first.message}",
        **first.details(),
    )
    error.__cause__ = first
    return error


def show_media_url(url: str) -> str:
    """Return a URL for logs and messages: without signatures, and without data."""
    return url.partition(",")[0] + ",…" if url.startswith("data:") else redact_url(url)


def megabytes(size: int | None) -> str:
    """Write a number of bytes for people."""
    if size is None:
        return "unknown length"
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size} bytes"
