"""Signs that a video shows or sounds like nothing, found by decoding a part of it with PyAV, where that is installed."""

from __future__ import annotations

import importlib.util
import logging
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, BinaryIO

log = logging.getLogger(__name__)

#: Frames that are decoded at most, and the distance of those that are compared.
MAX_FRAMES = 480
FRAME_STEP = 6

#: Size of a frame that is decoded at most, four times that of 4k: a header may state sizes that fill the memory.
MAX_FRAME_PIXELS = 7680 * 4320

#: Seconds of sound that are decoded at most.
MAX_AUDIO_SECONDS = 30

#: Frames that are compared at least before a video counts as frozen: a short one may show little movement.
MIN_FROZEN_FRAMES = 8

#: Frames are compared in this size, in shades of grey from 0 to 255.
_WIDTH, _HEIGHT = 64, 36
MAX_BLACK = 28
MAX_FROZEN_DIFFERENCE = 2

#: Amplitude that counts as silence, of 32767: -60 dB.
MAX_SILENT_AMPLITUDE = 33
_SAMPLE_RATE = 8000


def find_problems(file: BinaryIO, *, audio: bool) -> list[str]:
    """
    Return the problems of a video. It is decoded only until it is certain that it has none.

    :param audio: Whether it should be heard.
    """
    if importlib.util.find_spec("av") is None:
        return []
    # Optional: it belongs to the extra "media".
    import av

    try:
        problems = []
        with _opened(av, file) as container:
            problems += _picture_problems(container)
        if audio:
            with _opened(av, file) as container:
                problems += _sound_problems(av, container)
        return problems
    except av.error.InvalidDataError as error:
        return [f"it is damaged: it cannot be decoded ({error.strerror})"]
    except Exception as error:  # such as a codec that this build of FFmpeg lacks
        log.warning("A file could not be decoded to look into it: %s", error)
        return []


def _opened(av: Any, file: BinaryIO) -> Any:
    file.seek(0)
    return av.open(file)


def _picture_problems(container: Any) -> list[str]:
    stream = container.streams.video[0]
    if stream.width * stream.height > MAX_FRAME_PIXELS:
        return []
    frames = _compared_frames(container)
    first = next(frames, None)
    if first is None:
        return ["it is damaged: it has no frame that can be decoded"]
    black, frozen, compared = max(first) <= MAX_BLACK, True, 1
    for shades in frames:
        compared += 1
        black = black and max(shades) <= MAX_BLACK
        frozen = frozen and _difference(first, shades) <= MAX_FROZEN_DIFFERENCE
        if not (black or frozen):
            return []
    if black:
        return ["it is black"]
    return ["it is frozen: all its frames are the same"] if frozen and compared >= MIN_FROZEN_FRAMES else []


def _compared_frames(container: Any) -> Iterator[bytes]:
    frames = islice(container.decode(video=0), 0, MAX_FRAMES, FRAME_STEP)
    for frame in frames:
        grey = frame.reformat(width=_WIDTH, height=_HEIGHT, format="gray").planes[0]
        data, stride = bytes(grey), grey.line_size
        yield b"".join(data[row * stride : row * stride + _WIDTH] for row in range(_HEIGHT))


def _difference(one: Iterable[int], other: Iterable[int]) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _sound_problems(av: Any, container: Any) -> list[str]:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=_SAMPLE_RATE)
    decoded = 0
    for frame in container.decode(audio=0):
        for piece in resampler.resample(frame):
            samples = array("h", bytes(piece.planes[0])[: 2 * piece.samples])
            if samples and max(max(samples), -min(samples)) > MAX_SILENT_AMPLITUDE:
                return []
            decoded += len(samples)
        if decoded >= MAX_AUDIO_SECONDS * _SAMPLE_RATE:
            break
    return ["it is silent: sound was requested, and its sound track has none"]
