"""Headers of MP4 and MOV: the boxes of ISO/IEC 14496-12, of which only headers and a few fields are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from airflow_provider_seedance.transfers.media_header import (
    DamagedMediaError,
    HeaderReader,
    MediaHeader,
    truncated,
)

#: First boxes of a file; before `ftyp` was invented, QuickTime began with others.
FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")

#: Brands of `ftyp` whose files are images.
IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heif", b"mif1", b"msf1")

#: Configurations of H.264 and H.265, and their byte with the length of the number that begins each frame.
_FRAME_PREFIXES = {b"avcC": 4, b"hvcC": 21}

#: Bytes of a video entry in `stsd` before its boxes.
_VIDEO_ENTRY_BYTES = 86

#: Nesting of boxes below a track, of which a whole file has three.
MAX_DEPTH = 8

_PARENTS = (b"trak", b"mdia", b"minf", b"stbl", b"mvex")
_UNKNOWN_DURATION = (0, 2**32 - 1, 2**64 - 1)


class Box(NamedTuple):
    """A box: its type, and where its body is."""

    kind: bytes
    start: int
    end: int


@dataclass
class _Track:
    """The boxes of a track that matter, by type."""

    boxes: dict[bytes, Box]
    handler: bytes


def read_mp4(reader: HeaderReader) -> MediaHeader:
    """
    Read the header of an MP4 or MOV file.

    :raises DamagedMediaError: it is truncated or damaged.
    """
    found: dict[bytes, Box] = {}
    for box in _boxes(reader, 0, reader.size, top=True):
        if box.end > reader.size:
            raise truncated(reader.size)
        if box.kind == b"moov" or box.kind not in found:
            found[box.kind] = box
    if b"moov" not in found:
        raise DamagedMediaError("it has no index (moov), so that no player can open it")
    movie, tracks = _read_movie(reader, found[b"moov"])
    fragmented = b"mvex" in movie
    if fragmented and b"moof" not in found:
        raise DamagedMediaError("it has no fragments, so that there is nothing to play")
    usable = [track for track in tracks if fragmented or _has_samples(reader, track)]
    videos = [track for track in usable if track.handler == b"vide"]
    sizes = [(_size(reader, track), track) for track in videos]
    (width, height), video = max(sizes, key=lambda one: one[0][0] * one[0][1], default=((0, 0), None))
    brand = reader.read(found[b"ftyp"].start, 4) if b"ftyp" in found else b"qt  "
    return MediaHeader(
        format="mov" if brand == b"qt  " else "mp4",
        width=width or None,
        height=height or None,
        duration=None if video is None or fragmented else _duration(reader, movie, video),
        has_video=video is not None,
        has_audio=any(track.handler == b"soun" for track in usable),
    )


def _boxes(reader: HeaderReader, start: int, end: int, *, top: bool = False) -> Iterator[Box]:
    index_found = False
    while start + 8 <= end:
        size, kind = reader.number(start, 4), reader.read(start + 4, 4)
        body = start + 8
        if size == 1:
            size, body = reader.number(body, 8), body + 8
        elif size == 0:
            size = end - start
        if size < body - start or not all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in kind):
            if top and index_found:
                return  # some writers append data of their own
            raise DamagedMediaError(f"it is damaged: there is no box at byte {start}")
        if not top and start + size > end:
            raise DamagedMediaError(
                f"it is damaged: the box at byte {start} is longer than the one around it"
            )
        yield Box(kind, body, start + size)
        index_found = index_found or kind == b"moov"
        start += size


def _read_movie(reader: HeaderReader, moov: Box) -> tuple[dict[bytes, Box], list[_Track]]:
    movie: dict[bytes, Box] = {}
    tracks: list[_Track] = []
    for box in _boxes(reader, moov.start, moov.end):
        if box.kind == b"trak":
            boxes = _descend(reader, box)
            handler = boxes.get(b"hdlr")
            tracks.append(_Track(boxes, reader.read(handler.start + 8, 4) if handler else b""))
        movie[box.kind] = box
    if b"mvhd" not in movie:
        raise DamagedMediaError("it is damaged: its index has no header")
    return movie, tracks


def _descend(reader: HeaderReader, parent: Box, depth: int = 0) -> dict[bytes, Box]:
    if depth > MAX_DEPTH:
        raise DamagedMediaError(f"it is damaged: the boxes at byte {parent.start} are nested too deeply")
    boxes: dict[bytes, Box] = {}
    for box in _boxes(reader, parent.start, parent.end):
        # The first of its kind: QuickTime has another `hdlr` inside `minf`.
        boxes.setdefault(box.kind, box)
        if box.kind in _PARENTS:
            boxes = {**_descend(reader, box, depth + 1), **boxes}
    return boxes


def _has_samples(reader: HeaderReader, track: _Track) -> bool:
    """
    Return whether a track has content.

    :raises DamagedMediaError: its content is not in the file.
    """
    boxes = track.boxes
    sizes = boxes.get(b"stsz") or boxes.get(b"stz2")
    offsets, width = (boxes[b"stco"], 4) if b"stco" in boxes else (boxes.get(b"co64"), 8)
    if sizes is None or offsets is None or b"stsd" not in boxes:
        raise DamagedMediaError("it is damaged: the index of a track is incomplete")
    samples, chunks = reader.number(sizes.start + 8, 4), reader.number(offsets.start + 4, 4)
    if not samples or not chunks:
        return False
    if offsets.start + 8 + chunks * width > offsets.end:
        raise DamagedMediaError("it is damaged: the index of a track is incomplete")
    first, last = (reader.number(offsets.start + 8 + index * width, width) for index in (0, chunks - 1))
    if max(first, last) >= reader.size:
        raise truncated(reader.size)
    if track.handler == b"vide" and sizes.kind == b"stsz":
        size = reader.number(sizes.start + 4, 4) or reader.number(sizes.start + 12, 4)
        _check_first_frame(reader, boxes[b"stsd"], first, size)
    return True


def _check_first_frame(reader: HeaderReader, stsd: Box, offset: int, size: int) -> None:
    """Raise if the first frame is not one, as far as its codec shows that without being decoded."""
    entry_end = stsd.start + 8 + reader.number(stsd.start + 8, 4)
    for box in _boxes(reader, stsd.start + 8 + _VIDEO_ENTRY_BYTES, min(entry_end, stsd.end)):
        if box.kind in _FRAME_PREFIXES:
            prefix = (reader.number(box.start + _FRAME_PREFIXES[box.kind], 1) & 3) + 1
            if not 0 < reader.number(offset, prefix) <= size - prefix:
                raise DamagedMediaError("it is damaged: its first frame is not one")
            return


def _size(reader: HeaderReader, track: _Track) -> tuple[int, int]:
    """Return width and height as they are shown."""
    header = track.boxes.get(b"tkhd")
    if header is None:
        return 0, 0
    matrix = header.end - 44
    width, height = (reader.number(header.end - offset, 4) >> 16 for offset in (8, 4))
    if not (width and height):
        entry = track.boxes[b"stsd"].start + 8
        width, height = (reader.number(entry + offset, 2) for offset in (32, 34))
    turned = not reader.number(matrix, 4) and not reader.number(matrix + 16, 4)
    return (height, width) if turned else (width, height)


def _duration(reader: HeaderReader, movie: dict[bytes, Box], track: _Track) -> float | None:
    """Return the seconds of a track, after its edits where the header states them."""
    # Of `tkhd` the time scale of the whole movie, of `mdhd` the track's own; both have two versions.
    header, media, whole = track.boxes.get(b"tkhd"), track.boxes.get(b"mdhd"), movie[b"mvhd"]
    if header is not None:
        duration = _versioned(reader, header, (20, 28))
        scale = reader.number(whole.start + (20 if reader.number(whole.start, 1) else 12), 4)
        if duration not in _UNKNOWN_DURATION and scale:
            return duration / scale
    if media is not None:
        duration = _versioned(reader, media, (16, 24))
        scale = reader.number(media.start + (20 if reader.number(media.start, 1) else 12), 4)
        if duration not in _UNKNOWN_DURATION and scale:
            return duration / scale
    return None


def _versioned(reader: HeaderReader, box: Box, offsets: tuple[int, int]) -> int:
    """Return a field that has four bytes in version 0 of a box and eight in version 1."""
    version = 1 if reader.number(box.start, 1) else 0
    return reader.number(box.start + offsets[version], 8 if version else 4)
