"""
ByteDance's own API: BytePlus ModelArk and Volcengine Ark.

Two hosts with the same paths and bodies, and different model ids. Videos are tasks that can be listed
and, while queued, cancelled; images are returned synchronously.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance import generations
from airflow_provider_seedance.apis import base, parsing, rules
from airflow_provider_seedance.apis.messages import HttpCall, JsonObject, VendorError
from airflow_provider_seedance.apis.rules import Rule

TASKS = "/contents/generations/tasks"
IMAGES = "/images/generations"

#: Availability of outputs.
OUTPUT_LIFETIME = timedelta(hours=24)

#: Tasks per page of a list call.
LIST_PAGE_SIZE = 100
#: Pages that are read to find a task: the list cannot be filtered by time, and a busy account has many tasks.
_MAX_LIST_PAGES = 200

_BYTEPLUS_VIDEO = (
    "dreamina-seedance-2-5-260628",
    "dreamina-seedance-2-0-260128",
    "dreamina-seedance-2-0-fast-260128",
    "dreamina-seedance-2-0-mini-260615",
    "seedance-1-5-pro-251215",
    "seedance-1-0-pro-250528",
    "seedance-1-0-pro-fast-251015",
    "seedance-1-0-lite-t2v-250428",
    "seedance-1-0-lite-i2v-250428",
)
_BYTEPLUS_IMAGE = ("seedream-5-0-260128", "seedream-4-5-251128", "seedream-4-0-250828")
_VOLCENGINE_IMAGE = (
    "doubao-seedream-5-0-260128",
    "doubao-seedream-5-0-lite-260128",
    "doubao-seedream-4-5-251128",
    "doubao-seedream-4-0-250828",
)

_DURATIONS = {
    "2.5": rules.whole_number(4, 30, " (seconds)", also=(-1,)),
    "2.0": rules.whole_number(4, 15, " (seconds)", also=(-1,)),
    "1.0": rules.whole_number(2, 12, " (seconds)"),
}
_ANY_DURATION = rules.whole_number(2, 30, " (seconds)", also=(-1,))

_FRAMES = ("first_frame", "last_frame")
_REFERENCES = ("reference_image", "reference_video", "reference_audio")
_ITEM_TYPES = {"reference_video": "video_url", "reference_audio": "audio_url"}
_MAX_REFERENCES = {"2.0": 9, "2.5": 30}


def model_family(model: str | None) -> tuple[str | None, str | None]:
    """
    Return version and variant of a Seedance model id, such as ``("2.0", "fast")``.

    ``None`` for endpoint ids (``ep-…``) and undocumented models, to which the widest rules apply.
    """
    found = re.search(r"seedance-(\d)-(\d)(?:-(pro-fast|pro|fast|mini|lite))?", model or "")
    return (f"{found[1]}.{found[2]}", found[3]) if found else (None, None)


def _volcengine(base_url: str) -> bool:
    return (urlsplit(base_url).hostname or "").endswith(".volces.com")


class Ark(base.Api):
    """BytePlus ModelArk, or Volcengine Ark at its host."""

    name = "ark"
    title = "BytePlus ModelArk / Volcengine Ark"
    default_base_url = "https://ark.ap-southeast.bytepluses.com/api/v3"
    other_base_urls = ("https://ark.cn-beijing.volces.com/api/v3",)
    video_path = status_path = TASKS
    image_path = IMAGES
    callback_field = "callback_url"
    can_look_up = True
    # The only field that is stored with a task, returned by the list, and without effect on the render.
    correlation_field = "safety_identifier"
    can_cancel = True
    probe_misses = False
    max_ids_per_status_call = LIST_PAGE_SIZE
    id_fields = ("id", "task_id")
    error_classes = {
        "AccountOverdueError": errors.SeedanceInsufficientCreditsError,
        "AuthenticationError": errors.SeedanceAuthenticationError,
        "AccessDenied": errors.SeedanceForbiddenError,
        "ModelNotOpen": errors.SeedanceForbiddenError,
        "InvalidEndpointOrModel": errors.SeedanceRequestError,
        "InvalidParameter": errors.SeedanceRequestError,
        "MissingParameter": errors.SeedanceRequestError,
    }

    def rules(self, request: generations.GenerationRequest, base_url: str) -> Mapping[str, Rule]:
        if isinstance(request, generations.ImageRequest):
            return self._image_rules(base_url)
        return self._video_rules(request, base_url)

    def _video_rules(self, request: generations.GenerationRequest, base_url: str) -> Mapping[str, Rule]:
        version, variant = model_family(request.model)
        known = (
            tuple("doubao-" + name.removeprefix("dreamina-") for name in _BYTEPLUS_VIDEO)
            if _volcengine(base_url)
            else _BYTEPLUS_VIDEO
        )
        found: dict[str, Rule] = {
            "prompt": rules.text(),
            "model": rules.model_name(known, prefixes=("ep-",)),
            "duration": _DURATIONS.get(version or "", _ANY_DURATION),
            "resolution": rules.one_of(_resolutions(version, variant)),
            "aspect_ratio": rules.one_of(("16:9", "4:3", "1:1", "3:4", "9:16", "21:9", "adaptive")),
            "seed": rules.whole_number(-1, 2**32 - 1),
            "images": rules.inputs(
                maximum=_MAX_REFERENCES.get(version or ""),
                roles=(*_FRAMES, *_REFERENCES, "draft_task"),
                schemes=("data", "asset"),
            ),
        }
        if version != "1.0":
            found["generate_audio"] = rules.flag()
        if version not in ("2.0", "2.5"):
            found["fixed_lens"] = rules.flag()
        return found

    def _image_rules(self, base_url: str) -> Mapping[str, Rule]:
        return {
            "prompt": rules.text(),
            "model": rules.model_name(
                _VOLCENGINE_IMAGE if _volcengine(base_url) else _BYTEPLUS_IMAGE, prefixes=("ep-",)
            ),
            "resolution": rules.pattern(
                r"[1-4][kK]|[1-9]\d{1,4}x[1-9]\d{1,4}|adaptive",
                "1K, 2K, 3K or 4K (by model), a size such as 2048x2048, or adaptive",
            ),
            "num_images": rules.whole_number(1, 15),
            "seed": rules.whole_number(-1, 2**32 - 1),
            "images": rules.inputs(maximum=14, schemes=("data",)),
        }

    def defaults(self, request: generations.GenerationRequest, base_url: str) -> Mapping[str, Any]:
        chinese = _volcengine(base_url)
        if isinstance(request, generations.ImageRequest):
            return {"model": "doubao-seedream-4-5-251128" if chinese else "seedream-4-5-251128"}
        return {"model": "doubao-seedance-2-0-260128" if chinese else "dreamina-seedance-2-0-260128"}

    def prompt_optional(self, request: generations.GenerationRequest) -> bool:
        return isinstance(request, generations.VideoRequest) and bool(request.images)

    def cross_check(self, request: generations.GenerationRequest, base_url: str) -> list[str]:
        inputs = request.images or ()
        if isinstance(request, generations.ImageRequest):
            total = len(inputs) + (request.num_images or 1)
            return (
                [f"{len(inputs)} images in and {request.num_images} out are more than 15"]
                if total > 15
                else []
            )
        roles = [role for _, role in _with_roles(inputs)]
        frames = [role for role in roles if role in _FRAMES]
        if frames and any(role in _REFERENCES for role in roles):
            return ["images: first and last frames cannot be mixed with references"]
        if len(set(frames)) < len(frames):
            return ["images: each of first_frame and last_frame can be given once"]
        if frames == ["last_frame"]:
            return ["images: a last_frame needs a first_frame"]
        return [
            f"images: {item.role} must be an https or asset:// URL"
            for item in inputs
            if item.role in _ITEM_TYPES and item.url.startswith("data:")
        ]

    def body(self, request: generations.GenerationRequest) -> dict[str, Any]:
        return _image_body(request) if isinstance(request, generations.ImageRequest) else _video_body(request)

    def takes_callback(self, request: generations.GenerationRequest) -> bool:
        return isinstance(request, generations.VideoRequest)

    def correlates(self, request: generations.GenerationRequest) -> bool:
        return isinstance(request, generations.VideoRequest) and "safety_identifier" not in (
            request.extra_params or {}
        )

    def cancel_call(self, generation_id: str) -> HttpCall:
        return replace(self.status_call(generation_id), method="DELETE")

    def list_call(self, page: int = 1, size: int = LIST_PAGE_SIZE) -> HttpCall:
        """Build the request for one page of the account's tasks."""
        return HttpCall(method="GET", path=TASKS, query=(("page_num", str(page)), ("page_size", str(size))))

    def list_of_call(self, generation_ids: Sequence[str]) -> HttpCall:
        """Build the request for the tasks with these ids."""
        call = self.list_call(size=len(generation_ids))
        ids = tuple(("filter.task_ids", generation_id) for generation_id in generation_ids)
        return replace(call, query=(*call.query, *ids))

    def status_many_flow(
        self, generation_ids: Sequence[str], now: datetime
    ) -> base.Flow[Mapping[str, generations.Generation]]:
        reply = yield from self.fetch(self.list_of_call(generation_ids), None, now)
        items = reply.json.get("items")
        found: dict[str, generations.Generation] = {}
        for item in items if isinstance(items, list) else []:
            # A service that ignores the filter returns other tasks as well.
            if not isinstance(item, Mapping) or not parsing.text(item.get("status")):
                continue
            if (known := self.find_id(item)) and known in generation_ids:
                generation = self.read_generation(item, known, media="video", now=now)
                found[known] = reply.clean(generation)
        return found

    def probe_call(self) -> HttpCall:
        return self.list_call(size=1)

    def look_up_flow(self, correlation: str, since: datetime, now: datetime) -> base.Flow[str | None]:
        seen, total = 0, 0.0
        times: list[datetime] = []
        for page in range(1, _MAX_LIST_PAGES + 1):
            call = self.list_call(page)
            reply = yield from self.fetch(call, None, now)
            items = reply.json.get("items")
            if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
                raise self._unexpected_reply(reply, call, "is not a list of tasks")
            for item in items:
                if item.get("safety_identifier") == correlation and (found := self.find_id(item)):
                    return found
            seen += len(items)
            times += [moment for item in items if (moment := generations.read_time(item.get("created_at")))]
            # Clocks differ by less than an hour. The order is not documented, so the age of a task ends the search
            # only where the list proved to be sorted.
            newest_first = len(set(times)) > 1 and times == sorted(times, reverse=True)
            passed = newest_first and times[-1] < since - timedelta(hours=1)
            total = generations.read_number(reply.json.get("total")) or 0.0
            if passed or (seen >= total and (total or not items)):
                return None
            if not items:
                raise self._unexpected_reply(reply, call, f"is empty after {seen} of {total:g} tasks")
        raise errors.SeedanceServerError(
            f"{self.title} lists more than {seen} tasks, and the submission is not among these: the list "
            "could not be read to its end."
        )

    def details(self, payload: JsonObject, status: generations.GenerationStatus, now: datetime) -> JsonObject:
        created = generations.read_time(payload.get("created_at")) or generations.read_time(
            payload.get("created")
        )
        ended = (generations.read_time(payload.get("updated_at")) or created) if status.terminal else None
        succeeded = status is generations.GenerationStatus.SUCCEEDED
        return {
            "resolution": parsing.text(payload.get("resolution")) or _image_size(payload),
            "created_at": created,
            "completed_at": ended,
            "expires_at": _lifetime_from(ended or now) if succeeded else None,
        }

    def outputs(self, payload: JsonObject) -> tuple[str, ...]:
        content = payload.get("content")
        if isinstance(content, Mapping):
            return tuple(
                url
                for field in ("video_url", "file_url", "last_frame_url")
                for url in parsing.urls(content.get(field))
            )
        return tuple(url for item in _images(payload) if (url := _image_url(item, payload)))

    def read_error(self, body: JsonObject) -> VendorError | None:
        error = body.get("error")
        return parsing.vendor_error(error if isinstance(error, Mapping) else _all_images_failed(body))

    def is_service_error(self, body: JsonObject) -> bool:
        # Codes of the service are words; gateways and load balancers write numbers.
        return isinstance(parsing.mapping(body.get("error")).get("code"), str)

    def permanent_rate_limit(self, vendor: VendorError) -> str | None:
        if vendor.code == "SetLimitExceeded":
            return (
                "The model is paused at its spend limit until the account's owner changes its limit, or turns off Safe "
                "Experience Mode, on the model activation page of the console."
            )
        message = (vendor.message or "").lower()
        # The code is also used for queues and plan windows, which recover.
        if vendor.code == "QuotaExceeded" and ("free trial" in message or "免费试用" in message):
            return "The account's owner has to activate the model in the console."
        return None


def _lifetime_from(moment: datetime) -> datetime | None:
    try:
        return moment + OUTPUT_LIFETIME
    except OverflowError:
        return None


def _resolutions(version: str | None, variant: str | None) -> tuple[str, ...]:
    if variant in ("fast", "mini"):
        return ("480p", "720p")
    wide = ("480p", "720p", "1080p")
    return (*wide, "4k") if version in ("2.0", None) else wide


def _with_roles(inputs: tuple[generations.MediaInput, ...]) -> list[tuple[generations.MediaInput, str]]:
    """Return inputs with roles; without one, their number decides: a frame, two frames, or references."""
    free = [item for item in inputs if item.role is None]
    given = {item.role for item in inputs} - {None}
    if given & set(_REFERENCES) or len(free) > 2:
        roles = ["reference_image"] * len(free)
    else:
        roles = [role for role in _FRAMES if role not in given][: len(free)]
        roles += ["reference_image"] * (len(free) - len(roles))
    queue = iter(roles)
    return [(item, item.role or next(queue)) for item in inputs]


def _video_body(request: generations.VideoRequest) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    if request.prompt.strip():
        content.append({"type": "text", "text": request.prompt})
    for item, role in _with_roles(request.images or ()):
        if role == "draft_task":
            content.append({"type": "draft_task", "draft_task": {"id": item.url}})
        else:
            kind = _ITEM_TYPES.get(role, "image_url")
            content.append({"type": kind, kind: {"url": item.url}, "role": role})
    body: dict[str, Any] = {"model": request.model, "content": content}
    names = {"aspect_ratio": "ratio", "fixed_lens": "camera_fixed"}
    for name in ("resolution", "aspect_ratio", "duration", "seed", "generate_audio", "fixed_lens"):
        if (value := getattr(request, name)) is not None:
            body[names.get(name, name)] = value
    return body


def _image_body(request: generations.ImageRequest) -> dict[str, Any]:
    body: dict[str, Any] = {"model": request.model, "prompt": request.prompt}
    if request.images:
        urls = [item.url for item in request.images]
        body["image"] = urls[0] if len(urls) == 1 else urls
    if request.resolution is not None:
        size = request.resolution
        body["size"] = size.upper() if size[-1:] in "kK" else size
    if request.seed is not None:
        body["seed"] = request.seed
    if request.num_images is not None and request.num_images > 1:
        # A maximum, not a count: the prompt has to request as many images.
        body["sequential_image_generation"] = "auto"
        body["sequential_image_generation_options"] = {"max_images": request.num_images}
    return body


def _images(payload: JsonObject) -> list[JsonObject]:
    data = payload.get("data")
    return [item for item in data if isinstance(item, Mapping)] if isinstance(data, list) else []


def _image_url(item: JsonObject, payload: JsonObject) -> str | None:
    if found := parsing.strings(item.get("url")):
        return found[0]
    encoded = item.get("b64_json")
    if isinstance(encoded, str) and encoded:
        kind = parsing.text(item.get("output_format")) or parsing.text(payload.get("output_format")) or "jpeg"
        return f"data:image/{kind};base64,{encoded}"
    return None


def _image_size(payload: JsonObject) -> str | None:
    return next((size for item in _images(payload) if (size := parsing.text(item.get("size")))), None)


def _all_images_failed(body: JsonObject) -> JsonObject:
    """Return the first error of a group of images, all of which failed."""
    items = _images(body)
    failures = [item["error"] for item in items if isinstance(item.get("error"), Mapping)]
    return failures[0] if failures and len(failures) == len(items) else {}


API = Ark()
