"""
seedance2api.com v1.

It makes images and videos, and sends quota headers and progress. The result has a URL of its own: ``/tasks/<id>``
returns the status, ``/results/<id>`` the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis import base, parsing, rules
from airflow_provider_seedance.apis.messages import HttpCall, HttpReply, JsonObject, Pause, VendorError
from airflow_provider_seedance.generations import (
    Generation,
    GenerationRequest,
    GenerationStatus,
    Media,
    read_number,
    read_outputs,
    read_time,
    read_usage,
)

_PROMPT = rules.text(max_chars=300)

#: The service deletes the data of a user, outputs included, after this time.
OUTPUT_LIFETIME = timedelta(days=30)


class Seedance2Api(base.Api):
    """seedance2api.com: videos and images, 10 to 1000 requests an hour."""

    name = "seedance2api"
    title = "seedance2api.com"
    default_base_url = "https://api.seedance2api.com/v1"
    auth_headers = ("authorization", "x-api-key")
    video_path = "/seedance/generate"
    image_path = "/seedream/generate"
    status_path = "/tasks"
    video_defaults = {"model": "seedance-1.5-pro", "duration": 5}
    image_defaults = {"model": "seedream-4.5"}
    callback_field = "webhook_url"
    reports_quota = True
    requests_per_status = 2
    envelope_words = parsing.ENVELOPE_WORDS
    video_rules = {
        "prompt": _PROMPT,
        "model": rules.model_name(("seedance-1.0", "seedance-1.5-pro", "seedance-2.0")),
        "duration": rules.whole_number(5, 30, " (seconds)"),
        "resolution": rules.one_of(("720p", "1080p", "4k")),
        "fps": rules.one_of((24, 30, 60)),
        "images": rules.inputs(maximum=1),
    }
    image_rules = {
        "prompt": _PROMPT,
        "model": rules.model_name(("seedream-3.0", "seedream-4.0", "seedream-4.5", "seedream-5.0")),
        "resolution": rules.one_of(("1024x1024", "2048x2048", "4k")),
        "quality": rules.one_of(("standard", "high")),
        "num_images": rules.whole_number(1, 4),
        "seed": rules.whole_number(),
        "style": rules.text(),
    }

    def body(self, request: GenerationRequest) -> dict[str, Any]:
        body = super().body(request)
        if "images" in body:
            body["image_input"] = body.pop("images")[0]
        return body

    def result_call(self, generation_id: str) -> HttpCall:
        """Build the request for the result of a completed generation."""
        return HttpCall(method="GET", path=f"/results/{parsing.segment(generation_id)}")

    def status_flow(self, generation_id: str, media: Media, now: datetime) -> base.Flow[Generation]:
        call = self.status_call(generation_id)
        reply = yield from self.fetch(call, generation_id, now)
        generation = self.read_state(reply, call, generation_id, media=media, now=now)
        if generation.status is not GenerationStatus.SUCCEEDED or generation.urls:
            return generation
        return (yield from self._result_flow(generation, reply, now))

    def final_status_flow(self, generation_id: str, media: Media, now: datetime) -> base.Flow[Generation]:
        call = self.result_call(generation_id)
        try:
            reply = yield from self.fetch(call, generation_id, now)
        except (errors.SeedanceNotFoundError, errors.SeedanceRequestError, errors.SeedanceServerError):
            return (yield from self.status_flow(generation_id, media, now))
        result = reply.clean(self.read_generation(reply.json, generation_id, media=media, now=now))
        if result.status is GenerationStatus.SUCCEEDED and result.urls:
            return result
        # A failed generation has no result, and a callback may be wrong.
        return (yield from self.status_flow(generation_id, media, now))

    def _result_flow(self, generation: Generation, status: HttpReply, now: datetime) -> base.Flow[Generation]:
        call = self.result_call(generation.generation_id)
        failure: errors.SeedanceError | None = None
        # A completed task may not return it yet (row 3 of tests/apis/test_contradictions.py).
        for pause in (0.0, *self.timing.result_backoff):
            if pause:
                yield Pause(pause)
            try:
                reply = yield from self.fetch(call, generation.generation_id, now)
            except errors.SeedanceNotFoundError as error:
                failure = error
                continue
            except errors.SeedanceServerError as error:
                # The service fails, the render does not: the wait goes on.
                raise errors.SeedanceServerError(
                    f"{error.message}; {self._status_excerpt(generation, status)}", **error.details()
                ) from error
            result = reply.clean(
                self.read_generation(reply.json, generation.generation_id, media=generation.media, now=now)
            )
            if result.urls:
                return _merged(generation, result)
            failure = errors.SeedanceServerError(f"{call.path} holds no output: {reply.excerpt()}")
        seen = f"{failure}; {self._status_excerpt(generation, status)}"
        return _merged(generation, generation, error_message=seen)

    def _status_excerpt(self, generation: Generation, status: HttpReply) -> str:
        return f"{self.status_call(generation.generation_id).path} said {status.excerpt()}"

    def details(self, payload: JsonObject, status: GenerationStatus, now: datetime) -> JsonObject:
        result = parsing.mapping(payload.get("result"))
        succeeded = status is GenerationStatus.SUCCEEDED
        # Images that are returned at once have no time.
        ended = read_time(payload.get("completed_at")) or (now if payload.get("images") else None)
        milliseconds = read_number(payload.get("processing_time_ms", result.get("processing_time_ms")))
        return {
            "expires_at": ended + OUTPUT_LIFETIME if succeeded and ended and ended.year < 9999 else None,
            "duration": read_number(result.get("duration", payload.get("duration"))),
            "resolution": parsing.text(result.get("resolution")) or parsing.text(payload.get("resolution")),
            "progress": read_number(payload.get("progress")),
            "estimated_wait": read_number(payload.get("estimated_wait_time_seconds")),
            "usage": read_usage({"processing_seconds": milliseconds and milliseconds / 1000}),
            "outputs": _image_details(result, payload),
        }

    def outputs(self, payload: JsonObject) -> tuple[str, ...]:
        for source in (parsing.mapping(payload.get("result")), payload):
            if found := parsing.urls(source.get("video_url")) or parsing.urls(source.get("images")):
                return found
        return ()

    def reports_generation(self, body: JsonObject) -> bool:
        payload = parsing.unwrap(body)
        word = payload.get("status")
        return isinstance(word, str) and (payload is not body or word.lower() not in parsing.ENVELOPE_WORDS)

    def read_error(self, body: JsonObject) -> VendorError | None:
        error = body.get("error")
        if isinstance(error, Mapping):
            found = parsing.vendor_error(error)
            return found and replace(found, message=_with_details(found.message, error.get("details")))
        if body.get("status") == "error":
            return VendorError(message=parsing.text(error) or parsing.text(body.get("message")) or "error")
        return None

    def is_service_error(self, body: JsonObject) -> bool:
        return body.get("status") == "error" and isinstance(body.get("error"), Mapping)


def _image_details(*sources: JsonObject) -> tuple[dict[str, Any], ...]:
    """Return the details of the images in the first source that has some, one for each URL of the outputs."""
    for images in (source.get("images") for source in sources):
        if isinstance(images, list) and images:
            return read_outputs([item for item in images if parsing.urls(item)])
    return ()


def _with_details(message: str | None, details: Any) -> str | None:
    """Add to a message which field is wrong and what it takes, without its value, which may be the prompt."""
    given = {name: parsing.mapping(details).get(name) for name in ("field", "constraint", "limit")}
    known = [f"{name} {value}" for name, value in given.items() if isinstance(value, (str, int, float))]
    return f"{message or ''} ({', '.join(known)})".strip() if known else message


def _merged(status: Generation, result: Generation, **changes: Any) -> Generation:
    """Merge status and result; values of the result win."""
    known = {
        name: value
        for name, value in vars(result).items()
        if value is not None and value != () and name not in ("status", "word", "documented")
    }
    return Generation(**{**vars(status), **known, **changes})


API = Seedance2Api()
