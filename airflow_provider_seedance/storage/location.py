"""A path in Airflow's object storage, read with errors that say whether a retry helps."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, BinaryIO, NamedTuple

import fsspec
from airflow.providers.common.compat.sdk import ObjectStoragePath
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from airflow_provider_seedance import exceptions as errors

#: End of every message about a file that could not be read, written or downloaded.
RETRY_IS_FREE = "The render is paid for and is not lost by this; a retry downloads again and pays nothing."

_READ_BYTES = 1024 * 1024


class FileStat(NamedTuple):
    """Bytes of a stored file; its ETag or checksum, and the time of its last change, from stores that have them."""

    size: int
    version: str | None = None
    modified: datetime | None = None


@dataclass(frozen=True)
class StorageLocation:
    """
    One path in one filesystem: a file, or a directory for files.

    :param display: The path as users write it, for logs, messages and results: ``s3://bucket/key``.
    :param path: The path as the filesystem takes it.
    """

    display: str
    fs: AbstractFileSystem
    path: str
    #: Serializes uploads: only the asynchronous filesystems of fsspec may be used by several threads.
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @classmethod
    def of(cls, destination: Any, conn_id: str | None, *, what: str = "destination") -> StorageLocation:
        """
        Return the location that a user wrote.

        :param destination: Text or an ``ObjectStoragePath``.
        :param what: The argument that holds it, for errors.
        :raises SeedanceConfigurationError: there is no such filesystem; nothing was sent.
        """
        try:
            path = destination
            if not isinstance(path, ObjectStoragePath):
                path = ObjectStoragePath(destination, conn_id=conn_id)
            elif conn_id:
                path = ObjectStoragePath(str(path), conn_id=conn_id)
            return cls(display=str(path), fs=_filesystem(path), path=str(path.path))
        except Exception as error:
            raise errors.SeedanceConfigurationError(
                f"{what} {str(destination)!r} cannot be used: {error} Nothing was sent."
            ) from error

    def child(self, name: str) -> StorageLocation:
        """Return the location of a file in this directory."""
        return replace(
            self, display=f"{self.display.rstrip('/')}/{name}", path=f"{self.path.rstrip('/')}/{name}"
        )

    def appended(self, suffix: str) -> StorageLocation:
        """Return the location whose name has a suffix in addition."""
        return replace(self, display=self.display + suffix, path=self.path + suffix)

    @property
    def name(self) -> str:
        """Return the name without the directory."""
        return self.path.rpartition("/")[2]

    @property
    def is_local(self) -> bool:
        """Return whether this is on a disk of the worker."""
        return isinstance(self.fs, LocalFileSystem)

    @property
    def local_path(self) -> str:
        """Return the path on the worker's disk; only where :attr:`is_local`."""
        return str(self.fs._strip_protocol(self.path))

    @property
    def is_local_directory(self) -> bool:
        """Return whether this is an existing directory of the worker."""
        return self.is_local and os.path.isdir(self.local_path)

    def stat(self) -> FileStat | None:
        """
        Return size and version of the stored file, or ``None`` if there is none.

        :raises SeedanceMediaError: the store could not be reached; a retry helps.
        """
        with self.translate_errors("looked at"):
            with suppress(Exception):
                self.fs.invalidate_cache(self.fs._parent(self.path))
            try:
                info = self.fs.info(self.path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            if info.get("type") == "directory":
                return None
            versions = (info.get(name) for name in ("ETag", "etag", "md5Hash", "crc32c"))
            version = next((str(found).strip('"') for found in versions if found), None)
            return FileStat(int(info.get("size") or 0), version, _modified(info))

    def read(self, max_bytes: int) -> bytes | None:
        """
        Return the first ``max_bytes`` and one more byte of the stored file, or ``None`` if there is none.

        :raises SeedanceMediaError: the store could not be read; a retry helps.
        """
        if self.stat() is None:  # some stores open a directory and return nothing
            return None
        with self.translate_errors("read"), self.fs.open(self.path, "rb") as file:
            return bytes(file.read(max_bytes + 1))

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the stored file, to read parts of it."""
        with self.translate_errors("read"), self.fs.open(self.path, "rb") as file:
            yield file

    def digest(self) -> tuple[int, str]:
        """Return size and SHA-256 of the stored file, which is read in pieces."""
        digest = hashlib.sha256()
        size = 0
        for piece in self.pieces():
            digest.update(piece)
            size += len(piece)
        return size, digest.hexdigest()

    def pieces(self) -> Iterator[bytes]:
        """Yield the content of the stored file in pieces."""
        with self.open() as file:
            while piece := file.read(_READ_BYTES):
                yield piece

    @contextmanager
    def translate_errors(self, action: str) -> Iterator[None]:
        """
        Raise any error of the store as :class:`SeedanceMediaError`, because each store has its own errors.

        :param action: Past participle for the message: ``read``.
        """
        try:
            yield
        except errors.SeedanceError:
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise errors.SeedanceMediaError(
                f"{self.display} could not be {action}: {reason}. {RETRY_IS_FREE}"
            ) from error


def location_of(path: str, conn_id: Any) -> StorageLocation:
    """Return the location of a file, with the connection in its path or else that of the transfer."""
    has_own = "@" in path.partition("://")[2].partition("/")[0]
    usable = isinstance(conn_id, str) and conn_id not in ("", "None") and not has_own
    return StorageLocation.of(path, conn_id if usable else None, what="stored file")


def _modified(info: Mapping[str, Any]) -> datetime | None:
    # Each store has its own name.
    for name in ("LastModified", "last_modified", "mtime", "updated", "created"):
        value = info.get(name)
        try:
            if isinstance(value, str):
                value = datetime.fromisoformat(value)
            if isinstance(value, (int, float)):
                return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError):
            continue
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
    return None


def exists_error(display: str) -> errors.SeedanceDestinationExistsError:
    """Return the error for files that must not be replaced."""
    return errors.SeedanceDestinationExistsError(
        f"overwrite=False, and the destination exists: {display}. It was not changed. Remove it, choose another "
        'destination, or set overwrite to True or "if-changed", and clear the task: the render is paid for, and '
        "nothing is paid again."
    )


def _filesystem(path: Any) -> AbstractFileSystem:
    try:
        return path.fs
    except ValueError:
        # No provider registers the scheme with Airflow; fsspec may know it, if it needs no connection.
        if getattr(path, "conn_id", None):
            raise
    try:
        return fsspec.filesystem(path.protocol)
    except (ValueError, ImportError) as error:
        raise LookupError(
            f"There is no filesystem for {path.protocol}://: install the provider of that store. {error}"
        ) from error
