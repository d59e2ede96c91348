"""
Real media files.

Every file shows its prompt; a video also has a moving bar and a time counter. Frames are drawn a few times a second
and repeated up to the frame rate, because drawing is slower than encoding.
"""

from __future__ import annotations

import hashlib
import math
import textwrap
import unicodedata
from array import array
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from PIL import Image, ImageDraw, ImageFont

from airflow_provider_seedance.emulator.models import MediaSpec

_DRAWN_PER_SECOND = 6
_SAMPLE_RATE = 48_000
# Pillow's own font has only ASCII glyphs; other prompts use the first of these that is installed.
_WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "wqy-zenhei.ttc", "DejaVuSans.ttf")


def encode_image(spec: MediaSpec, path: Path) -> None:
    """Draw an image."""
    image = _background(spec)
    if spec.format == "jpeg":
        image.save(path, "JPEG", quality=80)
    else:
        image.save(path, "PNG", compress_level=1)


def encode_video(spec: MediaSpec, path: Path) -> None:
    """Encode a video that is playable while it downloads."""
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    options = {"preset": "ultrafast", "crf": "28"} if codec == "libx264" else {"q": "6"}
    with av.open(path, "w", format=spec.format, options={"movflags": "+faststart"}) as container:
        container.metadata["title"] = spec.prompt
        video: Any = container.add_stream(codec, rate=spec.fps, options=options)
        video.width, video.height, video.pix_fmt = spec.width, spec.height, "yuv420p"
        audio: Any = None
        if spec.audio:
            audio = container.add_stream("aac", rate=_SAMPLE_RATE, layout="stereo")
        _encode_frames(spec, container, video)
        if audio is not None:
            _encode_tone(spec, container, audio)


def _encode_frames(spec: MediaSpec, container: Any, stream: Any) -> None:
    video_frame: Any = av.VideoFrame
    background = _background(spec)
    count = max(1, round(spec.seconds * spec.fps))
    repeat = max(1, spec.fps // _DRAWN_PER_SECOND)
    frame: Any = None
    for index in range(count):
        if index % repeat == 0:
            image = _draw_frame(background, index / count, index / spec.fps, spec.seconds)
            frame = video_frame.from_image(image).reformat(format="yuv420p")
        frame.pts, frame.time_base = index, Fraction(1, spec.fps)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _encode_tone(spec: MediaSpec, container: Any, stream: Any) -> None:
    """Encode a quiet tone of the video's length; its pitch depends on the prompt."""
    total = round(spec.seconds * _SAMPLE_RATE)
    # A whole number of periods fits the second that is repeated.
    pitch = 220 + _digest(spec)[3]
    wave = array("h")
    for index in range(_SAMPLE_RATE):
        sample = round(4000 * math.sin(2 * math.pi * pitch * index / _SAMPLE_RATE))
        wave.extend((sample, sample))
    for start in range(0, total, _SAMPLE_RATE):
        samples = min(_SAMPLE_RATE, total - start)
        frame: Any = av.AudioFrame(format="s16", layout="stereo", samples=samples)
        frame.planes[0].update(_padded(wave[: 2 * samples].tobytes(), frame.planes[0].buffer_size))
        frame.sample_rate, frame.pts, frame.time_base = _SAMPLE_RATE, start, Fraction(1, _SAMPLE_RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _padded(data: bytes, size: int) -> bytes:
    return data.ljust(size, b"\0")


def _digest(spec: MediaSpec) -> bytes:
    return hashlib.sha256(f"{spec.prompt}|{spec.variant}".encode()).digest()


def _background(spec: MediaSpec) -> Image.Image:
    """Draw prompt, size and duration on a background whose colour depends on the prompt."""
    digest = _digest(spec)
    colour = (30 + digest[0] // 3, 30 + digest[1] // 3, 30 + digest[2] // 3)
    image = Image.new("RGB", (spec.width, spec.height), colour)
    draw = ImageDraw.Draw(image)
    margin = max(2, min(spec.width, spec.height) // 16)
    big, small = max(8, spec.height // 16), max(8, spec.height // 32)
    prompt, font = _prompt_font(spec.prompt, big)
    text = _wrapped(prompt, font, spec.width - 2 * margin)
    draw.multiline_text((margin, margin), text, font=font, fill="white")
    details = f"{spec.width}x{spec.height}"
    if spec.kind == "video":
        details += f"  {spec.seconds:g} s  {spec.fps} fps" + ("  sound" if spec.audio else "")
    elif spec.variant:
        details += f"  no. {spec.variant + 1}"
    place = (margin, spec.height - margin - 3 * small)
    draw.text(place, details, font=_font(small), fill=(255, 255, 255))
    return image


def _draw_frame(background: Image.Image, position: float, now: float, seconds: float) -> Image.Image:
    image = background.copy()
    draw = ImageDraw.Draw(image)
    width, height = image.size
    thick = max(2, height // 40)
    draw.rectangle((0, height - thick, round(width * position), height), fill=(255, 200, 40))
    left = round((width - 2 * thick) * position)
    draw.ellipse((left, height - 4 * thick, left + 2 * thick, height - 2 * thick), fill=(255, 240, 200))
    counter = f"{now:05.2f} / {seconds:g} s"
    font = _font(max(8, height // 24))
    draw.text((width - thick, height - 5 * thick), counter, font=font, fill="white", anchor="rb")
    return image


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _prompt_font(prompt: str, size: int) -> tuple[str, Any]:
    """Return the prompt as its font can show it, and the font."""
    if not prompt.isascii():
        for name in _WIDE_FONTS:
            try:
                return prompt, ImageFont.truetype(name, size)
            except OSError:
                continue
        # Without such a font accents are removed; other scripts show as boxes.
        decomposed = unicodedata.normalize("NFKD", prompt)
        prompt = "".join(character for character in decomposed if not unicodedata.combining(character))
    return prompt, _font(size)


def _wrapped(text: str, font: Any, width: int) -> str:
    """Wrap the text into at most eight lines that fit."""
    widest = max((font.getlength(character) for character in set(text)), default=1)
    return "\n".join(textwrap.wrap(text, max(4, int(width / widest)), max_lines=8, placeholder=" ..."))
