"""Filesystems for tests, as fsspec has them: one that holds files back, and some that do not."""

from __future__ import annotations

from typing import Any

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile


class _Objects(AbstractFileSystem):
    """An object store in a dict of its own; a name is visible when its upload is completed."""

    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.objects: dict[str, bytes] = {}
        #: What was done, in order.
        self.events: list[str] = []
        #: Raised by the upload of the n-th part, or by completing (0).
        self.breaks_at: int | None = None

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        if path not in self.objects:
            raise FileNotFoundError(path)
        return {"name": path, "size": len(self.objects[path]), "type": "file"}

    def cat_file(self, path: str, start: Any = None, end: Any = None, **options: Any) -> bytes:
        return self.objects[self._strip_protocol(path)][start:end]

    def _rm(self, path: str) -> None:
        self.events.append("remove")
        del self.objects[path]

    def rm(self, path: str, recursive: bool = False, maxdepth: Any = None) -> None:
        self._rm(self._strip_protocol(path))


class _File(AbstractBufferedFile):
    """Uploads in parts."""

    fs: Any

    def _initiate_upload(self) -> None:
        self.fs.events.append("begin")
        self.parts: list[bytes] = []

    def _upload_chunk(self, final: bool = False) -> bool:
        if self.fs.breaks_at == len(self.parts) + 1:
            raise ConnectionError("the store hung up")
        self.parts.append(self.buffer.getvalue())
        self.fs.events.append("part")
        if final and self.autocommit:
            self._complete()
        return True

    def _complete(self) -> None:
        if self.fs.breaks_at == 0:
            raise ConnectionError("the store hung up")
        if "x" in self.mode and self.path in self.fs.objects:
            raise OSError(22, "PreconditionFailed")
        self.fs.events.append("complete")
        self.fs.objects[self.path] = b"".join(self.parts)


class TransactionalFile(_File):
    """Can be held back, like those of s3fs and gcsfs."""

    def commit(self) -> None:
        self._complete()

    def discard(self) -> None:
        if hasattr(self, "parts"):
            self.fs.events.append("abort")


class HoldingStore(_Objects):
    """A store like S3: parts are uploaded, then completed or aborted."""

    protocol = "holding"
    #: Whether it takes the mode that spares an existing object.
    exclusive = True

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if "x" in mode and not self.exclusive:
            raise ValueError(f"mode {mode}")
        return TransactionalFile(self, path, mode, **options)


class EagerStore(_Objects):
    """A store whose files are completed when they are closed, whatever happened."""

    protocol = "eager"

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        options.pop("autocommit", None)
        return _File(self, path, mode, **options)


class DirectStore(_Objects):
    """A store like a remote disk: a file is there from the moment it is opened."""

    protocol = "direct"

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        store = self
        if "r" in mode:
            return _File(self, path, mode, cache_type="none")

        class Direct:
            def write(self, data: bytes) -> int:
                if store.breaks_at is not None and len(store.objects[path]) >= store.breaks_at:
                    raise ConnectionError("the store hung up")
                store.objects[path] += data
                return len(data)

            def close(self) -> None:
                store.events.append("close")

        self.objects[path] = b""
        self.events.append("open")
        return Direct()
