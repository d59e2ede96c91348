"""
The addresses that services call: whom a callback is for, signed, and good for a limited time.

A token names the task instance, the connection and the submission. Whoever knows one can tell this
Airflow that *this* render may have ended; what came of it is asked of the service. Only where the reply to
the submission was lost does a call say more: which generation it was. That the service has to know it by the
same key, and nothing else, is asked then.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass

#: Below the API server's address: where the plugin listens.
PREFIX = "/seedance"
ROUTE = "/callbacks/{token}"

#: Seconds that a token outlives the deadline of the render it was made for.
GRACE = 86400.0

#: No token is longer: names of Dags, runs and tasks are 250 characters each, and four bytes at most each.
LONGEST = 8192

#: A secret of fewer characters is warned about.
SHORTEST_SECRET = 16

_DOMAIN = b"seedance callback 1\n"


@dataclass(frozen=True, kw_only=True)
class CallbackClaims:
    """
    Whom a callback is for.

    :param nonce: Of the submission; it stands in its record, too.
    :param expires: Seconds since 1970.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    conn_id: str
    nonce: str
    expires: int


_FIELDS: dict[str, type] = {
    "dag_id": str,
    "run_id": str,
    "task_id": str,
    "map_index": int,
    "conn_id": str,
    "nonce": str,
    "expires": int,
}


def sign(ticket: CallbackClaims, secret: str) -> str:
    """Return the token of a ticket: it fits into one segment of a path."""
    values = [getattr(ticket, name) for name in _FIELDS]
    said = _encode(json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode())
    return f"{said}.{_mac(said, secret)}"


def decode_unverified(token: str) -> CallbackClaims | None:
    """
    Return what a token claims, **unproved**: only to learn with whose secret it must be proved.

    ``None`` for anything that is no token. Never raises.
    """
    said, _, mac = token.partition(".")
    if len(token) > LONGEST or not mac:
        return None
    try:
        values = json.loads(_decode(said))
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, list) or len(values) != len(_FIELDS):
        return None
    if any(type(value) is not kind for value, kind in zip(values, _FIELDS.values(), strict=True)):
        return None
    return CallbackClaims(**dict(zip(_FIELDS, values, strict=True)))


def proves(token: str, secret: str | None, now: float) -> bool:
    """
    Whether a token was signed with this secret and has not expired.

    Takes the same time for every token, and also where there is no secret to prove it with.
    """
    said, _, mac = token.partition(".")
    genuine = hmac.compare_digest(_mac(said, secret or "none").encode(), mac.encode("utf-8", "replace"))
    ticket = decode_unverified(token)
    return genuine and bool(secret) and ticket is not None and now < ticket.expires


def address(base_url: str, token: str) -> str:
    """Return the URL to give to a service."""
    return base_url.rstrip("/") + PREFIX + ROUTE.format(token=token)


def _mac(said: str, secret: str) -> str:
    return _encode(
        hmac.digest(
            secret.encode("utf-8", "replace"), _DOMAIN + said.encode("utf-8", "replace"), hashlib.sha256
        )
    )


def _encode(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")


def _decode(text: str) -> str:
    try:
        return base64.b64decode(
            text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True
        ).decode()
    except binascii.Error as error:
        raise ValueError(str(error)) from None
