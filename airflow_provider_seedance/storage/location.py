"""
Where outputs are written: visible under their name only when whole and verified.

Three kinds of places, each behind the same :class:`Writer`:

* local files: a temporary name in the same directory, then a rename, or, where nothing may be overwritten,
  a hard link, which fails if the name exists by then;
* stores whose files can be held back (fsspec's ``autocommit=False``, as of s3fs and gcsfs): the bytes are
  uploaded while they come, the upload is completed on success and aborted on error;
* everything else: the bytes go to a temporary file of the worker, and are uploaded when they are verified.

Leaving a writer without :meth:`Writer.commit` removes every trace of it.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
import secrets
import shutil
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile

from airflow_provider_seedance.exceptions import (
    SeedanceConfigurationError,
    SeedanceDestinationExistsError,
    SeedanceError,
    SeedanceMediaError,
)
from airflow_provider_seedance.transfers.download import SAFE

log = logging.getLogger(__name__)

#: Bytes kept in memory per upload: what one part of it holds. S3 takes 10,000 parts.
PART = 8 * 1024 * 1024

_PIECE = 1024 * 1024


@dataclass(frozen=True)
class StorageLocation:
    """
    One path in one filesystem; a file, or a directory for files.

    :param shown: As it is shown to people and returned: ``s3://bucket/key``.
    :param path: As the filesystem takes it.
    """

    shown: str
    fs: AbstractFileSystem
    path: str
    #: Filesystems of one connection are rarely fit for several threads.
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @classmethod
    def of(cls, destination: Any, conn_id: str | None, *, what: str = "destination") -> StorageLocation:
        """
        Find the filesystem of a destination.

        :param destination: Text or an ``ObjectStoragePath``.
        :param conn_id: The connection of the store.
        :param what: What it is called in errors.
        :raises SeedanceConfigurationError: there is no such filesystem; nothing was sent.
        """
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        try:
            path = destination
            if not isinstance(path, ObjectStoragePath):
                path = ObjectStoragePath(destination, conn_id=conn_id)
            elif conn_id:
                path = ObjectStoragePath(str(path), conn_id=conn_id)
            return cls(shown=str(path), fs=_filesystem(path), path=str(path.path))
        except Exception as error:
            raise SeedanceConfigurationError(
                f"{what} {str(destination)!r} cannot be used: {error} Nothing was sent."
            ) from error

    def below(self, name: str) -> StorageLocation:
        """Return the place of a file in this directory."""
        return replace(self, shown=f"{self.shown.rstrip('/')}/{name}", path=f"{self.path.rstrip('/')}/{name}")

    @property
    def is_local_directory(self) -> bool:
        """Whether this is a directory of the worker, where a file cannot be."""
        return isinstance(self.fs, LocalFileSystem) and os.path.isdir(self._local)

    def look(self) -> tuple[int, str | None] | None:
        """Return the bytes stored here and what the store says of their version, or ``None`` if there is no file."""
        with self._storing("looked at"):
            with suppress(Exception):
                self.fs.invalidate_cache(self.fs._parent(self.path))
            try:
                info = self.fs.info(self.path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            if info.get("type") == "directory":
                return None
            told = (info.get(name) for name in ("ETag", "etag", "md5Hash", "crc32c"))
            return int(info.get("size") or 0), next((str(tag).strip('"') for tag in told if tag), None)

    def size(self) -> int | None:
        """Return the bytes stored here, or ``None`` if there is no file."""
        seen = self.look()
        return seen[0] if seen else None

    @property
    def is_local(self) -> bool:
        """Whether this is on the worker, where reading a file costs nothing."""
        return isinstance(self.fs, (LocalFileSystem, MemoryFileSystem))

    def read(self, largest: int) -> bytes | None:
        """
        Return what is stored here, at most ``largest`` bytes and one more, or ``None`` if there is no file.

        :raises SeedanceMediaError: the store could not be read; a retry helps.
        """
        if self.look() is None:  # some stores "open" a directory, and give nothing
            return None
        with self._storing("read"), self.fs.open(self.path, "rb") as file:
            return bytes(file.read(largest + 1))

    def digest(self) -> tuple[int, str]:
        """Return the size and the SHA-256 of the stored file, read piece by piece."""
        digest = hashlib.sha256()
        size = 0
        with self._storing("read"), self.fs.open(self.path, "rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
                size += len(piece)
        return size, digest.hexdigest()

    def write(self, *, exclusive: bool) -> Writer:
        """
        Begin a file here.

        :param exclusive: Whether to fail, in the end, if there is a file by then.
        :raises SeedanceMediaError: it cannot be begun.
        """
        if isinstance(self.fs, LocalFileSystem):
            with self._storing("written"):
                return _LocalWriter(self, exclusive)
        with self._storing("written", exclusive=exclusive):
            return _UploadWriter.begin(self, exclusive) or _SpoolWriter(self, exclusive)

    @cached_property
    def _local(self) -> str:
        return str(self.fs._strip_protocol(self.path))

    def exists_error(self) -> SeedanceDestinationExistsError:
        """Return the error for a file that may not be overwritten."""
        return SeedanceDestinationExistsError(
            f"{self.shown} exists and overwrite=False. It was not touched. Remove it, choose another destination, "
            'or set overwrite to True or "if-changed", and clear the task: the render is paid for, and nothing is '
            "paid again."
        )

    @contextmanager
    def _storing(self, doing: str, *, exclusive: bool = False) -> Iterator[None]:
        try:
            yield
        except SeedanceError:
            raise
        except Exception as error:  # each store has its own errors
            if exclusive and isinstance(error, FileExistsError):
                raise self.exists_error() from error
            said = str(error) or type(error).__name__
            raise SeedanceMediaError(f"{self.shown} could not be {doing}: {said}. {SAFE}") from error


def _filesystem(path: Any) -> AbstractFileSystem:
    try:
        return path.fs
    except ValueError:
        # No provider registers the scheme with Airflow; fsspec may know it, if it needs no connection.
        if getattr(path, "conn_id", None):
            raise
    import fsspec

    try:
        return fsspec.filesystem(path.protocol)
    except (ValueError, ImportError) as error:
        raise LookupError(
            f"There is no filesystem for {path.protocol}://: install the provider of that store. {error}"
        ) from error


class Writer(ABC):
    """
    A file being written; a context manager, to be committed inside.

    :param place: Where it will be.
    :param exclusive: Whether it may not replace another file.
    """

    def __init__(self, place: StorageLocation, exclusive: bool) -> None:
        self.place = place
        self.exclusive = exclusive
        self._done = False

    def write(self, data: bytes) -> None:
        """Take the next bytes; nothing of them is visible yet."""
        with self.place._storing("written"):
            self._write(data)

    def restart(self) -> None:
        """Forget every byte taken so far."""
        with self.place._storing("written"):
            self._restart()

    def commit(self) -> None:
        """
        Make the file visible under its name, whole.

        :raises SeedanceDestinationExistsError: another file is there, and may not be replaced.
        """
        with self.place._storing("written", exclusive=self.exclusive):
            self._commit()
        self._done = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._done:
            return
        try:
            self._abort()
        except Exception as trouble:
            log.warning("What was written for %s could not be removed: %s", self.place.shown, trouble)

    def _refuse_existing(self) -> None:
        if self.exclusive and self.place.size() is not None:
            raise self.place.exists_error()

    @abstractmethod
    def _write(self, data: bytes) -> None: ...

    @abstractmethod
    def _restart(self) -> None: ...

    @abstractmethod
    def _commit(self) -> None: ...

    @abstractmethod
    def _abort(self) -> None: ...


class _LocalWriter(Writer):
    def __init__(self, place: StorageLocation, exclusive: bool) -> None:
        super().__init__(place, exclusive)
        self._path = place._local
        directory, name = os.path.split(os.path.abspath(self._path))
        os.makedirs(directory, exist_ok=True)
        self._directory = directory
        self._temporary = os.path.join(directory, f".{name[:60]}.{secrets.token_hex(6)}.part")
        # Not tempfile: its files are for their owner alone, and stay so after the rename.
        descriptor = os.open(self._temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        self._file = os.fdopen(descriptor, "wb")

    def _write(self, data: bytes) -> None:
        self._file.write(data)

    def _restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()

    def _commit(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self.exclusive:
            self._link()
        else:
            os.replace(self._temporary, self._path)
        with suppress(OSError):
            descriptor = os.open(self._directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _link(self) -> None:
        try:
            os.link(self._temporary, self._path)
        except FileExistsError:
            raise
        except OSError:  # a filesystem without hard links has no rename that spares a file, either
            self._refuse_existing()
            os.replace(self._temporary, self._path)
        else:
            os.unlink(self._temporary)

    def _abort(self) -> None:
        try:
            self._file.close()
        finally:
            with suppress(FileNotFoundError):
                os.unlink(self._temporary)


class _UploadWriter(Writer):
    """Uploads while the bytes come; the store shows nothing before the upload is completed."""

    def __init__(self, place: StorageLocation, exclusive: bool, file: AbstractBufferedFile) -> None:
        super().__init__(place, exclusive)
        self._file = file

    @classmethod
    def begin(cls, place: StorageLocation, exclusive: bool) -> _UploadWriter | None:
        """Begin an upload, or return ``None`` where the store cannot hold a file back."""
        if not _may_hold_back(place.fs):
            return None
        file = _open_held_back(place, exclusive)
        if _holds_back(file):
            return cls(place, exclusive, file)
        _abandon(file)
        return None

    def _write(self, data: bytes) -> None:
        self._file.write(data)

    def _restart(self) -> None:
        _abandon(self._file)
        self._file = _open_held_back(self.place, self.exclusive)

    def _commit(self) -> None:
        self._file.close()
        if "x" not in self._file.mode:
            self._refuse_existing()
        try:
            self._file.commit()
        except Exception:
            # Stores name a failed precondition each in its own way.
            self._refuse_existing()
            raise

    def _abort(self) -> None:
        _abandon(self._file)


class _SpoolWriter(Writer):
    """Keeps the bytes on the worker's disk until they are verified."""

    def __init__(self, place: StorageLocation, exclusive: bool) -> None:
        super().__init__(place, exclusive)
        self._file = tempfile.NamedTemporaryFile(prefix="seedance-", suffix=".part")  # noqa: SIM115

    def _write(self, data: bytes) -> None:
        self._file.write(data)

    def _restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()

    def _commit(self) -> None:
        self._file.flush()
        with self.place.lock:
            self._refuse_existing()
            self._upload()
        self._file.close()

    def _upload(self) -> None:
        fs, path = self.place.fs, self.place.path
        if isinstance(fs, MemoryFileSystem):
            # Opening a file shows it; this way it appears at once. It will be in memory anyway.
            self._file.seek(0)
            fs.pipe_file(path, self._file.read())
        elif type(fs).put_file is not AbstractFileSystem.put_file:
            self._put()
        else:
            self._copy()

    def _put(self) -> None:
        fs, path = self.place.fs, self.place.path
        if getattr(fs, "async_impl", False):  # an object store: what fails leaves nothing
            options = {"mode": "create"} if self.exclusive else {}
            fs.put_file(self._file.name, path, **options)
            return
        with _partial_removed(self.place):
            fs.makedirs(fs._parent(path), exist_ok=True)
            fs.put_file(self._file.name, path)

    def _copy(self) -> None:
        # fsspec's own put_file completes the upload even when it fails: leaving `with` closes the file.
        fs, path = self.place.fs, self.place.path
        with _partial_removed(self.place):
            with suppress(NotImplementedError):
                fs.makedirs(fs._parent(path), exist_ok=True)
            self._file.seek(0)
            target = fs.open(path, "wb")
            try:
                shutil.copyfileobj(self._file, target, _PIECE)
                target.close()
            except BaseException:
                _abandon(target)
                raise

    def _abort(self) -> None:
        self._file.close()


@contextmanager
def _partial_removed(place: StorageLocation) -> Iterator[None]:
    """Remove what a failed upload left under the name, but never a file that it did not touch."""
    before = place.size()
    try:
        yield
    except BaseException:
        with suppress(Exception):
            after = place.size()
            if after is not None and after != before:
                place.fs.rm(place.path)
        raise


def _may_hold_back(fs: AbstractFileSystem) -> bool:
    """
    Whether opening a file of this filesystem to try is harmless.

    It is with files that begin their upload only when a part is full. With others, opening may create or
    empty the file at once; so what kind of file ``_open`` makes is looked up before anything is opened.
    """
    if type(fs).__module__.partition(".")[0] in ("s3fs", "gcsfs"):
        return True
    try:
        names = inspect.getclosurevars(type(fs)._open)
    except TypeError:  # not a plain function
        return False
    files = [
        thing
        for thing in (*names.globals.values(), *names.nonlocals.values())
        if isinstance(thing, type) and issubclass(thing, AbstractBufferedFile)
    ]
    return bool(files) and all(_overrides(kind) for kind in files)


def _overrides(kind: type[AbstractBufferedFile]) -> bool:
    return bool(
        kind.discard is not AbstractBufferedFile.discard
        and kind.commit is not AbstractBufferedFile.commit
        # gcsfs: objects of zonal buckets are visible while they are written, and cannot be discarded.
        and kind.__name__ != "ZonalFile"
    )


def _holds_back(file: Any) -> bool:
    return isinstance(file, AbstractBufferedFile) and _overrides(type(file))


def _open_held_back(place: StorageLocation, exclusive: bool) -> Any:
    def attempt(mode: str) -> Any:
        return place.fs.open(place.path, mode, block_size=PART, autocommit=False)

    if exclusive:
        try:
            file = attempt("xb")
        except (ValueError, NotImplementedError):  # not a mode it knows: looked at before the commit
            file = attempt("wb")
    else:
        file = attempt("wb")
    # fsspec notes it for a transaction, which a later user of this (cached) filesystem might complete.
    with suppress(Exception):
        place.fs.transaction.files.remove(file)
    return file


def _abandon(file: Any) -> None:
    """Give up a file without flushing: closing it would complete its upload."""
    if isinstance(file, AbstractBufferedFile):
        file.closed = True
        with suppress(FileNotFoundError):
            file.discard()
        return
    with suppress(Exception):
        file.close()
