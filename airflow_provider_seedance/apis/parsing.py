"""Parsing of replies: functions that several adapters use. None of them raises."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.messages import REPLACEMENT, HttpReply, JsonObject, VendorError
from airflow_provider_seedance.generations import GenerationStatus, read_status_word

#: Values of ``status`` that are about the call, where it may also be about the generation.
ENVELOPE_WORDS = ("success", "accepted", "error")

#: Length of an id: servers refuse longer URLs.
MAX_ID_CHARS = 1000

#: HTTP statuses after which it is unknown whether a submission was accepted.
UNCERTAIN_4XX = (408, 409, 425)

_CLASS_BY_STATUS: Mapping[int, type[errors.SeedanceError]] = {
    401: errors.SeedanceAuthenticationError,
    402: errors.SeedanceInsufficientCreditsError,
    403: errors.SeedanceForbiddenError,
    404: errors.SeedanceNotFoundError,
    429: errors.SeedanceRateLimitError,
}

STATUS_BY_CODE: Mapping[str, int] = {
    "INVALID_API_KEY": 401,
    "UNAUTHORIZED": 401,
    "INSUFFICIENT_CREDITS": 402,
    "FORBIDDEN": 403,
    "TASK_NOT_FOUND": 404,
    "NOT_FOUND": 404,
    "RATE_LIMITED": 429,
    "INTERNAL_ERROR": 500,
    "SERVICE_UNAVAILABLE": 503,
}

_MODERATION_MARKS = (
    "sensitivecontent",
    "riskdetection",
    "moderation",
    "content_policy",
    "policyviolation",
    "nsfw",
    "flagged as sensitive",
)


def unwrap(body: JsonObject) -> JsonObject:
    """Return the content of an envelope (``data``), or the body itself without an envelope."""
    data = body.get("data")
    return data if isinstance(data, Mapping) else body


def mapping(value: Any) -> JsonObject:
    """Return a JSON object, or an empty one in place of anything else."""
    return value if isinstance(value, Mapping) else {}


def segment(generation_id: str) -> str:
    """Return an id as a path segment; ids are opaque and may contain any character."""
    quoted = quote(generation_id, safe="")
    # Quoting does not change "." and "..", which a path resolves.
    return quoted.replace(".", "%2E") if not quoted.strip(".") else quoted


def identifier(value: Any) -> str | None:
    """Return the id in a field, as text; ``None`` for a value that a status request cannot carry."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_ID_CHARS:
        return None
    # A damaged id would request another generation.
    return value if value.strip().isprintable() and REPLACEMENT not in value else None


def local_id(body: JsonObject) -> str:
    """Return an id for a reply that has outputs but no id."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), default=str)
    return f"local-{hashlib.sha256(canonical.encode()).hexdigest()[:24]}"


def strings(value: Any) -> tuple[str, ...]:
    """Return the non-empty strings of a list, or of a single string."""
    items = value if isinstance(value, (list, tuple)) else [value]
    return tuple(item for item in items if isinstance(item, str) and item)


def urls(value: Any) -> tuple[str, ...]:
    """Return the URLs of outputs: text, an object with ``url`` or ``video_url``, or a list of such."""
    found: list[str] = []
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(item, Mapping):
            found += strings(item.get("url")) or strings(item.get("video_url"))
        elif isinstance(item, str):
            found += strings(item)
    return tuple(found)


def text(value: Any) -> str | None:
    """Return text, or a number as text; ``None`` for anything else and for empty text."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return None


def vendor_error(error: JsonObject) -> VendorError | None:
    """Return the error in an object with ``code`` and ``message``, or ``None`` without either."""
    code, message = text(error.get("code")), text(error.get("message"))
    return VendorError(code=code, message=message) if code or message else None


def failure_message(*sources: JsonObject) -> tuple[str | None, str | None]:
    """Return message and code of a failed generation from the first source that has one."""
    for source in sources:
        error = source.get("error")
        if isinstance(error, Mapping):
            found = text(error.get("message")), text(error.get("code"))
            if any(found):
                return found
        for name in ("error_message", "error", "message", "detail"):
            # The envelope of a failed generation says "success", about the call.
            if isinstance(source.get(name), str) and source[name].lower() not in ("", "success", "ok"):
                return source[name], text(source.get("error_code"))
    return None, None


def status_of(
    word: Any, urls: tuple[str, ...], envelope_words: tuple[str, ...] = ()
) -> tuple[GenerationStatus, bool, str | None]:
    """
    Return status, whether the word is documented, and the word, which may be missing or that of an envelope.

    Without a word, a generation with outputs has succeeded, and any other is queued.
    """
    if not isinstance(word, str) or not word.strip() or word.strip().lower() in envelope_words:
        return (GenerationStatus.SUCCEEDED if urls else GenerationStatus.QUEUED), True, None
    status, documented = read_status_word(word)
    return status, documented, word


def is_moderation(code: str | None) -> bool:
    """Return whether a code says that the content was refused."""
    plain = (code or "").lower()
    return any(mark in plain or mark in plain.replace("_", "") for mark in _MODERATION_MARKS)


def is_invalid_request(code: str | None) -> bool:
    """Return whether the code of a failed generation says that the same request always fails."""
    return (code or "").split(".", 1)[0] in ("InvalidParameter", "422")


def class_for(
    status: int, code: str | None, by_code: Mapping[str, type[errors.SeedanceError]]
) -> type[errors.SeedanceError]:
    """Return the error class for a code that says more than its HTTP status, or for the status."""
    if is_moderation(code):
        return errors.SeedanceModerationError
    is_refusal = 400 <= status < 500 and status not in UNCERTAIN_4XX
    default = errors.SeedanceRequestError if is_refusal else errors.SeedanceServerError
    exact = by_code.get(code or "") or by_code.get((code or "").split(".", 1)[0])
    return exact or _CLASS_BY_STATUS.get(status, default)


#: Next steps after an error reply, by the class of the error.
NEXT_STEPS: Mapping[type[errors.SeedanceError], str] = {
    errors.SeedanceAuthenticationError: "Check the password of the connection: it has to be a valid key of this "
    "service and region.",
    errors.SeedanceInsufficientCreditsError: "Top up the account, then run this again (clear the task).",
    errors.SeedanceForbiddenError: "Check the plan, the spend limit and the allowed addresses and regions of the key.",
    errors.SeedanceNotFoundError: "Check the id or the model, and whether the connection has the right base URL and key.",
    errors.SeedanceRequestError: "Correct the request, then run this again (clear the task).",
    errors.SeedanceModerationError: "Change the prompt or the inputs, then run this again (clear the task).",
}
OF_SUBMISSIONS = (errors.SeedanceRequestError, errors.SeedanceModerationError)


def error_message(reply: HttpReply, vendor: VendorError) -> str:
    """Describe an error reply, and its most likely cause."""
    reason = reply.line(vendor.message or vendor.code or "")
    message = f"{reply.source} answered {reply.status}" + (f": {reason}" if reason else "")
    if not reason and reply.body:
        message += f" with an answer that is not its own: {reply.excerpt()}"
    if reply.status == 403 and not isinstance(reply.json, Mapping):
        message += " (most likely a block at the edge of the network, not a matter of the key)"
    if 300 <= reply.status < 400:
        message += " (a redirect, which is not followed; check the connection's host)"
    return message
