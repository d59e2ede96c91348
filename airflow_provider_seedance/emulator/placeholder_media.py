"""Minimal playable files, which an emulator without codecs serves."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent

#: One second of 16 by 16 pixels, H.264, 4 frames a second, no sound.
TINY_MP4 = (_FOLDER / "placeholder.mp4").read_bytes()
#: Files by format; the images have two by two pixels.
TINY_FILES = {
    "mp4": TINY_MP4,
    **{name: (_FOLDER / f"placeholder.{name}").read_bytes() for name in ("png", "jpeg")},
}
