"""Text files and JSONL in object storage, read and replaced as a whole."""

from __future__ import annotations

import codecs
import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.storage.location import StorageLocation
from airflow_provider_seedance.storage.writers import open_writer

log = logging.getLogger(__name__)

_BOM = b"\xef\xbb\xbf"

#: Line separators of `str.splitlines()` that JSON allows in a string.
_LINE_SEPARATORS = {0x2028: "\\u2028", 0x2029: "\\u2029", 0x85: "\\u0085"}


def read_file(path: Any, *, max_bytes: int, what: str) -> tuple[bytes, str]:
    """
    Return the content of a file, and its path for messages.

    :param path: Text or an ``ObjectStoragePath``.
    :param what: The argument that names the file, for errors.
    :raises SeedanceConfigurationError: it does not exist or is too large; a retry cannot help.
    :raises SeedanceMediaError: the store could not be read; a retry helps.
    """
    location = StorageLocation.of(path, None, what=what)
    data = location.read(max_bytes)
    if data is None:
        raise errors.SeedanceConfigurationError(
            f"{what} names {location.display}, and there is no such file. Nothing was sent. Run the task that "
            "writes it first, or correct the path."
        )
    if len(data) > max_bytes:
        raise errors.SeedanceConfigurationError(
            f"{what} names {location.display}, which is larger than {max_bytes // 1024**2} MiB. Nothing was sent. "
            "Split it."
        )
    return data, location.display


def read_text(path: Any, *, max_bytes: int, what: str) -> str:
    """
    Return the content of a UTF-8 file; see :func:`read_file`.

    :raises SeedanceConfigurationError: it is not UTF-8; a retry cannot help.
    """
    data, display = read_file(path, max_bytes=max_bytes, what=what)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise errors.SeedanceConfigurationError(
            f"{what} names {display}, which is not UTF-8 text ({_encoding_of(data) or error}). Nothing was sent. Save it "
            "as UTF-8 (spreadsheets: 'CSV UTF-8')."
        ) from None


def _encoding_of(data: bytes) -> str | None:
    """Return a guess at the encoding of text that is not UTF-8, for a message; nothing is read by a guess."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "it looks like UTF-16"
    # Control characters are in binary files.
    is_text = not any(byte < 9 or 13 < byte < 32 for byte in data[:4096])
    return "it looks like Windows-1252 or Latin-1" if is_text else None


def parse_lines(data: bytes, display: str) -> list[dict[str, Any]]:
    """
    Return the objects of a JSONL file. An incomplete last line, left by an interrupted writer, is dropped.

    :param display: The path of the file, for errors.
    :raises SeedanceConfigurationError: a line is not a JSON object with a text ``key``.
    """
    # Split as bytes: the last line may end within a character.
    lines = data.removeprefix(_BOM).split(b"\n")
    last = lines.pop()
    found = [_parse(display, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if last.strip():
        try:
            found.append(_parse(display, len(lines) + 1, last))
        except errors.SeedanceConfigurationError:
            log.warning("The last line of %s (%d) is incomplete and is left out.", display, len(lines) + 1)
    return found


def _parse(display: str, number: int, line: bytes) -> dict[str, Any]:
    problem = "it has no key"
    try:
        value = json.loads(line.decode("utf-8"))
        # Python reads NaN, and numbers that are too large as infinity, which JSON cannot express.
        json.dumps(value, allow_nan=False)
        if isinstance(value, dict) and isinstance(value.get("key"), str):
            return value
    except (ValueError, RecursionError) as error:
        problem = f"it is not JSON in UTF-8 ({error})"
    raise errors.SeedanceConfigurationError(
        f"Line {number} of {display} is not a line of a manifest: {problem}. Nothing was sent. Correct or remove "
        "that line."
    )


def write_lines(location: StorageLocation, lines: Iterable[Mapping[str, Any]]) -> None:
    """
    Replace a JSONL file as a whole.

    :raises SeedanceMediaError: it could not be written; a retry helps, and the previous file is unchanged.
    """
    with open_writer(location, exclusive=False) as writer:
        for line in lines:
            text = json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            writer.write(text.translate(_LINE_SEPARATORS).encode("utf-8", "backslashreplace") + b"\n")
        writer.commit()
