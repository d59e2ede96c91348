"""BytePlus ModelArk / Volcengine Ark: video tasks and Seedream images."""

from __future__ import annotations

import base64
import json
import secrets
import string
import time
import uuid
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow_provider_seedance.emulator import models
from airflow_provider_seedance.emulator.rate_limiter import CallLimiter
from airflow_provider_seedance.emulator.services import service
from airflow_provider_seedance.emulator.services.ark_images import ArkImageRequest, parse_images
from airflow_provider_seedance.emulator.services.ark_requests import parse_task
from airflow_provider_seedance.emulator.state import DAY

_TASKS = "/contents/generations/tasks"
_ID_CHARS = string.ascii_lowercase + string.digits
#: Ids contain the time of the service, at both of its hosts.
_TIMEZONE = timezone(timedelta(hours=8))
#: Fields of a task that only a finished one has.
_RESULT_FIELDS = ("seed", "resolution", "ratio", "duration", "frames", "framespersecond", "generate_audio")
_STATUSES = ("queued", "running", "cancelled", "succeeded", "failed", "expired")
_QUERY = ("page_num", "page_size", "filter.status", "filter.model", "filter.service_tier", "filter.task_ids")
_CODES = {
    400: ("InvalidParameter", "BadRequest"),
    401: ("AuthenticationError", "Unauthorized"),
    402: ("AccountOverdueError", "Forbidden"),
    403: ("AccessDenied", "Forbidden"),
    404: ("NotFound", "NotFound"),
    409: ("Conflict", "Conflict"),
    429: ("RateLimitExceeded.EndpointRPMExceeded", "TooManyRequests"),
    500: ("InternalServiceError", "InternalServerError"),
    503: ("ServerOverloaded", "ServiceUnavailable"),
}
_TASK_LIFETIME_SECONDS = 7 * DAY
_CANCELLED_LIFETIME_SECONDS = DAY

#: Documented limits of an account: calls, and the seconds in which they are counted.
_LIMITS = {"list": (1, 1.0), "status": (20, 1.0), "cancel": (20, 1.0)}
#: Renders above the concurrency of the account, or the only one at 4k, are queued and not refused.
_MAX_TASKS_PER_MINUTE, _MAX_4K_TASKS_PER_MINUTE, _MAX_IMAGES_PER_MINUTE = 600, 15, 500


class Ark(service.Service):
    """ModelArk. Replies are flat, as the vendor's SDK reads them; only ``created`` differs between shapes."""

    api = "ark"
    undocumented = frozenset(
        {
            *("Retry-After", "NotFound", "ResourceNotFound", "Conflict"),
            *("AccountRateLimitExceeded", "ModelAccountIpmRateLimitExceeded"),
            *("InvalidAction.RunningTaskDeletion", "InvalidAction.CancelledTaskDeletion"),
        }
    )
    routes = (
        ("POST", f"{_TASKS}|/images/generations", "submit"),
        ("GET", _TASKS, "list"),
        ("GET", f"{_TASKS}/(?P<id>[^/]+)", "status"),
        ("DELETE", f"{_TASKS}/(?P<id>[^/]+)", "cancel"),
    )

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._limiter = CallLimiter()
        self._slots: dict[str, models.RenderSlots] = {}

    def prompt_of(self, body: Any) -> str | None:
        content = body.get("content") if isinstance(body, dict) else None
        if not isinstance(content, list):
            return super().prompt_of(body)
        texts = [item.get("text") for item in content if isinstance(item, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))

    def dispatch(self, call: service.Call, route: service.Route) -> service.Reply:
        if route.kind == "submit":
            fields = service.Fields(self.body(call), nulls=True)
            return self._create(fields) if call.path == _TASKS else self._images(fields)
        # No document says which code a 429 of these calls has.
        self._check_limit(route.kind, *_LIMITS[route.kind], code="AccountRateLimitExceeded")
        if route.kind == "list":
            return self._list(call)
        render = self.find(route.generation_id)
        if route.kind == "cancel":
            return self._delete(render)
        return service.json_reply(self._task(self.backend.view(render)), generation_id=render.id)

    def _check_limit(self, kind: str, limit: int, seconds: float, *, code: str, count: int = 1) -> None:
        clock = self.backend.clock
        period = seconds / max(1.0, clock.speed)
        if self.backend.options.limits and not self._limiter.allows(kind, limit, period, clock.wall(), count):
            message = "The request failed because the rate limit of your account has been exceeded."
            raise service.ApiError(message, status=429, code=code)

    def out_of_credits(self) -> service.ApiError:
        """Return 403, which ModelArk uses for an overdue account."""
        message = "The request failed because your account has an overdue balance."
        return service.ApiError(message, status=403, code="AccountOverdueError")

    def handle(self, call: service.Call) -> service.Reply:
        reply = super().handle(call)
        return replace(reply, headers={"x-request-id": _request_id(), **reply.headers})

    def error(self, error: service.ApiError) -> service.Reply:
        request_id = _request_id()
        message = f"{error.message.rstrip('.')}. Request id: {request_id}"
        reply = super().error(replace(error, message=message))
        return replace(reply, headers={**reply.headers, "x-request-id": request_id})

    def error_body(self, error: service.ApiError) -> Any:
        code, kind = _CODES.get(error.status, _CODES[500])
        if error.status == 400 and error.constraint == "required":
            code = "MissingParameter"
        body = {"code": error.code or code, "message": error.message}
        return {"error": {**body, "param": error.field or "", "type": kind}}

    def callback_body(self, generation: models.EmulatedGeneration) -> dict[str, Any]:
        return self._task(generation)

    def callback_due(self, generation: models.EmulatedGeneration) -> bool:
        return generation.status != "cancelled"

    # Video tasks

    def _create(self, fields: service.Fields) -> service.Reply:
        task = parse_task(fields)
        moment = datetime.fromtimestamp(self.backend.clock.wall(), _TIMEZONE)
        reported, options = task.reported, self.backend.options
        is_4k = reported["resolution"] == "4k"
        limit = _MAX_4K_TASKS_PER_MINUTE if is_4k else _MAX_TASKS_PER_MINUTE
        kind = f"{reported['model']} {is_4k} {reported['service_tier']}"
        self._check_limit(kind, limit, 60.0, code="ModelAccountRpmRateLimitExceeded")
        slots = models.RenderSlots(1 if is_4k else options.concurrency)
        render = self.backend.submit(
            models.Draft(
                api=self.api,
                generation_id=f"cgt-{moment:%Y%m%d%H%M%S}-{''.join(secrets.choice(_ID_CHARS) for _ in range(5))}",
                model=reported["model"],
                request=reported,
                sent=fields.given,
                spec=models.MediaSpec(
                    kind="video",
                    prompt=task.prompt,
                    width=task.size[0],
                    height=task.size[1],
                    seconds=task.seconds,
                    audio=reported["generate_audio"],
                    format=reported["output_format"],
                ),
                resolution=reported["resolution"],
                fast=task.family.fast,
                callback_url=task.callback_url,
                renewable=False,
                url_lifetime=DAY,
                expires_after=float(reported["execution_expires_after"]),
                slots=self._slots.setdefault(kind, slots) if options.limits else None,
            )
        )
        body = {"id": render.id}
        if "safety_identifier" in reported:
            body["safety_identifier"] = reported["safety_identifier"]
        return service.json_reply(body, generation_id=render.id)

    def is_refusal(self, code: str | None) -> bool:
        """Return whether the code is one of moderation."""
        return "Sensitive" in str(code)

    def find(self, generation_id: str | None) -> models.EmulatedRender:
        """Return the render of a task, which is known for a week, or for a day if cancelled."""
        render = self.backend.find(self.api, generation_id or "")
        if render is None or render.draft.media != "video" or self._is_removed(self.backend.view(render)):
            message = f"The specified task {generation_id} is not found."
            raise service.ApiError(message, status=404, code="ResourceNotFound", field="id")
        return render

    def _is_removed(self, generation: models.EmulatedGeneration) -> bool:
        clock = self.backend.clock
        if generation.status == "cancelled" and generation.ended_at is not None:
            return (clock.wall() - generation.ended_at) * clock.speed > _CANCELLED_LIFETIME_SECONDS
        return (clock.wall() - generation.created_at) * clock.speed > _TASK_LIFETIME_SECONDS

    def _task(self, generation: models.EmulatedGeneration) -> dict[str, Any]:
        render = self.backend.get(generation.id)
        body: dict[str, Any] = {
            **generation.request,
            "id": generation.id,
            "status": generation.status,
            "error": None,
            "created_at": int(generation.created_at),
            "updated_at": int(generation.ended_at or self.backend.clock.wall()),
        }
        if body["seed"] < 0:
            body["seed"] = body["created_at"]
        if generation.status == "succeeded":
            body["content"] = self._outputs(render)
            tokens = service.video_tokens(render.draft.spec)
            body["usage"] = {"completion_tokens": tokens, "total_tokens": tokens}
            return body
        if generation.status == "failed":
            body["error"] = _error(generation.failure)
        return {name: value for name, value in body.items() if name not in _RESULT_FIELDS}

    def _outputs(self, render: models.EmulatedRender) -> dict[str, str]:
        content = {"video_url": self.backend.urls(render)[0]}
        if render.draft.sent.get("return_last_frame"):
            still = replace(render.draft.spec, kind="image", format="jpeg")
            content["last_frame_url"] = self.backend.url(render, "last_frame.jpeg", still)
        return content

    def _list(self, call: service.Call) -> service.Reply:
        for name in call.query:
            if name not in _QUERY:
                raise service.ApiError(f"Unknown parameter {name}", field=name, constraint="unknown")
        number, size = _page(call, "page_num", 1), _page(call, "page_size", 20)
        wanted = {name: _single(call, f"filter.{name}") for name in ("status", "model", "service_tier")}
        # As documented: without a filter, the list has the tasks of the default tier only.
        wanted["service_tier"] = wanted["service_tier"] or "default"
        if wanted["status"] is not None and wanted["status"] not in _STATUSES:
            raise service.ApiError("filter.status is invalid", field="filter.status", constraint="enum")
        tasks = [
            self._task(generation)
            for render in reversed(self._listed(call.query.get("filter.task_ids")))
            if not self._is_removed(generation := self.backend.view(render))
        ]
        found = [task for task in tasks if all(value in (None, task[name]) for name, value in wanted.items())]
        return service.json_reply({"total": len(found), "items": found[(number - 1) * size : number * size]})

    def _listed(self, ids: list[str] | None) -> list[models.EmulatedRender]:
        api, backend = self.api, self.backend
        found = (
            backend.renders(api) if ids is None else [backend.find(api, one) for one in dict.fromkeys(ids)]
        )
        return [render for render in found if render is not None and render.draft.media == "video"]

    def _delete(self, render: models.EmulatedRender) -> service.Reply:
        with self.backend.lock:
            status = self.backend.view(render).status
            if status in ("running", "cancelled"):
                message = f"The task is {status} and cannot be cancelled or deleted."
                code = f"InvalidAction.{status.capitalize()}TaskDeletion"
                raise service.ApiError(message, status=409, code=code)
            self.backend.delete(render)
        return service.json_reply({}, generation_id=render.id)

    # Images

    def _images(self, fields: service.Fields) -> service.Reply:
        request = parse_images(fields)
        spec, given = request.spec, fields.given
        limit, count = _MAX_IMAGES_PER_MINUTE, request.count
        self._check_limit(request.model, limit, 60.0, code="ModelAccountIpmRateLimitExceeded", count=count)
        render = self.backend.submit(
            models.Draft(
                api=self.api,
                generation_id=f"img-{uuid.uuid4().hex}",
                model=request.model,
                request=given,
                sent=given,
                spec=spec,
                resolution="1080p" if spec.width * spec.height <= 2048 * 2048 else "4k",
                outputs=request.count,
                renewable=False,
                url_lifetime=DAY,
            )
        )
        self.wait(render)
        body = self._image_body(request, render)
        if request.stream:
            return self._stream(body, render)
        return service.json_reply(body, generation_id=render.id)

    def _image_body(self, request: ArkImageRequest, render: models.EmulatedRender) -> dict[str, Any]:
        spec = request.spec
        size = f"{spec.width}x{spec.height}"
        data: list[dict[str, Any]] = []
        urls = iter(self.backend.urls(render))
        for index in range(request.count):
            if index in render.failed_items:
                data.append({"error": _error(render.failed_items[index])})
                continue
            url = next(urls)
            if request.base64:
                content = self.media.file(self.backend.spec(render, index)).path.read_bytes()
                data.append({"b64_json": base64.b64encode(content).decode(), "size": size})
            else:
                data.append({"url": url, "size": size})
            data[-1]["output_format"] = spec.format
        made = request.count - len(render.failed_items)
        tokens = made * spec.width * spec.height // 256
        usage = {"generated_images": made, "output_tokens": tokens, "total_tokens": tokens}
        if request.references:
            usage["input_images"] = request.references
        created = "created" if self.shape == "documented" else "created_at"
        return {"model": request.model, created: int(render.at), "data": data, "usage": usage}

    def _stream(self, body: dict[str, Any], render: models.EmulatedRender) -> service.Reply:
        """Return server-sent events, one per image and one at the end."""
        events: list[dict[str, Any]] = []
        for index, item in enumerate(body["data"]):
            kind = "partial_failed" if "error" in item else "partial_succeeded"
            events.append({"type": f"image_generation.{kind}", "image_index": index, **item})
        events.append({"type": "image_generation.completed", "usage": body["usage"]})
        lines = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]
        content, headers = "".join([*lines, "data: [DONE]\n\n"]), {"Content-Type": "text/event-stream"}
        return service.Reply(body=content.encode(), headers=headers, generation_id=render.id)


def _request_id() -> str:
    return f"02{time.time_ns() // 1_000_000}{secrets.token_hex(19)}"


def _error(failure: models.RenderFailure | None) -> dict[str, str]:
    failure = failure or models.RenderFailure(message="The service encountered an error.")
    return {"code": failure.code or "InternalServiceError", "message": failure.message}


def _single(call: service.Call, name: str) -> str | None:
    values = call.query.get(name)
    if values is not None and len(values) > 1:
        raise service.ApiError(f"{name} may be given once", field=name, constraint="max_items")
    return values[0] if values else None


def _page(call: service.Call, name: str, default: int) -> int:
    text = _single(call, name) or str(default)
    if not text.isdigit() or not 1 <= int(text) <= 500:
        raise service.ApiError(f"{name} must be from 1 to 500", field=name, constraint="range")
    return int(text)
