"""Files of renders, encoded on their first request."""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from airflow_provider_seedance.emulator.models import MediaSpec
from airflow_provider_seedance.emulator.placeholder_media import TINY_FILES

CONTENT_TYPES = {"mp4": "video/mp4", "mov": "video/quicktime", "png": "image/png", "jpeg": "image/jpeg"}


@dataclass(frozen=True, kw_only=True)
class MediaFile:
    """An encoded file; its entity tag is a digest of the content, in quotes."""

    path: Path
    size: int
    etag: str
    content_type: str


class MediaStore:
    """
    Encoded files in a temporary directory.

    :param real: Whether to encode real files; otherwise every video is the same tiny MP4 and every image the
        same tiny PNG or JPEG, and no codec is needed.
    :raises ImportError: ``real`` is set and PyAV or Pillow is missing.
    """

    def __init__(self, *, real: bool = True) -> None:
        if real:
            _require_codecs()
        self._real = real
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()
        self._locks: dict[MediaSpec, threading.Lock] = {}
        self._files: dict[MediaSpec, MediaFile] = {}

    def close(self) -> None:
        """Remove all files."""
        with self._lock:
            if self._directory is not None:
                self._directory.cleanup()

    def file(self, spec: MediaSpec) -> MediaFile:
        """Return the file of a specification; encode it if it does not exist yet."""
        with self._lock:
            if self._directory is None:
                self._directory = tempfile.TemporaryDirectory(
                    prefix="seedance-emulator-", ignore_cleanup_errors=True
                )
            directory = Path(self._directory.name)
            lock = self._locks.setdefault(spec, threading.Lock())
        with lock:
            if spec not in self._files:
                self._files[spec] = self._encode(spec, directory)
            return self._files[spec]

    def _encode(self, spec: MediaSpec, directory: Path) -> MediaFile:
        name = hashlib.sha256(repr(spec).encode()).hexdigest()[:24]
        path = directory / f"{name}.{spec.format}"
        is_video = spec.kind == "video"
        content_type = CONTENT_TYPES[spec.format if self._real or not is_video else "mp4"]
        if self._real:
            # The codecs are optional: they belong to the extra "emulator".
            from airflow_provider_seedance.emulator.media_encoder import encode_image, encode_video

            (encode_video if is_video else encode_image)(spec, path)
        else:
            path.write_bytes(TINY_FILES["mp4" if is_video else spec.format])
        data = path.read_bytes()
        etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        return MediaFile(path=path, size=len(data), etag=etag, content_type=content_type)


def _require_codecs() -> None:
    wheels = {"av": "PyAV", "PIL": "Pillow"}
    missing = [wheel for module, wheel in wheels.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ImportError(
            f"The emulator encodes real media files with {' and '.join(missing)}, which is not installed: "
            "pip install 'airflow-provider-seedance[emulator]'. With media=False it needs neither."
        )
