"""OpenRouter: video jobs, their content, and the models."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
from typing import Any

from airflow_provider_seedance.emulator.models import Draft, EmulatedGeneration, MediaSpec
from airflow_provider_seedance.emulator.services import service
from airflow_provider_seedance.emulator.services.ark_requests import FRAMES_PER_SECOND, MODELS
from airflow_provider_seedance.emulator.state import DAY

_STATUSES = {"queued": "pending", "running": "in_progress", "succeeded": "completed"}
_RATIOS = ("16:9", "9:16", "1:1", "4:3", "3:4", "21:9", "9:21")
_SIZES = {
    "2.5": ("480p", "720p"),
    "2.0": ("480p", "720p", "1080p", "4K"),
    "1-5-pro": ("480p", "720p", "1080p"),
}
_SECONDS = {"2.5": (4, 30), "2.0": (4, 15), "1-5-pro": (4, 12)}
_MODELS = ("2.5", "2.0", "2.0-fast", "2.0-mini", "1-5-pro")
_PARTS = ("image_url", "video_url", "audio_url")
_SKU_NAMES = ("", "_without_audio", "_with_video_input", "_1080p", "_4k")
#: US dollars for a token, as the list of models has them.
_SKUS = {
    version: {f"video_tokens{name}": price for name, price in zip(_SKU_NAMES, prices.split(), strict=False)}
    for version, prices in {
        "2.5": "0.0000107 0.0000107 0.0000064",
        "2.0": "0.000007 0.000007 0.0000043 0.0000077 0.000004",
        "2.0-fast": "0.0000042 0.0000042 0.000002475",
        "2.0-mini": "0.0000035 0.0000035 0.0000021",
        "1-5-pro": "0.0000024 0.0000012",
    }.items()
}
#: US dollars for one of the emulator's credits.
_USD_PER_CREDIT = 0.01


class OpenRouter(service.Service):
    """
    OpenRouter. Its webhooks are signed with the API key of the emulator.

    With the shape ``flat`` there is no stored copy, so that an output needs the key.
    """

    api = "openrouter"
    routes = (
        ("POST", "/videos", "submit"),
        ("GET", "/videos/models|/key", "account"),
        ("GET", "/videos/(?P<id>[^/]+)", "status"),
        ("GET", "/videos/(?P<id>[^/]+)/content", "result"),
    )

    def dispatch(self, call: service.Call, route: service.Route) -> service.Reply:
        if route.kind == "submit":
            render = self.backend.submit(self._draft(service.Fields(self.body(call), nulls=True)))
            created = self._job(self.backend.view(render))
            return service.json_reply(created, status=202, generation_id=render.id)
        if route.kind == "account":
            if call.path == "/key":
                return service.json_reply({"data": {"label": "emulator", "limit": None, "usage": 0}})
            return service.json_reply({"data": [_model(version) for version in _MODELS]})
        render = self.find(route.generation_id)
        generation = self.backend.view(render)
        if route.kind == "status":
            return service.json_reply(self._job(generation), generation_id=render.id)
        if generation.status != "succeeded":
            raise service.ApiError("The video is not available", status=404)
        content = self.media.file(self.backend.spec(render, 0)).path.read_bytes()
        return service.Reply(body=content, headers={"Content-Type": "video/mp4"}, generation_id=render.id)

    def error_body(self, error: service.ApiError) -> Any:
        body: dict[str, Any] = {"code": error.status, "message": error.message}
        if error.code is not None:
            body["metadata"] = {"error_type": error.code}
        return {"error": body}

    def _draft(self, fields: service.Fields) -> Draft:
        model = (
            fields.text("model", required=True, choices=[f"bytedance/seedance-{each}" for each in _MODELS])
            or ""
        )
        version, _, small = model.removeprefix("bytedance/seedance-").partition(
            "-f" if "fast" in model else "-m"
        )
        low, high = _SECONDS[version]
        prompt = fields.prompt()
        seconds = fields.integer("duration", low=low, high=high) or 5
        sizes = ("480p", "720p") if small else _SIZES[version]
        resolution = (fields.text("resolution", choices=sizes) or "720p").lower()
        ratio = fields.text("aspect_ratio", choices=_RATIOS) or "16:9"
        audio = fields.flag("generate_audio") is not False
        fields.integer("seed")
        for name in ("user", "session_id"):
            fields.text(name, max_chars=256)
        for name in ("frame_images", "input_references"):
            _check_parts(fields, name)
        callback = fields.callback("callback_url")
        fields.refuse_unread()
        alphabet = string.ascii_letters + string.digits
        unique = "".join(secrets.choice(alphabet) for _ in range(20))
        # The provider makes the video, in its own sizes.
        width, height = MODELS[version.replace(".", "-")].size(resolution, ratio)
        length = (seconds * FRAMES_PER_SECOND + 1) / FRAMES_PER_SECOND
        spec = MediaSpec(kind="video", prompt=prompt, width=width, height=height, seconds=length, audio=audio)
        return Draft(
            api=self.api,
            generation_id=f"gen-vid-{int(self.backend.clock.wall())}-{unique}",
            model=model,
            request=fields.given,
            sent=fields.given,
            spec=spec,
            resolution=resolution,
            fast=bool(small),
            credits=service.video_tokens(spec) * _price(model, resolution, audio=audio) / _USD_PER_CREDIT,
            callback_url=callback,
            renewable=False,
            url_lifetime=DAY,
        )

    def _job(self, generation: EmulatedGeneration) -> dict[str, Any]:
        path = f"{self.prefix}/videos/{generation.id}"
        body: dict[str, Any] = {
            "id": generation.id,
            "polling_url": path,
            "status": _STATUSES.get(generation.status, generation.status),
        }
        if generation.status == "succeeded":
            root = self.backend.media_url.rpartition("/")[0]
            body |= {"generation_id": generation.id, "unsigned_urls": [f"{root}{path}/content?index=0"]}
            body["usage"] = {"cost": round(generation.credits * _USD_PER_CREDIT, 6), "is_byok": False}
            if self.shape != "flat":
                body["urls"] = self.backend.urls(self.backend.get(generation.id))
                body["expires_at"] = int((generation.ended_at or 0) + DAY / self.backend.clock.speed)
        elif generation.ended_at is not None:
            body["error"] = generation.failure_message
        return body

    # Webhooks

    def callback_body(self, generation: EmulatedGeneration) -> dict[str, Any]:
        job = self._job(generation)
        job.pop("polling_url")
        created = service.timestamp(generation.ended_at or generation.created_at)
        data = {**job, "model": generation.model}
        return {"type": f"video.generation.{job['status']}", "created_at": created, "data": data}

    def callback_due(self, generation: EmulatedGeneration) -> bool:
        return generation.ended_at is not None

    def callback_headers(self, generation: EmulatedGeneration, body: bytes) -> dict[str, str]:
        timestamp = str(int(self.backend.clock.wall()))
        key = self.backend.options.key.encode()
        signature = hmac.digest(key, timestamp.encode() + b"." + body, hashlib.sha256).hex()
        return {"X-OpenRouter-Signature": f"t={timestamp},v1={signature}"}


def _price(model: str, resolution: str, *, audio: bool) -> float:
    """Return the US dollars for a token of a video without video input."""
    skus = _SKUS[model.removeprefix("bytedance/seedance-")]
    usual = "video_tokens" if audio else "video_tokens_without_audio"
    return float(skus.get(f"video_tokens_{resolution}", skus[usual]))


def _check_parts(fields: service.Fields, name: str) -> None:
    value = fields.raw(name)
    for part in value if isinstance(value, list) else [] if value is None else [value]:
        kind = part.get("type") if isinstance(part, dict) else None
        url = part[kind].get("url") if kind in _PARTS and isinstance(part.get(kind), dict) else None
        frame = name == "input_references" or part.get("frame_type") in ("first_frame", "last_frame")
        if not frame or not service.is_file(url):
            raise fields.error(name, "has an invalid item", "type")


def _model(version: str) -> dict[str, Any]:
    name, *small = version.split("-fast") if "fast" in version else version.split("-mini")
    low, high = _SECONDS[name]
    return {
        "id": f"bytedance/seedance-{version}",
        "canonical_slug": f"bytedance/seedance-{version}",
        "name": f"ByteDance: Seedance {version}",
        "created": 1775520000,
        "generate_audio": True,
        "seed": True,
        "creativity": None,
        "upscale_factor": None,
        "allowed_passthrough_parameters": ["watermark"],
        "supported_sizes": None,
        "supported_frame_images": ["first_frame", "last_frame"],
        "supported_resolutions": list(("480p", "720p") if small else _SIZES[name]),
        "supported_aspect_ratios": list(_RATIOS),
        "supported_durations": list(range(low, high + 1)),
        "pricing_skus": _SKUS[version],
    }
