"""Request bodies of ModelArk's video task endpoint: models, limits, content items and their modes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_provider_seedance.emulator.services.service import ApiError, Fields, is_https_url

RATIOS = ("16:9", "4:3", "1:1", "3:4", "9:16", "21:9")
#: An inference endpoint of the account, in place of a model.
ENDPOINT = re.compile(r"ep-[\w-]+")
_SEED_LIMIT = 2**32 - 1
_VIDEO_MODEL = re.compile(
    r"(?:doubao-|dreamina-)?seedance-(\d-\d(?:-pro-fast|-pro|-fast|-mini|-lite-[ti]2v)?)-\d{6}"
)
_PLAN_MODEL = re.compile(r"doubao-seedance-(\d\.\d(?:-pro|-fast|-mini)?)")

_ITEMS = ("text", "image_url", "video_url", "audio_url", "draft_task")
_ROLES = {
    "image_url": ("first_frame", "last_frame", "reference_image"),
    "video_url": ("reference_video",),
    "audio_url": ("reference_audio",),
}
#: Pixels by resolution and ratio; a portrait has them the other way round.
_SIZES = {
    "480p": {"16:9": (864, 496), "4:3": (752, 560), "1:1": (640, 640), "21:9": (992, 432)},
    "720p": {"16:9": (1280, 720), "4:3": (1112, 834), "1:1": (960, 960), "21:9": (1470, 630)},
    "1080p": {"16:9": (1920, 1080), "4:3": (1664, 1248), "1:1": (1440, 1440), "21:9": (2206, 946)},
    # Only the first one is documented; clients have seen the others.
    "4k": {"16:9": (3840, 2160), "4:3": (3326, 2494), "1:1": (2880, 2880), "21:9": (4398, 1886)},
}
_SIZES_1_0 = {
    "480p": {"16:9": (864, 480), "4:3": (736, 544), "1:1": (640, 640), "21:9": (960, 416)},
    "720p": {"16:9": (1248, 704), "4:3": (1120, 832), "1:1": (960, 960), "21:9": (1504, 640)},
    "1080p": {"16:9": (1920, 1088), "4:3": (1664, 1248), "1:1": (1440, 1440), "21:9": (2176, 928)},
}
FRAMES_PER_SECOND = 24
# Parameters behind the prompt, an older style; invalid values are ignored there.
_SUFFIX = re.compile(r"--(rs|resolution|rt|ratio|dur|duration|seed|cf|camerafixed|wm|watermark)\s+(\S+)")


@dataclass(frozen=True, kw_only=True)
class ArkModelFamily:
    """
    The limits of a family of models.

    :param supports: The fields that not all models support, and ``flex`` for that service tier.
    :param durations: Minimum and maximum, in seconds.
    :param auto_duration: Whether -1 lets the model choose.
    :param references: Maximum number of reference images.
    :param clips: Maximum number of reference videos, and of reference audios.
    :param frames: Maximum number of frames.
    :param sizes: Pixels by resolution and ratio.
    """

    resolutions: tuple[str, ...]
    supports: frozenset[str]
    resolution: str = "720p"
    durations: tuple[int, int]
    auto_duration: bool = True
    references: int = 0
    clips: int = 0
    frames: int = 2
    sound_alone: bool = True
    images_needed: bool = False
    ratio: str = "adaptive"
    fast: bool = False
    sizes: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=lambda: _SIZES)

    def size(self, resolution: str, ratio: str) -> tuple[int, int]:
        """Return width and height of a video, in pixels."""
        sizes = self.sizes[resolution]
        if ratio in sizes:
            return sizes[ratio]
        width, height = sizes[":".join(reversed(ratio.split(":")))]
        return height, width


_FIELDS_1_0 = frozenset({"flex", "camera_fixed", "frames"})
_FIELDS_1_5 = frozenset({"flex", "camera_fixed", "generate_audio", "draft"})
_FIELDS_2_0 = frozenset({"generate_audio", "priority", "tools"})
_FIELDS_2_5 = _FIELDS_2_0 | {"draft", "output_format", "omni_reference_task_type"}
_FIELDS_OF_SOME_MODELS = (_FIELDS_1_0 | _FIELDS_1_5 | _FIELDS_2_5) - {"flex"}

_2_0 = ArkModelFamily(
    resolutions=("480p", "720p", "1080p", "4k"),
    supports=_FIELDS_2_0,
    durations=(4, 15),
    references=9,
    clips=3,
    sound_alone=False,
)
_2_0_FAST = replace(_2_0, resolutions=("480p", "720p"), fast=True)
_1_0 = ArkModelFamily(
    resolutions=("480p", "720p", "1080p"),
    supports=_FIELDS_1_0,
    resolution="1080p",
    durations=(2, 12),
    auto_duration=False,
    ratio="16:9",
    sizes=_SIZES_1_0,
)
MODELS = {
    "2-5": replace(
        _2_0,
        resolutions=("480p", "720p", "1080p"),
        supports=_FIELDS_2_5,
        durations=(4, 30),
        references=30,
        clips=10,
        sound_alone=True,
        sizes={**_SIZES, "480p": {**_SIZES["480p"], "16:9": (854, 480)}},
    ),
    "2-0": _2_0,
    "2-0-fast": _2_0_FAST,
    "2-0-mini": _2_0_FAST,
    "1-5-pro": ArkModelFamily(resolutions=("480p", "720p", "1080p"), supports=_FIELDS_1_5, durations=(4, 12)),
    "1-0-pro": _1_0,
    "1-0-pro-fast": replace(_1_0, fast=True, frames=1),
    "1-0-lite-t2v": replace(_1_0, resolution="720p", frames=0, fast=True),
    "1-0-lite-i2v": replace(_1_0, resolution="720p", images_needed=True, references=4, fast=True),
}
_DEFAULT_DURATION = 5
_TASK_TYPE = "InvalidParameter.TaskTypeConstraint"


@dataclass(frozen=True, kw_only=True)
class ArkTaskRequest:
    """
    A valid request.

    :param reported: The parameters with their defaults, as a task reports them.
    """

    family: ArkModelFamily
    prompt: str
    callback_url: str | None
    reported: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Length of the video, which has one frame more than its duration."""
        frames = self.reported.get("frames") or self.reported["duration"] * FRAMES_PER_SECOND + 1
        return float(frames / FRAMES_PER_SECOND)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the video, in pixels."""
        return self.family.size(self.reported["resolution"], self.reported["ratio"])


def parse_task(fields: Fields) -> ArkTaskRequest:
    """Read the body of a create call."""
    name = fields.text("model", required=True) or ""
    family = _family(name)
    prompt, draft_task = _content(fields.raw("content", required=True), family)
    suffix = _suffix(prompt)
    tier = fields.text("service_tier", choices=("default", "flex")) or "default"
    ratio = fields.text("ratio", choices=(*RATIOS, "adaptive")) or suffix.get("ratio") or family.ratio
    resolution = fields.text("resolution", choices=family.resolutions) or suffix.get("resolution")
    audio = fields.flag("generate_audio")
    seed = fields.integer("seed", low=-1, high=_SEED_LIMIT)
    optional = {
        "safety_identifier": fields.text("safety_identifier", max_chars=64),
        "draft_task_id": draft_task,
        "tools": tools(fields),
    }
    reported = {
        "model": name,
        "seed": -1 if seed is None else seed,
        "resolution": resolution if resolution in family.resolutions else family.resolution,
        # "adaptive" depends on the images, which are not downloaded here.
        "ratio": "16:9" if ratio == "adaptive" else ratio,
        "framespersecond": FRAMES_PER_SECOND,
        "generate_audio": "generate_audio" in family.supports if audio is None else audio,
        "draft": fields.flag("draft") or False,
        "service_tier": tier,
        "execution_expires_after": fields.integer("execution_expires_after", low=3600, high=259_200)
        or 172_800,
        "priority": fields.integer("priority", low=0, high=9) or 0,
        "output_format": fields.text("output_format", choices=("mp4", "mov")) or "mp4",
        **_length(fields, family, suffix),
        **{name: value for name, value in optional.items() if value is not None},
    }
    for name in ("watermark", "camera_fixed", "return_last_frame"):
        fields.flag(name)
    fields.text("omni_reference_task_type", choices=("auto", "reference", "edit", "extend"))
    callback_url = fields.callback("callback_url")
    _check_support(fields, family, tier, draft_task)
    _check_task_type(fields, family, draft_task)
    fields.refuse_unread()
    return ArkTaskRequest(family=family, prompt=prompt, callback_url=callback_url, reported=reported)


def _family(name: str) -> ArkModelFamily:
    if ENDPOINT.fullmatch(name):
        return MODELS["2-0"]
    match = _VIDEO_MODEL.fullmatch(name) or _PLAN_MODEL.fullmatch(name)
    family = match[1].replace(".", "-") if match else ""
    if family not in MODELS:
        raise unknown_model(name)
    return MODELS[family]


def unknown_model(name: str) -> ApiError:
    """Return the error for a model that does not exist."""
    message = f"The model or endpoint {name} does not exist or you do not have access to it."
    return ApiError(message, status=404, code="InvalidEndpointOrModel.NotFound", field="model")


def _check_support(fields: Fields, family: ArkModelFamily, tier: str, draft_task: str | None) -> None:
    """Refuse fields that the model does not support, or not in this tier."""
    unsupported = _FIELDS_OF_SOME_MODELS - family.supports
    if tier == "flex":
        unsupported |= {"priority"} if "flex" in family.supports else {"service_tier"}
    if draft_task is not None:
        unsupported |= {"ratio", "duration", "seed", "generate_audio", "draft"}  # it has its own
    for name in unsupported:
        if name in fields:
            raise fields.error(name, "is not supported by this model with these parameters", "unsupported")


def _check_task_type(fields: Fields, family: ArkModelFamily, draft_task: str | None) -> None:
    """Refuse a ratio, duration or resolution that does not go with the inputs, or with an edit."""
    given, is_2_5 = fields.given, family is MODELS["2-5"]
    roles = {item.get("role") or "first_frame" for item in given["content"] if item["type"].endswith("_url")}
    rules = (
        ("ratio", "adaptive", is_2_5 and roles & {"first_frame", "last_frame"}),
        ("duration", -1, given.get("omni_reference_task_type") == "edit"),
        ("resolution", "1080p", is_2_5 and draft_task is not None),
    )
    if given.get("ratio") == "adaptive" != family.ratio and not roles:
        raise fields.error("ratio", "adaptive is not supported by this model without an image", "unsupported")
    for name, value, applies in rules:
        if applies and given.get(name, value) != value:
            error = fields.error(name, f"must be {value} for this type of task", "unsupported")
            raise replace(error, code=_TASK_TYPE)


def _length(fields: Fields, family: ArkModelFamily, suffix: dict[str, str]) -> dict[str, int]:
    """Return the number of frames or the duration; frames take precedence."""
    shortest, longest = family.durations
    duration = fields.integer("duration")
    if duration is not None and not (shortest <= duration <= longest):
        if duration != -1 or not family.auto_duration:
            raise fields.error("duration", f"must be {shortest} to {longest}", "range", [shortest, longest])
        duration = _DEFAULT_DURATION
    frames = fields.integer("frames", low=29, high=289)
    if frames is not None:
        if (frames - 25) % 4:
            raise fields.error("frames", "must be 25 + 4n", "range", [29, 289])
        return {"frames": frames}
    written = suffix.get("duration", "")
    if duration is None and written.isdigit() and shortest <= int(written) <= longest:
        duration = int(written)
    return {"duration": _DEFAULT_DURATION if duration is None else duration}


def tools(fields: Fields) -> list[dict[str, Any]] | None:
    """Return the tools of the model: only ``web_search`` is documented."""
    value = fields.raw("tools")
    if value is None:
        return None
    if not isinstance(value, list) or any(tool != {"type": "web_search"} for tool in value):
        raise fields.error("tools", 'may hold {"type": "web_search"} only', "enum", ["web_search"])
    return list(value)


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
    if drafts and (len(value) > 1 or "draft" not in family.supports):
        raise _conflict("a draft_task stands alone, with a model that makes drafts")
    _check_modes(roles, value, family)
    return "\n".join(texts), drafts[0] if drafts else None


def _item(item: Any, at: str) -> tuple[str, str, str | None]:
    """Return the type of an item, its text, URL or id, and its role."""
    fields = Fields(item, at=at, nulls=True)
    kind = fields.text("type", required=True, choices=_ITEMS) or ""
    if kind == "text":
        text = fields.text("text", required=True) or ""
        fields.refuse_unread()
        return kind, text, None
    payload = Fields(fields.raw(kind, required=True), at=f"{at}.{kind}", nulls=True)
    name, role = ("id", None) if kind == "draft_task" else ("url", fields.text("role", choices=_ROLES[kind]))
    value = payload.text(name, required=True) or ""
    fields.refuse_unread()
    payload.refuse_unread()
    base64 = kind != "video_url" and value.startswith("data:") and ";base64," in value
    if name == "url" and not (base64 or is_https_url(value) or re.match("asset://.", value)):
        raise payload.error("url", "must be https, data: or asset://", "url")
    if role is None and kind in ("video_url", "audio_url"):
        raise fields.error("role", "is required", "required")
    return kind, value, role


def _check_modes(roles: list[str | None], content: list[Any], family: ArkModelFamily) -> None:
    """First frame, first and last frame, and references exclude each other."""
    count: Callable[[str], int] = roles.count
    first, last, images = count("first_frame"), count("last_frame"), count("reference_image")
    clips, sounds = count("reference_video"), count("reference_audio")
    references = images + clips + sounds
    without_role = [item for item in content if item.get("type") == "image_url" and item.get("role") is None]
    nothing = not roles and not any(item.get("type") in ("text", "draft_task") for item in content)
    rules = (
        (references and (first or last), "first or last frames cannot be mixed with references"),
        (first > 1 or last > 1, "there may be one first_frame and one last_frame; give other images a role"),
        (last and not first, "a last_frame needs a first_frame"),
        (last and without_role, "with two images both need their role"),
        ((first or references) and not family.frames, "this model takes text only"),
        (last and family.frames < 2, "this model takes no last_frame"),
        (family.images_needed and not (first or references), "this model needs an image"),
        (references and not family.references, "this model takes no references"),
        (images > family.references, f"this model takes at most {family.references} reference images"),
        (max(clips, sounds) > family.clips, f"this model takes {family.clips} videos, and as many audios"),
        (sounds and sounds == references and not family.sound_alone, "audio needs an image or a video"),
        (nothing, "there is nothing to render"),
    )
    for is_violated, message in rules:
        if is_violated:
            raise _conflict(message)


def _conflict(message: str) -> ApiError:
    return ApiError(f"content: {message}", field="content", code=_TASK_TYPE)
