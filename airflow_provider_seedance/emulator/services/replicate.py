"""Replicate: predictions, and the secret that signs its webhooks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import uuid
from typing import Any

from airflow_provider_seedance.emulator.models import Draft, EmulatedGeneration, EmulatedRender, MediaSpec
from airflow_provider_seedance.emulator.services import service

_STATUSES = {"queued": "starting", "running": "processing", "cancelled": "canceled", "expired": "aborted"}
_RATIOS = ("16:9", "4:3", "1:1", "3:4", "9:16", "21:9", "9:21")
_MODEL = re.compile(
    r"bytedance/(?:seedance-(?:1-(?:pro|pro-fast|lite)|1\.5-pro|2\.0|2\.0-fast)|seedream-(?:3|4|4\.5|5-lite))"
)
_EVENTS = ("start", "output", "logs", "completed")
_PREDICTION = r"/predictions/(?P<id>[^/]+)"
_SIDES = {"1K": 1024, "2K": 2048, "4K": 4096}
_LIFETIME_SECONDS = 3600.0
_PAGE_SIZE = 100


class Replicate(service.Service):
    """Replicate. Inputs and outputs are gone an hour after the end."""

    api = "replicate"
    routes = (
        ("POST", r"/models/[^/]+/[^/]+/predictions|/predictions", "submit"),
        ("GET", r"/predictions", "list"),
        ("GET", _PREDICTION, "status"),
        ("POST", f"{_PREDICTION}/cancel", "cancel"),
        ("GET", r"/account|/webhooks/default/secret", "account"),
    )

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._secret = secrets.token_bytes(24)

    def prompt_of(self, body: Any) -> str | None:
        return super().prompt_of(body.get("input")) if isinstance(body, dict) else None

    def dispatch(self, call: service.Call, route: service.Route) -> service.Reply:
        if route.kind == "submit":
            return self._create(call)
        if route.kind == "list":
            return self._list(call)
        if route.kind == "account":
            if call.path == "/account":
                return service.json_reply(
                    {"type": "organization", "username": "emulator", "name": "Emulator"}
                )
            return service.json_reply({"key": f"whsec_{base64.b64encode(self._secret).decode()}"})
        render = self.find(route.generation_id)
        if route.kind == "cancel":
            with self.backend.lock:
                if self.backend.view(render).status == "queued":
                    self.backend.delete(render)
                elif self.backend.view(render).status == "running":
                    self.backend.end(render.id, "cancelled")  # billed
        return service.json_reply(self._prediction(self.backend.view(render)), generation_id=render.id)

    def error_body(self, error: service.ApiError) -> Any:
        if error.status == 401:
            return {"title": "Unauthenticated", "detail": error.message, "status": 401}
        title = error.code or ("Input validation failed" if error.status == 422 else "Error")
        body: dict[str, Any] = {"title": title, "detail": error.message, "status": error.status}
        if error.field is not None:
            body["invalid_fields"] = [
                {"type": error.constraint, "field": error.field, "description": error.message}
            ]
        return body

    def _create(self, call: service.Call) -> service.Reply:
        body = service.Fields(self.body(call), nulls=True)
        try:
            render = self.backend.submit(self._draft(call, body))
        except service.ApiError as error:
            error.status = 422 if error.status == 400 else error.status
            raise
        return service.json_reply(
            self._prediction(self.backend.view(render)), status=201, generation_id=render.id
        )

    def _draft(self, call: service.Call, body: service.Fields) -> Draft:
        version = body.text("version")
        model = "bytedance/seedance-2.0" if version else "/".join(call.path.split("/")[2:4])
        if not _MODEL.fullmatch(model):
            raise service.ApiError("The requested resource could not be found.", status=404)
        webhook = body.callback("webhook")
        events = body.raw("webhook_events_filter")
        if events is not None and not (isinstance(events, list) and set(events) <= set(_EVENTS)):
            raise body.error("webhook_events_filter", f"takes {', '.join(_EVENTS)}", "enum")
        body.flag("stream")
        fields = service.Fields(body.raw("input", required=True), at="input", nulls=True)
        body.refuse_unread()
        spec, outputs, resolution = _images(fields) if "seedream" in model else _video(fields, model)
        return Draft(
            api=self.api,
            generation_id=uuid.uuid4().hex[:26],
            model=model,
            request=fields.given,
            sent=body.given,
            spec=spec,
            resolution=resolution,
            outputs=outputs,
            fast="fast" in model,
            callback_url=webhook,
            renewable=False,
            url_lifetime=_LIFETIME_SECONDS,
        )

    def _prediction(self, generation: EmulatedGeneration) -> dict[str, Any]:
        render = self.backend.get(generation.id)
        clock, ended = self.backend.clock, generation.ended_at
        removed = ended is not None and (clock.wall() - ended) * clock.speed > _LIFETIME_SECONDS
        word = _STATUSES.get(generation.status, generation.status)
        url = f"{self.backend.media_url.rpartition('/')[0]}{self.prefix}/predictions/{generation.id}"
        body: dict[str, Any] = {
            "id": generation.id,
            "model": generation.model,
            "version": "hidden",
            "input": {} if removed else generation.request,
            "logs": "",
            "output": None,
            "data_removed": removed,
            "error": None,
            "status": word,
            "created_at": service.timestamp(generation.created_at),
            "urls": {"get": url, "cancel": f"{url}/cancel"},
        }
        if ended is not None:
            body |= {
                "completed_at": service.timestamp(ended),
                "metrics": {"predict_time": generation.render_seconds},
            }
        if generation.status == "succeeded" and not removed:
            urls = self.backend.urls(render)
            body["output"] = urls if generation.media == "image" else urls[0]
        if generation.status == "failed":
            code = generation.failure.code if generation.failure else None
            body["error"] = f"{generation.failure_message} ({code})" if code else generation.failure_message
        return body

    def _list(self, call: service.Call) -> service.Reply:
        start = int(call.query.get("cursor", ["0"])[0])
        renders: list[EmulatedRender] = self.backend.renders(self.api)[::-1]
        shown = [self._prediction(self.backend.view(each)) for each in renders[start : start + _PAGE_SIZE]]
        more = start + _PAGE_SIZE < len(renders)
        url = f"{self.backend.media_url.rpartition('/')[0]}{self.prefix}/predictions?cursor={start + _PAGE_SIZE}"
        return service.json_reply({"previous": None, "next": url if more else None, "results": shown})

    # Webhooks

    def callback_body(self, generation: EmulatedGeneration) -> dict[str, Any]:
        return self._prediction(generation)

    def callback_due(self, generation: EmulatedGeneration) -> bool:
        return generation.ended_at is not None

    def callback_headers(self, generation: EmulatedGeneration, body: bytes) -> dict[str, str]:
        identifier, timestamp = f"msg_{generation.id}", str(int(self.backend.clock.wall()))
        signed = f"{identifier}.{timestamp}.".encode() + body
        signature = base64.b64encode(hmac.digest(self._secret, signed, hashlib.sha256)).decode()
        return {
            "webhook-id": identifier,
            "webhook-timestamp": timestamp,
            "webhook-signature": f"v1,{signature}",
        }


def _video(fields: service.Fields, model: str) -> tuple[MediaSpec, int, str]:
    prompt = fields.prompt()
    new = "seedance-2" in model
    seconds = fields.integer("duration", low=-1 if new else 2, high=15 if new else 12) or 5
    resolution = fields.text("resolution", choices=("480p", "720p", "1080p")) or "720p"
    ratio = fields.text("aspect_ratio", choices=(*_RATIOS, *(("adaptive",) if new else ()))) or "16:9"
    fields.integer("seed")
    audio = fields.flag("generate_audio") if new or "1.5" in model else False
    if not new:
        fields.integer("fps", choices=(24,))
        fields.flag("camera_fixed")
    for name in ("image", "last_frame_image"):
        if not service.is_file(fields.text(name) or "data:"):
            raise fields.error(name, "must be a URI", "format")
    for name in ("reference_images", *(("reference_videos", "reference_audios") if new else ())):
        fields.urls(name, valid=service.is_file)
    if "last_frame_image" in fields and "image" not in fields:
        raise fields.error("last_frame_image", "needs image", "dependency")
    fields.refuse_unread()
    ratio = "16:9" if ratio == "adaptive" else ratio
    length = {"seconds": 5 if seconds < 0 else seconds, "audio": new if audio is None else audio}
    return MediaSpec.video(prompt, resolution, ratio, **length), 1, resolution


def _images(fields: service.Fields) -> tuple[MediaSpec, int, str]:
    prompt = fields.prompt()
    size = fields.text("size", choices=(*_SIDES, "custom")) or "2K"
    width = fields.integer("width", low=1024, high=4096) or 2048
    height = fields.integer("height", low=1024, high=4096) or 2048
    if size != "custom":
        width = height = _SIDES[size]
    fields.text("aspect_ratio")
    group = fields.text("sequential_image_generation", choices=("disabled", "auto")) == "auto"
    count = fields.integer("max_images", low=1, high=15) or 1
    fields.urls("image_input", max_items=14, valid=service.is_file)
    fields.refuse_unread()
    spec = MediaSpec(kind="image", prompt=prompt, width=width, height=height, format="png")
    return spec, count if group else 1, "1080p" if width * height <= 2048 * 2048 else "4k"
