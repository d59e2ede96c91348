"""seedanceapi.org: v1 (video, prices) and v2 (two models, up to four images)."""

from __future__ import annotations

from typing import Any

from airflow_provider_seedance.emulator.media_encoder import MediaSpec, frame_size
from airflow_provider_seedance.emulator.models import Draft, Generation, Render
from airflow_provider_seedance.emulator.services.base import (
    ApiError,
    Call,
    Fields,
    Reply,
    Route,
    Service,
    is_http_url,
    is_loopback,
    json_reply,
    timestamp,
)

#: Credits by resolution, duration and sound: a table, since the prices are not proportional.
V1_PRICES = {
    ("480p", "4", False): 8,
    ("480p", "8", False): 14,
    ("480p", "12", False): 19,
    ("480p", "4", True): 14,
    ("480p", "8", True): 28,
    ("480p", "12", True): 38,
    ("720p", "4", False): 14,
    ("720p", "8", False): 28,
    ("720p", "12", False): 42,
    ("720p", "4", True): 28,
    ("720p", "8", True): 56,
    ("720p", "12", True): 84,
}
_V1_RATIOS = ("1:1", "16:9", "9:16", "4:3", "3:4", "21:9", "9:21")
_V2_RATIOS = ("16:9", "9:16", "4:3", "3:4")
_V2_MODELS = ("seedance-2.0", "seedance-2.0-fast")
_CODES = {
    401: "INVALID_API_KEY",
    402: "INSUFFICIENT_CREDITS",
    403: "FORBIDDEN",
    404: "TASK_NOT_FOUND",
    429: "RATE_LIMITED",
    500: "INTERNAL_ERROR",
    503: "SERVICE_UNAVAILABLE",
}
_FIELD_CODES = {
    "prompt": "INVALID_PROMPT",
    "aspect_ratio": "INVALID_ASPECT_RATIO",
    "resolution": "INVALID_RESOLUTION",
    "duration": "INVALID_DURATION",
}


class _SeedanceApi(Service):
    """What both versions share: paths, envelope, errors.

    The documented envelope is ``{"code", "message", "data"}``. The other shapes: ``flat`` has none and
    gives the URL as ``video_url`` too, ``nested`` writes ``code`` 0 and errors as objects.
    """

    def route(self, call: Call) -> Route:
        """POST generate, GET status with the id in the query."""
        if call.method == "POST" and call.path == "/generate":
            return Route(kind="submit")
        if call.method == "GET" and call.path == "/status":
            return Route(kind="status", generation_id=(call.query.get("task_id") or [""])[0] or None)
        return Route()

    def dispatch(self, call: Call, route: Route) -> Reply:
        """Serve a request."""
        if route.kind == "status":
            if not route.generation_id:
                raise ApiError("task_id is required", field="task_id", constraint="required")
            render = self.find(route.generation_id)
            return self._reply(self._task(self.backend.view(render)), render)
        render = self.submit(self._draft(Fields(self.body(call))))
        return self._reply({"task_id": render.id, "status": "IN_PROGRESS"}, render)

    def _draft(self, fields: Fields) -> Draft:
        raise NotImplementedError

    def error_body(self, error: ApiError) -> Any:
        """No body is documented, only the codes; success has code and message at the top."""
        code = error.code or _code(error)
        if self.shape == "flat":
            return {"error": {"code": code, "message": error.message}}
        if self.shape == "nested":
            return {"code": error.status, "message": error.message, "error": code}
        return {"code": code, "message": error.message}

    def callback_body(self, generation: Generation) -> dict[str, Any]:
        """No body is documented: the status body."""
        return self._envelope(self._task(generation))

    def _reply(self, data: dict[str, Any], render: Render) -> Reply:
        return json_reply(self._envelope(data), generation_id=render.id)

    def _envelope(self, data: dict[str, Any]) -> dict[str, Any]:
        if self.shape == "flat":
            urls = data.get("response")
            return {**data, "video_url": urls[0]} if urls else data
        return {"code": 0 if self.shape == "nested" else 200, "message": "success", "data": data}

    def _task(self, generation: Generation) -> dict[str, Any]:
        status = {"queued": "IN_PROGRESS", "running": "IN_PROGRESS", "succeeded": "SUCCESS"}
        task: dict[str, Any] = {
            "task_id": generation.id,
            "status": status.get(generation.status, "FAILED"),
            "created_at": timestamp(generation.created_at),
            "request": generation.request,
            "response": [],
            "error_message": None,
        }
        if generation.status == "succeeded":
            task["consumed_credits"] = round(generation.credits)
            task["response"] = self.backend.urls(self.backend.get(generation.id))
        elif task["status"] == "FAILED":
            failure = generation.failure
            task["error_message"] = failure.message if failure else f"The task is {generation.status}."
        return task


class SeedanceApiV1(_SeedanceApi):
    """Version 1: durations are strings, one image, no model."""

    api = "seedanceapi-v1"
    prefix = "/seedanceapi-v1/v1"

    def _draft(self, fields: Fields) -> Draft:
        fields.only(
            "prompt",
            "aspect_ratio",
            "resolution",
            "duration",
            "generate_audio",
            "fixed_lens",
            "image_urls",
            "callback_url",
        )
        prompt = fields.prompt(longest=2000)
        ratio = fields.text("aspect_ratio", choices=_V1_RATIOS) or "1:1"
        resolution = fields.text("resolution", choices=("480p", "720p")) or "720p"
        duration = fields.text("duration", choices=("4", "8", "12")) or "8"
        audio = fields.flag("generate_audio") or False
        fixed_lens = fields.flag("fixed_lens")
        images = fields.urls("image_urls", most=1)
        request: dict[str, Any] = {
            "prompt": prompt,
            "aspect_ratio": ratio,
            "resolution": resolution,
            "duration": duration,
            **({"generate_audio": audio} if "generate_audio" in fields else {}),
            **({"fixed_lens": fixed_lens} if fixed_lens is not None else {}),
            **({"image_urls": images} if images else {}),
        }
        width, height = frame_size(resolution, ratio)
        return Draft(
            api=self.api,
            generation_id=f"seed15{self.new_id()[:20]}pro",
            media="video",
            model="seedance-2.0",
            prompt=prompt,
            request=request,
            sent=fields.given,
            spec=MediaSpec(
                kind="video", prompt=prompt, width=width, height=height, seconds=int(duration), audio=audio
            ),
            resolution=resolution,
            credits=V1_PRICES[resolution, duration, audio],
            callback_url=fields.callback("callback_url"),
        )


class SeedanceApiV2(_SeedanceApi):
    """Version 2: durations are integers, up to four images.

    ``resolution`` and ``generate_audio`` are not documented, but clients send them: they are taken.
    """

    api = "seedanceapi-v2"
    prefix = "/seedanceapi-v2/v2"

    def _draft(self, fields: Fields) -> Draft:
        fields.only(
            "model",
            "prompt",
            "duration",
            "aspect_ratio",
            "images",
            "callback_url",
            "resolution",
            "generate_audio",
        )
        model = fields.text("model", choices=_V2_MODELS) or _V2_MODELS[0]
        prompt = fields.prompt(longest=2000)
        duration = fields.integer("duration", choices=(5, 10, 15)) or 5
        ratio = fields.text("aspect_ratio", choices=_V2_RATIOS) or "16:9"
        images = fields.urls("images", least=1, most=4, valid=_is_https)
        resolution = fields.text("resolution", choices=("480p", "720p", "1080p")) or "720p"
        audio = fields.flag("generate_audio") or False
        request: dict[str, Any] = {
            "model": model,
            "prompt": prompt,
            "duration": duration,
            "aspect_ratio": ratio,
            **({"images": images} if images else {}),
            **({"resolution": resolution} if "resolution" in fields else {}),
            **({"generate_audio": audio} if "generate_audio" in fields else {}),
        }
        width, height = frame_size(resolution, ratio)
        return Draft(
            api=self.api,
            generation_id=f"seed20{self.new_id()[:20]}",
            media="video",
            model=model,
            prompt=prompt,
            request=request,
            sent=fields.given,
            spec=MediaSpec(
                kind="video", prompt=prompt, width=width, height=height, seconds=duration, audio=audio
            ),
            resolution=resolution,
            fast=model.endswith("-fast"),
            callback_url=fields.callback("callback_url"),
        )


def _code(error: ApiError) -> str:
    if error.status != 400:
        return _CODES.get(error.status, "INTERNAL_ERROR")
    if error.constraint == "max_items":
        return "TOO_MANY_IMAGES"
    if error.constraint == "unknown":
        return "INVALID_REQUEST"
    return _FIELD_CODES.get(error.field or "", "INVALID_REQUEST")


def _is_https(value: object) -> bool:
    """HTTPS is documented; plain http is taken from this machine, where another emulator's output is."""
    return is_http_url(value) and isinstance(value, str) and (value[:6] == "https:" or is_loopback(value))
