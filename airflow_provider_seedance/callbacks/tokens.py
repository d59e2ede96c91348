"""
Callback URLs: each carries a signed token that names the task instance and the submission, and expires.

A token authorizes little. A callback says that *this* generation may have ended, and Airflow reads the result from
the service. Only after a lost submission reply does a callback add information, the generation id, and the
service has to confirm that id.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import astuple, dataclass

from itsdangerous import BadData, Signer
from itsdangerous.encoding import base64_decode, base64_encode

#: Path of the plugin below the API server's URL.
PREFIX = "/seedance"
ROUTE = "/callbacks/{token}"

#: Lifetime of a token beyond the deadline of its generation, in seconds: services may call late.
GRACE_SECONDS = 86400.0

#: Maximum token length. Ids of Dags, runs and tasks have up to 250 characters of up to four bytes.
MAX_TOKEN_CHARS = 8192

#: Shorter secrets cause a warning.
MIN_SECRET_CHARS = 16

_SALT = b"seedance callback"


@dataclass(frozen=True)
class CallbackClaims:
    """
    Claims of a token.

    :param map_index: The map index, or the pass of a task loop; -1 outside of both.
    :param nonce: Identifies the submission; its record has the same nonce.
    :param expires: Seconds since 1970.
    :param region_id: The region of Airflow 3.4 that the index counts in, in hexadecimal; empty without one.
    :param team: The team of the task, whose connection signs; empty without one.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    conn_id: str
    nonce: str
    expires: int
    region_id: str = ""
    team: str = ""


#: In the order of the fields.
_TYPES = [str, str, str, int, str, str, int, str, str]


def sign(claims: CallbackClaims, secret: str) -> str:
    """Return the token for claims; it fits in one path segment."""
    payload = json.dumps(astuple(claims), separators=(",", ":"), ensure_ascii=False)
    return _signer(secret).sign(base64_encode(payload)).decode("ascii")


def decode_unverified(token: str) -> CallbackClaims | None:
    """
    Return the claims of a token **without proof**, to find the connection whose secret verifies it.

    Returns ``None`` for an invalid token and never raises.
    """
    payload, _, signature = token.partition(".")
    if len(token) > MAX_TOKEN_CHARS or not signature:
        return None
    try:
        values = json.loads(base64_decode(payload))
    except (BadData, ValueError, RecursionError):
        return None
    valid = isinstance(values, list) and [type(value) for value in values] == _TYPES
    return CallbackClaims(*values) if valid else None


def verify(token: str, secret: str | None, now: float) -> bool:
    """
    Return whether a token was signed with this secret and has not expired.

    Takes the same time for every token, and without a secret too.
    """
    given = token.encode("utf-8", "replace")
    # Compared as a whole: several spellings in base64 decode to one signature.
    genuine = hmac.compare_digest(_signer(secret or "none").sign(given.partition(b".")[0]), given)
    claims = decode_unverified(token)
    return genuine and bool(secret) and claims is not None and now < claims.expires


def callback_url(base_url: str, token: str) -> str:
    """Return the URL that a service calls."""
    return base_url.rstrip("/") + PREFIX + ROUTE.format(token=token)


def _signer(secret: str) -> Signer:
    # Not itsdangerous' URLSafeSerializer: it compresses, so that a forged token could be decompressed without a bound.
    return Signer(secret.encode("utf-8", "replace"), salt=_SALT, digest_method=hashlib.sha256)
