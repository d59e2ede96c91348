"""fal.ai: the queue, the list of requests, and the keys that sign its callbacks."""

from __future__ import annotations

import hashlib
import re
import uuid
from base64 import urlsafe_b64encode
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from airflow_provider_seedance.emulator.models import (
    Draft,
    EmulatedGeneration,
    EmulatedRender,
    MediaSpec,
    RenderFailure,
)
from airflow_provider_seedance.emulator.services import service

_APP = r"(?P<app>(?:(?:workflows|comfy)/)?[^/]+/[^/]+)"
_REQUEST = re.compile(rf"/{_APP}/requests/(?P<id>[^/]+)(?:/status|/cancel)?")
_RATIOS = ("auto", "21:9", "16:9", "4:3", "1:1", "3:4", "9:16")
_SECONDS = {"2.5": (4, 30), "2.0": (4, 15), "1.5": (4, 12), "1.0": (2, 12)}
_SIZES = {
    "square_hd": (1024, 1024), "square": (512, 512),
    "portrait_4_3": (768, 1024), "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768), "landscape_16_9": (1024, 576),
    "auto_2K": (2048, 2048), "auto_4K": (4096, 4096),
}  # fmt: skip
_WORDS = {"queued": "IN_QUEUE", "running": "IN_PROGRESS"}
_USER = "emulator-user"
_LIST_QUERY = ("endpoint_id", "expand", "start", "end", "limit", "cursor", "status", "request_id", "sort_by")


class Fal(service.Service):
    """
    fal.ai. As there, the queue accepts every body, and a request with an invalid one fails with its result.

    The id of a render is the app and the request id, as the adapter's.
    """

    api = "fal"
    routes = (
        ("GET", r"/v1/models/requests/by-endpoint", "list"),
        ("GET", r"/\.well-known/jwks\.json", "keys"),
        ("GET", rf"/{_APP}/requests/[^/]+/status", "status"),
        ("GET", rf"/{_APP}/requests/[^/]+", "result"),
        ("PUT", rf"/{_APP}/requests/[^/]+/cancel", "cancel"),
        ("POST", rf"/{_APP}(?:/[^/]+)*", "submit"),
    )

    def route(self, call: service.Call) -> service.Route:
        kind = super().route(call).kind
        match = _REQUEST.fullmatch(call.path)
        return service.Route(
            kind=kind, generation_id=_render_id(match["app"], match["id"]) if match else None
        )

    def authenticate(self, call: service.Call) -> None:
        """Check the key; the public keys need none."""
        wanted = f"Key {self.backend.options.key}"
        if not call.path.startswith("/.well-known/") and call.headers.get("authorization") != wanted:
            raise service.ApiError("Authentication is required to access this application.", status=401)

    def out_of_credits(self) -> service.ApiError:
        """Return the error of a locked account."""
        message = (
            "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing."
        )
        return service.ApiError(message, status=403)

    def dispatch(self, call: service.Call, route: service.Route) -> service.Reply:
        if route.kind == "submit":
            return self._submit(call)
        if route.kind == "list":
            return self._list(call)
        if route.kind == "keys":
            public = urlsafe_b64encode(self._signing_key.public_key().public_bytes_raw()).decode().rstrip("=")
            return service.json_reply({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": public}]})
        if route.kind == "cancel":
            return self._cancel(route.generation_id or "")
        render = self.find(route.generation_id)
        generation = self.backend.view(render)
        body, status = self._status(generation) if route.kind == "status" else self._result(generation)
        return service.json_reply(body, status=status, generation_id=render.id)

    def error_body(self, error: service.ApiError) -> Any:
        if error.code is not None:
            return {"detail": error.message, "error_type": error.code}
        return {"detail": error.message}

    # Submissions

    def _submit(self, call: service.Call) -> service.Reply:
        endpoint = call.path.strip("/")
        webhook = call.query.get("fal_webhook", [None])[0]
        callback = service.Fields({"fal_webhook": webhook} if webhook else {}).callback("fal_webhook")
        body = self.body(call)
        fields = service.Fields(body)
        problem: service.ApiError | None = None
        try:
            spec, resolution, outputs = (
                _images(fields) if "seedream" in endpoint else _video(fields, endpoint)
            )
        except service.ApiError as error:
            problem, outputs, resolution = error, 1, "720p"
            spec = MediaSpec.video("", "720p", "16:9", seconds=5)
        draft = Draft(
            api=self.api,
            generation_id=_render_id("/".join(_app(endpoint)), str(uuid.uuid4())),
            model=endpoint,
            request=body,
            sent=body,
            spec=spec,
            resolution=resolution,
            outputs=outputs,
            fast="/fast/" in endpoint,
            callback_url=callback,
        )
        with self.backend.lock:
            render = self.backend.submit(draft)
            if problem is not None:
                failure = RenderFailure(message=problem.message, code=f"422.{problem.constraint}")
                render.planned_failure, render.queue, render.rendering = failure, 0.0, 0.0
                self.backend.refund(render)
        accepted = {"status": "IN_QUEUE", "queue_position": 0, **self._urls(render.id)}
        return service.json_reply(
            {**accepted, "gateway_request_id": _request_id(render.id)}, generation_id=render.id
        )

    def _urls(self, render_id: str) -> dict[str, str]:
        *app, request_id = render_id.split(":")
        root = self.backend.media_url.rpartition("/")[0]
        url = f"{root}{self.prefix}/{'/'.join(app)}/requests/{request_id}"
        return {
            "request_id": request_id,
            "response_url": url,
            "status_url": f"{url}/status",
            "cancel_url": f"{url}/cancel",
        }

    # Requests

    def _status(self, generation: EmulatedGeneration) -> tuple[dict[str, Any], int]:
        word = _WORDS.get(generation.status, "COMPLETED")
        body: dict[str, Any] = {"status": word, **self._urls(generation.id)}
        if word == "IN_QUEUE":
            return {**body, "queue_position": 0}, 202
        body["logs"] = None
        if word == "IN_PROGRESS":
            return body, 202
        body["metrics"] = {"inference_time": generation.render_seconds}
        if generation.status == "cancelled":
            body |= {"error": "Request was cancelled.", "error_type": "client_cancelled"}
        return body, 200

    def _result(self, generation: EmulatedGeneration) -> tuple[dict[str, Any], int]:
        if generation.ended_at is None:
            return {"detail": "Request is still in progress"}, 400
        render = self.backend.get(generation.id)
        if generation.status == "succeeded":
            return self._outputs(render), 200
        failure = generation.failure
        code = str(failure.code) if failure and failure.code else "500.internal_server_error"
        own = re.fullmatch(r"(?:([45]\d\d)\.)?(.+)", code, re.DOTALL)
        item = {"loc": ["body"], "msg": generation.failure_message, "type": own[2] if own else code}
        return {"detail": [item]}, int((own and own[1]) or 422)

    def _outputs(self, render: EmulatedRender) -> dict[str, Any]:
        urls = self.backend.urls(render)
        seed = render.draft.request.get("seed", 42)
        if render.draft.media == "video":
            return {"video": {"url": urls[0], "content_type": "video/mp4"}, "seed": seed}
        spec = render.draft.spec
        size = {"width": spec.width, "height": spec.height}
        return {"images": [{"url": url, "content_type": "image/png", **size} for url in urls], "seed": seed}

    def _cancel(self, render_id: str) -> service.Reply:
        render = self.backend.find(self.api, render_id)
        if render is None:
            return service.json_reply({"status": "NOT_FOUND"}, status=404)
        with self.backend.lock:
            generation = self.backend.view(render)
            if generation.ended_at is not None:
                return service.json_reply(
                    {"status": "ALREADY_COMPLETED"}, status=400, generation_id=render.id
                )
            if generation.status == "queued":
                self.backend.delete(render)
        return service.json_reply({"status": "CANCELLATION_REQUESTED"}, status=202, generation_id=render.id)

    def _list(self, call: service.Call) -> service.Reply:
        for name in call.query:
            if name not in _LIST_QUERY:
                raise service.ApiError(f"Unknown parameter {name}")
        wanted = [part for value in call.query.get("endpoint_id", []) for part in value.split(",")]
        if not wanted:
            raise service.ApiError("endpoint_id is required")
        limit, page = int(call.query.get("limit", ["50"])[0]), int(call.query.get("cursor", ["0"])[0])
        views = [self.backend.view(render) for render in reversed(self.backend.renders(self.api))]
        # Sorted by their ends: it does not contain what has not ended.
        ended = [view for view in views if view.ended_at is not None and view.model in wanted]
        shown = ended[page * limit : (page + 1) * limit]
        payloads = "payloads" in call.query.get("expand", [])
        more = (page + 1) * limit < len(ended)
        items = [self._listed(view, payloads=payloads) for view in shown]
        return service.json_reply(
            {"items": items, "has_more": more, "next_cursor": str(page + 1) if more else None}
        )

    def _listed(self, generation: EmulatedGeneration, *, payloads: bool) -> dict[str, Any]:
        result, status = self._result(generation)
        item: dict[str, Any] = {
            "request_id": _request_id(generation.id),
            "endpoint_id": generation.model,
            "sent_at": service.timestamp(generation.created_at),
            "ended_at": service.timestamp(generation.ended_at or 0),
            "status_code": status,
        }
        return {**item, "json_input": generation.request, "json_output": result} if payloads else item

    # Callbacks

    @cached_property
    def _signing_key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.generate()

    def callback_body(self, generation: EmulatedGeneration) -> dict[str, Any]:
        result, status = self._result(generation)
        request_id = _request_id(generation.id)
        body: dict[str, Any] = {"request_id": request_id, "gateway_request_id": request_id, "payload": result}
        if status == 200:
            return {**body, "status": "OK"}
        return {**body, "status": "ERROR", "error": f"Invalid status code: {status}"}

    def callback_headers(self, generation: EmulatedGeneration, body: bytes) -> dict[str, str]:
        signed = (
            _request_id(generation.id),
            _USER,
            str(int(self.backend.clock.wall())),
            hashlib.sha256(body).hexdigest(),
        )
        signature = self._signing_key.sign("\n".join(signed).encode()).hex()
        names = ("Request-Id", "User-Id", "Timestamp", "Signature")
        values = (*signed[:3], signature)
        return {f"X-Fal-Webhook-{name}": value for name, value in zip(names, values, strict=True)}


def _app(endpoint: str) -> list[str]:
    parts = endpoint.split("/")
    return parts[: 3 if parts[0] in ("workflows", "comfy") else 2]


def _render_id(app: str, request_id: str) -> str:
    return ":".join((*app.split("/"), request_id))


def _request_id(render_id: str) -> str:
    return render_id.rpartition(":")[2]


def _video(fields: service.Fields, endpoint: str) -> tuple[MediaSpec, str, int]:
    prompt = fields.prompt()
    found = re.search(r"seedance(?:-|/v)(\d)(\.\d)?(?=/|$)", endpoint)
    version = found[1] + (found[2] or ".0") if found else "2.0"
    low, high = _SECONDS.get(version, (2, 30))
    choices = tuple(map(str, range(low, high + 1)))
    seconds = fields.text("duration", choices=("auto", *choices) if version >= "2" else choices) or "5"
    resolution = fields.text("resolution", choices=("480p", "720p", "1080p")) or "720p"
    ratio = fields.text("aspect_ratio", choices=_RATIOS) or "16:9"
    fields.integer("seed")
    fields.text("end_user_id")
    audio = fields.flag("generate_audio") if version != "1.0" else False
    if version < "2":
        fields.flag("camera_fixed")
        fields.flag("enable_safety_checker")
    if endpoint.endswith("/image-to-video"):
        fields.raw("image_url", required=True)
        for name in ("image_url", "end_image_url"):
            if not service.is_file(fields.text(name) or "data:image/png"):
                raise fields.error(name, "must be a URL or data URI", "url")
    if endpoint.endswith("/reference-to-video"):
        for name in ("image_urls", "video_urls", "audio_urls"):
            fields.urls(name, valid=service.is_file)
    fields.refuse_unread()
    spec = MediaSpec.video(
        prompt,
        resolution,
        "16:9" if ratio == "auto" else ratio,
        seconds=5 if seconds == "auto" else int(seconds),
        audio=audio is not False,
    )
    return spec, resolution, 1


def _images(fields: service.Fields) -> tuple[MediaSpec, str, int]:
    prompt = fields.prompt()
    size = fields.raw("image_size")
    if isinstance(size, dict):
        given = service.Fields(size, at="image_size")
        width, height = (
            given.integer(name, required=True, low=512, high=4096) or 0 for name in ("width", "height")
        )
    else:
        width, height = _SIZES[fields.text("image_size", choices=tuple(_SIZES)) or "auto_2K"]
    outputs = fields.integer("num_images", low=1, high=6) or 1
    fields.integer("max_images", low=1, high=6)
    fields.integer("seed")
    fields.flag("enable_safety_checker")
    fields.flag("sync_mode")
    fields.urls("image_urls", min_items=1, max_items=10, valid=service.is_file)
    fields.refuse_unread()
    spec = MediaSpec(kind="image", prompt=prompt, width=width, height=height, format="png")
    return spec, "1080p" if width * height <= 2048 * 2048 else "4k", outputs
