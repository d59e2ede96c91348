"""
fal.ai: the Seedance and Seedream endpoints, through its queue.

The model is the id of the endpoint. The paths of a request name its app, the first two parts of that id, so the id of a
generation is app and request id: ``bytedance:seedance-2.0:<request id>``.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance import generations
from airflow_provider_seedance.apis import base, parsing, rules
from airflow_provider_seedance.apis.messages import (
    HttpCall,
    HttpReply,
    JsonObject,
    TransportFailure,
    VendorError,
)
from airflow_provider_seedance.apis.rules import Rule

#: Difference between the signed time of a callback and now; fal documents this figure.
MAX_CALLBACK_AGE_SECONDS = 300.0

#: Requests per page of the list, and pages that are read to find one.
LIST_PAGE_SIZE = 100
_MAX_LIST_PAGES = 50

_SEEDANCE_2 = tuple(
    f"bytedance/seedance-2.{version}/{kind}-to-video"
    for version in ("0", "0/fast", "5")
    for kind in ("text", "image", "reference")
)
_SEEDANCE_1 = tuple(
    f"fal-ai/bytedance/seedance/{version}/{kind}-to-video"
    for version in ("v1.5/pro", "v1/pro", "v1/pro/fast", "v1/lite")
    for kind in ("text", "image")
)
_SEEDREAM = (
    *(
        f"fal-ai/bytedance/seedream/v4{minor}/{kind}"
        for minor in (".5", "")
        for kind in ("text-to-image", "edit")
    ),
    *(f"bytedance/seedream/{version}/text-to-image" for version in ("v5/lite", "v5/flash", "v5.5")),
)
_DEFAULT_APP = ("bytedance", "seedance-2.0")
#: Apps with three parts.
_NAMESPACES = ("workflows", "comfy")

_DURATIONS = {"1.0": (2, 12), "1.5": (4, 12), "2.0": (4, 15), "2.5": (4, 30)}
_RATIOS = ("auto", "21:9", "16:9", "4:3", "1:1", "3:4", "9:16")
_SIZES = (
    "square_hd",
    "square",
    *(f"{way}_{ratio}" for way in ("portrait", "landscape") for ratio in ("4_3", "16_9")),
)
_ROLES = ("first_frame", "last_frame", "reference_image", "reference_video", "reference_audio")
_REFERENCE_FIELDS = {"reference_video": "video_urls", "reference_audio": "audio_urls"}

_REQUEST_URL = re.compile(r"((?:(?:workflows|comfy)/)?[^/]+/[^/]+)/requests/[^/]+(?:/status|/cancel)?$")

#: Statuses of a result that are about the call, not about the generation.
_ABOUT_THE_CALL = (401, 402, 403, 404, 408, 409, 425, 429)


def app_of(endpoint: str) -> list[str]:
    """Return the parts of an endpoint's id that name its app."""
    parts = endpoint.strip("/").split("/")
    return parts[: 3 if parts[0] in _NAMESPACES else 2]


def _version(model: str | None) -> str | None:
    found = re.search(r"seedance(?:-|/v)(\d)(\.\d)?(?=/|$)", model or "")
    return found[1] + (found[2] or ".0") if found else None


class Fal(base.Api):
    """fal.ai: videos and images, both as requests in a queue."""

    name = "fal"
    title = "fal.ai"
    default_base_url = "https://queue.fal.run"
    console_url = "https://fal.ai/dashboard"
    other_hosts = {"/v1/": "https://api.fal.ai", "/.well-known/": "https://rest.fal.ai"}
    auth_scheme = "Key"
    id_fields = ("request_id",)
    callback_field = "fal_webhook"
    callback_keys_path = "/.well-known/jwks.json"
    can_cancel = True
    can_look_up = True
    correlation_field = "end_user_id"
    requests_per_status = 2
    error_classes = {"exhausted_balance": errors.SeedanceInsufficientCreditsError}
    image_rules = {
        "prompt": rules.text(),
        "model": rules.model_name(_SEEDREAM),
        "resolution": rules.pattern(
            "|".join((*_SIZES, r"auto_[1-4]K", r"[1-9]\d{2,3}x[1-9]\d{2,3}")),
            f"{', '.join(_SIZES)}, auto_2K, auto_4K, or a size such as 2048x2048",
        ),
        "num_images": rules.whole_number(1, 6),
        "seed": rules.whole_number(),
        "images": rules.inputs(maximum=10, schemes=("data",)),
    }

    def rules(self, request: generations.GenerationRequest, base_url: str) -> Mapping[str, Rule]:
        if isinstance(request, generations.ImageRequest):
            return self.image_rules
        version = _version(request.model)
        fast = "/fast/" in (request.model or "")
        sizes = (
            ("480p", "720p") if version == "2.5" or (fast and version == "2.0") else ("480p", "720p", "1080p")
        )
        found = {
            "prompt": rules.text(),
            "model": rules.model_name((*_SEEDANCE_2, *_SEEDANCE_1)),
            "duration": rules.whole_number(*_DURATIONS.get(version or "", (2, 30)), " (seconds)"),
            "resolution": rules.one_of(sizes),
            "aspect_ratio": rules.one_of(_RATIOS),
            "seed": rules.whole_number(),
            "images": rules.inputs(roles=_ROLES, schemes=("data",)),
        }
        if version != "1.0":
            found["generate_audio"] = rules.flag()
        if version not in ("2.0", "2.5"):
            found["fixed_lens"] = rules.flag()
        return found

    def defaults(self, request: generations.GenerationRequest, base_url: str) -> Mapping[str, Any]:
        if isinstance(request, generations.ImageRequest):
            return {
                "model": f"fal-ai/bytedance/seedream/v4.5/{'edit' if request.images else 'text-to-image'}"
            }
        roles = {getattr(item, "role", None) or "first_frame" for item in request.images or ()}
        kind = "text" if not roles else "image" if roles <= set(_ROLES[:2]) else "reference"
        return {"model": f"bytedance/seedance-2.0/{kind}-to-video"}

    def cross_check(self, request: generations.GenerationRequest, base_url: str) -> list[str]:
        model, inputs = request.model or "", request.images or ()
        if len(model.strip("/").split("/")) < 2:
            return [f"model={model!r} is not the id of an endpoint, such as {_SEEDANCE_2[0]}"]
        if "/text-to-" in model and inputs:
            return [f"images: {model} takes none; its sibling for images does"]
        if not inputs and model.endswith(("/image-to-video", "/edit")):
            return [f"images: {model} needs one"]
        if model.endswith("/image-to-video"):
            roles = [item.role for item in inputs]
            if len(inputs) > 2 or any(role in _ROLES[2:] for role in roles) or roles == ["last_frame"]:
                return [f"images: {model} takes a first frame, and a last frame beside it"]
        return []

    def path_of(self, request: generations.GenerationRequest) -> str:
        return "/" + "/".join(map(parsing.segment, (request.model or "").strip("/").split("/")))

    def submit_call(
        self,
        request: generations.GenerationRequest,
        *,
        callback_url: str | None = None,
        correlation: str | None = None,
        image_timeout: float | None = None,
    ) -> HttpCall:
        call = super().submit_call(request, correlation=correlation)
        return replace(call, query=(("fal_webhook", callback_url),)) if callback_url else call

    def correlates(self, request: generations.GenerationRequest) -> bool:
        # The list of requests is by endpoint, and only these endpoints have the field.
        return request.model in _SEEDANCE_2 and "end_user_id" not in (request.extra_params or {})

    def body(self, request: generations.GenerationRequest) -> dict[str, Any]:
        body = super().body(request)
        model = body.pop("model", "")
        body.pop("images", None)
        inputs = request.images or ()
        if isinstance(request, generations.ImageRequest):
            size = body.pop("resolution", None)
            if size is not None:
                width, _, height = size.partition("x")
                body["image_size"] = (
                    {"width": int(width), "height": int(height)} if height.isdigit() else size
                )
            return body | ({"image_urls": [item.url for item in inputs]} if inputs else {})
        if "duration" in body:
            body["duration"] = str(body["duration"])
        if "fixed_lens" in body:
            body["camera_fixed"] = body.pop("fixed_lens")
        if model.endswith("/reference-to-video"):
            for item in inputs:
                body.setdefault(_REFERENCE_FIELDS.get(item.role or "", "image_urls"), []).append(item.url)
        else:
            # A last frame may be given first.
            frames = sorted(inputs, key=lambda item: item.role == "last_frame")
            body |= dict(zip(("image_url", "end_image_url"), (item.url for item in frames), strict=False))
        return body

    def billed(self, request: generations.GenerationRequest) -> generations.GenerationRequest | None:
        version = _version(request.model)
        documented = {"resolution": "720p", "generate_audio": version != "1.0"}
        if version in ("1.0", "1.5"):
            documented["duration"] = 5
        if set(request.extra_params or {}) & {
            *documented,
            "duration",
            "num_images",
            "image_size",
            "max_images",
        }:
            return None
        images = isinstance(request, generations.ImageRequest)
        return request if images else request.with_default(**documented)

    # ------------------------------------------------------------------ replies

    def _request_path(self, generation_id: str) -> str:
        *app, request_id = generation_id.split(":")
        return (
            f"/{'/'.join(map(parsing.segment, app or _DEFAULT_APP))}/requests/{parsing.segment(request_id)}"
        )

    def full_id(self, callback_id: str, model: str | None) -> str:
        return callback_id if ":" in callback_id else ":".join((*app_of(model or ""), callback_id))

    def read_created(
        self, body: JsonObject, request: generations.GenerationRequest, now: datetime
    ) -> generations.Generation | None:
        generation = super().read_created(body, request, now)
        if generation is None or self.find_id(body) is None:
            return generation
        # The service may route a request to another app than that of the endpoint.
        url = _REQUEST_URL.search(urlsplit(parsing.text(body.get("response_url")) or "").path)
        return replace(
            generation, generation_id=self.full_id(generation.generation_id, url[1] if url else request.model)
        )

    def read_generation(
        self, body: JsonObject, generation_id: str, *, media: generations.Media, now: datetime
    ) -> generations.Generation:
        if body.get("status") == "OK":  # of a callback
            body = {**body, **parsing.mapping(body.get("payload")), "status": "COMPLETED"}
        elif body.get("error") and body.get("status") in ("COMPLETED", "ERROR"):
            kind = parsing.text(body.get("error_type"))
            cancelled = kind in ("client_cancelled", "request_cancelled")
            body = {**body, "status": "cancelled" if cancelled else "failed", "error_code": kind}
        return super().read_generation(body, generation_id, media=media, now=now)

    def status_call(self, generation_id: str) -> HttpCall:
        return HttpCall(method="GET", path=f"{self._request_path(generation_id)}/status")

    def cancel_call(self, generation_id: str) -> HttpCall:
        return HttpCall(method="PUT", path=f"{self._request_path(generation_id)}/cancel")

    def status_flow(
        self, generation_id: str, media: generations.Media, now: datetime
    ) -> base.Flow[generations.Generation]:
        generation = yield from super().status_flow(generation_id, media, now)
        if generation.status is not generations.GenerationStatus.SUCCEEDED or generation.urls:
            return generation
        call = HttpCall(method="GET", path=self._request_path(generation_id))
        answer = yield call
        if failed := self._failed(answer, generation):
            return failed
        reply = self.check(answer, call, generation_id, now)
        body = {**reply.json, "status": "COMPLETED"}
        return reply.clean(self.read_generation(body, generation_id, media=media, now=now))

    def _failed(
        self, answer: HttpReply | TransportFailure | None, generation: generations.Generation
    ) -> generations.Generation | None:
        """Return the generation whose result is an error: a request that has completed fails with its result."""
        if not isinstance(answer, HttpReply) or answer.status < 400 or answer.status in _ABOUT_THE_CALL:
            return None
        vendor = self.read_error(parsing.mapping(answer.json))
        if answer.status >= 500 and (vendor is None or vendor.code is None):
            return None  # a gateway
        code = vendor.code if vendor else None
        return answer.clean(
            replace(
                generation,
                status=generations.GenerationStatus.FAILED,
                error_message=vendor.message if vendor else answer.excerpt(),
                error_code=f"{answer.status}.{code}" if code else str(answer.status),
            )
        )

    def details(self, payload: JsonObject, status: generations.GenerationStatus, now: datetime) -> JsonObject:
        # Neither the status nor the result repeats the request.
        return {"model": None, "duration": None, "resolution": None}

    def outputs(self, payload: JsonObject) -> tuple[str, ...]:
        return parsing.urls(payload.get("video")) or parsing.urls(payload.get("images"))

    def read_error(self, body: JsonObject) -> VendorError | None:
        error, code = body.get("error"), parsing.text(body.get("error_type"))
        if isinstance(error, Mapping):
            return parsing.vendor_error(error)
        detail = body.get("detail")
        if isinstance(detail, list):
            detail = next(iter(detail), None)
        if isinstance(detail, Mapping):
            where = ".".join(map(str, parsing.strings(detail.get("loc"))))
            message = parsing.text(detail.get("msg"))
            code = parsing.text(detail.get("type")) or code
            return VendorError(code=code, message=f"{where}: {message}" if where and message else message)
        if not isinstance(detail, str) or not detail:
            return None
        if "exhausted balance" in detail.lower():  # the code of a locked account is that of any 403
            code = "exhausted_balance"
        return VendorError(code=code, message=detail)

    def is_service_error(self, body: JsonObject) -> bool:
        # Gateways and web frameworks write "detail", too.
        return parsing.text(body.get("error_type")) is not None and self.read_error(body) is not None

    # ------------------------------------------------------------------ the list of requests

    def list_call(self, since: datetime, cursor: str | None = None) -> HttpCall:
        """Build the request for a page of the requests to the endpoints that store a correlation value."""
        query = [*(("endpoint_id", endpoint) for endpoint in _SEEDANCE_2), ("expand", "payloads")]
        query += [("start", since.strftime("%Y-%m-%dT%H:%M:%SZ")), ("limit", str(LIST_PAGE_SIZE))]
        query += [("cursor", cursor)] if cursor else []
        return HttpCall(method="GET", path="/v1/models/requests/by-endpoint", query=tuple(query))

    def look_up_flow(
        self, correlation: str, since: datetime, now: datetime, model: str | None = None
    ) -> base.Flow[str | None]:
        cursor = None
        for _ in range(_MAX_LIST_PAGES):
            # Clocks differ by less than an hour.
            call = self.list_call(since - timedelta(hours=1), cursor)
            reply = yield from self.fetch(call, None, now)
            items = reply.json.get("items")
            if not isinstance(items, list):
                raise self._unexpected_reply(reply, call, "is not a list of requests")
            for item in filter(lambda item: isinstance(item, Mapping), items):
                sent = parsing.mapping(item.get("json_input"))
                if sent.get("end_user_id") == correlation and (found := self.find_id(item)):
                    return self.full_id(found, parsing.text(item.get("endpoint_id")))
            cursor = parsing.text(reply.json.get("next_cursor"))
            if not cursor or not reply.json.get("has_more"):
                break
        return None

    # ------------------------------------------------------------------ signatures

    def is_signed(self, keys: JsonObject, headers: Mapping[str, str], body: bytes, now: float) -> bool:
        names = ("request-id", "user-id", "timestamp", "signature")
        request_id, user_id, timestamp, signature = (
            headers.get(f"x-fal-webhook-{name}", "") for name in names
        )
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
            return False
        if abs(now - int(timestamp)) > MAX_CALLBACK_AGE_SECONDS:
            return False
        message = "\n".join((request_id, user_id, timestamp, hashlib.sha256(body).hexdigest())).encode()
        return any(_verifies(key, signature, message) for key in _public_keys(keys))


def _public_keys(keys: JsonObject) -> Iterator[bytes]:
    """Return the keys of a JWKS."""
    listed = keys.get("keys")
    for key in listed if isinstance(listed, list) else []:
        encoded = parsing.text(parsing.mapping(key).get("x")) or ""
        try:
            yield urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        except (binascii.Error, ValueError):
            continue


def _verifies(key: bytes, signature: str, message: bytes) -> bool:
    # Here: the API server alone verifies.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


API = Fal()
