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

_PREFIX = "seedance_callback_"


def key_for(nonce: str) -> str:
    """Return the key in the task state store for the callback of a submission."""
    return _PREFIX + nonce


def letter(generation_id: str) -> dict[str, Any]:
    """Return what is kept: the id that the callback named."""
    return {"version": 1, "generation_id": generation_id}


def read_letter(value: Any) -> str | None:
    """Return the id that was kept; ``None`` for anything else."""
    if not isinstance(value, Mapping):
        return None
    found = value.get("generation_id")
    return found if isinstance(found, str) and found else None
