"""Request bodies of ModelArk's video task endpoint: models, limits, content items and their modes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from airflow_provider_seedance.emulator.services.service import ApiError, Fields, is_http_url, is_loopback

RATIOS = ("16:9", "4:3", "1:1", "3:4", "9:16", "21:9")
_SEED_LIMIT = 2**32 - 1
_VIDEO_MODEL = re.compile(
    r"(?:doubao-|dreamina-)?seedance-(\d-\d(?:-pro-fast|-pro|-fast|-mini|-lite-[ti]2v)?)-\d{6}"
)

_BODY_FIELDS = (
    "model",
    "content",
    "callback_url",
    "return_last_frame",
    "service_tier",
    "execution_expires_after",
    "priority",
    "generate_audio",
    "draft",
    "camera_fixed",
    "watermark",
    "seed",
    "resolution",
    "ratio",
    "duration",
    "frames",
    "tools",
    "output_format",
    "omni_reference_task_type",
    "safety_identifier",
)
_ITEMS = {
    "text": "text",
    "image_url": "image_url",
    "video_url": "video_url",
    "audio_url": "audio_url",
    "draft_task": "draft_task",
}
_ROLES = {
    "image_url": ("first_frame", "last_frame", "reference_image"),
    "video_url": ("reference_video",),
    "audio_url": ("reference_audio",),
}
# Parameters behind the prompt, an older style; invalid values are ignored there.
_SUFFIX = re.compile(r"--(rs|resolution|rt|ratio|dur|duration|seed|cf|camerafixed|wm|watermark)\s+(\S+)")


@dataclass(frozen=True, kw_only=True)
class ArkModelFamily:
    """
    The limits of a family of models.

    :param durations: Minimum and maximum, in seconds.
    :param auto_duration: Whether -1 lets the model choose.
    :param references: Maximum number of reference images.
    """

    resolutions: tuple[str, ...]
    resolution: str = "720p"
    durations: tuple[int, int] = (4, 15)
    auto_duration: bool = True
    duration: int = 5
    audio: bool = True
    draft: bool = False
    flex: bool = False
    camera_fixed: bool = False
    priority: bool = True
    frames: bool = False
    tools: bool = True
    references: int = 9
    omni: bool = False
    images: bool = True
    images_needed: bool = False
    ratio: str = "adaptive"
    fast: bool = False


def _first(**changes: Any) -> ArkModelFamily:
    """Return the limits of a 1.0 model, with its differences."""
    defaults: dict[str, Any] = {
        "resolutions": ("480p", "720p", "1080p"),
        "resolution": "1080p",
        "durations": (2, 12),
        "auto_duration": False,
        "audio": False,
        "flex": True,
        "camera_fixed": True,
        "priority": False,
        "frames": True,
        "tools": False,
        "references": 0,
        "ratio": "16:9",
    }
    return ArkModelFamily(**{**defaults, **changes})


MODELS = {
    "2-5": ArkModelFamily(
        resolutions=("480p", "720p", "1080p"),
        durations=(4, 30),
        duration=-1,
        draft=True,
        references=30,
        omni=True,
    ),
    "2-0": ArkModelFamily(resolutions=("480p", "720p", "1080p", "4k")),
    "2-0-fast": ArkModelFamily(resolutions=("480p", "720p"), fast=True),
    "2-0-mini": ArkModelFamily(resolutions=("480p", "720p"), fast=True),
    "1-5-pro": ArkModelFamily(
        resolutions=("480p", "720p", "1080p"),
        durations=(4, 12),
        draft=True,
        flex=True,
        camera_fixed=True,
        priority=False,
        tools=False,
        references=0,
    ),
    "1-0-pro": _first(),
    "1-0-pro-fast": _first(fast=True),
    "1-0-lite-t2v": _first(resolution="720p", images=False, fast=True),
    "1-0-lite-i2v": _first(resolution="720p", images_needed=True, references=4, fast=True),
}


@dataclass(frozen=True, kw_only=True)
class ArkTaskRequest:
    """
    A valid request, with its defaults.

    :param duration: Seconds, or ``None`` if the number of frames was given.
    :param given: The body as sent, without nulls.
    """

    model: str
    family: ArkModelFamily
    prompt: str
    resolution: str
    ratio: str
    duration: int | None
    frames: int | None
    generate_audio: bool
    seed: int
    service_tier: str
    execution_expires_after: int
    priority: int
    draft: bool
    draft_task_id: str | None
    watermark: bool
    camera_fixed: bool
    return_last_frame: bool
    output_format: str
    tools: list[dict[str, Any]] | None
    safety_identifier: str | None
    callback_url: str | None
    given: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Length of the video."""
        if self.frames is not None:
            return self.frames / 24
        return float(self.duration or 5)


def parse_task(data: Any) -> ArkTaskRequest:
    """
    Read the body of a create call.

    :raises ApiError: The documents do not allow the request.
    """
    fields = Fields(data, nulls=True)
    fields.only(*_BODY_FIELDS)
    name = fields.text("model", required=True) or ""
    family = _family(name)
    prompt, draft_task = _content(fields.raw("content", required=True), family)
    suffix = _suffix(prompt)
    frames, duration = _length(fields, family, suffix)
    tier = fields.text("service_tier", choices=("default", "flex")) or "default"
    if tier == "flex" and not family.flex:
        raise _not_taken(fields, "service_tier", name)
    ratio = fields.text("ratio", choices=(*RATIOS, "adaptive")) or suffix.get("ratio") or family.ratio
    resolution = fields.text("resolution", choices=family.resolutions) or suffix.get("resolution")
    if resolution not in family.resolutions:
        resolution = family.resolution
    _check_support(fields, family, tier, name)
    audio = fields.flag("generate_audio")
    seed = fields.integer("seed", low=-1, high=_SEED_LIMIT)
    return ArkTaskRequest(
        model=name,
        family=family,
        prompt=prompt,
        resolution=resolution,
        # "adaptive" depends on the images, which are not downloaded here.
        ratio="16:9" if ratio == "adaptive" else ratio,
        duration=duration,
        frames=frames,
        generate_audio=family.audio if audio is None else audio,
        seed=-1 if seed is None else seed,
        service_tier=tier,
        execution_expires_after=fields.integer("execution_expires_after", low=3600, high=259_200) or 172_800,
        priority=fields.integer("priority", low=0, high=9) or 0,
        draft=fields.flag("draft") or False,
        draft_task_id=draft_task,
        watermark=fields.flag("watermark") or False,
        camera_fixed=fields.flag("camera_fixed") or False,
        return_last_frame=fields.flag("return_last_frame") or False,
        output_format=fields.text("output_format", choices=("mp4", "mov")) or "mp4",
        tools=_tools(fields),
        safety_identifier=fields.text("safety_identifier", max_chars=64),
        callback_url=fields.callback("callback_url"),
        given={key: value for key, value in data.items() if value is not None},
    )


def _family(name: str) -> ArkModelFamily:
    if re.fullmatch(r"ep-[\w-]+", name):
        return MODELS["2-0"]
    match = _VIDEO_MODEL.fullmatch(name)
    if match is None or match[1] not in MODELS:
        raise ApiError(
            f"The model or endpoint {name} does not exist or you do not have access to it.",
            status=404,
            code="InvalidEndpointOrModel.NotFound",
            field="model",
        )
    return MODELS[match[1]]


def _check_support(fields: Fields, family: ArkModelFamily, tier: str, name: str) -> None:
    """Refuse fields that the model does not support."""
    _only_where(fields, "generate_audio", family.audio, name)
    _only_where(fields, "draft", family.draft, name)
    _only_where(fields, "camera_fixed", family.camera_fixed, name)
    _only_where(fields, "priority", family.priority and tier == "default", name)
    _only_where(fields, "tools", family.tools, name)
    _only_where(fields, "output_format", family.omni, name)
    _only_where(fields, "omni_reference_task_type", family.omni, name)
    fields.text("omni_reference_task_type", choices=("auto", "reference", "edit", "extend"))


def _only_where(fields: Fields, name: str, allowed: bool, model: str) -> None:
    if name in fields and not allowed:
        raise _not_taken(fields, name, model)


def _not_taken(fields: Fields, name: str, model: str) -> ApiError:
    return fields.error(name, f"is not supported by {model} or not with the other parameters", "unsupported")


def _length(fields: Fields, family: ArkModelFamily, suffix: dict[str, str]) -> tuple[int | None, int | None]:
    """Return frames and duration, one of which is ``None``; frames take precedence."""
    shortest, longest = family.durations
    duration = fields.integer("duration")
    if duration is not None and not (shortest <= duration <= longest):
        if duration != -1 or not family.auto_duration:
            raise fields.error(
                "duration", f"must be from {shortest} to {longest}", "range", [shortest, longest]
            )
        duration = 5
    frames = fields.integer("frames")
    if frames is not None:
        if not family.frames or not 29 <= frames <= 289 or (frames - 25) % 4:
            raise fields.error("frames", "must be 25 + 4n from 29 to 289, for 1.0 models", "range", [29, 289])
        return frames, None
    written = suffix.get("duration", "")
    if duration is None and written.isdigit() and shortest <= int(written) <= longest:
        duration = int(written)
    if duration is None:
        duration = 5 if family.duration == -1 else family.duration
    return None, duration


def _tools(fields: Fields) -> list[dict[str, Any]] | None:
    tools = fields.raw("tools")
    if tools is None:
        return None
    if not isinstance(tools, list) or any(tool != {"type": "web_search"} for tool in tools):
        raise fields.error("tools", 'may hold {"type": "web_search"} only', "enum", ["web_search"])
    return list(tools)


def _suffix(prompt: str) -> dict[str, str]:
    """Return the parameters behind a prompt, by field name."""
    names = {"rs": "resolution", "rt": "ratio", "dur": "duration"}
    found = {names.get(name, name): value for name, value in _SUFFIX.findall(prompt)}
    if found.get("ratio") not in (*RATIOS, "adaptive"):
        found.pop("ratio", None)
    return found


def _content(value: Any, family: ArkModelFamily) -> tuple[str, str | None]:
    """Check the content items; return the prompt and the id of a draft task."""
    if not isinstance(value, list) or not value:
        raise ApiError("content must be a non-empty array", field="content", constraint="type")
    texts: list[str] = []
    roles: list[str | None] = []
    drafts: list[str] = []
    for index, item in enumerate(value):
        kind, payload, role = _item(item, f"content[{index}]")
        if kind == "text":
            texts.append(payload)
        elif kind == "draft_task":
            drafts.append(payload)
        else:
            roles.append(role or ("first_frame" if kind == "image_url" else None))
    if drafts and (len(value) > 1 or not family.draft):
        raise _conflict("a draft_task stands alone, with a model that makes drafts")
    _check_modes(roles, value, family)
    return "\n".join(texts), drafts[0] if drafts else None


def _item(item: Any, at: str) -> tuple[str, str, str | None]:
    """Return the type of an item, its text, URL or id, and its role."""
    fields = Fields(item, at=at, nulls=True)
    kind = fields.text("type", required=True, choices=tuple(_ITEMS)) or ""
    roles = _ROLES.get(kind)
    fields.only("type", _ITEMS[kind], *(("role",) if roles else ()))
    if kind == "text":
        return kind, fields.text("text", required=True) or "", None
    payload = Fields(fields.raw(_ITEMS[kind], required=True), at=f"{at}.{_ITEMS[kind]}", nulls=True)
    if kind == "draft_task":
        payload.only("id")
        return kind, payload.text("id", required=True) or "", None
    payload.only("url")
    url = payload.text("url", required=True) or ""
    if not _valid_source(url, base64=kind != "video_url"):
        raise payload.error("url", "must be https, data: or asset://", "url")
    role = fields.text("role", choices=roles)
    if role is None and kind != "image_url":
        raise fields.error("role", "is required", "required")
    return kind, url, role


def _valid_source(url: str, *, base64: bool) -> bool:
    if url.startswith("asset://"):
        return len(url) > len("asset://")
    if url.startswith("data:"):
        return base64 and ";base64," in url
    return is_http_url(url) and (url.startswith("https:") or is_loopback(url))


def _check_modes(roles: list[str | None], content: list[Any], family: ArkModelFamily) -> None:
    """First frame, first and last frame, and references exclude each other."""
    count: Callable[[str], int] = roles.count
    first, last, images = count("first_frame"), count("last_frame"), count("reference_image")
    references = images + count("reference_video") + count("reference_audio")
    if references and (first or last):
        raise _conflict("first or last frames cannot be mixed with references")
    if first > 1 or last > 1:
        raise _conflict("there may be one first_frame and one last_frame; give several images a role")
    if last and not first:
        raise _conflict("a last_frame needs a first_frame")
    without_role = [item for item in content if item.get("type") == "image_url" and item.get("role") is None]
    if last and without_role:
        raise _conflict("with two images both need their role")
    if (first or references) and not family.images:
        raise _conflict("this model takes text only")
    if family.images_needed and not (first or references):
        raise _conflict("this model needs an image")
    if references and not family.references:
        raise _conflict("this model takes no references")
    if images > family.references:
        raise _conflict(f"this model takes at most {family.references} reference images")
    if not roles and not any(item.get("type") in ("text", "draft_task") for item in content):
        raise _conflict("there is nothing to render")


def _conflict(message: str) -> ApiError:
    return ApiError(f"content: {message}", field="content", code="InvalidParameter.TaskTypeConstraint")
