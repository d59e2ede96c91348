"""Outputs that come within the reply: what a ``data:`` URL holds, which ``ark`` can answer with."""

from __future__ import annotations

import base64
import binascii
import hashlib
from urllib.parse import unquote

from airflow_provider_seedance.exceptions import SeedanceMediaError
from airflow_provider_seedance.transfers.download import (
    Announced,
    Begin,
    Downloaded,
    Source,
    capital,
    too_large,
)


def store_data_url(source: Source, begin: Begin, *, most: int) -> Downloaded | None:
    """
    Store what a ``data:`` URL holds.

    :param most: Bytes that one file may have.
    :raises SeedanceMediaError: it holds nothing that can be read.
    :raises SeedanceMediaTooLargeError: it holds more than that.
    """
    head, comma, payload = source.url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise _unreadable(source, "it is not in base64")
    payload = unquote(payload) if "%" in payload else payload
    # Before it is unpacked: what is too large is not held twice.
    size = 3 * (len(payload.rstrip("=")) // 4)
    if size > most:
        raise too_large(source, "its URL", size, most)
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _unreadable(source, str(error)) from None
    if not data:
        raise _unreadable(source, "it is empty")
    if len(data) > most:
        raise too_large(source, "its URL", len(data), most)
    content_type = head[len("data:") :].partition(";")[0].lower()
    sink = begin(Announced(length=len(data), content_type=content_type))
    if sink is None:
        return None
    sink.write(data)
    return Downloaded(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def _unreadable(source: Source, why: str) -> SeedanceMediaError:
    return SeedanceMediaError(
        f"{capital(source.what)} came as data in its URL, which cannot be read: {why}. It is billed; look for "
        "it in the console of the service.",
        generation_id=source.generation_id,
    )
