"""Replicate: predictions of ByteDance's Seedance and Seedream models."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from airflow_provider_seedance import generations
from airflow_provider_seedance.apis import base, parsing, rules
from airflow_provider_seedance.apis.messages import HttpCall, JsonObject, VendorError
from airflow_provider_seedance.apis.rules import Rule

#: Time after which the service deletes inputs, outputs and files of a prediction.
OUTPUT_LIFETIME = timedelta(hours=1)

#: Difference between the signed time of a callback and now, by the Standard Webhooks specification.
MAX_CALLBACK_AGE_SECONDS = 300.0

_VIDEO_MODELS = tuple(
    f"bytedance/seedance-{version}"
    for version in ("2.0", "2.0-fast", "1.5-pro", "1-pro", "1-pro-fast", "1-lite")
)
_IMAGE_MODELS = tuple(f"bytedance/seedream-{version}" for version in ("5-lite", "4.5", "4", "3"))
_RATIOS = ("16:9", "4:3", "1:1", "3:4", "9:16", "21:9", "9:21")
_REFERENCE_FIELDS = {
    "reference_image": "reference_images",
    "reference_video": "reference_videos",
    "reference_audio": "reference_audios",
}
_FRAME_FIELDS = {"first_frame": "image", "last_frame": "last_frame_image"}


class Replicate(base.Api):
    """Replicate. A prediction is cancelled only while it starts: one that was cancelled while it ran is billed."""

    name = "replicate"
    title = "Replicate"
    default_base_url = "https://api.replicate.com/v1"
    console_url = "https://replicate.com/p/{}"
    status_path = "/predictions"
    id_fields = ("id",)
    callback_field = "webhook"
    callback_keys_path = "/webhooks/default/secret"
    can_cancel = makes_groups = True
    probe_misses = False
    video_defaults = {"model": "bytedance/seedance-2.0"}
    image_defaults = {"model": "bytedance/seedream-4.5"}
    image_rules = {
        "prompt": rules.text(),
        "model": rules.model_name(_IMAGE_MODELS),
        "resolution": rules.pattern(
            r"[1-4]K|[1-9]\d{2,3}x[1-9]\d{2,3}", "1K, 2K or 4K (by model), or a size such as 2048x2048"
        ),
        "num_images": rules.whole_number(1, 15),
        "images": rules.inputs(maximum=14, schemes=("data",)),
    }

    def rules(self, request: generations.GenerationRequest, base_url: str) -> Mapping[str, Rule]:
        if isinstance(request, generations.ImageRequest):
            return self.image_rules
        new = "seedance-2" in (request.model or "")
        lasts = (
            rules.whole_number(4, 15, " (seconds)", also=(-1,))
            if new
            else rules.whole_number(2, 12, " (seconds)")
        )
        roles = (*_FRAME_FIELDS, *(_REFERENCE_FIELDS if new else ("reference_image",)))
        found = {
            "prompt": rules.text(),
            "model": rules.model_name(_VIDEO_MODELS),
            "duration": lasts,
            "resolution": rules.one_of(("480p", "720p", "1080p")),
            "aspect_ratio": rules.one_of((*_RATIOS, "adaptive") if new else _RATIOS),
            "seed": rules.whole_number(),
            "images": rules.inputs(roles=roles, schemes=("data",)),
        }
        if new or "1.5" in (request.model or ""):
            found["generate_audio"] = rules.flag()
        return found if new else {**found, "fps": rules.one_of((24,)), "fixed_lens": rules.flag()}

    def cross_check(self, request: generations.GenerationRequest, base_url: str) -> list[str]:
        if not re.fullmatch(r"[^/\s]+/[^/:\s]+(:[0-9a-f]+)?", request.model or ""):
            return [
                f"model={request.model!r} is not owner/name or owner/name:version, such as {_VIDEO_MODELS[0]}"
            ]
        if isinstance(request, generations.ImageRequest):
            return []
        roles = [role for _, role in rules.with_roles(request.images or ())]
        frames = [role for role in roles if role in _FRAME_FIELDS]
        if frames and len(frames) < len(roles):
            return ["images: first and last frames cannot be mixed with references"]
        if len(set(frames)) < len(frames) or frames == ["last_frame"]:
            return ["images: one first_frame, and one last_frame beside it"]
        return []

    def path_of(self, request: generations.GenerationRequest) -> str:
        name, _, version = (request.model or "").partition(":")
        if version:
            return self.status_path
        return f"/models/{'/'.join(map(parsing.segment, name.split('/')))}/predictions"

    def body(self, request: generations.GenerationRequest) -> dict[str, Any]:
        given = super().body(request)
        version = given.pop("model", "").partition(":")[2]
        given.pop("images", None)
        if isinstance(request, generations.ImageRequest):
            sent = _image_input(request, given)
        else:
            sent = given
            if "fixed_lens" in sent:
                sent["camera_fixed"] = sent.pop("fixed_lens")
            for item, role in rules.with_roles(request.images or ()):
                if field := _FRAME_FIELDS.get(role):
                    sent[field] = item.url
                else:
                    sent.setdefault(_REFERENCE_FIELDS[role], []).append(item.url)
        return {"version": version, "input": sent} if version else {"input": sent}

    def add_extra(self, body: dict[str, Any], extra: Mapping[str, Any]) -> None:
        body["input"].update(extra)

    def submit_call(
        self,
        request: generations.GenerationRequest,
        *,
        callback_url: str | None = None,
        correlation: str | None = None,
        image_timeout: float | None = None,
    ) -> HttpCall:
        call = super().submit_call(request, callback_url=callback_url)
        if not callback_url:
            return call
        return replace(call, json={**(call.json or {}), "webhook_events_filter": ["completed"]})

    def probe_call(self, model: str | None = None) -> HttpCall:
        return HttpCall(method="GET", path="/account")

    def cancel_call(self, generation_id: str) -> HttpCall:
        return HttpCall(method="POST", path=f"{self.status_call(generation_id).path}/cancel")

    def read_generation(
        self, body: JsonObject, generation_id: str, *, media: generations.Media, now: datetime
    ) -> generations.Generation:
        if body.get("status") == "starting":  # elsewhere the word of a render in progress
            body = {**body, "status": "queued"}
        if code := re.search(r"\((E\d{3,4})\)", parsing.text(body.get("error")) or ""):
            body = {**body, "error_code": code[1]}
        return super().read_generation(body, generation_id, media=media, now=now)

    def details(self, payload: JsonObject, status: generations.GenerationStatus, now: datetime) -> JsonObject:
        ended = generations.read_time(payload.get("completed_at"))
        succeeded = status is generations.GenerationStatus.SUCCEEDED
        return {"expires_at": ended + OUTPUT_LIFETIME if ended and succeeded and ended.year < 9999 else None}

    def outputs(self, payload: JsonObject) -> tuple[str, ...]:
        return parsing.urls(payload.get("output"))

    def read_error(self, body: JsonObject) -> VendorError | None:
        error = body.get("error")
        if isinstance(error, Mapping):
            return parsing.vendor_error(error)
        title, detail = body.get("title"), body.get("detail")
        if not (isinstance(detail, str) and detail) and not (isinstance(title, str) and title):
            return None
        return VendorError(code=parsing.text(title), message=parsing.text(detail) or parsing.text(title))

    def is_service_error(self, body: JsonObject) -> bool:
        # Web frameworks write problem details of the type "about:blank".
        own = all(isinstance(body.get(name), str) for name in ("title", "detail"))
        return own and body.get("type") != "about:blank" and self.read_error(body) is not None

    def is_signed(self, keys: JsonObject, headers: Mapping[str, str], body: bytes, now: float) -> bool:
        identifier, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
            return False
        try:
            secret = base64.b64decode((parsing.text(keys.get("key")) or "").removeprefix("whsec_"))
        except (binascii.Error, ValueError):
            return False
        if not secret or abs(now - int(timestamp)) > MAX_CALLBACK_AGE_SECONDS:
            return False
        signed = f"{identifier}.{timestamp}.".encode("utf-8", "replace") + body
        expected = b"v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256))
        given = headers.get("webhook-signature", "").split()
        return any(hmac.compare_digest(expected, each.encode("utf-8", "replace")) for each in given)


def _image_input(request: generations.ImageRequest, given: dict[str, Any]) -> dict[str, Any]:
    size, count = given.pop("resolution", None), given.pop("num_images", None)
    width, _, height = (size or "").partition("x")
    if height:
        given |= {"size": "custom", "width": int(width), "height": int(height)}
    elif size:
        given["size"] = size
    if count is not None and count > 1:
        # A maximum, not a count: the prompt has to request as many images.
        given |= {"sequential_image_generation": "auto", "max_images": count}
    if request.images:
        given["image_input"] = [item.url for item in request.images]
    return given


API = Replicate()
