"""The FastAPI application that the plugin mounts: its routes, and the headers of every response."""

from __future__ import annotations

import logging
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers, MutableHeaders

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.api_server.pages import STATIC

if TYPE_CHECKING:
    import os

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

#: Modules with a ``router``. Each guards its own routes: Airflow does not guard the application of a plugin.
ROUTES = (
    "airflow_provider_seedance.api_server.pages",
    "airflow_provider_seedance.api_server.renders_api",
    "airflow_provider_seedance.api_server.media",
    "airflow_provider_seedance.api_server.ledger_api",
    "airflow_provider_seedance.api_server.callback_routes",
)

#: Headers of every response, unless the route sets its own.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
}


class _SecurityHeaders:
    """ASGI middleware that adds the headers, also to errors."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, with_headers)


class _PageFiles(StaticFiles):
    """Static files as the latest Starlette serves them; that of Airflow 3.1 differs in both methods."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        # No file system accepts a NUL, which would be an error of the server.
        return super().lookup_path(path) if path.isprintable() else ("", None)

    def is_not_modified(self, response_headers: Headers, request_headers: Headers) -> bool:
        # Not by the date: the files of a downgrade, or of a reproducible image, are not newer than the cached ones.
        return response_headers["etag"] in request_headers.get("if-none-match", "")


async def _answer(status: int, _request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": getattr(error, "message", "")}, status)


def build() -> FastAPI:
    """Build the application, without schema and documentation pages."""
    app = FastAPI(title="Seedance", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(_SecurityHeaders)
    for error, status in ((errors.SeedanceLedgerError, 503), (errors.SeedanceRequestError, 409)):
        app.add_exception_handler(error, partial(_answer, status))
    for name in ROUTES:
        try:
            module: Any = import_module(name)
        except ImportError:
            # Airflow's internal interfaces have changed: routes without their guards are not served, others are.
            log.exception("%s cannot be served by this version of Airflow.", name)
            continue
        app.include_router(module.router)
    # Some installers link the files of a package to their cache.
    app.mount("/static", _PageFiles(directory=STATIC, follow_symlink=True))
    return app
