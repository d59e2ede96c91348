"""Records as JSON values of limited size: readable while they are short, compressed beyond that."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airflow_provider_seedance.submission.records import Record

#: Longer values are compressed. Below it, a person can read the ids in Airflow's database.
MAX_READABLE_BYTES = 8 * 1024

#: Limit of what is decompressed, because a damaged value may expand to any size.
_MAX_UNPACKED_BYTES = 64 * 1024**2


def pack(
    records: Mapping[str, Record | None], *, max_bytes: int | None = None
) -> tuple[dict[str, Any], set[str]]:
    """
    Return records as a JSON value, and the keys of those whose results it has no room for.

    The longest results are left out first: they can be read from the service again.
    """
    with_result = {
        key: len(str(record.result)) for key, record in records.items() if record and record.result
    }
    kept = sorted(with_result, key=with_result.__getitem__)
    while True:
        left_out = with_result.keys() - set(kept)
        value = _encode(
            {key: _bare(record) if key in left_out else record for key, record in records.items()}
        )
        if not kept or max_bytes is None or len(json.dumps(value)) <= max_bytes:
            return value, left_out
        del kept[-max(1, len(kept) // 8) :]


def unpack(value: Any) -> dict[str, Record | None]:
    """
    Read a value of :func:`pack`.

    :raises SeedanceRecordError: a record is damaged or of another version.
    :raises ValueError: the value is something else; so do ``TypeError``, ``KeyError`` and ``AttributeError``.
    """
    records = _decompress(value["packed"]) if "packed" in value else value["records"]
    return {key: None if item is None else Record.from_value(item) for key, item in records.items()}


def _bare(record: Record | None) -> Record | None:
    return record and replace(record, result=None)


def _encode(records: Mapping[str, Record | None]) -> dict[str, Any]:
    values = {key: record and record.as_dict() for key, record in records.items()}
    text = json.dumps(values, separators=(",", ":"))
    if len(text) <= MAX_READABLE_BYTES:
        return {"records": values}
    return {"packed": base64.b64encode(zlib.compress(text.encode())).decode()}


def _decompress(packed: str) -> Any:
    try:
        text = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), _MAX_UNPACKED_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    return json.loads(text)
