"""
Real media files.

Every file shows its prompt; a video also has a moving bar, and on request a quiet tone. Frames are drawn a few
times a second and repeated up to the frame rate, because drawing is slower than encoding.
"""

from __future__ import annotations

import hashlib
import textwrap
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
from PIL import Image, ImageDraw, ImageFont

from airflow_provider_seedance.emulator.models import MediaSpec

_DRAWN_PER_SECOND = 6
_SAMPLE_RATE = 48_000
_TONE_HERTZ = 440


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
            image = _draw_frame(background, index / count)
            frame = video_frame.from_image(image).reformat(format="yuv420p")
        frame.pts, frame.time_base = index, Fraction(1, spec.fps)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _encode_tone(spec: MediaSpec, container: Any, stream: Any) -> None:
    # A silent track would look like a defect to checks of the delivered file.
    graph = av.filter.Graph()
    options = f"frequency={_TONE_HERTZ}:sample_rate={_SAMPLE_RATE}:duration={spec.seconds}"
    tone, sink = graph.add("sine", options), graph.add("abuffersink")
    tone.link_to(sink)
    graph.configure()
    with suppress(EOFError):
        while True:
            container.mux(stream.encode(graph.pull()))
    container.mux(stream.encode(None))


def _background(spec: MediaSpec) -> Image.Image:
    """Draw prompt and size on a background whose colour depends on the prompt."""
    digest = hashlib.sha256(f"{spec.prompt}|{spec.variant}".encode()).digest()
    colour = (30 + digest[0] // 3, 30 + digest[1] // 3, 30 + digest[2] // 3)
    image = Image.new("RGB", (spec.width, spec.height), colour)
    short = min(spec.width, spec.height)
    margin, size = max(2, short // 16), max(8, spec.height // 20)
    # Letters of the font are at most as wide as high.
    columns = max(4, (spec.width - 2 * margin) // size)
    lines = textwrap.wrap(spec.prompt, columns, max_lines=8, placeholder=" ...")
    text = "\n".join([*lines, "", f"{spec.width}x{spec.height}"])
    # Characters that Pillow's own font lacks show as boxes.
    font = ImageFont.load_default(size)
    ImageDraw.Draw(image).multiline_text((margin, margin), text, font=font, fill="white")
    return image


def _draw_frame(background: Image.Image, position: float) -> Image.Image:
    image = background.copy()
    width, height = image.size
    bar = (0, height - max(2, height // 40), round(width * position), height)
    ImageDraw.Draw(image).rectangle(bar, fill=(255, 200, 40))
    return image
