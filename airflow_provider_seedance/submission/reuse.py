"""Reuse of the generations of other tasks: the key by which two requests are the same."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.client.media_client import (
    MediaAddressError,
    MediaClient,
    MediaConnectionError,
    MediaStream,
)
from airflow_provider_seedance.generations import Generation, GenerationRequest, GenerationStatus, utc_now
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.submission import timing
from airflow_provider_seedance.submission.records import Fingerprint

log = logging.getLogger(__name__)

T = TypeVar("T")


def reuse_key(request: GenerationRequest, settings: Settings, digests: dict[str, str] | None) -> str | None:
    """
    Return the key of a request with its defaults, or ``None`` if its generation cannot be reused.

    Inputs count by their content. Connections count, because one key cannot read the generations of another.

    :param digests: Digests of inputs by their URLs, to which those of downloaded ones are added; of one that cannot be
        read an empty text. ``None`` to download none: then a request with inputs has no key.
    """
    contents: list[tuple[str, Any]] = []
    if "://" in json.dumps(request.extra_params or {}, default=str):
        return None  # an input that is not known as one
    for item in request.images or ():
        if digests is None:
            return None
        if item.url not in digests:
            digests[item.url] = _content(item.url, settings) or ""
        if not digests[item.url]:
            return None
        contents.append((digests[item.url], item.role))
    fingerprint = Fingerprint.of(
        replace(request, images=None), api=settings.api.name, base_url=settings.base_url
    )
    key = json.dumps([settings.conn_id, fingerprint.digest(), contents])
    return hashlib.sha256(key.encode()).hexdigest()


def repeat_while_submitting(write: Callable[[], T]) -> T:
    """Write a first record; wait some seconds while another task submits the same request."""
    for pause in timing.TIMING.reuse_backoff:
        try:
            return write()
        except errors.SeedanceRateLimitError:
            time.sleep(pause)
    return write()


def is_deliverable(generation: Generation, settings: Settings) -> bool:
    """Return whether the output of a terminal generation can still be downloaded."""
    if generation.status is not GenerationStatus.SUCCEEDED or generation.output_gone(utc_now()):
        return False
    try:
        for url in generation.urls:
            if not url.startswith("data:"):
                with _open(url, settings) as stream:
                    next(stream.chunks())
    except (_UnreadableError, StopIteration) as error:
        if isinstance(error, _UnreadableError) and not error.gone:
            log.warning("An output of generation %s cannot be read now: %s", generation.generation_id, error)
            return True
        log.info("Generation %s cannot be reused: %s", generation.generation_id, error)
        return False
    return True


def _content(url: str, settings: Settings) -> str | None:
    """Return a digest of an input, or its name where the service has it; ``None`` if it cannot be read."""
    if not url.startswith(("http://", "https://")):
        return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
    digest = hashlib.sha256()
    try:
        with _open(url, settings) as stream:
            for chunk in stream.chunks():
                digest.update(chunk)
    except _UnreadableError as error:
        log.warning("An input cannot be read, so no generation is reused: %s", error)
        return None
    return digest.hexdigest()


class _UnreadableError(Exception):
    """A file cannot be downloaded: at the moment, or because it is gone."""

    def __init__(self, message: str, *, gone: bool = False) -> None:
        super().__init__(message)
        self.gone = gone


@contextmanager
def _open(url: str, settings: Settings) -> Iterator[MediaStream]:
    try:
        with MediaClient(settings) as client, client.open(url) as stream:
            # Some hosts send a page in place of the file.
            page = stream.content_type.endswith(("html", "xml", "json"))
            if stream.status != 200 or page or stream.content_encoding:
                gone = stream.status < 500 and stream.status != 429
                raise _UnreadableError(
                    f"HTTP {stream.status}, type {stream.content_type or 'unknown'}", gone=gone
                )
            yield stream
    except MediaAddressError as error:
        raise _UnreadableError(str(error), gone=True) from error
    except MediaConnectionError as error:
        raise _UnreadableError(str(error)) from error
