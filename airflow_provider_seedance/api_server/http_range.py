"""Which bytes of a file a request wants: the ``Range`` header, as a pure function (RFC 9110, section 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ONE = re.compile(r"bytes\s*=\s*(\d{0,19})-(\d{0,19})\s*")


@dataclass(frozen=True, kw_only=True)
class Span:
    """Bytes of a file, the last one included."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """How many bytes it has."""
        return self.last - self.first + 1


class UnsatisfiableRange(Exception):
    """The file has none of the bytes that are wanted."""


def wanted(header: str | None, size: int) -> Span | None:
    """
    Return the bytes that a ``Range`` header wants.

    :param size: Of the file, in bytes.
    :returns: ``None`` for the whole file, also where the header is none that is understood: several ranges at
        once, for one, may be answered by the whole file.
    :raises UnsatisfiableRange: There are no such bytes.
    """
    match = _ONE.fullmatch(header.strip()) if header else None
    if match is None:
        return None
    first, last = match.groups()
    if not first:
        if not last:
            return None
        if int(last) == 0 or size == 0:
            raise UnsatisfiableRange
        return Span(first=max(0, size - int(last)), last=size - 1)
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise UnsatisfiableRange
    return Span(first=int(first), last=min(int(last), size - 1) if last else size - 1)
