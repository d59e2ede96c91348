"""The pages: static files without data. Their scripts load the data from the guarded routes."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

router = APIRouter()

STATIC = Path(__file__).parent / "static"

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")


def content_security_policy(host: str | None) -> str:
    """
    Return the policy of the page: scripts, styles and requests of its own origin only.

    :param host: Host of the page. On loopback, media may come from loopback without TLS too: the emulator's.
    """
    media = "'self' https:" + (" http://127.0.0.1:* http://localhost:*" if host in _LOOPBACK else "")
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'self'; "
        f"base-uri 'none'; form-action 'none'; img-src {media}; media-src {media}"
    )


@router.get("/renders", include_in_schema=False)
@router.get("/library", include_in_schema=False)
@router.get("/spend", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    """Return a page, which is the same for every user and run."""
    name = request.url.path.rpartition("/")[2] or "renders"
    headers = {"Content-Security-Policy": content_security_policy(request.url.hostname)}
    return FileResponse(STATIC / f"{name}.html", headers=headers)
