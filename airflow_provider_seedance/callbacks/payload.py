"""
Bodies of callbacks. Nothing relies on them: the result is read from the service.

The formats are hardly documented. seedance2api.com shows one (an event around its status reply), ark sends
its status reply, the others show none. The adapters therefore parse them as tolerantly as replies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from airflow_provider_seedance.apis import parsing
from airflow_provider_seedance.apis.base import Api
from airflow_provider_seedance.generations import GenerationStatus

#: Maximum length of a body: it describes one generation.
MAX_BODY_BYTES = 256 * 1024

#: Maximum length of a generation id.
MAX_ID_CHARS = 512


@dataclass(frozen=True, kw_only=True)
class CallbackPayload:
    """Content of a callback: the generation and its status, if reported."""

    generation_id: str | None = None
    status: GenerationStatus | None = None

    @property
    def ended(self) -> bool:
        """``True`` if the payload reports a terminal status."""
        return self.status is not None and self.status.terminal

    def __bool__(self) -> bool:
        return self.ended or self.generation_id is not None


def parse_payload(api: Api, body: bytes) -> CallbackPayload:
    """Parse the body of a callback; returns an empty payload for rubbish and never raises."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return CallbackPayload()
    if not isinstance(value, Mapping):
        return CallbackPayload()
    generation_id = api.find_id(value)
    inner = parsing.unwrap(value)
    status = inner.get("status")
    word = status.strip().lower() if isinstance(status, str) else ""
    # Beside the fields of a generation, an envelope word is the status of an HTTP call.
    has_status = bool(word) and not (inner is value and word in api.envelope_words)
    generation = api.read_generation(value, generation_id or "", media="video", now=datetime.now(UTC))
    known = (has_status and generation.documented) or bool(generation.urls)
    return CallbackPayload(
        generation_id=generation_id if generation_id and len(generation_id) <= MAX_ID_CHARS else None,
        status=generation.status if known else None,
    )
