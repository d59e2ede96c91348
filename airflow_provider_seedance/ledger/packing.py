"""Records as JSON values of limited size: readable while they are short, compressed beyond that."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airflow_provider_seedance.submission.records import Record

#: Records by key; ``None`` for a registered key for which nothing was submitted.
Records = Mapping[str, Record | None]

#: Longer values are compressed. Below it, a person can read the ids in Airflow's database.
MAX_READABLE_BYTES = 8 * 1024

#: Limits of a failure's message; the shorter ones apply where a value would become too long.
FAILURE_MESSAGE_CHARS = (480, 160, 40)

#: Limit of what is decompressed, because a damaged value may expand to any size.
_MAX_UNPACKED_BYTES = 64 * 1024**2


def pack(records: Records, *, max_bytes: int | None = None) -> tuple[dict[str, Any], set[str]]:
    """
    Return records as a JSON value, and the keys of those whose results had to be left out.

    Where the value would exceed ``max_bytes``, messages of failures become shorter, and then the longest
    results are left out: the service can be asked for them again.
    """
    value = _encode(_shorten(records, FAILURE_MESSAGE_CHARS[0]))
    if _fits(value, max_bytes):
        return value, set()
    bare = {key: record and replace(record, result=None) for key, record in records.items()}
    for max_chars in FAILURE_MESSAGE_CHARS:
        records = _shorten(records, max_chars)
        if _fits(_encode(_shorten(bare, max_chars)), max_bytes):
            break
    return _leave_out_results(records, max_bytes)


def unpack(value: Any) -> dict[str, Record | None]:
    """
    Read what :func:`pack` returned.

    :raises SeedanceRecordError: a record is damaged or of another version.
    :raises ValueError: the value is something else; so do ``TypeError``, ``KeyError`` and ``AttributeError``.
    """
    records = _decompress(value["packed"]) if "packed" in value else value["records"]
    return {key: None if item is None else Record.from_value(item) for key, item in records.items()}


def size_of(value: Any) -> int:
    """Return the length of a JSON value as Airflow measures it."""
    return len(json.dumps(value))


def _shorten(records: Records, max_chars: int) -> dict[str, Record | None]:
    return {key: record and _with_short_failure(record, max_chars) for key, record in records.items()}


def _with_short_failure(record: Record, max_chars: int) -> Record:
    failure = record.failure
    if failure is None or len(failure.error) <= max_chars:
        return record
    return replace(record, failure=replace(failure, error=f"{failure.error[: max_chars - 2]} …"))


def _leave_out_results(records: Records, max_bytes: int | None) -> tuple[dict[str, Any], set[str]]:
    lengths = {key: size_of(record.result) for key, record in records.items() if record and record.result}
    kept = sorted(lengths, key=lengths.__getitem__)
    while True:
        value = _encode(
            {
                key: record if record is None or key in kept else replace(record, result=None)
                for key, record in records.items()
            }
        )
        if not kept or _fits(value, max_bytes):
            return value, lengths.keys() - set(kept)
        del kept[-max(1, len(kept) // 8) :]


def _encode(records: Records) -> dict[str, Any]:
    values = {key: record and record.as_dict() for key, record in records.items()}
    text = json.dumps(values, separators=(",", ":"))
    if len(text) <= MAX_READABLE_BYTES:
        return {"records": values}
    return {"packed": base64.b64encode(zlib.compress(text.encode(), 6)).decode()}


def _fits(value: dict[str, Any], max_bytes: int | None) -> bool:
    return max_bytes is None or size_of(value) <= max_bytes


def _decompress(packed: str) -> Any:
    try:
        text = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), _MAX_UNPACKED_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    return json.loads(text)
