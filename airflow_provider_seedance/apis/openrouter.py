"""OpenRouter: video jobs, which it passes on to a provider of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from airflow_provider_seedance import generations
from airflow_provider_seedance.apis import ark_rules, base, parsing, rules
from airflow_provider_seedance.apis.messages import HttpCall, JsonObject, VendorError
from airflow_provider_seedance.apis.rules import Rule

_MODELS = tuple(
    f"bytedance/seedance-{version}" for version in ("2.5", "2.0", "2.0-fast", "2.0-mini", "1-5-pro")
)
_DURATIONS = {"2.5": (4, 30), "2.0": (4, 15), "1-5": (4, 12)}
_RATIOS = ("16:9", "4:3", "1:1", "3:4", "9:16", "21:9")
_FRAMES = ("first_frame", "last_frame")
_REFERENCES = {"reference_image": "image_url", "reference_video": "video_url", "reference_audio": "audio_url"}
#: Fields of the service that can change what a video costs.
_BILLED = {"model", "resolution", "aspect_ratio", "size", "duration", "generate_audio"}
_BILLED |= {"input_references", "provider"}


class OpenRouter(base.Api):
    """OpenRouter. It can neither list nor cancel jobs, and reports what each of them cost."""

    name = "openrouter"
    title = "OpenRouter"
    default_base_url = "https://openrouter.ai/api/v1"
    console_url = "https://openrouter.ai/activity"
    video_path = status_path = "/videos"
    id_fields = ("id",)
    callback_field = "callback_url"
    callback_signature_header = "X-OpenRouter-Signature"
    outputs_need_key = True
    probe_misses = False
    video_defaults = {"model": "bytedance/seedance-2.0"}

    def rules(self, request: generations.GenerationRequest, base_url: str) -> Mapping[str, Rule]:
        if isinstance(request, generations.ImageRequest):
            return {}
        found = re.search(r"seedance-(2\.5|2\.0|1-5)(-fast|-mini)?", request.model or "")
        version, small = (found[1], found[2]) if found else ("", None)
        sizes: tuple[str, ...] = ("480p", "720p")
        if not small and version != "2.5":
            sizes += ("1080p",) if version == "1-5" else ("1080p", "4k")
        return {
            "prompt": rules.text(),
            "model": rules.model_name(_MODELS),
            "duration": rules.whole_number(*_DURATIONS.get(version, (1, 30)), " (seconds)"),
            "resolution": rules.one_of(sizes),
            "aspect_ratio": rules.one_of(_RATIOS if version == "2.5" else (*_RATIOS, "9:21")),
            "seed": rules.whole_number(),
            "generate_audio": rules.flag(),
            "images": rules.inputs(roles=(*_FRAMES, *_REFERENCES), schemes=("data",)),
        }

    def cross_check(self, request: generations.GenerationRequest, base_url: str) -> list[str]:
        roles = [role for _, role in rules.with_roles(request.images or ())]
        if any(roles.count(role) > 1 for role in _FRAMES):
            return ["images: each of first_frame and last_frame can be given once"]
        return []

    def output_tokens(self, request: generations.GenerationRequest) -> int | None:
        # OpenRouter counts the tokens of the provider. It documents no defaults, so only what is given counts.
        billed = self.billed(request)
        if not isinstance(billed, generations.VideoRequest) or not (billed.resolution and billed.duration):
            return None
        return ark_rules.output_tokens(billed)

    def billed(self, request: generations.GenerationRequest) -> generations.GenerationRequest | None:
        open_ = _BILLED & set(request.extra_params or {})
        return None if open_ else request.with_default(generate_audio=True)

    def body(self, request: generations.GenerationRequest) -> dict[str, Any]:
        body = super().body(request)
        body.pop("images", None)
        if body.get("resolution") == "4k":
            body["resolution"] = "4K"
        for item, role in rules.with_roles(request.images or ()):
            kind = _REFERENCES.get(role, "image_url")
            part: dict[str, Any] = {"type": kind, kind: {"url": item.url}}
            if role in _FRAMES:
                body.setdefault("frame_images", []).append({**part, "frame_type": role})
            else:
                body.setdefault("input_references", []).append(part)
        return body

    def probe_call(self, model: str | None = None) -> HttpCall:
        return HttpCall(method="GET", path="/key")

    def details(self, payload: JsonObject, status: generations.GenerationStatus, now: datetime) -> JsonObject:
        return {
            "cost_usd": generations.read_number(parsing.mapping(payload.get("usage")).get("cost")),
            "expires_at": generations.read_time(payload.get("expires_at")),
        }

    def outputs(self, payload: JsonObject) -> tuple[str, ...]:
        # The second ones need the key: :attr:`outputs_need_key`.
        return parsing.urls(payload.get("urls")) or parsing.urls(payload.get("unsigned_urls"))

    def read_error(self, body: JsonObject) -> VendorError | None:
        error = body.get("error")
        found = parsing.vendor_error(error) if isinstance(error, Mapping) else None
        if found is None or found.code is None or not re.fullmatch("[4-9][0-9]{2}", found.code):
            return found
        # The code is the HTTP status; the reasons say that the content was refused.
        flagged = parsing.mapping(parsing.mapping(error).get("metadata")).get("reasons")
        code = "moderation" if flagged else found.code
        return VendorError(code=code, message=found.message, status=int(found.code))

    def is_service_error(self, body: JsonObject) -> bool:
        vendor = self.read_error(body)
        return vendor is not None and vendor.code is not None and vendor.message is not None


API = OpenRouter()
