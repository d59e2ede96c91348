"""The page itself: a shell without any data, and its static files. What it shows, it asks the guarded routes for."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Request, Response

router = APIRouter()

STATIC = Path(__file__).parent / "static"

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")


def policy(host: str | None) -> str:
    """
    Return the content security policy of the page: no script, style or request but our own.

    :param host: Where Airflow is looked at. On the very machine it runs on, media may come from there too: that
        is where the emulator is, which has no certificate.
    """
    media = "'self' https:"
    if host in _LOOPBACK:
        media += " http://127.0.0.1:* http://localhost:*"
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            f"img-src {media}",
            f"media-src {media}",
            "connect-src 'self'",
            "frame-ancestors 'self'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


@router.get("/renders", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    """Return the shell: the same for everybody and every run."""
    body, _ = _file("renders.html")
    headers = {"Content-Security-Policy": policy(request.url.hostname)}
    return Response(body, media_type=_TYPES[".html"], headers=headers)


@router.get("/static/{name}", include_in_schema=False)
async def static(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """Return one of the files that the page consists of."""
    if name not in _names():
        raise HTTPException(404)
    body, etag = _file(name)
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if if_none_match == etag:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=_TYPES[Path(name).suffix], headers=headers)


@cache
def _names() -> frozenset[str]:
    return frozenset(path.name for path in STATIC.iterdir() if path.suffix in _TYPES)


@cache
def _file(name: str) -> tuple[bytes, str]:
    body = (STATIC / name).read_bytes()
    return body, f'"{sha256(body).hexdigest()[:20]}"'
