"""The ``Range`` request header (RFC 9110, section 14), as a pure function."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes\s*=\s*(\d{0,19})-(\d{0,19})\s*")


@dataclass(frozen=True, kw_only=True)
class ByteRange:
    """A range of a file; ``last`` is included."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """Number of bytes."""
        return self.last - self.first + 1


class UnsatisfiableRange(Exception):
    """The file has no byte of the range."""


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """
    Return the requested range of a file of ``size`` bytes.

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
        return ByteRange(first=max(0, size - int(last)), last=size - 1)
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise UnsatisfiableRange
    return ByteRange(first=int(first), last=min(int(last), size - 1) if last else size - 1)
