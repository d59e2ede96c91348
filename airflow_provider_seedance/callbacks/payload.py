"""
What a callback hints at. Never more than that: what came of a render, the service says when it is asked.

The bodies are hardly documented. seedance2api.com shows one (S002: an event around what the status call
tells), ark sends what its status call answers, the others show none. So they are read as tolerantly as
replies are, by the same adapters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from airflow_provider_seedance.apis import parsing
from airflow_provider_seedance.apis.base import Api
from airflow_provider_seedance.generations import GenerationStatus

#: No body is longer, in bytes: it tells of one render.
LONGEST_BODY = 256 * 1024

#: No id is longer, in characters.
LONGEST_ID = 512


@dataclass(frozen=True, kw_only=True)
class CallbackPayload:
    """
    What a callback tells.

    :param generation_id: Of the render, where it is named.
    :param status: What is said about it; ``None`` where nothing is.
    """

    generation_id: str | None = None
    status: GenerationStatus | None = None

    @property
    def ended(self) -> bool:
        """Whether the render is said to have ended, well or not."""
        return self.status is not None and self.status.terminal

    def __bool__(self) -> bool:
        return self.ended or self.generation_id is not None


def parse_payload(api: Api, body: bytes) -> CallbackPayload:
    """Read the body of a callback; an empty hint for rubbish. Never raises."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return CallbackPayload()
    if not isinstance(told, Mapping):
        return CallbackPayload()
    found = api.find_id(told)
    payload = parsing.unwrap(told)
    # The words of the envelope tell of a call, and this is none of ours.
    word = payload.get("status")
    is_word = isinstance(word, str) and bool(word.strip())
    if payload is told and is_word and str(word).strip().lower() in api.envelope_words:
        is_word = False
    generation = api.read_generation(told, found or "", media="video", now=datetime.now(UTC))
    known = (is_word and generation.documented) or bool(generation.urls)
    return CallbackPayload(
        generation_id=found if found and len(found) <= LONGEST_ID else None,
        status=generation.status if known else None,
    )
