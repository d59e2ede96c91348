"""The ``Range`` request header (RFC 9110, section 14), as a pure function."""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes\s*=\s*(\d{0,19})-(\d{0,19})\s*")


class UnsatisfiableRange(Exception):
    """The file has no byte of the range."""


def parse_range(header: str | None, size: int) -> range | None:
    """
    Return the requested positions in a file of ``size`` bytes.

    :returns: ``None`` for the whole file, which also answers several ranges and invalid headers.
    :raises UnsatisfiableRange: The file has no byte of the range.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None:
        return None
    first, last = match.groups()
    if not first:
        if not last:
            return None
        if int(last) == 0 or size == 0:
            raise UnsatisfiableRange
        return range(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise UnsatisfiableRange
    return range(int(first), min(int(last) + 1, size) if last else size)
