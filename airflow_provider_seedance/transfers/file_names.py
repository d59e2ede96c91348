"""
How outputs are called in a directory: pure functions.

The values that go into a name come from a service, so they can neither leave the directory nor make one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from string import Formatter
from typing import Any
from urllib.parse import unquote, urlsplit

from airflow_provider_seedance.exceptions import SeedanceConfigurationError

PLACEHOLDERS = ("generation_id", "index", "ext", "media", "model", "key")

_EXTENSIONS = {
    "video/mp4": "mp4",
    "video/webm": "webm",
    "video/quicktime": "mov",
    "video/x-matroska": "mkv",
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/avif": "avif",
    "image/bmp": "bmp",
    "image/tiff": "tiff",
}
_KNOWN = frozenset({*_EXTENSIONS.values(), "jpeg", "tif"})
_DEFAULTS = {"video": "mp4", "image": "png"}

#: Longest value in a name, in bytes: a file name has 255, and a letter up to four.
_LONGEST = 200


@dataclass(frozen=True, kw_only=True)
class Naming:
    """
    Names the outputs of one generation.

    :param template: ``name_template`` of the operator, or ``None`` for ``{generation_id}.{ext}`` and, for
        several outputs, ``{generation_id}-{index}.{ext}``.
    :param values: What the placeholders stand for, without ``index`` and ``ext``.
    :param count: How many outputs there are.
    """

    template: str | None
    values: dict[str, Any]
    count: int

    @property
    def pattern(self) -> str:
        """The template in use."""
        return self.template if self.template is not None else "{generation_id}.{ext}"

    @property
    def needs_extension(self) -> bool:
        """Whether a name cannot be told before the type of the file is known."""
        return "ext" in self._placeholders()

    def check(self) -> None:
        """
        Judge the template before anything is sent.

        :raises SeedanceConfigurationError: it has unknown placeholders or makes names that are none.
        """
        try:
            used = self._placeholders()
            unknown = sorted(used - set(PLACEHOLDERS))
        except ValueError as error:
            raise self._wrong(str(error)) from None
        if unknown:
            raise self._wrong(f"there is no placeholder {', '.join(repr(name) for name in unknown)}")
        names = {self.name(index, "ext") for index in range(1, self.count + 1)}
        if len(names) < self.count:
            raise self._wrong("it gives several outputs the same name")

    def name(self, index: int, extension: str) -> str:
        """
        Return the name of an output below the directory.

        :param index: Counted from 1.
        :raises SeedanceConfigurationError: the template does not make a name.
        """
        values: dict[str, Any] = {name: _safe(value) for name, value in self.values.items()}
        try:
            name = self.pattern.format(**values, index=index, ext=extension)
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise self._wrong(str(error)) from None
        if self.count > 1 and "index" not in self._placeholders():
            path = PurePosixPath(name)
            name = name.removesuffix(path.suffix) + f"-{index}{path.suffix}"
        segments = name.split("/")
        if any(segment in ("", ".", "..") for segment in segments) or not name.isprintable():
            raise self._wrong(f"{name!r} is not a name below the destination")
        if any(len(segment.encode()) > 255 for segment in segments):
            raise self._wrong("it makes a name longer than 255 bytes")
        return name

    def _placeholders(self) -> set[str]:
        found = set()
        for _, name, spec, conversion in Formatter().parse(self.pattern):
            if name is None:
                continue
            if conversion or "{" in (spec or ""):
                raise ValueError(f"placeholder {name!r} is not a plain one")
            found.add(name)
        return found

    def _wrong(self, why: str) -> SeedanceConfigurationError:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        return SeedanceConfigurationError(
            f"name_template {self.pattern!r} cannot be used: {why}. It takes {known}. Nothing was sent."
        )


def _safe(value: Any) -> str:
    told = str(value) if value is not None else "unknown"
    text = re.sub(r"[^\w.\-]", "_", told)
    if len(text.encode()) > _LONGEST:
        # What only differs behind the cut must not be stored in one file.
        text = _with_digest(text, told)
    return text if text.strip(".") else "_" * max(1, len(text))


def _with_digest(text: str, value: str) -> str:
    """Return the beginning of a text, in whole letters, and a digest of the value that it stands for."""
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{text.encode()[: _LONGEST - 9].decode('utf-8', 'ignore')}-{digest}"


def distinct(values: Iterable[str]) -> dict[str, str]:
    """
    Return what stands for each value in a name, so that what differs in the values differs in the names.

    Values that would look the same get a digest of what they really are, unless they look as they are.
    """
    alike: dict[str, list[str]] = {}
    for value in dict.fromkeys(values):
        alike.setdefault(_safe(value), []).append(value)
    return {
        value: value if len(group) == 1 or value == safe else _with_digest(safe, value)
        for safe, group in alike.items()
        for value in group
    }


def extension_of_url(url: str) -> str | None:
    """Return the extension that the path of a URL (or the type of a ``data:`` URL) tells, if any."""
    if url.startswith("data:"):
        return extension_of_type(url[5:].partition(",")[0].partition(";")[0])
    try:
        suffix = PurePosixPath(unquote(urlsplit(url).path)).suffix.lower().removeprefix(".")
    except ValueError:
        return None
    return suffix if suffix in _KNOWN else None


def extension_of_type(content_type: str | None) -> str | None:
    """Return the extension of files of a media type, if it is known."""
    return _EXTENSIONS.get((content_type or "").strip().lower())


def default_extension(media: str) -> str:
    """Return the extension for files of which nothing is known."""
    return _DEFAULTS.get(media, "bin")
