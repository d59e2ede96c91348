"""
The manifest of a batch: a JSONL file in object storage with one line for each item that has ended.

A line is the result of a generation and its ``key``; of a failed item ``status``, ``key``, ``generation_id``, ``error``,
``kind``, cost and times; of an item that was not submitted ``key`` and ``status``. Each has its ``request``, unless it is
left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from airflow_provider_seedance.apis.messages import read_json
from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.storage.jsonl import parse_lines, read_file, write_lines
from airflow_provider_seedance.storage.location import StorageLocation

#: Limit of a manifest, which is read into memory: more than 100,000 items.
MAX_MANIFEST_BYTES = 256 * 1024 * 1024


def read_manifest(path: Any) -> list[dict[str, Any]]:
    """
    Read a manifest.

    :param path: Text or an ``ObjectStoragePath``.
    :raises SeedanceConfigurationError: it does not exist, or is not a manifest; a retry cannot help.
    :raises SeedanceMediaError: the store could not be read; a retry helps.
    """
    return parse_lines(*read_file(path, max_bytes=MAX_MANIFEST_BYTES, what="manifest"))


def read_result(line: Mapping[str, Any]) -> Generation | None:
    """Return the generation of a line, as strictly checked as a reply, or ``None`` if it is not usable."""
    try:
        return Generation.from_result(read_json(json.dumps(line).encode()))
    except (ValueError, RecursionError):
        return None


def write_manifest(path: Any, lines: Iterable[Mapping[str, Any]]) -> None:
    """
    Replace a manifest as a whole.

    :param path: Text or an ``ObjectStoragePath``.
    :raises SeedanceConfigurationError: the path cannot be used.
    :raises SeedanceMediaError: it could not be written; a retry helps, and the previous manifest is unchanged.
    """
    write_lines(StorageLocation.of(path, None, what="manifest"), lines)
