"""Records as JSON values of limited size: readable while they are short, compressed beyond that."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

from airflow_provider_seedance.submission.records import Record

#: Longer values are compressed. Below it, a person can read the ids in Airflow's database.
MAX_READABLE_BYTES = 8 * 1024

#: Limit of what is decompressed, because a damaged value may expand to any size.
_MAX_UNPACKED_BYTES = 64 * 1024**2

#: Errors of reading a damaged value.
DAMAGE = (KeyError, TypeError, ValueError, AttributeError, RecursionError)


def pack(
    records: Mapping[str, Record | None], *, max_bytes: int | None = None
) -> tuple[dict[str, Any], set[str]]:
    """
    Return records as a JSON value, and the keys of those whose results it has no room for.

    The longest results are left out first: they can be read from the service again.
    """
    lengths = {key: len(record.json_text) for key, record in records.items() if record and record.result}
    kept = sorted(lengths, key=lengths.__getitem__)
    while True:
        left_out = lengths.keys() - set(kept)
        value = _encode(
            {
                key: record.without_result if record and key in left_out else record
                for key, record in records.items()
            }
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


def _encode(records: Mapping[str, Record | None]) -> dict[str, Any]:
    items = (f"{json.dumps(key)}:{record.json_text if record else 'null'}" for key, record in records.items())
    text = f"{{{','.join(items)}}}"
    if len(text) <= MAX_READABLE_BYTES:
        return {"records": json.loads(text)}
    # Each write of a record packs its whole group again, so speed counts more than the last tenth of the size.
    return {"packed": base64.b64encode(zlib.compress(text.encode(), zlib.Z_BEST_SPEED)).decode()}


def _decompress(packed: str) -> Any:
    try:
        text = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), _MAX_UNPACKED_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    return json.loads(text)
