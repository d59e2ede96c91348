"""Values of XComs and rendered fields: they may have any type, and one of another type than expected is left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

#: Maximum length of a text on the page.
MAX_TEXT_CHARS = 4000


def unwrap(value: Any) -> Any:
    """Return an XCom without Airflow's serialization of Python's own collections."""
    if isinstance(value, Mapping):
        if str(value.get("__classname__", "")).startswith("builtins."):
            return unwrap(value.get("__data__"))
        return {str(name): unwrap(item) for name, item in value.items()}
    return [unwrap(item) for item in value] if isinstance(value, (list, tuple)) else value


def parse_xcom(stored: Any) -> Any:
    """Return the value of an XCom, which may be encoded as JSON twice."""
    if isinstance(stored, str) and stored[:1] in ("{", "["):
        try:
            stored = json.loads(stored)
        except (ValueError, RecursionError):
            return stored
    return unwrap(stored)


def is_http_url(value: Any) -> bool:
    """Return whether a value is an HTTP URL, and not a script or a file."""
    if not isinstance(value, str) or not value.isprintable():
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def text_of(value: Any) -> str | None:
    """Return a text, cut to its maximum length; ``None`` for anything else and for an unset template."""
    return value[:MAX_TEXT_CHARS] if isinstance(value, str) and value and value != "None" else None


def number_of(value: Any) -> float | None:
    """Return a finite number, or ``None``."""
    finite = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15
    return value if finite else None


def sum_of(values: Iterable[Mapping[str, Any]], name: str) -> float | None:
    """Return the sum of the known numbers of this name, or ``None`` if there are none."""
    known = [number for value in values if (number := number_of(value.get(name))) is not None]
    return round(sum(known), 6) if known else None


def scalar_of(value: Any) -> str | float | None:
    """Return a text or a number, or ``None``."""
    return text_of(value) if isinstance(value, str) else number_of(value)


def readable_of(value: Any) -> str | float | None:
    """Return a value for people to read: as it is, or as JSON; ``None`` where it says nothing."""
    if isinstance(value, bool) or (isinstance(value, (Mapping, list)) and value):
        return text_of(json.dumps(value, ensure_ascii=False))
    return scalar_of(value)


def list_of(value: Any) -> list[Any]:
    """Return a list; an empty one for anything else."""
    return value if isinstance(value, list) else []


def iso_of(moment: datetime | None) -> str | None:
    """Return a time in ISO 8601, or ``None``."""
    return moment.isoformat() if moment else None
