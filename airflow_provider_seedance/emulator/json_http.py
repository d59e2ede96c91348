"""JSON requests over HTTP, never through the environment's proxy."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from http.client import HTTPResponse
from typing import Any

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def open_url(
    method: str, url: str, body: Any = None, *, timeout: float, headers: Mapping[str, str] | None = None
) -> HTTPResponse:
    """
    Send a request and return the response, to be closed by the caller.

    :param body: Bytes, or a value that is sent as JSON.
    :raises OSError: for an error.
    """
    content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310  (the emulator validates URLs; the rest are loopback)
        url, data=content, headers={"Content-Type": "application/json", **(headers or {})}, method=method
    )
    response: HTTPResponse = _OPENER.open(request, timeout=timeout)
    return response
