"""Filesystems for tests, as fsspec has them: object stores, and remote disks with and without a rename."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

from airflow_provider_seedance.storage.location import StorageLocation
from airflow_provider_seedance.storage.writers import open_writer


def write_file(location: StorageLocation, data: bytes, *, exclusive: bool = False) -> None:
    """Write a file in several pieces."""
    with open_writer(location, exclusive=exclusive) as writer:
        piece = max(1, len(data) // 10)
        for start in range(0, len(data), piece):
            writer.write(data[start : start + piece])
        writer.commit()


def size_of(location: StorageLocation) -> int | None:
    """Return the size of a file, or ``None`` if there is none."""
    found = location.stat()
    return found.size if found else None


class _Store(AbstractFileSystem):
    """Store of objects in a dict."""

    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.objects: dict[str, bytes] = {}
        #: Operations, in order.
        self.events: list[str] = []
        #: Called with the path of each upload when half of it was sent.
        self.on_upload: Callable[[str], None] = lambda path: None

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        if path not in self.objects:
            raise FileNotFoundError(path)
        return {"name": path, "size": len(self.objects[path]), "type": "file"}

    def cat_file(self, path: str, start: Any = None, end: Any = None, **options: Any) -> bytes:
        return self.objects[self._strip_protocol(path)][start:end]

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return AbstractBufferedFile(self, path, mode, cache_type="none")

    def _rm(self, path: str) -> None:
        self.events.append("remove")
        del self.objects[path]

    def rm(self, path: str, recursive: bool = False, maxdepth: Any = None) -> None:
        self._rm(self._strip_protocol(path))


class ObjectStore(_Store):
    """A store like S3 or GCS: an object appears when its upload is complete."""

    protocol = "object"
    async_impl = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.options: list[dict[str, Any]] = []

    def put_file(
        self, lpath: str, rpath: str, chunksize: int = 0, mode: str = "overwrite", **options: Any
    ) -> None:
        self.options.append({"chunksize": chunksize, "mode": mode, **options})
        self.on_upload(rpath)
        if mode == "create" and rpath in self.objects:
            raise OSError(22, "PreconditionFailed")
        self.objects[rpath] = Path(lpath).read_bytes()


class BlobStore(ObjectStore):
    """A store that takes ``overwrite`` in place of a mode, like adlfs."""

    protocol = "blobs"

    def put_file(self, lpath: str, rpath: str, overwrite: bool = False) -> None:  # type: ignore[override]
        if rpath in self.objects and not overwrite:
            raise FileExistsError(rpath)
        self.objects[rpath] = Path(lpath).read_bytes()


class RemoteDisk(_Store):
    """A store like SFTP: a file grows under its name while it is uploaded, and can be renamed."""

    protocol = "disk"

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        data = Path(lpath).read_bytes()
        self.events.append("upload")
        self.objects[rpath] = data[: len(data) // 2]
        self.on_upload(rpath)
        self.objects[rpath] = data

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        self.events.append("rename")
        self.objects[path2] = self.objects.pop(path1)


class Share(RemoteDisk):
    """A store that renames only to free names, like SMB."""

    protocol = "share"

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        if path2 in self.objects:
            raise FileExistsError(path2)
        super().mv(path1, path2, **options)


class DiskWithoutRename(RemoteDisk):
    """A store that can neither rename nor copy."""

    protocol = "rigid"

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        raise NotImplementedError
