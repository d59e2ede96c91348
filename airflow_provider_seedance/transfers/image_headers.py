"""Headers of PNG, JPEG and WebP, and their ends, by which a truncated file is recognized."""

from __future__ import annotations

import zlib

from airflow_provider_seedance.transfers.media_header import (
    DamagedMediaError,
    HeaderReader,
    MediaHeader,
    truncated,
)

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"

#: Bytes at the end of a file that may follow the end of its image.
_MAX_TRAILING_BYTES = 64 * 1024

#: Markers of a frame, whose segment has the size; the others of this range are tables.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN, _JPEG_END = 0xDA, b"\xff\xd9"
#: Markers without a segment.
_JPEG_BARE = frozenset({0x01, 0xFF, *range(0xD0, 0xD8)})


def read_png(reader: HeaderReader) -> MediaHeader:
    """
    Read the header of a PNG file.

    :raises DamagedMediaError: it is truncated or damaged.
    """
    header = reader.read(8, 25)
    if header[4:8] != b"IHDR" or zlib.crc32(header[4:21]) != int.from_bytes(header[21:]):
        raise DamagedMediaError("it is damaged: it has no header")
    if b"IEND" not in _tail(reader):
        raise truncated(reader.size)
    return _image("png", int.from_bytes(header[8:12]), int.from_bytes(header[12:16]))


def read_jpeg(reader: HeaderReader) -> MediaHeader:
    """
    Read the header of a JPEG file.

    :raises DamagedMediaError: it is truncated or damaged.
    """
    size: tuple[int, int] | None = None
    at = 2
    while True:
        marker = reader.read(at, 2)
        if marker[0] != 0xFF:
            raise DamagedMediaError(f"it is damaged: there is no segment at byte {at}")
        if marker[1] in _JPEG_BARE:
            at += 1 if marker[1] == 0xFF else 2
            continue
        if marker[1] == _JPEG_SCAN:
            break
        if marker[1] in _JPEG_FRAMES:
            size = reader.number(at + 7, 2), reader.number(at + 5, 2)
        at += 2 + reader.number(at + 2, 2)
    if size is None:
        raise DamagedMediaError("it is damaged: it has no header")
    # Within a scan these two bytes cannot occur.
    if _JPEG_END not in _tail(reader):
        raise truncated(reader.size)
    return _image("jpeg", *size)


def read_webp(reader: HeaderReader) -> MediaHeader:
    """
    Read the header of a WebP file.

    :raises DamagedMediaError: it is truncated or damaged.
    """
    if int.from_bytes(reader.read(4, 4), "little") + 8 > reader.size:
        raise truncated(reader.size)
    kind, data = reader.read(12, 4), reader.read(20, 10)
    if kind == b"VP8 " and data[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    elif kind == b"VP8L" and data[0] == 0x2F:
        bits = int.from_bytes(data[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (4, 7))
    else:
        raise DamagedMediaError("it is damaged: it has no header")
    return _image("webp", width, height)


def _image(name: str, width: int, height: int) -> MediaHeader:
    if not (width and height):
        raise DamagedMediaError("it is damaged: its image has no size")
    return MediaHeader(format=name, width=width, height=height)


def _tail(reader: HeaderReader) -> bytes:
    count = min(reader.size, _MAX_TRAILING_BYTES)
    return reader.read(reader.size - count, count)
