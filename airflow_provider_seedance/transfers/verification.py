"""Comparison of a delivered file with what was requested."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, Media, read_number
from airflow_provider_seedance.transfers import image_headers, mp4, playback, webm
from airflow_provider_seedance.transfers.media_header import (
    DamagedMediaError,
    HeaderLimitError,
    HeaderReader,
    MediaHeader,
)

Verify = Literal["warn", "fail"]

#: Accepted difference of the length: models round to whole frames, and some add one.
MAX_LENGTH_DIFFERENCE_SECONDS = 0.5
MAX_LENGTH_DIFFERENCE = 0.05

#: Accepted difference of the short side: codecs need multiples of 8 or 16.
MAX_SIDE_DIFFERENCE = 0.07
#: Accepted difference of the area: some services keep the number of pixels for every aspect ratio, and not the short side.
MAX_AREA_DIFFERENCE = 0.25
MAX_RATIO_DIFFERENCE = 0.06

#: Pixels of the short side by the name of a resolution, ...
_SIDES = {"1k": 1024, "2k": 1440, "4k": 2160}
#: ... and of both sides of a square image, by which services name the number of pixels.
_SQUARES = {"1k": 1024, "1.5k": 1536, "2k": 2048, "3k": 3072, "4k": 4096}

#: Beginnings of files that are media, and are not looked into: GIF, BMP, TIFF, AVI.
_OTHER_MEDIA = re.compile(rb"GIF8|BM|II\*\0|MM\0\*|RIFF....AVI ", re.DOTALL)


def requested(generation: Generation, argument: str) -> Any:
    """Return the value of an argument of the request of a generation, as far as its result says."""
    return (generation.request or {}).get(argument, getattr(generation, argument, None))


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """
    Properties of a file that were requested, ``None`` where any will do.

    :param duration: Seconds.
    :param audio: A sound track was requested.
    :param format: ``png``, ``jpeg`` or ``webp``.
    """

    media: Media
    duration: float | None = None
    resolution: str | None = None
    aspect_ratio: str | None = None
    audio: bool = False
    format: str | None = None

    @classmethod
    def of(cls, generation: Generation, url: str | None = None) -> Expectation:
        """Return the arguments of the request of a generation for an output, as far as its result has them."""

        def text(name: str) -> str | None:
            value = requested(generation, name)
            return value.strip().lower() if isinstance(value, str) else None

        is_group = generation.media == "image" and len(generation.urls) > 1
        is_frame = url is not None and url == generation.last_frame_url
        return cls(
            media="image" if is_frame else generation.media,
            duration=read_number(requested(generation, "duration")),
            # A service may report the size of the first image, where the model chooses that of each.
            resolution=None
            if is_group and "resolution" not in (generation.request or {})
            else text("resolution"),
            aspect_ratio=text("aspect_ratio"),
            audio=requested(generation, "generate_audio") is True and not is_frame,
            format=text("output_format"),
        )


@dataclass(frozen=True, kw_only=True)
class Findings:
    """
    Outcome of the look into one file.

    :param header: ``None`` for a file that is damaged, or of a format that is not looked into.
    """

    problems: tuple[str, ...] = ()
    header: MediaHeader | None = None


NO_FINDINGS = Findings()


def read_verify(value: Any) -> Verify | None:
    """
    Read the operator's ``verify``.

    :raises SeedanceConfigurationError: it has another value; nothing was sent.
    """
    words: dict[str, Verify | None] = {"warn": "warn", "fail": "fail", "none": None, "": None}
    word = "" if value is None else str(value).strip().lower()
    if word not in words:
        raise errors.SeedanceConfigurationError(
            f"verify is {value!r}; it takes 'warn', 'fail' or None. Nothing was sent."
        )
    return words[word]


def inspect(file: BinaryIO, size: int, expected: Expectation) -> Findings:
    """
    Look into a seekable file.

    The header is read with at most 1 MiB. Where PyAV is installed, frames are decoded until they show that a video
    is neither black nor frozen, and sound until it is heard.
    """
    try:
        header = read_header(HeaderReader(file, size))
    except DamagedMediaError as error:
        return Findings(problems=(str(error),))
    except HeaderLimitError:
        return NO_FINDINGS
    if header is None:
        return NO_FINDINGS
    problems = _compare(header, expected)
    if header.has_video:
        problems += playback.find_problems(file, audio=expected.audio and header.has_audio)
    return Findings(problems=tuple(problems), header=header)


def read_header(reader: HeaderReader) -> MediaHeader | None:
    """
    Read the header of a file; return ``None`` for media of a format that is not looked into.

    :raises DamagedMediaError: it is damaged, truncated or no media at all.
    :raises HeaderLimitError: the header is too long.
    """
    start = reader.read(0, min(reader.size, 16))
    if (start[4:8] == b"ftyp" and start[8:12] in mp4.IMAGE_BRANDS) or _OTHER_MEDIA.match(start):
        return None
    known: tuple[tuple[bool, Callable[[HeaderReader], MediaHeader]], ...] = (
        (start[4:8] in mp4.FIRST_BOXES, mp4.read_mp4),
        (start.startswith(webm.EBML), webm.read_webm),
        (start.startswith(image_headers.PNG), image_headers.read_png),
        (start.startswith(image_headers.JPEG), image_headers.read_jpeg),
        (start[:4] == b"RIFF" and start[8:12] == b"WEBP", image_headers.read_webp),
    )
    read = next((read for matches, read in known if matches), None)
    if read is None:
        raise DamagedMediaError(f"it is not a video or an image: it begins with {start[:8]!r}")
    return read(reader)


def _compare(header: MediaHeader, expected: Expectation) -> list[str]:
    is_video = header.format in ("mp4", "mov", "webm")
    if is_video != (expected.media == "video"):
        wanted_media = "an image" if expected.media == "image" else "a video"
        return [f"it is a {header.format} file, and {wanted_media} was requested"]
    if is_video and not header.has_video:
        return ["it has no video track"]
    problems = [_length_problem(header, expected), *_size_problems(header, expected)]
    if expected.audio and not header.has_audio:
        problems.append("it is silent: it has no sound track, and sound was requested")
    wanted = {"jpg": "jpeg"}.get(expected.format or "", expected.format)
    if not is_video and wanted not in (None, header.format):
        problems.append(f"it is a {header.format} file, and {wanted} was requested")
    return [problem for problem in problems if problem]


def _length_problem(header: MediaHeader, expected: Expectation) -> str | None:
    requested = expected.duration
    # Services take 0 or -1 for a length that the model chooses.
    if header.duration is None or requested is None or requested <= 0:
        return None
    limit = max(MAX_LENGTH_DIFFERENCE_SECONDS, MAX_LENGTH_DIFFERENCE * requested)
    if abs(header.duration - requested) <= limit:
        return None
    return f"it is {header.duration:.2f} s long, and {requested:g} s were requested"


def _size_problems(header: MediaHeader, expected: Expectation) -> list[str]:
    width, height = header.width, header.height
    if not (width and height):
        return []
    problems = []
    if expected.resolution and not _resolution_matches(width, height, expected):
        problems.append(f"it has {width}x{height} pixels, and {expected.resolution} was requested")
    ratio = re.fullmatch(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)", expected.aspect_ratio or "")
    if ratio and float(ratio[1]) and float(ratio[2]):
        requested = float(ratio[1]) / float(ratio[2])
        if not _close(width / height, requested, MAX_RATIO_DIFFERENCE):
            problems.append(f"it has {width}x{height} pixels, and {expected.aspect_ratio} was requested")
    return problems


def _resolution_matches(width: int, height: int, expected: Expectation) -> bool:
    """Return whether a size is that of a resolution, by the short side or by the number of pixels."""
    resolution = expected.resolution or ""
    if exact := re.fullmatch(r"(\d+)\s*[x*]\s*(\d+)", resolution):
        sides = zip((width, height), (int(exact[1]), int(exact[2])), strict=True)
        return all(_close(side, requested, MAX_SIDE_DIFFERENCE) for side, requested in sides)
    lines = re.fullmatch(r"(\d+)p", resolution)
    short, square = int(lines[1]) if lines else _SIDES.get(resolution), _SQUARES.get(resolution)
    # seedance2api reports a square image of 2048 pixels as 1080p.
    if not (short or square) or (lines and expected.media == "image"):
        return True
    areas = [*([short * short * 16 / 9] if short else ()), *([square * square] if square else ())]
    if any(_close(width * height, area, MAX_AREA_DIFFERENCE) for area in areas):
        return True
    # 4k is the length of a side of a video, and a number of pixels of an image.
    by_side = expected.media == "video" or resolution not in _SQUARES
    return bool(short and by_side and _close(min(width, height), short, MAX_SIDE_DIFFERENCE))


def _close(value: float, requested: float, limit: float) -> bool:
    return abs(value - requested) <= limit * requested
