"""Values of the look into a media file, and the reader that bounds its cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

#: Limit of what is read of one file. A file whose header is longer is not looked into any further.
MAX_READ_BYTES = 1024 * 1024

#: Limit of the reads of one file, which bounds the time: a file may consist of boxes of eight bytes.
MAX_READS = 4000


class DamagedMediaError(ValueError):
    """The file is not what its header says, or has none. The message is the problem."""


class HeaderLimitError(Exception):
    """The header is longer than the limits allow: nothing is known of the file, and nothing is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class MediaHeader:
    """
    Properties that the header of a file states, ``None`` where it does not.

    :param format: ``mp4``, ``mov``, ``webm``, ``png``, ``jpeg`` or ``webp``.
    :param width: Pixels as they are shown, like ``height``.
    :param duration: Seconds of the video track.
    """

    format: str
    width: int | None = None
    height: int | None = None
    duration: float | None = None
    has_video: bool = False
    has_audio: bool = False


class HeaderReader:
    """
    Reader of a seekable file within :data:`MAX_READ_BYTES` and :data:`MAX_READS`.

    :param file: Unbuffered where possible, so that a header of eight bytes costs eight bytes.
    :param size: Bytes of the file.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.size = size
        self._file = file
        self._left = MAX_READ_BYTES
        self._reads_left = MAX_READS

    def read(self, offset: int, count: int) -> bytes:
        """
        Return exactly these bytes.

        :raises DamagedMediaError: the file ends before.
        :raises HeaderLimitError: a limit is exceeded.
        """
        if offset + count > self.size:
            raise truncated(self.size)
        self._left -= count
        self._reads_left -= 1
        if self._left < 0 or self._reads_left < 0:
            raise HeaderLimitError
        self._file.seek(offset)
        data = self._file.read(count)
        if len(data) < count:
            raise truncated(self.size)
        return data

    def number(self, offset: int, count: int) -> int:
        """Return an unsigned big-endian number; see :meth:`read`."""
        return int.from_bytes(self.read(offset, count))


def truncated(size: int) -> DamagedMediaError:
    """Return the error for a file that ends before its content does."""
    return DamagedMediaError(f"it is truncated: it ends after {size} bytes, and its content goes on")
