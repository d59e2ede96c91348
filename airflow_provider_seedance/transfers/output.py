"""One output of a generation on its way to the store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO, Literal

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.client.flows import LOCAL_PREFIX
from airflow_provider_seedance.client.media_client import MediaClient
from airflow_provider_seedance.generations import Generation, utc_now
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.ledger import stored_copy
from airflow_provider_seedance.storage.location import FileStat, StorageLocation, exists_error
from airflow_provider_seedance.storage.writers import Writer, open_writer
from airflow_provider_seedance.transfers import sidecar
from airflow_provider_seedance.transfers.download import Announced, Source, download, output_gone_error
from airflow_provider_seedance.transfers.file_names import (
    Naming,
    default_extension,
    extension_of_type,
    extension_of_url,
)
from airflow_provider_seedance.transfers.inputs import Overwrite, TransferItem
from airflow_provider_seedance.transfers.verification import (
    NO_FINDINGS,
    Expectation,
    Findings,
    Verify,
    inspect,
)
from airflow_provider_seedance.urls import redact_url

log = logging.getLogger(__name__)

#: Length from which the log says that a download begins: it takes a while.
MIN_LOGGED_BYTES = 100_000_000

VerifiedBy = Literal["download", "hash", "size", "time"]


@dataclass(frozen=True, kw_only=True)
class Output:
    """
    One output of an item, and its destination.

    :param index: Counted from 1.
    :param destination: The file, or the directory if there is a naming.
    """

    item: TransferItem
    index: int
    destination: StorageLocation
    naming: Naming | None

    @property
    def generation(self) -> Generation:
        """The generation that made it."""
        return self.item.generation

    @property
    def url(self) -> str:
        """Its URL in the result of the generation."""
        return self.generation.urls[self.index - 1]

    @property
    def sha256(self) -> str | None:
        """Its hash, where the item has one."""
        return self.item.sha256[self.index - 1] if self.index <= len(self.item.sha256) else None

    def location(self, content_type: str | None = None) -> StorageLocation | None:
        """
        Return its file, or ``None`` if the name depends on the type of the file, which is not known yet.

        :param content_type: Media type from the media host, empty where the host does not send one.
        """
        if self.naming is None:
            return self.destination
        extension = extension_of_url(self.url)
        if extension is None and content_type is None and self.naming.needs_extension:
            return None
        extension = extension or extension_of_type(content_type) or default_extension(self.generation.media)
        return self.destination.child(self.naming.name(self.index, extension))


@dataclass(frozen=True)
class Stored:
    """
    An output in the store.

    :param verified_by: ``download`` if it was stored now; else the property of the existing file that was compared.
    :param findings: Of the look into it.
    """

    path: str
    size: int
    sha256: str
    verified_by: VerifiedBy = "download"
    findings: Findings = NO_FINDINGS


@dataclass(frozen=True, kw_only=True)
class TransferOptions:
    """
    Options of all outputs of a task, and the connection of a service.

    :param is_retry: An earlier try of the task may have stored some of them.
    :param stop: Ends all downloads when set.
    :param verify: Whether to look into the files.
    :param sidecar: Whether to write a file of metadata beside each.
    """

    hook: SeedanceHook
    client: MediaClient
    overwrite: Overwrite
    is_retry: bool
    stop: threading.Event
    verify: Verify | None = None
    sidecar: bool = False


class OutputTransfer:
    """
    Transfer of one output.

    :param urls: Renews the URLs of its generation.
    """

    def __init__(self, output: Output, urls: UrlRefresher, options: TransferOptions) -> None:
        self.output = output
        #: Bytes of the download so far.
        self.received = 0
        self._urls = urls
        self._options = options
        self._exclusive = options.overwrite == "no"
        self._may_leave = options.is_retry or options.overwrite == "if-changed"
        self._source: Source
        self._stack: ExitStack
        self._writer: Writer
        self._location: StorageLocation
        self._left: Stored

    def run(self) -> Stored:
        """
        Copy the output, unless it is in the store already, and write its sidecar.

        :raises SeedanceDestinationExistsError: another file exists, and may not be replaced.
        :raises SeedanceMediaError: it could not be downloaded or stored; nothing of it is visible.
        """
        stored = self._store()
        for problem in stored.findings.problems:
            log.warning("%s is not what was requested: %s.", stored.path, problem)
        if self._options.sidecar:
            self._write_sidecar(stored)
        return stored

    def _write_sidecar(self, stored: Stored) -> None:
        output, options = self.output, self._options
        file = {"name": self._location.name, "bytes": stored.size, "sha256": stored.sha256}
        findings = None if options.verify is None else stored.findings
        content = sidecar.describe(output.generation, output.index, file, findings)
        # A retry replaces the one that an earlier try wrote.
        exclusive = self._exclusive and not options.is_retry
        sidecar.write_sidecar(self._location.appended(sidecar.SUFFIX), content, exclusive=exclusive)

    def _store(self) -> Stored:
        output = self.output
        self._source = self._urls.source(output.index)
        # The length of an expired URL would cost a request of the quota, so a retry compares times.
        if (output.sha256 and self._may_leave) or (self._options.is_retry and self._source.stale):
            location = output.location()
            if location and (existing := self._existing(location, None)):
                return existing
        with ExitStack() as self._stack:
            client, stop = self._options.client, self._options.stop
            done = download(client, self._source, self._begin, progress=self._on_progress, stop=stop)
            if done is None:
                return self._left
            with self._writer.reader() as file:
                findings = self._inspect(file, done.size)
            self._writer.commit()
        path = self._location.display
        log.info("Stored %s at %s: %d bytes, sha256 %s.", self._label(), path, done.size, done.sha256)
        if output.sha256 not in (None, done.sha256):
            log.warning(
                "%s was stored as the media host sent it; its item has another sha256 (%s).",
                path,
                output.sha256,
            )
        return Stored(path, done.size, done.sha256, findings=findings)

    def _inspect(self, file: BinaryIO, size: int) -> Findings:
        if self._options.verify is None:
            return NO_FINDINGS
        return inspect(file, size, Expectation.of(self.output.generation, self.output.url))

    def _begin(self, announced: Announced) -> Writer | None:
        """Open the file at the first good reply, or return ``None`` to leave the existing one."""
        output = self.output
        location = output.location(announced.content_type)
        assert location is not None
        known = announced.length is not None or output.sha256
        if self._may_leave and known and (existing := self._existing(location, announced.length)):
            self._left = existing
            return None
        if self._exclusive and location.stat() is not None:
            raise exists_error(location.display)
        if announced.length is None or announced.length >= MIN_LOGGED_BYTES:
            log.info("Downloading %s (%s).", self._label(), megabytes(announced.length))
        self._location = location
        self._writer = self._stack.enter_context(open_writer(location, exclusive=self._exclusive))
        return self._writer

    def _label(self) -> str:
        return f"{self._source.label} from {display_media_url(self.output.url)}"

    def _on_progress(self, received: int, total: int | None) -> None:
        self.received = received

    def _existing(self, location: StorageLocation, announced: int | None) -> Stored | None:
        """Return the file in the store if it is this output, given its length where the media host announces it."""
        found = location.stat()
        verified_by = self._comparison(found, announced) if found else None
        if verified_by is None:
            return None
        size, sha256 = location.digest()
        if verified_by == "hash" and sha256 != self.output.sha256:
            return None
        log.info("%s is left as it is (%s compared). sha256 %s.", location.display, verified_by, sha256)
        with location.open() as file:
            findings = self._inspect(file, size)
        self._location = location
        return Stored(location.display, size, sha256, verified_by, findings)

    def _comparison(self, found: FileStat, announced: int | None) -> VerifiedBy | None:
        if self.output.sha256:
            return "hash"
        generation = self.output.generation
        made_at = generation.completed_at or generation.created_at
        newer = found.modified > made_at if made_at and found.modified else None
        if announced is None:
            return "time" if newer else None
        # A file to be replaced may have the same length by chance.
        is_older = self._options.overwrite == "yes" and newer is False
        return "size" if found.size == announced and not is_older else None


class UrlRefresher:
    """
    The URLs of a generation, requested again when one of them does not work.

    Outputs expire together: one request to the service serves the downloads of all outputs.

    :param hooks: Those of the accounts that may have paid for it, in order.
    """

    def __init__(self, generation: Generation, hooks: Sequence[SeedanceHook]) -> None:
        self._generation = generation
        self._hooks = hooks
        self._urls = generation.urls
        self._has_record = not generation.generation_id.startswith(LOCAL_PREFIX)
        self._refreshed = False
        #: The outputs that have received the latest URLs.
        self._served: set[int] = set()
        self._lock = threading.Lock()

    def source(self, index: int) -> Source:
        """Return the origin of an output, which is counted from 1."""
        generation, count = self._generation, len(self._generation.urls)
        number = f"output {index} of {count}" if count > 1 else "the output"
        expired = generation.expires_at is not None and generation.expires_at <= utc_now()
        return Source(
            label=f"{number} of generation {generation.generation_id}",
            generation_id=generation.generation_id,
            url=generation.urls[index - 1],
            refresh=lambda: self.refresh(index),
            stale=expired and self._has_record,
            copy=stored_copy(generation, index - 1),
        )

    def refresh(self, index: int) -> str:
        """
        Return another URL of an output; it costs a request of the quota.

        :param index: Counted from 1.
        :raises SeedanceOutputGoneError: the service has none.
        :raises SeedanceError: the service could not be reached.
        """
        with self._lock:
            if self._refreshed and index not in self._served:
                self._served.add(index)
                return self._urls[index - 1]
            current = self._request()
            if len(current.urls) < len(self._urls):
                raise self._gone(
                    f"is {current.status.value} there and has {len(current.urls)} of {len(self._urls)} outputs now"
                )
            self._refreshed = True
            self._served = {index}
            self._urls = current.urls
            return current.urls[index - 1]

    def _request(self) -> Generation:
        generation = self._generation
        if not self._has_record:
            raise self._gone(
                "was answered with its outputs directly, and the service keeps no record that could have new URLs"
            )
        failure: errors.SeedanceError | None = None
        for hook in self._hooks:
            try:
                return hook.get_generation(generation.generation_id, generation.media)
            except errors.SeedanceError as error:
                # Another account of the service may know it; an error says more than "not found".
                if failure is None or isinstance(failure, errors.SeedanceNotFoundError):
                    failure = error
        assert failure is not None
        if isinstance(failure, errors.SeedanceNotFoundError):
            raise self._gone("is not known to the service any more") from failure
        raise failure

    def _gone(self, reason: str) -> errors.SeedanceOutputGoneError:
        generation_id = self._generation.generation_id
        return output_gone_error(f"Generation {generation_id} {reason}.", generation_id)


def display_media_url(url: str) -> str:
    """Return a URL for logs and messages: without signatures, and without data."""
    return url.partition(",")[0] + ",…" if url.startswith("data:") else redact_url(url)


def megabytes(size: int | None) -> str:
    """Return a number of bytes for people."""
    if size is None:
        return "unknown length"
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size} bytes"
