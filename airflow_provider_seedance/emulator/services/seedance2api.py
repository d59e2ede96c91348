"""seedance2api.com v1: video, Seedream images, rate-limit headers."""

from __future__ import annotations

import hmac
import uuid
from typing import Any

from airflow_provider_seedance.emulator.models import (
    Draft,
    EmulatedGeneration,
    EmulatedRender,
    MediaSpec,
    frame_size,
)
from airflow_provider_seedance.emulator.services.service import (
    ApiError,
    Call,
    Fields,
    Reply,
    Route,
    Service,
    json_reply,
    timestamp,
)

_IMAGE_SIDES = {"1024x1024": 1024, "2048x2048": 2048, "4k": 4096}
_IMAGE_MODELS = ("seedream-3.0", "seedream-4.0", "seedream-4.5", "seedream-5.0")
_VIDEO_MODELS = ("seedance-1.0", "seedance-1.5-pro", "seedance-2.0")
_STATUSES = {"queued": "queued", "running": "processing", "succeeded": "completed"}
_CODES = {
    400: "INVALID_REQUEST",
    401: "INVALID_API_KEY",
    402: "INSUFFICIENT_CREDITS",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    429: "RATE_LIMITED",
    500: "INTERNAL_ERROR",
    503: "SERVICE_UNAVAILABLE",
}


class Seedance2Api(Service):
    """
    seedance2api.com. The documented envelope is on POST replies only; GET replies are flat.

    The other shapes: ``flat`` has no envelope anywhere, ``nested`` has one everywhere and embeds the
    result in the status.
    """

    api = "seedance2api"

    def route(self, call: Call) -> Route:
        """Route the two generate endpoints, tasks and results."""
        if call.method == "POST" and call.path in ("/seedance/generate", "/seedream/generate"):
            return Route(kind="submit")
        parts = call.path.split("/")
        if call.method == "GET" and len(parts) == 3 and parts[2] and parts[1] in ("tasks", "results"):
            return Route(kind="status" if parts[1] == "tasks" else "result", generation_id=parts[2])
        return Route()

    def authenticate(self, call: Call) -> None:
        """Check the key in either of the two documented headers."""
        key = call.headers.get("x-api-key")
        if key is not None and hmac.compare_digest(key.encode(), self.backend.options.key.encode()):
            return
        super().authenticate(call)

    def dispatch(self, call: Call, route: Route) -> Reply:
        if route.kind == "status":
            return self._status(self.find(route.generation_id))
        if route.kind == "result":
            return self._result(self.find(route.generation_id))
        fields = Fields(self.body(call))
        return self._image(fields) if call.path.startswith("/seedream") else self._video(fields)

    def error_body(self, error: ApiError) -> Any:
        """Return ``{"status": "error", "error": {"code", "message", "details"?}}``."""
        code = error.code or _CODES.get(error.status, "INVALID_REQUEST")
        if error.code is None and error.status == 400 and error.field == "prompt":
            code = "INVALID_PROMPT"
        body: dict[str, Any] = {"code": code, "message": error.message}
        if error.field is not None:
            details = {"field": error.field, "value": error.value, "constraint": error.constraint}
            body["details"] = details if error.limit is None else {**details, "limit": error.limit}
        return {"status": "error", "error": body}

    def callback_body(self, generation: EmulatedGeneration) -> dict[str, Any]:
        """Return the documented event, or ``task.failed``, which is not documented but analogous."""
        render = self.backend.get(generation.id)
        data: dict[str, Any] = {"task_id": generation.id, "status": _word(generation.status)}
        data["model"] = generation.model
        if generation.status == "succeeded":
            data["result"] = self._outputs(render)
        else:
            data["error_message"] = _message(generation)
        return {
            "event": f"task.{data['status']}",
            "timestamp": timestamp(generation.ended_at or generation.created_at),
            "data": data,
        }

    def _video(self, fields: Fields) -> Reply:
        fields.only(
            "prompt", "model", "duration", "resolution", "fps", "image_input", "webhook_url"
        )  # webhook_url is in the prose of one of the two pages only
        prompt = fields.prompt(max_chars=300)
        model = fields.text("model", required=True, choices=_VIDEO_MODELS) or ""
        duration = fields.integer("duration", required=True, low=5, high=30) or 5
        resolution = fields.text("resolution", choices=("720p", "1080p", "4k")) or "720p"
        fps = fields.integer("fps", choices=(24, 30, 60)) or 24
        image = fields.url("image_input")
        width, height = frame_size(resolution, "16:9")
        request = {"prompt": prompt, "model": model, "duration": duration, "resolution": resolution}
        render = self.submit(
            Draft(
                api=self.api,
                generation_id=f"task-{uuid.uuid4()}",
                media="video",
                model=model,
                prompt=prompt,
                request={**request, "fps": fps, **({"image_input": image} if image else {})},
                sent=fields.given,
                spec=MediaSpec(
                    kind="video", prompt=prompt, width=width, height=height, seconds=duration, fps=fps
                ),
                resolution=resolution,
                callback_url=fields.callback("webhook_url"),
            )
        )
        return self._accepted(render)

    def _image(self, fields: Fields) -> Reply:
        fields.only("prompt", "model", "resolution", "quality", "num_images", "seed", "style", "webhook_url")
        prompt = fields.prompt(max_chars=300)
        model = fields.text("model", required=True, choices=_IMAGE_MODELS) or ""
        resolution = fields.text("resolution", choices=tuple(_IMAGE_SIDES)) or "1024x1024"
        quality = fields.text("quality", choices=("standard", "high")) or "standard"
        count = fields.integer("num_images", low=1, high=4)
        fields.integer("seed")
        fields.text("style")
        side = _IMAGE_SIDES[resolution]
        request = {"prompt": prompt, "model": model, "resolution": resolution, "quality": quality}
        render = self.submit(
            Draft(
                api=self.api,
                generation_id=f"task-{uuid.uuid4()}",
                media="image",
                model=model,
                prompt=prompt,
                request={**request, "num_images": count or 1},
                sent=fields.given,
                spec=MediaSpec(kind="image", prompt=prompt, width=side, height=side, format="png"),
                resolution={1024: "720p", 2048: "1080p", 4096: "4k"}[side],
                outputs=count or 1,
                callback_url=fields.callback("webhook_url"),
            )
        )
        return self._accepted(render) if self.backend.options.images_as_task else self._images(render)

    def _accepted(self, render: EmulatedRender) -> Reply:
        seconds = (render.queue + render.rendering) / self.backend.clock.speed
        data = {
            "task_id": render.id,
            "status": "queued",
            "estimated_wait_time_seconds": max(1, round(seconds)),
            "check_status_url": f"{self.prefix}/tasks/{render.id}",
        }
        body = data if self.shape == "flat" else {"status": "accepted", "data": data}
        return json_reply(body, generation_id=render.id)

    def _images(self, render: EmulatedRender) -> Reply:
        """Return the synchronous reply with the whole result."""
        generation = self.wait(render)
        if generation.status != "succeeded":
            self.backend.refund(render)
            code = generation.failure.code if generation.failure else None
            raise ApiError(_message(generation), status=400 if code else 500, code=code)
        data = {
            "task_id": render.id,
            **self._outputs(render),
            "model": generation.model,
            "resolution": generation.request["resolution"],
            "processing_time_ms": round(1000 * (render.queue + render.rendering)),
        }
        body = data if self.shape == "flat" else {"status": "success", "data": data}
        return json_reply(body, generation_id=render.id)

    def _outputs(self, render: EmulatedRender) -> dict[str, Any]:
        urls = self.backend.urls(render)
        spec = render.draft.spec
        if render.draft.media == "video":
            resolution = render.draft.request["resolution"]
            return {"video_url": urls[0], "duration": round(spec.seconds), "resolution": resolution}
        made = [index for index in range(render.draft.outputs) if index not in render.failed_items]
        images = [
            {
                "id": f"img-{uuid.uuid5(uuid.NAMESPACE_URL, f'{render.id}/{index}')}",
                "url": url,
                "width": spec.width,
                "height": spec.height,
                "format": "png",
                "size_bytes": self.media.file(self.backend.spec(render, index)).size,
            }
            for index, url in zip(made, urls, strict=True)
        ]
        return {"images": images}

    def _status(self, render: EmulatedRender) -> Reply:
        generation = self.backend.view(render)
        body: dict[str, Any] = {
            "task_id": render.id,
            "status": _word(generation.status),
            "progress": generation.progress,
            "created_at": timestamp(generation.created_at),
            "updated_at": timestamp(generation.ended_at or self.backend.clock.wall()),
        }
        if _word(generation.status) == "failed":
            body["error_message"] = _message(generation)
        if self.shape == "nested" and generation.status == "succeeded":
            body["result"] = self._outputs(render)
        return self._read(body, render)

    def _result(self, render: EmulatedRender) -> Reply:
        generation = self.backend.view(render)
        body: dict[str, Any] = {"task_id": render.id, "status": _word(generation.status)}
        if generation.status == "succeeded":
            body["result"] = self._outputs(render)
        elif body["status"] == "failed":
            body["error_message"] = _message(generation)
        if generation.ended_at is not None:
            body["completed_at"] = timestamp(generation.ended_at)
        return self._read(body, render)

    def _read(self, body: dict[str, Any], render: EmulatedRender) -> Reply:
        wrapped = {"status": "success", "data": body} if self.shape == "nested" else body
        return json_reply(wrapped, generation_id=render.id)


def _word(status: str) -> str:
    """Return the service's name of a status; it has none for cancelled and expired."""
    return _STATUSES.get(status, "failed")


def _message(generation: EmulatedGeneration) -> str:
    return generation.failure.message if generation.failure else f"The task is {generation.status}."
