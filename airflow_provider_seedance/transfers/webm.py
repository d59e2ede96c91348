"""Headers of WebM and Matroska: the elements of EBML (RFC 8794) up to the first cluster."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from airflow_provider_seedance.transfers.media_header import (
    DamagedMediaError,
    HeaderReader,
    MediaHeader,
    truncated,
)

EBML = b"\x1a\x45\xdf\xa3"

_SEGMENT, _INFO, _TRACKS, _CLUSTER = 0x18538067, 0x1549A966, 0x1654AE6B, 0x1F43B675
_TIMESTAMP_SCALE, _DURATION = 0x2AD7B1, 0x4489
_TRACK, _TRACK_TYPE, _VIDEO = 0xAE, 0x83, 0xE0
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xB0, 0xBA
_VIDEO_TYPE, _AUDIO_TYPE = 1, 2


class Element(NamedTuple):
    """An element: its id, and where its data is; no end for one of unknown length."""

    id: int
    start: int
    end: int | None


def read_webm(reader: HeaderReader) -> MediaHeader:
    """
    Read the header of a WebM or Matroska file.

    :raises DamagedMediaError: it is truncated or damaged.
    """
    segment = next((one for one in _elements(reader, 0, reader.size) if one.id == _SEGMENT), None)
    if segment is None:
        raise DamagedMediaError("it has no content (segment)")
    if segment.end is not None and segment.end > reader.size:
        raise truncated(reader.size)
    info: dict[int, Element] = {}
    tracks: list[dict[int, Element]] = []
    has_content = False
    for element in _elements(reader, segment.start, segment.end or reader.size):
        if element.id == _CLUSTER:
            has_content = True
            break
        if element.id == _INFO:
            info = _children(reader, element)
        elif element.id == _TRACKS:
            entries = _elements(reader, element.start, element.end or reader.size)
            tracks = [_children(reader, entry) for entry in entries if entry.id == _TRACK]
    if not has_content:
        raise DamagedMediaError("it has no frames")
    types = {_number(reader, track.get(_TRACK_TYPE)): track for track in tracks}
    video = _children(reader, types[_VIDEO_TYPE][_VIDEO]) if _VIDEO in types.get(_VIDEO_TYPE, {}) else {}
    return MediaHeader(
        format="webm",
        width=_number(reader, video.get(_PIXEL_WIDTH)) or None,
        height=_number(reader, video.get(_PIXEL_HEIGHT)) or None,
        duration=_duration(reader, info),
        has_video=_VIDEO_TYPE in types,
        has_audio=_AUDIO_TYPE in types,
    )


def _elements(reader: HeaderReader, start: int, end: int) -> Iterator[Element]:
    while start < end:
        identifier, length = _variable(reader, start, marked=True)
        size, size_length = _variable(reader, start + length, marked=False)
        body = start + length + size_length
        if size == 2 ** (7 * size_length) - 1:
            yield Element(identifier, body, None)
            return
        yield Element(identifier, body, body + size)
        start = body + size


def _children(reader: HeaderReader, parent: Element) -> dict[int, Element]:
    if parent.end is not None and parent.end > reader.size:
        raise truncated(reader.size)
    return {one.id: one for one in _elements(reader, parent.start, parent.end or reader.size)}


def _variable(reader: HeaderReader, at: int, *, marked: bool) -> tuple[int, int]:
    """Return a number of variable length, with or without the bit that marks its length, and that length."""
    first = reader.number(at, 1)
    length = 9 - first.bit_length()
    if length > 8:
        raise DamagedMediaError(f"it is damaged: there is no element at byte {at}")
    value = reader.number(at, length)
    return (value if marked else value - (1 << (7 * length))), length


def _number(reader: HeaderReader, element: Element | None) -> int:
    if element is None or element.end is None or element.end - element.start > 8:
        return 0
    return reader.number(element.start, element.end - element.start)


def _duration(reader: HeaderReader, info: dict[int, Element]) -> float | None:
    element = info.get(_DURATION)
    if element is None or element.end is None or element.end - element.start not in (4, 8):
        return None
    data = reader.read(element.start, element.end - element.start)
    ticks: float = struct.unpack(">f" if len(data) == 4 else ">d", data)[0]
    nanoseconds = _number(reader, info.get(_TIMESTAMP_SCALE)) or 1_000_000
    return ticks * nanoseconds / 1e9 if 0 < ticks < float("inf") else None
