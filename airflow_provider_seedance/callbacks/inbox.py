"""
Generation ids that callbacks named, in the task state store: the API server writes them, the task reads them.

A callback may arrive before the task has deferred, before the submission returned, or in place of a lost reply.
Each submission has its own key, so that no other submission reads its ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Retention of the ids in the task state store.
RETENTION_DAYS = 30

#: Maximum ids stored for one submission; a service names one.
MAX_IDS = 8

_PREFIX = "seedance_callback_"


def key_for(nonce: str) -> str:
    """Return the key in the task state store for a submission."""
    return _PREFIX + nonce


def with_id(value: Any, generation_id: str) -> dict[str, Any] | None:
    """
    Return the stored value with one more id, or ``None`` if nothing changes: a known id, or too many.

    :param value: The value stored so far. Its ids stay, because a later callback may be rubbish.
    """
    known = read_ids(value)
    if generation_id in known or len(known) >= MAX_IDS:
        return None
    return {"version": 1, "generation_ids": [*known, generation_id]}


def read_ids(value: Any) -> list[str]:
    """Return the stored ids in the order of arrival; an empty list for any other value."""
    ids = value.get("generation_ids") if isinstance(value, Mapping) else None
    return [item for item in ids if isinstance(item, str) and item] if isinstance(ids, list) else []
