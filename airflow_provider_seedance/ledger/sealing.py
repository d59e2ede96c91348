"""
Encryption of signed links with Airflow's Fernet key, with which Airflow encrypts its connections.

A result that a later try delivers needs them, and the ledger must not contain them in a form that works.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow.providers.common.compat.sdk import conf
from cryptography.fernet import Fernet, InvalidToken, MultiFernet


def seal(value: Mapping[str, Any]) -> str | None:
    """Return a JSON value encrypted, or ``None`` where Airflow has no key."""
    fernet = _fernet()
    return fernet.encrypt(json.dumps(value).encode()).decode() if fernet else None


def unseal(text: str) -> Any:
    """Return the value of :func:`seal`, or ``None`` where the key has changed."""
    fernet = _fernet()
    try:
        return json.loads(fernet.decrypt(text.encode())) if fernet else None
    except InvalidToken:
        return None


def _fernet() -> MultiFernet | None:
    keys = [key.strip() for key in (conf.get("core", "fernet_key", fallback="") or "").split(",")]
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError:  # no key, or not a key
        return None
