"""The media server: files at expiring URLs, with ranges, like an object store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from email.utils import formatdate

from airflow_provider_seedance.emulator.media_store import MediaStore
from airflow_provider_seedance.emulator.models import Link
from airflow_provider_seedance.emulator.replies import storage_error
from airflow_provider_seedance.emulator.services.service import Reply
from airflow_provider_seedance.emulator.state import Backend

#: Path prefix of media URLs.
MEDIA_PREFIX = "/_media"


def find_link(backend: Backend, path: str, query: Mapping[str, list[str]]) -> Link | None:
    """Return the link of a media URL, or ``None`` for an unknown one."""
    token = (query.get("token") or [""])[0]
    link = backend.link(token)
    if link is None or path != f"{MEDIA_PREFIX}/{link.draft.generation_id}/{link.name}":
        return None
    return link


def serve_media(
    backend: Backend, media: MediaStore, link: Link | None, headers: Mapping[str, str], *, ranges: bool = True
) -> Reply:
    """Return the reply to a GET, with or without support of ranges; a HEAD gets it without the body."""
    if link is None:
        return storage_error(403, "SignatureDoesNotMatch", "The request signature does not match.")
    if backend.link_expired(link):
        return storage_error(403, "AccessDenied", "Request has expired")
    file = media.file(link.spec)
    common = {
        "Content-Type": file.content_type,
        "ETag": file.etag,
        "Last-Modified": formatdate(file.path.stat().st_mtime, usegmt=True),
    }
    body = file.path.read_bytes()
    if not ranges:
        return Reply(body=body, headers=common)
    common["Accept-Ranges"] = "bytes"
    is_current = headers.get("if-range", file.etag) == file.etag
    part = _byte_range(headers.get("range", ""), len(body)) if is_current else None
    if part is None:
        return Reply(body=body, headers=common)
    start, end = part
    if start >= end:
        reply = storage_error(416, "InvalidRange", "The requested range is not satisfiable.")
        return replace(reply, headers={**reply.headers, "Content-Range": f"bytes */{len(body)}"})
    common["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
    return Reply(status=206, body=body[start:end], headers=common)


def _byte_range(wanted: str, size: int) -> tuple[int, int] | None:
    """Return start and end; ``None`` for no range, several ones or an invalid one, as RFC 9110 allows."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return max(0, size - int(match[2])), size
    first, last = int(match[1]), int(match[2] or size - 1)
    return None if match[2] and last < first else (first, min(last + 1, size))
