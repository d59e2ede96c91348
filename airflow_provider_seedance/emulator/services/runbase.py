"""runbase.net: runs of bytedance/seedance-1.5-pro, and of the models that public clients run."""

from __future__ import annotations

import uuid
from typing import Any

from airflow_provider_seedance.emulator.models import Draft, EmulatedGeneration, MediaSpec
from airflow_provider_seedance.emulator.services import service

#: The first one is documented.
_VIDEO_MODELS = ("bytedance/seedance-1.5-pro", "bytedance/seedance-2.0")
_IMAGE_MODELS = ("bytedance/seedream-4.5", "bytedance/seedream-5-lite")
_IMAGE_SIDE = 2048
_RATIOS = ("16:9", "9:16", "4:3", "3:4", "1:1", "21:9")
_STATUSES = {"queued": "pending", "running": "running", "succeeded": "succeeded"}


class Runbase(service.Service):
    """
    runbase.net. Its page documents the path, ``status`` and ``output.urls``; the rest is as its clients read it.

    The other shapes: ``flat`` has ``run_id`` and ``output.url``, ``nested`` has everything under ``data``.
    """

    api = "runbase"
    undocumented = frozenset({"Retry-After", "model", "error"})
    routes = (("POST", "/runs", "submit"), ("GET", "/runs/(?P<id>[^/]+)", "status"))

    def prompt_of(self, body: Any) -> str | None:
        return super().prompt_of(body.get("input")) if isinstance(body, dict) else None

    def dispatch(self, call: service.Call, route: service.Route) -> service.Reply:
        if route.kind == "submit":
            render = self.backend.submit(self._draft(service.Fields(self.body(call))))
        else:
            render = self.find(route.generation_id)
        return service.json_reply(self._run(self.backend.view(render)), generation_id=render.id)

    def error_body(self, error: service.ApiError) -> Any:
        """Return ``error`` as a string, as clients read it; neither body nor codes are documented."""
        if self.shape == "flat":
            return {"message": error.message}
        if self.shape == "nested":
            return {"error": {"code": error.code, "message": error.message}}
        return {"error": error.message}

    def _draft(self, body: service.Fields) -> Draft:
        models = _VIDEO_MODELS[:1] if self.strict else (*_VIDEO_MODELS, *_IMAGE_MODELS)
        model = body.text("model", required=True, choices=models) or ""
        fields = service.Fields(body.raw("input", required=True), at="input")
        body.refuse_unread()
        resolution, spec = (_image_spec if model in _IMAGE_MODELS else _video_spec)(fields)
        return Draft(
            api=self.api,
            generation_id=str(uuid.uuid4()),
            model=model,
            request=fields.given,
            sent=body.given,
            spec=spec,
            resolution=resolution,
        )

    def _run(self, generation: EmulatedGeneration) -> dict[str, Any]:
        output: dict[str, Any] | None = None
        if generation.status == "succeeded":
            urls = self.backend.urls(self.backend.get(generation.id))
            output = {"url": urls[0]} if self.shape == "flat" else {"urls": urls}
        failure = generation.failure
        run: dict[str, Any] = {
            "run_id" if self.shape == "flat" else "id": generation.id,
            "status": _STATUSES.get(generation.status, "failed"),
            "model": generation.model,
            "output": output,
            "error": failure.message if failure else None,
        }
        return {"data": run} if self.shape == "nested" else run


def _image_spec(fields: service.Fields) -> tuple[str, MediaSpec]:
    prompt = fields.prompt()
    fields.urls("image_urls")
    fields.refuse_unread()
    return "1080p", MediaSpec(
        kind="image", prompt=prompt, width=_IMAGE_SIDE, height=_IMAGE_SIDE, format="png"
    )


def _video_spec(fields: service.Fields) -> tuple[str, MediaSpec]:
    prompt = fields.prompt()
    ratio = fields.text("aspect_ratio", choices=_RATIOS) or "16:9"
    resolution = fields.text("resolution", choices=("480p", "720p", "1080p")) or "720p"
    seconds = int(fields.text("duration", choices=("4", "8", "12")) or "4")
    audio = fields.flag("generate_audio") or False
    fields.urls("image_urls")
    fields.refuse_unread()
    return resolution, MediaSpec.video(prompt, resolution, ratio, seconds=seconds, audio=audio)
