"""
What the API server leaves for a task in its state store, and how the task reads it.

A callback may come before the task has deferred, before its submission returned, or instead of a reply
that was lost. It is kept under a key of that very submission, so neither an older nor a newer one reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Days for which a callback is kept.
RETENTION_DAYS = 30

#: So many different ids are kept of one submission: an honest service names one.
MOST = 8

_PREFIX = "seedance_callback_"


def key_for(nonce: str) -> str:
    """Return the key in the task state store for the callback of a submission."""
    return _PREFIX + nonce


def with_id(value: Any, generation_id: str) -> dict[str, Any] | None:
    """
    Return what is to be kept when a callback names an id; ``None`` if that is known, or there are too many.

    :param value: What is kept so far. Nothing of it is ever given up: a later call may be rubbish.
    """
    known = read_ids(value)
    if generation_id in known or len(known) >= MOST:
        return None
    return {"version": 1, "generation_ids": [*known, generation_id]}


def read_ids(value: Any) -> list[str]:
    """Return the ids that were kept, in the order they were told; none for anything else."""
    found = value.get("generation_ids") if isinstance(value, Mapping) else None
    return [told for told in found if isinstance(told, str) and told] if isinstance(found, list) else []
