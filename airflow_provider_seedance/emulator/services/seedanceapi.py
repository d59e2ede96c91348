"""seedanceapi.org: v1 (video, prices) and v2 (two models, up to four images)."""

from __future__ import annotations

import uuid
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from airflow_provider_seedance.emulator.models import Draft, EmulatedGeneration, EmulatedRender, MediaSpec
from airflow_provider_seedance.emulator.services import service

#: Credits by resolution, duration and sound; the prices are not proportional.
V1_PRICES = {
    (resolution, duration, audio): price
    for resolution, audio, prices in (
        ("480p", False, (8, 14, 19)),
        ("480p", True, (14, 28, 38)),
        ("720p", False, (14, 28, 42)),
        ("720p", True, (28, 56, 84)),
    )
    for duration, price in zip(("4", "8", "12"), prices, strict=True)
}
_V1_RATIOS = ("1:1", "16:9", "9:16", "4:3", "3:4", "21:9", "9:21")
_V2_RATIOS = ("16:9", "9:16", "4:3", "3:4")
_V2_MODELS = ("seedance-2.0", "seedance-2.0-fast")
_CODES = {**service.ERROR_CODES, 404: "TASK_NOT_FOUND"}
_FIELD_CODES = {
    "prompt": "INVALID_PROMPT",
    "aspect_ratio": "INVALID_ASPECT_RATIO",
    "resolution": "INVALID_RESOLUTION",
    "duration": "INVALID_DURATION",
}


class _SeedanceApi(service.Service):
    """
    The base of both versions: paths, envelope, errors.

    The documented envelope is ``{"code", "message", "data"}``. The other shapes: ``flat`` has none and
    also returns the URL as ``video_url``, ``nested`` writes ``code`` 0 and errors as objects.
    """

    routes = (("POST", "/generate", "submit"), ("GET", "/status", "status"))
    _defaults: ClassVar[dict[str, Any]]
    _id_format: ClassVar[str]
    _prices: ClassVar[Mapping[tuple[str, str, bool], int]] = {}
    _codes_documented: ClassVar[bool] = False

    def route(self, call: service.Call) -> service.Route:
        """Return the purpose of a request; the id of a status request is in the query."""
        route = super().route(call)
        task_id = (call.query.get("task_id") or [""])[0] or None
        return replace(route, generation_id=task_id) if route.kind == "status" else route

    def dispatch(self, call: service.Call, route: service.Route) -> service.Reply:
        if route.kind == "status":
            if not route.generation_id:
                raise service.ApiError("task_id is required", field="task_id", constraint="required")
            render = self.find(route.generation_id)
            return self._reply(self._task(self.backend.view(render)), render)
        render = self.backend.submit(self._draft(service.Fields(self.body(call))))
        return self._reply({"task_id": render.id, "status": "IN_PROGRESS"}, render)

    @abstractmethod
    def _validate(self, fields: service.Fields) -> None:
        """Read the fields that this version documents."""

    def _draft(self, fields: service.Fields) -> Draft:
        self._validate(fields)
        callback_url = fields.callback("callback_url")
        fields.refuse_unread()
        request = {**self._defaults, **fields.given}
        request.pop("callback_url", None)
        resolution = request.get("resolution", "720p")
        audio = request.get("generate_audio", False)
        model = request.get("model", _V2_MODELS[0])
        ratio, seconds = request["aspect_ratio"], int(request["duration"])
        return Draft(
            api=self.api,
            generation_id=self._id_format.format(uuid.uuid4().hex[:20]),
            model=model,
            request=request,
            sent=fields.given,
            spec=MediaSpec.video(request["prompt"], resolution, ratio, seconds=seconds, audio=audio),
            resolution=resolution,
            fast=model.endswith("-fast"),
            credits=self._prices.get((resolution, request["duration"], audio)),
            callback_url=callback_url,
        )

    def error_body(self, error: service.ApiError) -> Any:
        """Return code and message at the top level, as on success; only the codes of version 1 are documented."""
        code = error.code or _code(error)
        if self.strict:
            return {"code": code} if self._codes_documented else {}
        if self.shape == "flat":
            return {"error": {"code": code, "message": error.message}}
        if self.shape == "nested":
            return {"code": error.status, "message": error.message, "error": code}
        return {"code": code, "message": error.message}

    def callback_body(self, generation: EmulatedGeneration) -> dict[str, Any]:
        """Return the same body as for a status call; none is documented."""
        return {} if self.strict else self._envelope(self._task(generation))

    def _reply(self, data: dict[str, Any], render: EmulatedRender) -> service.Reply:
        return service.json_reply(self._envelope(data), generation_id=render.id)

    def _envelope(self, data: dict[str, Any]) -> dict[str, Any]:
        if self.shape == "flat":
            urls = data.get("response")
            return {**data, "video_url": urls[0]} if urls else data
        return {"code": 0 if self.shape == "nested" else 200, "message": "success", "data": data}

    def _task(self, generation: EmulatedGeneration) -> dict[str, Any]:
        status = {"queued": "IN_PROGRESS", "running": "IN_PROGRESS", "succeeded": "SUCCESS"}
        task: dict[str, Any] = {
            "task_id": generation.id,
            "status": status.get(generation.status, "FAILED"),
            "created_at": service.timestamp(generation.created_at),
            "request": generation.request,
            "response": [],
            "error_message": None,
        }
        if generation.status == "succeeded":
            task["consumed_credits"] = round(generation.credits)
            task["response"] = self.backend.urls(self.backend.get(generation.id))
        elif task["status"] == "FAILED":
            task["error_message"] = generation.failure_message
        return task


class SeedanceApiV1(_SeedanceApi):
    """Version 1: durations are strings, one image, no model, published prices."""

    api = "seedanceapi-v1"
    undocumented = frozenset(
        {"Retry-After", "FORBIDDEN", "INVALID_REQUEST", "RATE_LIMITED", "SERVICE_UNAVAILABLE"}
    )
    _codes_documented = True
    _defaults = {"aspect_ratio": "1:1", "resolution": "720p", "duration": "8"}
    _id_format = "seed15{}pro"
    _prices = V1_PRICES

    def _validate(self, fields: service.Fields) -> None:
        fields.prompt(max_chars=2000)
        fields.text("aspect_ratio", choices=_V1_RATIOS)
        fields.text("resolution", choices=("480p", "720p"))
        fields.text("duration", choices=("4", "8", "12"))
        fields.flag("generate_audio")
        fields.flag("fixed_lens")
        fields.urls("image_urls", max_items=1)


class SeedanceApiV2(_SeedanceApi):
    """
    Version 2: durations are integers, up to four images.

    ``resolution``, ``generate_audio`` and ``fixed_lens`` are accepted because clients send them, although they are not
    documented, unless the emulator is strict.
    """

    api = "seedanceapi-v2"
    undocumented = frozenset({"Retry-After", "created_at", "request", "consumed_credits"})
    _defaults = {"model": _V2_MODELS[0], "duration": 5, "aspect_ratio": "16:9"}
    _id_format = "seed20{}"

    def _validate(self, fields: service.Fields) -> None:
        fields.text("model", choices=_V2_MODELS)
        fields.prompt(max_chars=2000)
        fields.integer("duration", choices=(5, 10, 15))
        fields.text("aspect_ratio", choices=_V2_RATIOS)
        fields.urls("images", min_items=1, max_items=4, valid=service.is_https_url)
        if not self.strict:
            fields.text("resolution", choices=("480p", "720p", "1080p"))
            for name in ("generate_audio", "fixed_lens"):
                fields.flag(name)


def _code(error: service.ApiError) -> str:
    if error.status != 400:
        return _CODES.get(error.status, "INTERNAL_ERROR")
    if error.constraint == "max_items":
        return "TOO_MANY_IMAGES"
    if error.constraint == "unknown":
        return "INVALID_REQUEST"
    return _FIELD_CODES.get(error.field or "", "INVALID_REQUEST")
