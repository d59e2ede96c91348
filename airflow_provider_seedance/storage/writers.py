"""
Writing a file to object storage: it is visible under its name only when it is whole and verified.

The bytes go to a temporary file on the worker's disk first. A local destination gets a temporary name beside it and
is renamed, or hard-linked where no file may be replaced. Any other store gets the verified file with fsspec's
``put_file``. Leaving a writer without :meth:`Writer.commit` removes all traces of it.
"""

from __future__ import annotations

import inspect
import logging
import os
import secrets
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import PurePosixPath
from typing import IO, BinaryIO, Self, cast

from airflow_provider_seedance.storage.location import StorageLocation, exists_error

log = logging.getLogger(__name__)

#: Size of a part of an upload, which bounds its memory. S3 takes at most 10,000 parts and s3fs enlarges them if needed.
PART_BYTES = 8 * 1024 * 1024

#: Parts of one file that are uploaded, and held in memory, at the same time.
MAX_PARALLEL_PARTS = 2


def open_writer(location: StorageLocation, *, exclusive: bool) -> Writer:
    """
    Begin a file.

    :param exclusive: Fail at the commit if a file exists by then.
    :raises SeedanceMediaError: the temporary file could not be created; a retry helps.
    """
    with location.translate_errors("written"):
        return (_LocalWriter if location.is_local else _UploadWriter)(location, exclusive)


class Writer(ABC):
    """A file being written; a context manager, to be committed inside."""

    def __init__(self, location: StorageLocation, exclusive: bool) -> None:
        self.location = location
        self.exclusive = exclusive
        self._file = self._create()

    def write(self, data: bytes) -> None:
        """Append bytes."""
        with self.location.translate_errors("written"):
            self._file.write(data)

    def restart(self) -> None:
        """Discard all bytes written so far."""
        with self.location.translate_errors("written"):
            self._file.seek(0)
            self._file.truncate()

    @contextmanager
    def reader(self) -> Iterator[BinaryIO]:
        """Open the bytes written so far, unbuffered, to read parts of them."""
        with self.location.translate_errors("read"):
            self._file.flush()
            with open(self._file.name, "rb", buffering=0) as file:
                yield cast(BinaryIO, file)

    def commit(self) -> None:
        """
        Make the file visible under its name, whole.

        :raises SeedanceDestinationExistsError: a file exists, and may not be replaced.
        """
        with self.location.translate_errors("written"):
            self._file.flush()
            self._publish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._file.name)
            self._file.close()
        except OSError as failure:
            log.warning("Temporary file %s could not be removed: %s", self._file.name, failure)

    def _refuse_existing(self) -> None:
        if self.exclusive and self.location.stat() is not None:
            raise exists_error(self.location.display)

    @abstractmethod
    def _create(self) -> IO[bytes]:
        """Create the temporary file on the worker's disk."""

    @abstractmethod
    def _publish(self) -> None:
        """Move or copy the flushed temporary file to its destination."""


class _LocalWriter(Writer):
    def _create(self) -> IO[bytes]:
        self._path = os.path.abspath(self.location.local_path)
        directory, name = os.path.split(self._path)
        os.makedirs(directory, exist_ok=True)
        # Not tempfile: its files are readable by their owner alone, and stay so after the rename.
        return open(os.path.join(directory, _temporary_name(name)), "xb")

    def _publish(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
        if self.exclusive:
            self._link()
        else:
            os.replace(self._file.name, self._path)
        with suppress(OSError):
            directory = os.open(os.path.dirname(self._path), os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def _link(self) -> None:
        try:
            os.link(self._file.name, self._path)
        except FileExistsError:
            raise exists_error(self.location.display) from None
        except OSError:  # a filesystem without hard links has no atomic rename that spares a file, either
            self._refuse_existing()
            os.replace(self._file.name, self._path)


class _UploadWriter(Writer):
    def _create(self) -> IO[bytes]:
        # s3fs and gcsfs derive the content type from the extension of the local file.
        suffix = PurePosixPath(self.location.path).suffix
        return tempfile.NamedTemporaryFile(prefix="seedance-", suffix=suffix, delete=False)

    def _publish(self) -> None:
        # The asynchronous filesystems are object stores: an object appears when its upload is complete.
        if getattr(self.location.fs, "async_impl", False):
            self._put_object()
            return
        with self.location.lock:
            self._refuse_existing()
            self._put_and_rename()

    def _put_object(self) -> None:
        fs = self.location.fs
        known = inspect.signature(fs.put_file).parameters
        options = {
            "chunksize": PART_BYTES,
            "max_concurrency": MAX_PARALLEL_PARTS,
            "mode": "create" if self.exclusive else "overwrite",
            "overwrite": not self.exclusive,  # adlfs has this in place of a mode
        }
        self._refuse_existing()
        try:
            supported = {name: value for name, value in options.items() if name in known}
            fs.put_file(self._file.name, self.location.path, **supported)
        except Exception:
            self._refuse_existing()  # each store reports a failed precondition in its own way
            raise

    def _put_and_rename(self) -> None:
        fs, path = self.location.fs, self.location.path
        parent = fs._parent(path)
        with suppress(NotImplementedError):
            fs.makedirs(parent, exist_ok=True)
        name = _temporary_name(PurePosixPath(path).name)
        temporary = replace(self.location, path=f"{parent.rstrip('/')}/{name}" if parent else name)
        with _removed_on_error(temporary):
            fs.put_file(self._file.name, temporary.path)
            with _removed_on_error(self.location):  # fsspec's own mv copies, and may stop in the middle
                try:
                    fs.mv(temporary.path, path)
                    return
                except Exception as error:
                    log.debug("%s cannot rename (%s): uploading under the final name.", fs.protocol, error)
                with suppress(Exception):  # a drop box may permit uploads only
                    fs.rm(temporary.path)
                fs.put_file(self._file.name, path)


@contextmanager
def _removed_on_error(location: StorageLocation) -> Iterator[None]:
    """Remove the remains of a failed upload under a name, but no file that it did not touch."""
    before = location.stat()
    try:
        yield
    except BaseException:
        with suppress(Exception):
            if location.stat() not in (None, before):
                location.fs.rm(location.path)
        raise


def _temporary_name(name: str) -> str:
    return f".{name[:60]}.{secrets.token_hex(6)}.part"
