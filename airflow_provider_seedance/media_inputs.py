"""Input media of a request, in every form that the argument ``images`` takes."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class MediaInput:
    """
    One input of a generation: an image, or on ``ark`` also a video, an audio file or a draft.

    :param url: URL of the input (https; ``ark`` also takes ``data:`` and ``asset://``), or the id of a draft.
    :param role: ``first_frame``, ``last_frame``, ``reference_image``, ``reference_video``,
        ``reference_audio``, ``draft_task``, or ``None`` to let the adapter choose. ``ark`` only.
    """

    url: str
    role: str | None = None


def parsed(value: Any) -> Any:
    """Parse a list or dict that a template rendered as text; return any other value unchanged."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(value)
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                continue
    return value


def media_inputs(value: Any) -> tuple[Any, ...]:
    """Normalize each form of ``images``; invalid items are kept, to be refused by the adapter."""
    value = parsed(value)
    if isinstance(value, (str, Mapping, MediaInput)) or not isinstance(value, Iterable):
        value = [value]
    inputs: list[Any] = []
    for item in value:
        if isinstance(item, Mapping) and "generation_id" in item:
            # The result of a task, from XCom: of images, or of a video with its last frame. Any other result is
            # kept, to be refused: without it the render would be paid for and lack its input.
            given = item.get("urls") if item.get("media") == "image" else [item.get("last_frame_url")]
            urls = given if isinstance(given, (list, tuple)) else ()
            inputs.extend([MediaInput(url=url) for url in urls if isinstance(url, str)] or [item])
        elif isinstance(item, Mapping) and isinstance(item.get("url"), str):
            inputs.append(MediaInput(url=item["url"].strip(), role=item.get("role")))
        elif isinstance(item, Mapping) and isinstance(item.get("draft_task"), str):
            inputs.append(MediaInput(url=item["draft_task"], role="draft_task"))
        elif isinstance(item, str):
            inputs.append(MediaInput(url=item.strip()))
        else:
            inputs.append(item)
    return tuple(inputs)
