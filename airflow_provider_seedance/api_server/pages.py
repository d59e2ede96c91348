"""The Renders page: static files without data. Its scripts load the data from the guarded routes."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Request, Response

router = APIRouter()

STATIC = Path(__file__).parent / "static"

_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")


def content_security_policy(host: str | None) -> str:
    """
    Return the policy of the page: scripts, styles and requests of its own origin only.

    :param host: Host of the page. On loopback, media may come from loopback without TLS too: the emulator's.
    """
    media = "'self' https:"
    if host in _LOOPBACK:
        media += " http://127.0.0.1:* http://localhost:*"
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'self'; "
        f"base-uri 'none'; form-action 'none'; img-src {media}; media-src {media}"
    )


@router.get("/renders", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    """Return the page, which is the same for every user and run."""
    body, _ = _read("renders.html")
    headers = {"Content-Security-Policy": content_security_policy(request.url.hostname)}
    return Response(body, media_type=_MEDIA_TYPES[".html"], headers=headers)


@router.get("/static/{name}", include_in_schema=False)
async def static(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """Return a static file of the page."""
    if name not in _names():
        raise HTTPException(404)
    body, etag = _read(name)
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if if_none_match == etag:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=_MEDIA_TYPES[Path(name).suffix], headers=headers)


@cache
def _names() -> frozenset[str]:
    return frozenset(path.name for path in STATIC.iterdir() if path.suffix in _MEDIA_TYPES)


@cache
def _read(name: str) -> tuple[bytes, str]:
    body = (STATIC / name).read_bytes()
    return body, f'"{sha256(body).hexdigest()[:20]}"'
