"""The route that services call. Every outcome gets the same response, so a caller cannot probe for tasks."""

from __future__ import annotations

import asyncio
import logging
import time

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from airflow_provider_seedance.api_server.callback_keys import SigningKeys
from airflow_provider_seedance.api_server.callback_queue import CallbackQueue
from airflow_provider_seedance.api_server.callback_settings import SettingsCache, TooManyLookups
from airflow_provider_seedance.callbacks.payload import MAX_BODY_BYTES, parse_payload
from airflow_provider_seedance.callbacks.signatures import verify_signature
from airflow_provider_seedance.callbacks.tokens import ROUTE, decode_unverified, verify
from airflow_provider_seedance.settings import Settings

log = logging.getLogger(__name__)


def make_router(
    connections: SettingsCache, queue: CallbackQueue, keys: SigningKeys | None = None
) -> APIRouter:
    """Return the route, with the state of this process."""
    signing_keys = keys or SigningKeys()
    routes = APIRouter()

    @routes.post(ROUTE, include_in_schema=False)
    async def callback(token: str, request: Request) -> Response:
        status = await receive(token, request, connections, queue, signing_keys)
        return Response(status_code=status, headers={"Cache-Control": "no-store"})

    return routes


async def receive(
    token: str, request: Request, connections: SettingsCache, queue: CallbackQueue, keys: SigningKeys
) -> int:
    """
    Accept a callback and return the HTTP status: 202 for a valid token, 404 for any other.

    413, 408 and 400 are for bodies that are too long, too slow or cut off, 503 for a full queue, for
    too many unknown connections, and where the keys of the service cannot be read.
    """
    queue.on_request()
    claims = decode_unverified(token)
    now = time.time()
    try:
        settings = await connections.get(claims.conn_id, claims.team) if claims else None
    except TooManyLookups:
        return 503
    # Before the body is read: a request without a valid token must not use memory.
    verified = verify(token, settings.callback_secret if settings else None, now)
    if claims is None or settings is None or not verified:
        return 404
    try:
        async with asyncio.timeout(queue.limits.body_timeout):
            body = await _read_body(request)
    except TimeoutError:
        return 408
    except ClientDisconnect:
        return 400
    if body is None:
        return 413
    signed = await _is_signed(settings, keys, request, body, now)
    if signed is None:
        return 503
    if not signed:
        log.warning(
            "A callback with a valid token for task %s was dropped: its signature (connection %r) is missing or wrong.",
            claims.task_id,
            claims.conn_id,
        )
        return 404
    payload = parse_payload(settings.api, body)
    return 202 if not payload or queue.enqueue(claims, payload, settings) else 503


async def _is_signed(
    settings: Settings, keys: SigningKeys, request: Request, body: bytes, now: float
) -> bool | None:
    """Return whether the service signed a callback, as far as that can be verified; ``None`` for not now."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    scheme = settings.callback_signing
    if scheme and not verify_signature(scheme, headers, body, now):
        return False
    return await keys.verify(settings, headers, body, now)


async def _read_body(request: Request) -> bytes | None:
    """Return the body; ``None`` if it is too long, without reading the rest."""
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > MAX_BODY_BYTES:
            return None
    return bytes(received)


router = make_router(SettingsCache(), CallbackQueue())
