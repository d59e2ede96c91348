"""
The manifest of a campaign: a JSONL file in object storage, one line for each render that has ended.

The file is replaced as a whole, so a reader never sees half of it, and a worker that dies leaves the one
before. A line is the result of a render and its ``key``; of one that failed ``key``, ``generation_id``,
``status``, ``error`` and ``kind``; of one that was not submitted ``key`` and ``status``.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.messages import read_json
from airflow_provider_seedance.generations import Generation

if TYPE_CHECKING:
    from airflow_provider_seedance.storage.location import StorageLocation

log = logging.getLogger(__name__)

#: Largest manifest that is read, in bytes.
LARGEST = 256 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"


def read_manifest(path: Any, conn_id: str | None = None) -> list[dict[str, Any]]:
    """
    Read a manifest.

    :param path: Text or an ``ObjectStoragePath``.
    :param conn_id: The connection of the store.
    :raises SeedanceConfigurationError: it is not there, or no manifest; a retry cannot help.
    :raises SeedanceMediaError: the store could not be read; a retry helps.
    """
    from airflow_provider_seedance.storage.location import StorageLocation

    place = StorageLocation.of(path, conn_id, what="manifest")
    data = place.read(LARGEST)
    if data is None:
        raise errors.SeedanceConfigurationError(
            f"There is no such file as the manifest {place.shown}. Nothing was sent. Let the task that writes it run "
            "first, or correct the path."
        )
    if len(data) > LARGEST:
        raise errors.SeedanceConfigurationError(
            f"The manifest {place.shown} is larger than {LARGEST // 1024**2} MiB, and is not read. Nothing was sent. "
            "Split it."
        )
    return parse_manifest(data, place.shown)


def parse_manifest(data: bytes, path: str) -> list[dict[str, Any]]:
    """
    Read what a manifest contains.

    :param path: Where it is, for errors.
    :raises SeedanceConfigurationError: it is none.
    """
    # Split as bytes: a line may be torn in the middle of a character.
    lines = data.removeprefix(_BOM).split(b"\n")
    torn = lines.pop()
    found = [_line(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if torn.strip():
        try:
            found.append(_line(path, len(lines) + 1, torn))
        except errors.SeedanceConfigurationError:
            # Whoever wrote it was interrupted, in a store that shows files while they are written.
            log.warning("The last line of %s (%d) is incomplete and is left out.", path, len(lines) + 1)
    return found


def _line(path: str, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_no_number, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise errors.SeedanceConfigurationError(
            f"Line {number} of {path} is not a line of a manifest: it is not JSON in UTF-8 ({error}). Nothing was "
            "sent. Correct or remove that line."
        ) from None
    if not isinstance(value, dict) or not isinstance(value.get("key"), str):
        raise errors.SeedanceConfigurationError(
            f"Line {number} of {path} is not a line of a manifest: it has no key. Nothing was sent. Correct or "
            "remove that line."
        )
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _number(text: str) -> float:
    # Python makes infinity of a number that is too large, and JSON can only be written without it.
    found = float(text)
    return found if math.isfinite(found) else _no_number(text[:20])


def read_result(line: Mapping[str, Any]) -> Generation | None:
    """Read the result that a line tells, as carefully as a reply; ``None`` if there is none that can be used."""
    try:
        return Generation.from_result(read_json(json.dumps(line).encode()))
    except (ValueError, RecursionError):
        return None


def write_manifest(path: Any, lines: Iterable[Mapping[str, Any]], conn_id: str | None = None) -> None:
    """
    Replace a manifest as a whole.

    :param path: Text or an ``ObjectStoragePath``.
    :param conn_id: The connection of the store.
    :raises SeedanceConfigurationError: there can be no such file.
    :raises SeedanceMediaError: it could not be written; a retry helps, and what was there is unchanged.
    """
    from airflow_provider_seedance.storage.location import StorageLocation

    write_lines(StorageLocation.of(path, conn_id, what="manifest"), lines)


def write_lines(place: StorageLocation, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file as a whole; see :func:`write_manifest`."""
    with place.write(exclusive=False) as writer:
        for line in lines:
            text = json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            # Not a line end for JSON, but for some who read lines.
            text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085")
            writer.write(text.encode("utf-8", "backslashreplace") + b"\n")
        writer.commit()
