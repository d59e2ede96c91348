"""
Signatures of callbacks: HMAC-SHA256 over the body, with or without a timestamp.

seedance2api.com promises "signature verification" without header or algorithm, and the other
services document nothing. The connection therefore configures header and scheme.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Scheme = Literal["hmac-sha256", "hmac-sha256-timestamp"]

SCHEMES: tuple[str, ...] = get_args(Scheme)

#: Maximum difference between a signed timestamp and now: an older callback is a replay.
MAX_CLOCK_SKEW_SECONDS = 300.0

#: Maximum signatures read from one header; services send two during a change of their secret.
MAX_SIGNATURES = 8

_SEPARATORS = re.compile(r"[\s,]+")


@dataclass(frozen=True, kw_only=True)
class SignatureScheme:
    """
    Signature scheme of a service.

    :param header: Header with the signature in hex or base64, optionally prefixed with ``sha256=`` or ``v1=``.
    :param secret: Shared with the service.
    :param scheme: ``hmac-sha256`` signs the raw body, ``hmac-sha256-timestamp`` the timestamp, a dot and the raw body.
    :param timestamp_header: Header with the timestamp, in seconds or milliseconds since 1970. ``t=`` in the
        signature header is accepted too.
    """

    header: str
    secret: str = field(repr=False)
    scheme: Scheme = "hmac-sha256"
    timestamp_header: str = "X-Timestamp"


def verify_signature(signing: SignatureScheme, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Return whether the service signed these raw bytes; the headers are by lower-case name."""
    parts = _SEPARATORS.split(headers.get(signing.header.lower(), "").strip())[: 2 * MAX_SIGNATURES]
    message: bytes | None = body
    if signing.scheme == "hmac-sha256-timestamp":
        timestamp = headers.get(signing.timestamp_header.lower(), "").strip()
        stamps = [timestamp, *(part[2:] for part in parts if part.startswith("t="))]
        message = _with_timestamp(next(filter(None, stamps), ""), body, now)
    if message is None:
        return False
    digest = hmac.digest(signing.secret.encode("utf-8", "replace"), message, hashlib.sha256)
    genuine = False
    for part in parts:
        given = part.removeprefix("sha256=").removeprefix("v1=")
        encoded = base64.b64encode(digest).decode()
        for expected, candidate in ((digest.hex(), given.lower()), (encoded, given)):
            genuine |= hmac.compare_digest(expected.encode(), candidate.encode("utf-8", "replace"))
    return genuine


def _with_timestamp(timestamp: str, body: bytes, now: float) -> bytes | None:
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 13):
        return None
    seconds = int(timestamp) / (1000 if len(timestamp) == 13 else 1)
    fresh = abs(now - seconds) <= MAX_CLOCK_SKEW_SECONDS
    return timestamp.encode() + b"." + body if fresh else None
