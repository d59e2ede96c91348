"""Replies of faults and rate limits instead of a service's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any

from airflow_provider_seedance.emulator.faults import Fault
from airflow_provider_seedance.emulator.rate_limiter import RateLimitState
from airflow_provider_seedance.emulator.services.service import ApiError, Reply, Service, json_reply

_GATEWAY_PAGE = (
    "<!DOCTYPE html><html><head><title>{status} error</title></head>"
    "<body><h1>Error {status}</h1><p>The web server is not answering as expected.</p></body></html>\n"
)


def storage_error(status: int, code: str, message: str) -> Reply:
    """Return an error in the form of object stores."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Reply(status=status, body=body.encode(), headers={"Content-Type": "application/xml"})


def refusal(service: Service | None, status: int, message: str, code: str | None = None) -> Reply:
    """Return an error in the form of a service, or of an object store without a service."""
    if service is None:
        return storage_error(status, code or "AccessDenied", message)
    return service.documented(service.error(ApiError(message, status=status, code=code)))


def rate_limited(service: Service | None, headers: Mapping[str, str]) -> Reply:
    """Return a 429 with the headers of the rate limit."""
    reply = refusal(service, 429, "Rate limit exceeded")
    limited = Reply(status=429, body=reply.body, headers={**reply.headers, **headers})
    return service.documented(limited) if service else limited


def rate_limit_headers(api: str, state: RateLimitState, now: float) -> dict[str, str]:
    """Return the documented headers of seedance2api; of the others ``Retry-After`` of refused requests."""
    wait = max(0, math.ceil(state.reset - now))
    if api == "seedance2api":
        return {
            "X-RateLimit-Limit": str(state.limit),
            "X-RateLimit-Remaining": str(state.remaining),
            "X-RateLimit-Reset": str(math.ceil(state.reset)),
            "X-RateLimit-RetryAfter": str(wait),
        }
    return {} if state.allowed else {"Retry-After": str(wait)}


def fault_reply(fault: Fault, service: Service | None, api: str, now: float) -> Reply:
    """Return the reply of a fault; times in its headers count from ``now``."""
    options = fault.options
    if fault.kind == "refuse":
        message = options.get("message", "The request was refused.")
        return refusal(service, int(options.get("status", 400)), message, options.get("code"))
    if fault.kind == "rate_limit":
        return rate_limited(service, _limit_headers(options, api, now))
    if fault.kind == "redirect":
        location = options.get("location", "https://elsewhere.invalid/")
        return Reply(status=int(options.get("status", 307)), headers={"Location": location})
    if fault.kind == "gateway_error":
        status = int(options.get("status", 502))
        page = _GATEWAY_PAGE.format(status=status).encode()
        return Reply(status=status, body=page, headers={"Content-Type": "text/html", "Server": "edge"})
    return _rubbish(options)


def _rubbish(options: Mapping[str, Any]) -> Reply:
    body = options.get("body", b"\x00\xffrubbish{")
    if isinstance(body, (dict, list)):
        reply = json_reply(body)
        content, headers = reply.body, dict(reply.headers)
    else:
        content = body.encode() if isinstance(body, str) else bytes(body)
        headers = {"Content-Type": "application/json"}
    headers.update(options.get("headers") or {})
    return Reply(status=int(options.get("status", 200)), body=content, headers=headers)


def _limit_headers(options: Mapping[str, Any], api: str, now: float) -> dict[str, str]:
    wait = options.get("retry_after", 1)
    if wait is None:
        return {}
    if options.get("retry_after_date"):
        return {"Retry-After": formatdate(now + float(wait), usegmt=True)}
    limit = int(options.get("limit", 1000))
    state = RateLimitState(allowed=False, limit=limit, remaining=0, reset=now + float(wait))
    return rate_limit_headers(api, state, now)
