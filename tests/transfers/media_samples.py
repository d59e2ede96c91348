"""Media files of many encoders."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "media"


def sample(name: str) -> bytes:
    """Return the content of a sample."""
    return (FOLDER / name).read_bytes()
