"""The media server: files at expiring URLs, with ranges, like an object store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import formatdate

from airflow_provider_seedance.emulator.media_store import MediaFile, MediaStore
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
    backend: Backend,
    media: MediaStore,
    link: Link | None,
    headers: Mapping[str, str],
    *,
    ranges: bool = True,
) -> Reply:
    """
    Return the reply to a GET; a HEAD gets the same without the body.

    :param headers: Headers of the request, by lower-case name.
    :param ranges: Whether ranges are supported.
    """
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
    if not ranges:
        return Reply(body=file.path.read_bytes(), headers=common)
    common["Accept-Ranges"] = "bytes"
    if headers.get("if-range", file.etag) != file.etag:
        return Reply(body=file.path.read_bytes(), headers=common)
    return _ranged(file, headers.get("range", ""), common)


def _ranged(file: MediaFile, wanted: str, common: Mapping[str, str]) -> Reply:
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted.strip())
    if match is None or not (match[1] or match[2]):
        # No range, several ones or an invalid one: the whole file, as RFC 9110 allows.
        return Reply(body=file.path.read_bytes(), headers=common)
    if match[1]:
        first = int(match[1])
        last = min(int(match[2]), file.size - 1) if match[2] else file.size - 1
    else:
        first, last = max(0, file.size - int(match[2])), file.size - 1
    if match[1] and match[2] and int(match[2]) < first:
        return Reply(body=file.path.read_bytes(), headers=common)
    if first >= file.size or (match[2] == "0" and not match[1]):
        reply = storage_error(416, "InvalidRange", "The requested range is not satisfiable.")
        headers = {**reply.headers, "Content-Range": f"bytes */{file.size}"}
        return Reply(status=416, body=reply.body, headers=headers)
    with file.path.open("rb") as opened:
        opened.seek(first)
        body = opened.read(last - first + 1)
    return Reply(
        status=206, body=body, headers={**common, "Content-Range": f"bytes {first}-{last}/{file.size}"}
    )
