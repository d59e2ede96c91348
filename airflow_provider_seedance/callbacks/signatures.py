"""
Signatures of services under what they send: HMAC-SHA256, with and without a timestamp.

seedance2api.com promises "signature verification" and names neither header nor algorithm (vendor
document S002), the others promise nothing; so header and scheme are configured in the connection.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Scheme = Literal["hmac-sha256", "hmac-sha256-timestamp"]

SCHEMES: tuple[str, ...] = get_args(Scheme)

#: A signed time that is further away than this, in seconds, is a replay.
TOLERANCE = 300.0

#: So many signatures in one header are looked at: services send two while they change their secret.
MOST = 8

_SEPARATORS = re.compile(r"[\s,]+")


@dataclass(frozen=True, kw_only=True)
class SignatureScheme:
    """
    How a service signs its calls.

    :param header: Header that carries the signature, in hex or base64, ``sha256=`` or ``v1=`` before it or not.
    :param secret: Shared with the service.
    :param scheme: ``hmac-sha256`` signs the raw body; ``hmac-sha256-timestamp`` signs the time, a dot, and
        the raw body.
    :param timestamp_header: Header that carries the time, in seconds since 1970; a ``t=`` in the header of
        the signature counts, too.
    """

    header: str
    secret: str = field(repr=False)
    scheme: Scheme = "hmac-sha256"
    timestamp_header: str = "X-Timestamp"


def verify_signature(signing: SignatureScheme, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """
    Whether a call was signed by the service, by the raw bytes of its body.

    :param headers: By lower-case name.
    """
    header = headers.get(signing.header.lower(), "")
    message: bytes | None = body
    if signing.scheme == "hmac-sha256-timestamp":
        message = _with_time(signing, headers, header, body, now)
    if message is None:
        return False
    digest = hmac.digest(signing.secret.encode("utf-8", "replace"), message, hashlib.sha256)
    expected = (digest.hex(), base64.b64encode(digest).decode(), base64.urlsafe_b64encode(digest).decode())
    found = False
    for candidate in _candidates(header):
        for form in expected:
            given = candidate.lower() if form is expected[0] else candidate
            found |= hmac.compare_digest(form.encode(), given.encode("utf-8", "replace"))
    return found


def _with_time(
    signing: SignatureScheme, headers: Mapping[str, str], header: str, body: bytes, now: float
) -> bytes | None:
    stamp = headers.get(signing.timestamp_header.lower(), "").strip()
    for part in _SEPARATORS.split(header):
        if not stamp and part.startswith("t="):
            stamp = part[2:]
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 13):
        return None
    seconds = int(stamp) / (1000 if len(stamp) == 13 else 1)
    return stamp.encode() + b"." + body if abs(now - seconds) <= TOLERANCE else None


def _candidates(header: str) -> Iterator[str]:
    for part in _SEPARATORS.split(header.strip())[: 2 * MOST]:
        for mark in ("sha256=", "v1=", "v0="):
            part = part.removeprefix(mark)
        if part and not part.startswith("t="):
            yield part
