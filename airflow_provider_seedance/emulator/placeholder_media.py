"""Minimal playable files, which an emulator without codecs serves."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent

#: One second of 16 by 16 pixels, H.264, 4 frames a second, no sound.
TINY_MP4 = (_FOLDER / "placeholder.mp4").read_bytes()
#: Two by two pixels.
TINY_PNG = (_FOLDER / "placeholder.png").read_bytes()
