"""seedance2api.com v1: video, Seedream images, rate-limit headers."""

from __future__ import annotations

import hmac
import uuid
from typing import Any

from airflow_provider_seedance.emulator.models import Draft, EmulatedGeneration, EmulatedRender, MediaSpec
from airflow_provider_seedance.emulator.services import service

_IMAGE_SIDES = {"1024x1024": 1024, "2048x2048": 2048, "4k": 4096}
_IMAGE_MODELS = ("seedream-3.0", "seedream-4.0", "seedream-4.5", "seedream-5.0")
_VIDEO_MODELS = ("seedance-1.0", "seedance-1.5-pro", "seedance-2.0")
_IMAGE_DEFAULTS = {"resolution": "1024x1024", "quality": "standard", "num_images": 1}
_VIDEO_DEFAULTS = {"resolution": "720p", "fps": 24}
#: Codes of the table of errors, by those of the examples beside it.
_CODES_OF_TABLE = {"INVALID_PROMPT": "INVALID_REQUEST", "INVALID_API_KEY": "UNAUTHORIZED"}
_STATUSES = {"queued": "queued", "running": "processing", "succeeded": "completed"}


class Seedance2Api(service.Service):
    """
    seedance2api.com. The documented envelope is on POST replies only; GET replies are flat.

    The other shapes: ``flat`` has no envelope anywhere, ``nested`` has one everywhere and embeds the
    result in the status. Both have the error codes of the documented table, ``documented`` those of its examples.
    """

    api = "seedance2api"
    undocumented = frozenset({"INSUFFICIENT_CREDITS", "NOT_FOUND", "error_message"})
    routes = (
        ("POST", "/(seedance|seedream)/generate", "submit"),
        ("GET", "/tasks/(?P<id>[^/]+)", "status"),
        ("GET", "/results/(?P<id>[^/]+)", "result"),
    )

    def authenticate(self, call: service.Call) -> None:
        """Check the key in either of the two documented headers."""
        key = call.headers.get("x-api-key")
        if key is not None and hmac.compare_digest(key.encode(), self.backend.options.key.encode()):
            return
        super().authenticate(call)

    def dispatch(self, call: service.Call, route: service.Route) -> service.Reply:
        if route.kind in ("status", "result"):
            return self._read(self.find(route.generation_id), route.kind)
        is_image = call.path.startswith("/seedream")
        render = self._submit(service.Fields(self.body(call)), image=is_image)
        is_synchronous = is_image and not self.backend.options.images_as_task
        return self._images(render) if is_synchronous else self._accepted(render)

    def error_body(self, error: service.ApiError) -> Any:
        code = service.ERROR_CODES.get(error.status, "INVALID_REQUEST")
        if error.status == 400 and error.field == "prompt":
            code = "INVALID_PROMPT"
        if self.shape != "documented":
            code = _CODES_OF_TABLE.get(code, code)
        body: dict[str, Any] = {"code": error.code or code, "message": error.message}
        if error.field is not None:
            details = {"field": error.field, "value": error.value, "constraint": error.constraint}
            body["details"] = details if error.limit is None else {**details, "limit": error.limit}
        return {"status": "error", "error": body}

    def callback_body(self, generation: EmulatedGeneration) -> dict[str, Any]:
        """Return the documented event, or ``task.failed``, which is not documented but analogous."""
        status = _word(generation.status)
        data = {"task_id": generation.id, "status": status, "model": generation.model}
        return {
            "event": f"task.{status}",
            "timestamp": service.timestamp(generation.ended_at or generation.created_at),
            "data": {**data, **self._outcome(generation)},
        }

    def callback_due(self, generation: EmulatedGeneration) -> bool:
        return super().callback_due(generation) and not (self.strict and generation.status != "succeeded")

    def _submit(self, fields: service.Fields, *, image: bool) -> EmulatedRender:
        prompt = fields.prompt(max_chars=300)
        fields.text("model", required=True, choices=_IMAGE_MODELS if image else _VIDEO_MODELS)
        (_read_image_fields if image else _read_video_fields)(fields)
        # In the prose of one of the two pages only.
        callback_url = fields.callback("webhook_url")
        fields.refuse_unread()
        request: dict[str, Any] = {**(_IMAGE_DEFAULTS if image else _VIDEO_DEFAULTS), **fields.given}
        resolution = request["resolution"]
        if image:
            side = _IMAGE_SIDES[resolution]
            spec = MediaSpec(kind="image", prompt=prompt, width=side, height=side, format="png")
            resolution = {1024: "720p", 2048: "1080p", 4096: "4k"}[side]
        else:
            length = {"seconds": request["duration"], "fps": request["fps"]}
            spec = MediaSpec.video(prompt, resolution, "16:9", **length)
        return self.backend.submit(
            Draft(
                api=self.api,
                generation_id=f"task-{uuid.uuid4()}",
                model=request["model"],
                request=request,
                sent=fields.given,
                spec=spec,
                resolution=resolution,
                outputs=request.get("num_images", 1),
                callback_url=callback_url,
            )
        )

    def _accepted(self, render: EmulatedRender) -> service.Reply:
        seconds = (render.queue + render.rendering) / self.backend.clock.speed
        data = {
            "task_id": render.id,
            "status": "queued",
            "estimated_wait_time_seconds": max(1, round(seconds)),
            "check_status_url": f"{self.prefix}/tasks/{render.id}",
        }
        return self._answered("accepted", data, render)

    def _images(self, render: EmulatedRender) -> service.Reply:
        """Return the synchronous reply with the whole result."""
        generation = self.wait(render)
        data = {
            "task_id": render.id,
            **self._outputs(render),
            "model": generation.model,
            "resolution": generation.request["resolution"],
            "processing_time_ms": round(1000 * (render.queue + render.rendering)),
        }
        return self._answered("success", data, render)

    def _answered(self, status: str, data: dict[str, Any], render: EmulatedRender) -> service.Reply:
        body = data if self.shape == "flat" else {"status": status, "data": data}
        return service.json_reply(body, generation_id=render.id)

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

    def _outcome(self, generation: EmulatedGeneration) -> dict[str, Any]:
        """Return the result or error of a generation that has ended."""
        if generation.status == "succeeded":
            return {"result": self._outputs(self.backend.get(generation.id))}
        return {} if generation.ended_at is None else {"error_message": generation.failure_message}

    def _read(self, render: EmulatedRender, kind: str) -> service.Reply:
        generation = self.backend.view(render)
        body: dict[str, Any] = {"task_id": render.id, "status": _word(generation.status)}
        if kind == "status":
            body |= {
                "progress": generation.progress,
                "created_at": service.timestamp(generation.created_at),
                "updated_at": service.timestamp(generation.ended_at or self.backend.clock.wall()),
            }
        elif generation.ended_at is not None:
            body["completed_at"] = service.timestamp(generation.ended_at)
        if body["status"] == "failed" or kind == "result" or self.shape == "nested":
            body |= self._outcome(generation)
        wrapped = {"status": "success", "data": body} if self.shape == "nested" else body
        return service.json_reply(wrapped, generation_id=render.id)


def _read_video_fields(fields: service.Fields) -> None:
    fields.integer("duration", required=True, low=5, high=30)
    fields.text("resolution", choices=("720p", "1080p", "4k"))
    fields.integer("fps", choices=(24, 30, 60))
    fields.url("image_input")


def _read_image_fields(fields: service.Fields) -> None:
    fields.text("resolution", choices=tuple(_IMAGE_SIDES))
    fields.text("quality", choices=("standard", "high"))
    fields.integer("num_images", low=1, high=4)
    fields.integer("seed")
    fields.text("style")


def _word(status: str) -> str:
    """Return the service's name of a status; it has none for cancelled and expired."""
    return _STATUSES.get(status, "failed")
