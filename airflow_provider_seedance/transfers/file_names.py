"""
Names of outputs in a directory: pure functions.

The values in a name come from a service, so they can neither leave the directory nor create one.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from string import Formatter
from typing import Any
from urllib.parse import unquote, urlsplit

from airflow_provider_seedance.exceptions import SeedanceConfigurationError

PLACEHOLDERS = ("generation_id", "index", "ext", "media", "model", "key")

#: Media types by extension; the first extension of a type is the one of new files. No SVG: it can contain scripts.
MEDIA_TYPES = {
    "mp4": "video/mp4",
    "m4v": "video/mp4",
    "webm": "video/webm",
    "mov": "video/quicktime",
    "mkv": "video/x-matroska",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "avif": "image/avif",
    "bmp": "image/bmp",
    "tiff": "image/tiff",
    "tif": "image/tiff",
}
_DEFAULTS = {"video": "mp4", "image": "png"}

#: Limit of one value in a name: a file name has at most 255 bytes, with index and extension.
MAX_VALUE_BYTES = 200


@dataclass(frozen=True, kw_only=True)
class Naming:
    """
    Names of the outputs of one generation.

    :param template: Text with placeholders. Several outputs get ``-{index}`` unless it has an index.
    :param values: Values of the placeholders, without ``index`` and ``ext``.
    :param count: Number of outputs.
    """

    template: str
    values: dict[str, Any]
    count: int

    @property
    def needs_extension(self) -> bool:
        """Return whether a name depends on the type of the file."""
        return "ext" in self._placeholders()

    def name(self, index: int, extension: str) -> str:
        """
        Return the name of an output below the directory.

        :param index: Counted from 1.
        :raises SeedanceConfigurationError: the template has unknown placeholders or no usable names.
        """
        placeholders = self._placeholders()
        values: dict[str, Any] = {name: _safe(value) for name, value in self.values.items()}
        try:
            name = self.template.format(**values, index=index, ext=extension)
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise self._unusable(str(error)) from None
        if self.count > 1 and "index" not in placeholders:
            path = PurePosixPath(name)
            name = name.removesuffix(path.suffix) + f"-{index}{path.suffix}"
        segments = name.split("/")
        if any(segment in ("", ".", "..") for segment in segments) or not name.isprintable():
            raise self._unusable(f"{name!r} is not a name below the destination")
        if any(len(segment.encode()) > 255 for segment in segments):
            raise self._unusable("its name is longer than 255 bytes")
        return name

    def _placeholders(self) -> set[str]:
        found = set()
        try:
            for _, name, spec, conversion in Formatter().parse(self.template):
                if conversion or "{" in (spec or ""):
                    raise ValueError(f"placeholder {name!r} has a conversion or a nested placeholder")
                if name is not None:
                    found.add(name)
        except ValueError as error:
            raise self._unusable(str(error)) from None
        if unknown := sorted(found - set(PLACEHOLDERS)):
            raise self._unusable(f"there is no placeholder {', '.join(map(repr, unknown))}")
        return found

    def _unusable(self, reason: str) -> SeedanceConfigurationError:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        return SeedanceConfigurationError(
            f"name_template {self.template!r} cannot be used: {reason}. It takes {known}. Nothing was sent."
        )


def _safe(value: Any) -> str:
    original = str(value) if value is not None else "unknown"
    text = re.sub(r"[^\w.\-]", "_", original)
    if len(text.encode()) > MAX_VALUE_BYTES:
        # Values that differ only behind the cut must not share a file.
        text = _with_digest(text, original)
    return text if text.strip(".") else "_" * max(1, len(text))


def _with_digest(text: str, value: str) -> str:
    """Return the beginning of a text, in whole characters, and a digest of the value that it stands for."""
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{text.encode()[: MAX_VALUE_BYTES - 9].decode('utf-8', 'ignore')}-{digest}"


def folded(name: str) -> str:
    """Return a name as filesystems compare it that ignore case and the composition of characters."""
    return unicodedata.normalize("NFC", name.casefold())


def distinct(values: Iterable[str]) -> dict[str, str]:
    """
    Return the text that stands for each value in a name, so that different values get different names.

    Values with the same name, in any case of its letters, get a digest of the value, unless their name is the
    value itself in lower case.
    """
    groups: dict[str, list[str]] = {}
    for value in dict.fromkeys(values):
        groups.setdefault(folded(_safe(value)), []).append(value)
    return {
        value: value if len(group) == 1 or value == name else _with_digest(_safe(value), value)
        for name, group in groups.items()
        for value in group
    }


def extension_of_url(url: str) -> str | None:
    """Return the extension in the path of a URL, or of the type of a ``data:`` URL, if it is known."""
    if url.startswith("data:"):
        return extension_of_type(url[5:].partition(",")[0].partition(";")[0])
    try:
        suffix = PurePosixPath(unquote(urlsplit(url).path)).suffix.lower().removeprefix(".")
    except ValueError:
        return None
    return suffix if suffix in MEDIA_TYPES else None


def extension_of_type(content_type: str | None) -> str | None:
    """Return the extension of files of a media type, if it is known."""
    wanted = (content_type or "").strip().lower()
    return next((extension for extension, known in MEDIA_TYPES.items() if known == wanted), None)


def default_extension(media: str) -> str:
    """Return the extension for files of unknown type."""
    return _DEFAULTS.get(media, "bin")
