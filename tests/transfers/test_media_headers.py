"""Headers of real files of many encoders, whole, truncated and damaged."""

from __future__ import annotations

import io
from typing import Any

import pytest

from airflow_provider_seedance.transfers import media_header
from airflow_provider_seedance.transfers.media_header import (
    MAX_READ_BYTES,
    DamagedMediaError,
    HeaderLimitError,
    HeaderReader,
    MediaHeader,
)
from airflow_provider_seedance.transfers.verification import Expectation, inspect, read_header
from transfers.results import FOLDER, sample

#: Samples, and what each holds: format, width, height, seconds, sound.
VIDEOS = {
    "aom-av1.webm": ("webm", 64, 48, 1.0, False),
    "h263.mov": ("mov", 128, 96, 1.0, False),
    "mjpeg-pcm.mov": ("mov", 64, 48, 1.0, True),
    "mpeg2.mp4": ("mp4", 64, 48, 1.0, False),
    "mpeg4-aac.mp4": ("mp4", 64, 48, 1.0, True),
    "prores.mov": ("mov", 64, 48, 1.0, False),
    "qtrle.mov": ("mov", 64, 48, 1.0, False),
    "svt-av1.mp4": ("mp4", 64, 64, 1.0, False),
    "vp8-streamed.webm": ("webm", 64, 48, None, True),
    "vp8-vorbis.webm": ("webm", 64, 48, 1.0, True),
    "vp9-opus.webm": ("webm", 64, 48, 1.0, True),
    "vp9.mp4": ("mp4", 64, 48, 1.0, False),
    "x264-444.mp4": ("mp4", 64, 48, 1.0, False),
    "x264-aac-faststart.mp4": ("mp4", 64, 48, 1.0, True),
    "x264-aac.mp4": ("mp4", 64, 48, 1.0, True),
    "x264-alac.mov": ("mov", 64, 48, 1.0, True),
    "x264-bframes-mp3.mp4": ("mp4", 64, 48, 1.0, True),
    "x264-edited.mp4": ("mp4", 64, 48, 0.75, True),
    "x264-fragmented.mp4": ("mp4", 64, 48, None, True),
    "x264-opus.mp4": ("mp4", 64, 48, 1.0, True),
    "x265.mp4": ("mp4", 64, 48, 1.0, False),
    "xvid.mp4": ("mp4", 64, 48, 1.0, False),
}
IMAGES = {
    "ffmpeg-palette.png": "png",
    "ffmpeg.jpg": "jpeg",
    "ffmpeg.png": "png",
    "libwebp-animated.webp": "webp",
    "libwebp-lossless.webp": "webp",
    "libwebp.webp": "webp",
    "pillow-exif.jpg": "jpeg",
    "pillow-progressive.jpg": "jpeg",
    "pillow-rgba.png": "png",
    "pillow.webp": "webp",
}


class CountingFile(io.BytesIO):
    """A file that counts the bytes that are read."""

    count = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


def header_of(data: bytes) -> MediaHeader | None:
    file = CountingFile(data)
    try:
        return read_header(HeaderReader(file, len(data)))
    finally:
        assert file.count <= MAX_READ_BYTES


def problems(data: bytes, **expected: Any) -> tuple[str, ...]:
    return inspect(io.BytesIO(data), len(data), Expectation(**expected)).problems


def test_every_sample_is_tested() -> None:
    assert {path.name for path in FOLDER.iterdir()} - {"README.md"} == {*VIDEOS, *IMAGES}


@pytest.mark.parametrize("name", VIDEOS)
def test_videos(name: str) -> None:
    kind, width, height, seconds, sound = VIDEOS[name]
    header = header_of(sample(name))
    assert header is not None
    assert (header.format, header.width, header.height) == (kind, width, height)
    assert header.duration == (pytest.approx(seconds, abs=0.02) if seconds else None)
    assert (header.has_video, header.has_audio) == (True, sound)
    expected = {"resolution": f"{min(width, height)}p", "aspect_ratio": f"{width}:{height}", "audio": sound}
    assert problems(sample(name), media="video", duration=seconds, **expected) == ()


@pytest.mark.parametrize("name", IMAGES)
def test_images(name: str) -> None:
    assert header_of(sample(name)) == MediaHeader(format=IMAGES[name], width=64, height=48)
    assert problems(sample(name), media="image", resolution="48p", aspect_ratio="64:48") == ()


@pytest.mark.parametrize("lost", [9, 0.3, 0.7])
@pytest.mark.parametrize("name", sorted({*VIDEOS, *IMAGES} - {"vp8-streamed.webm"}))  # its length is unknown
def test_truncated(name: str, lost: float) -> None:
    data = sample(name)
    end = len(data) - lost if lost > 1 else len(data) * (1 - lost)
    with pytest.raises(DamagedMediaError, match=r"truncated|damaged|no index|no frames|no fragments"):
        header_of(data[: int(end)])


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>", b"\0" * 5000, b"\0\0\0\x18ftypmp42", b"RIFF\0\0\0\0WAVE", bytes(range(256)) * 9],
    ids=["empty", "page", "zeros", "beginning", "sound", "noise"],
)
def test_other_content(data: bytes) -> None:
    with pytest.raises(DamagedMediaError):
        header_of(data)


@pytest.mark.parametrize("data", [b"GIF89a" + b"\0" * 20, b"\0\0\0\x1cftypavif" + b"\0" * 20])
def test_formats_that_are_not_looked_into(data: bytes) -> None:
    assert header_of(data) is None


def test_frames_that_were_overwritten() -> None:
    data = sample("x264-aac-faststart.mp4")
    start = data.index(b"mdat") + 4
    with pytest.raises(DamagedMediaError, match="first frame"):
        header_of(data[:start] + bytes(len(data) - start))


def test_index_that_points_behind_the_end() -> None:
    data = sample("x264-444.mp4")
    at = data.index(b"stco") + 12
    with pytest.raises(DamagedMediaError, match="truncated"):
        header_of(data[:at] + b"\x7f" + data[at + 1 :])


def test_rotated_video_has_the_size_that_is_shown() -> None:
    data = bytearray(sample("x264-444.mp4"))
    at = data.index(b"tkhd") + 4 + 40
    one = (1 << 16).to_bytes(4)
    data[at : at + 20] = bytes(4) + one + bytes(4) + (-(1 << 16)).to_bytes(4, signed=True) + bytes(4)
    header = header_of(bytes(data))
    assert header is not None
    assert (header.width, header.height) == (48, 64)


def test_bytes_after_the_end_are_accepted() -> None:
    for name in ("x264-aac-faststart.mp4", "ffmpeg.jpg", "ffmpeg.png", "libwebp.webp"):
        assert header_of(sample(name) + b"\0" * 100) == header_of(sample(name))


def test_a_file_of_small_boxes_is_not_read_to_its_end() -> None:
    data = sample("x264-aac-faststart.mp4")[:32] + b"\0\0\0\x08free" * 300_000
    with pytest.raises(HeaderLimitError):
        header_of(data)
    assert problems(data, media="video") == ()


def test_boxes_within_boxes_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_header, "MAX_READS", 100_000)
    nested = b""
    for _ in range(5000):
        nested = (len(nested) + 8).to_bytes(4) + b"trak" + nested
    moov = (len(nested) + 8).to_bytes(4) + b"moov" + nested
    with pytest.raises(DamagedMediaError, match="damaged"):
        header_of(moov)
