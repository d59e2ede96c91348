"""
ByteDance's own API: BytePlus ModelArk and Volcengine Ark.

Two hosts with the same paths and bodies, and different model ids. Videos are tasks that can be listed
and, while queued, cancelled; images are returned synchronously.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance import generations
from airflow_provider_seedance.apis import ark_rules, base, parsing
from airflow_provider_seedance.apis.messages import HttpCall, HttpReply, JsonObject, Pause, VendorError
from airflow_provider_seedance.apis.rules import Rule

TASKS = "/contents/generations/tasks"
IMAGES = "/images/generations"

#: Availability of outputs.
OUTPUT_LIFETIME = timedelta(hours=24)

#: Tasks per page of a list call.
LIST_PAGE_SIZE = 500
#: Pages that are read to find a task: the list cannot be filtered by time, and a busy account has many tasks.
_MAX_LIST_PAGES = 200
_LOOK_UP_PAGE_SIZE = 100
#: The list contains the tasks of one tier; without a filter, those of the default one.
_TIER_FILTERS = ((), (("filter.service_tier", "flex"),))

#: Fields that decide the price.
_BILLED = (
    *("model", "resolution", "service_tier", "content"),
    *("sequential_image_generation", "sequential_image_generation_options"),
)
#: The end of a window of a plan, as messages of ``QuotaExceeded`` name it.
_RESET = re.compile(r"(?:reset|until)\D{0,20}(\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d)?) ?(Z|[+-]\d\d:?\d\d)")

_ITEM_TYPES = {"reference_video": "video_url", "reference_audio": "audio_url"}
_VIDEO_FIELDS = {
    **{name: name for name in ("resolution", "duration", "seed", "generate_audio", "watermark")},
    **{name: name for name in ("return_last_frame", "draft", "service_tier")},
    "aspect_ratio": "ratio",
    "fixed_lens": "camera_fixed",
}


class Ark(base.Api):
    """BytePlus ModelArk, or Volcengine Ark at its host."""

    name = "ark"
    title = "BytePlus ModelArk / Volcengine Ark"
    default_base_url = "https://ark.ap-southeast.bytepluses.com/api/v3"
    console_url = "https://console.byteplus.com/ark"
    other_base_urls = ("https://ark.cn-beijing.volces.com/api/v3",)
    video_path = status_path = TASKS
    image_path = IMAGES
    callback_field = "callback_url"
    can_look_up = True
    # The only field that is stored with a task, returned by the list, and without effect on the render.
    correlation_field = "safety_identifier"
    can_cancel = True
    can_list = makes_groups = True
    probe_misses = False
    max_ids_per_status_call = LIST_PAGE_SIZE
    calls_per_second = {"read": 20.0, "list": 1.0}
    submissions_per_minute = {"*/4k*": 15.0, "*seedream*": 500.0, "*": 600.0}
    id_fields = ("id", "task_id")
    error_classes = {
        "AccountOverdueError": errors.SeedanceInsufficientCreditsError,
        "OperationDenied.ServiceOverdue": errors.SeedanceInsufficientCreditsError,
        "AuthenticationError": errors.SeedanceAuthenticationError,
        "AccessDenied": errors.SeedanceForbiddenError,
        "ModelNotOpen": errors.SeedanceForbiddenError,
        "InvalidEndpointOrModel": errors.SeedanceRequestError,
        "UnsupportedModel": errors.SeedanceRequestError,
        "InvalidParameter": errors.SeedanceRequestError,
        "MissingParameter": errors.SeedanceRequestError,
    }

    def rules(self, request: generations.GenerationRequest, base_url: str) -> Mapping[str, Rule]:
        images = isinstance(request, generations.ImageRequest)
        return (ark_rules.image_rules if images else ark_rules.video_rules)(request, base_url)

    def defaults(self, request: generations.GenerationRequest, base_url: str) -> Mapping[str, Any]:
        chinese = ark_rules.is_volcengine(base_url)
        if isinstance(request, generations.ImageRequest):
            return {"model": "doubao-seedream-4-5-251128" if chinese else "seedream-4-5-251128"}
        return {"model": "doubao-seedance-2-0-260128" if chinese else "dreamina-seedance-2-0-260128"}

    def submission_kind(self, request: generations.GenerationRequest) -> str:
        """Return the model; of a video with ``/4k`` if it is that, and ``/flex`` if it is in that tier."""
        apart: set[str | None] = set()
        if isinstance(request, generations.VideoRequest):
            apart = {request.resolution, request.service_tier}
        return "/".join((request.model or "", *(name for name in ("4k", "flex") if name in apart)))

    def prompt_optional(self, request: generations.GenerationRequest) -> bool:
        return isinstance(request, generations.VideoRequest) and bool(request.images)

    def cross_check(self, request: generations.GenerationRequest, base_url: str) -> list[str]:
        if isinstance(request, generations.ImageRequest):
            return ark_rules.image_problems(request)
        return ark_rules.video_problems(request)

    def output_tokens(self, request: generations.GenerationRequest) -> int | None:
        return ark_rules.output_tokens(request) if isinstance(request, generations.VideoRequest) else None

    def billed(self, request: generations.GenerationRequest) -> generations.GenerationRequest | None:
        # An input video counts too, at another price, and the flexible tier has prices of its own.
        roles = {item.role for item in request.images or ()} & {"reference_video", "draft_task"}
        flexible = getattr(request, "service_tier", None) == "flex"
        open_ = {*_BILLED} & set(request.extra_params or {})
        return None if roles or flexible or open_ else request

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
        # A service that ignores the filter returns other tasks as well.
        wanted = frozenset(generation_ids)
        return {found.generation_id: found for found in self._listed(reply, now, wanted)}

    def list_flow(self, limit: int, now: datetime) -> base.Flow[list[generations.Generation]]:
        # A service that ignores the filter returns some of them twice.
        found: dict[str, generations.Generation] = {}
        size = max(1, min(limit, LIST_PAGE_SIZE))
        for number, by_tier in enumerate(_TIER_FILTERS):
            for page in range(1, min(_MAX_LIST_PAGES, math.ceil(limit / size)) + 1):
                if number or page > 1:
                    yield Pause(self.timing.list_interval)
                call = self.list_call(page, size)
                reply = yield from self._fetch_page(replace(call, query=(*call.query, *by_tier)), now)
                found |= {generation.generation_id: generation for generation in self._listed(reply, now)}
                if len(reply.json.get("items") or ()) < size:
                    break
        return sorted(found.values(), key=lambda one: one.created_at or now, reverse=True)[:limit]

    def _listed(
        self, reply: HttpReply, now: datetime, wanted: Collection[str] | None = None
    ) -> list[generations.Generation]:
        items, found = reply.json.get("items"), dict[str, generations.Generation]()
        for item in items if isinstance(items, list) else []:
            is_task = isinstance(item, Mapping) and parsing.text(item.get("status"))
            known = self.find_id(item) if is_task else None
            if known and known not in found and (wanted is None or known in wanted):
                found[known] = reply.clean(self.read_generation(item, known, media="video", now=now))
        return list(found.values())

    def probe_call(self, model: str | None = None) -> HttpCall:
        call = self.list_call(size=1)
        return replace(call, query=(*call.query, ("filter.model", model))) if model else call

    def look_up_flow(
        self, correlation: str, since: datetime, now: datetime, model: str | None = None
    ) -> base.Flow[str | None]:
        by_model: tuple[tuple[str, str], ...] = ()
        tiers = list(_TIER_FILTERS)
        while True:
            try:
                found = yield from self._look_up_in(tiers[0] + by_model, correlation, since, now)
                if found or len(tiers) == 1:
                    return found
                del tiers[0]
            except (errors.SeedanceForbiddenError, errors.SeedanceRequestError):
                if by_model or not model:
                    raise
                # A key with custom permissions may list the tasks of its models only; its refusal is not documented.
                by_model = (("filter.model", model),)
            yield Pause(self.timing.list_interval)

    def _fetch_page(self, call: HttpCall, now: datetime) -> base.Flow[HttpReply]:
        backoff = self.timing.refused_list_backoff
        for pause in backoff:
            try:
                return (yield from self.fetch(call, None, now))
            except errors.SeedanceRateLimitError as error:
                yield Pause(max(pause, min(error.retry_after or 0.0, backoff[-1])))
        return (yield from self.fetch(call, None, now))

    def _look_up_in(
        self, filters: tuple[tuple[str, str], ...], correlation: str, since: datetime, now: datetime
    ) -> base.Flow[str | None]:
        """Look up a task in a list, page by page."""
        seen, total = 0, 0.0
        times: list[datetime] = []
        for page in range(1, _MAX_LIST_PAGES + 1):
            if page > 1:
                yield Pause(self.timing.list_interval)
            call = self.list_call(page, _LOOK_UP_PAGE_SIZE)
            call = replace(call, query=(*call.query, *filters))
            reply = yield from self._fetch_page(call, now)
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
        times = [generations.read_time(payload.get(name)) for name in ("created_at", "created")]
        created = times[0] or times[1]
        ended = (generations.read_time(payload.get("updated_at")) or created) if status.terminal else None
        succeeded = status is generations.GenerationStatus.SUCCEEDED
        delivered = ended or now
        sizes = (parsing.text(item.get("size")) for item in _images(payload))
        frames = parsing.urls(parsing.mapping(payload.get("content")).get("last_frame_url"))
        return {
            "resolution": parsing.text(payload.get("resolution")) or next(filter(None, sizes), None),
            "created_at": created,
            "completed_at": ended,
            "expires_at": delivered + OUTPUT_LIFETIME if succeeded and delivered.year < 9999 else None,
            "aspect_ratio": parsing.text(payload.get("ratio")),
            "fps": generations.read_number(payload.get("framespersecond")),
            "last_frame_url": next(iter(frames), None) if succeeded else None,
            **({"error_message": failed} if succeeded and (failed := _failed_images(payload)) else {}),
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

    def quota_reset(self, vendor: VendorError) -> datetime | None:
        found = _RESET.search(vendor.message or "")
        try:
            return datetime.fromisoformat(found[1] + found[2]) if found else None
        except ValueError:
            return None

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


def _video_body(request: generations.VideoRequest) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    if request.prompt.strip():
        content.append({"type": "text", "text": request.prompt})
    for item, role in ark_rules.with_roles(request.images or ()):
        if role == "draft_task":
            content.append({"type": "draft_task", "draft_task": {"id": item.url}})
        else:
            kind = _ITEM_TYPES.get(role, "image_url")
            content.append({"type": kind, kind: {"url": item.url}, "role": role})
    body: dict[str, Any] = {"model": request.model, "content": content}
    for name, field in _VIDEO_FIELDS.items():
        if (value := getattr(request, name)) is not None:
            body[field] = value
    return body


def _image_body(request: generations.ImageRequest) -> dict[str, Any]:
    body: dict[str, Any] = {"model": request.model, "prompt": request.prompt}
    if request.images:
        urls = [item.url for item in request.images]
        body["image"] = urls[0] if len(urls) == 1 else urls
    if request.resolution is not None:
        size = request.resolution
        body["size"] = size.upper() if size[-1:] in "kK" else size
    for name in ("seed", "watermark", "output_format"):
        if (value := getattr(request, name)) is not None:
            body[name] = value
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
        kind = parsing.text(item.get("output_format")) or parsing.text(payload.get("output_format"))
        # The beginning of every PNG in base64.
        kind = kind or ("png" if encoded.startswith("iVBORw0KGgo") else "jpeg")
        return f"data:image/{kind};base64,{encoded}"
    return None


def _failed_images(payload: JsonObject) -> str | None:
    """Describe the images of a group that failed while others were made."""
    items = _images(payload)
    failures = [
        f"image {number} of {len(items)} failed: {error.message or error.code}"
        for number, item in enumerate(items, 1)
        if (error := parsing.vendor_error(parsing.mapping(item.get("error"))))
    ]
    return "; ".join(failures) or None


def _all_images_failed(body: JsonObject) -> JsonObject:
    """Return the first error of a group of images, all of which failed."""
    items = _images(body)
    failures = [item["error"] for item in items if isinstance(item.get("error"), Mapping)]
    return failures[0] if failures and len(failures) == len(items) else {}


API = Ark()
