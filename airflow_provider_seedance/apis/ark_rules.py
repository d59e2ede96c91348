"""Models of BytePlus ModelArk and Volcengine Ark: the arguments, values and combinations that each accepts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from airflow_provider_seedance import generations
from airflow_provider_seedance.apis import rules
from airflow_provider_seedance.apis.rules import Rule
from airflow_provider_seedance.urls import MediaInput

FRAMES = ("first_frame", "last_frame")
REFERENCES = ("reference_image", "reference_video", "reference_audio")

_BYTEPLUS_VIDEO = (
    "dreamina-seedance-2-5-260628",
    "dreamina-seedance-2-0-260128",
    "dreamina-seedance-2-0-fast-260128",
    "dreamina-seedance-2-0-mini-260615",
    "seedance-1-0-pro-250528",
    "seedance-1-0-pro-fast-251015",
)
_VOLCENGINE_VIDEO = (
    *("doubao-" + name.removeprefix("dreamina-") for name in _BYTEPLUS_VIDEO),
    "doubao-seedance-1-5-pro-251215",
    # Names in a plan.
    *(f"doubao-seedance-{name}" for name in ("2.5", "2.0", "2.0-fast", "2.0-mini", "1.5-pro")),
)
_BYTEPLUS_IMAGE = (
    "dola-seedream-5-0-pro-260628",
    "dola-seedream-5-0-flash-260915",
    "seedream-5-0-260128",
    "seedream-5-0-lite-260128",
    "seedream-4-5-251128",
    "seedream-4-0-250828",
)
_VOLCENGINE_IMAGE = (
    "doubao-seedream-5-0-pro-260628",
    "doubao-seedream-5-0-260128",
    "doubao-seedream-5-0-lite-260128",
    "doubao-seedream-4-5-251128",
    "doubao-seedream-4-0-250828",
)
#: Models that the service has switched off, with the date.
_RETIRED = {
    "seedance-1-5-pro-251215": "2026-11-11",
    **{
        f"{prefix}seedance-1-0-lite-{kind}-250428": "2026-05-13"
        for prefix in ("", "doubao-")
        for kind in ("t2v", "i2v")
    },
}
#: Seconds of a video without ``duration``, of the models that do not choose them.
_DEFAULT_DURATION = 5
_FRAMES_PER_SECOND = 24

_RATIOS = ("16:9", "4:3", "1:1", "3:4", "9:16", "21:9", "adaptive")
_ALL_ARGUMENTS = frozenset({"generate_audio", "fixed_lens", "draft"})


@dataclass(frozen=True, kw_only=True)
class VideoModel:
    """
    Limits of a Seedance model.

    :param arguments: The arguments that not every model accepts.
    :param images: Maximum number of reference images; ``None`` where no limit is known.
    :param clips: Maximum number of reference videos, and of reference audios. Together these limits are the documented
        one of references in all: 15 (2.0) and 50 (2.5).
    :param frames: The roles of frames that it accepts.
    :param flex: Whether it is also offered at the lower price of the flex tier.
    """

    resolutions: tuple[str, ...] = ("480p", "720p", "1080p")
    durations: tuple[int, int] = (2, 30)
    auto_duration: bool = True
    arguments: frozenset[str] = _ALL_ARGUMENTS
    images: int | None = None
    clips: int | None = None
    frames: tuple[str, ...] = FRAMES
    flex: bool = True


#: Widest limits, for endpoint ids (``ep-…``) and undocumented models.
_ANY = VideoModel(resolutions=("480p", "720p", "1080p", "4k"))
_V2_0 = VideoModel(
    resolutions=_ANY.resolutions,
    durations=(4, 15),
    arguments=frozenset({"generate_audio"}),
    images=9,
    clips=3,
    flex=False,
)
_V1_0 = VideoModel(
    durations=(2, 12), auto_duration=False, arguments=frozenset({"fixed_lens"}), images=0, clips=0
)
_VIDEO_MODELS = {
    "2.5": replace(
        _V2_0,
        resolutions=_V1_0.resolutions,
        durations=(4, 30),
        arguments=frozenset({"generate_audio", "draft"}),
        images=30,
        clips=10,
    ),
    "2.0": _V2_0,
    "2.0-fast": replace(_V2_0, resolutions=("480p", "720p")),
    "2.0-mini": replace(_V2_0, resolutions=("480p", "720p")),
    "1.5-pro": VideoModel(durations=(4, 12), images=0, clips=0),
    "1.0-pro": _V1_0,
    "1.0-pro-fast": replace(_V1_0, frames=("first_frame",)),
    "1.0-lite-t2v": replace(_V1_0, frames=()),
    "1.0-lite-i2v": replace(_V1_0, images=4),
}

_SIDES_IN_K = "1K, 1.5K, 2K, 3K, 4K or auto (by model), a size such as 2048x2048, or adaptive"
_PIXELS = r"[1-9]\d{1,4}x[1-9]\d{1,4}|auto|adaptive"
#: Sizes of the Seedream models that do not accept every documented one.
_IMAGE_SIZES = {"4.0": "124", "4.5": "24", "5.0-lite": "234"}
_MIN_PIXELS_4_5 = 3_686_400
_MAX_IMAGES = 15
_SMALL_GROUPS = ("5.0-pro", "5.0-flash")


def model_family(model: str | None) -> str | None:
    """
    Return version and variant of a model id, such as ``2.0-fast``.

    ``None`` for endpoint ids (``ep-…``) and undocumented models, to which the widest rules apply.
    """
    found = re.search(
        r"seed(?:ance|ream)-(\d)[-.](\d)((?:-(?:pro|fast|mini|flash|lite|t2v|i2v|t2i)\b)*)", model or ""
    )
    return f"{found[1]}.{found[2]}{found[3]}" if found else None


def is_volcengine(base_url: str) -> bool:
    """Return whether a base URL is one of Volcengine, whose model ids differ from those of BytePlus."""
    return (urlsplit(base_url).hostname or "").endswith(".volces.com")


def _model_rule(volcengine: tuple[str, ...], byteplus: tuple[str, ...], base_url: str) -> Rule:
    known = volcengine if is_volcengine(base_url) else byteplus
    return rules.model_name(known, prefixes=("ep-",), retired=_RETIRED)


def _seed_rule(base_url: str) -> Rule:
    return rules.whole_number(-1, 2**32 - 1 if is_volcengine(base_url) else 2**31 - 1)


def video_rules(request: generations.GenerationRequest, base_url: str) -> Mapping[str, Rule]:
    """Return the rules for the arguments of a video."""
    model = _video_model(request.model)
    tiers = ("default", "flex") if model.flex else ("default",)
    return {
        "prompt": rules.text(),
        "model": _model_rule(_VOLCENGINE_VIDEO, _BYTEPLUS_VIDEO, base_url),
        "duration": rules.whole_number(
            *model.durations, " (seconds)", also=(-1,) if model.auto_duration else ()
        ),
        "resolution": rules.one_of(model.resolutions),
        "aspect_ratio": rules.one_of(_RATIOS),
        "seed": _seed_rule(base_url),
        "images": rules.inputs(
            maximum=model.images or None,
            roles=(*FRAMES, *REFERENCES, "draft_task"),
            schemes=("data", "asset"),
        ),
        "watermark": rules.flag(),
        "return_last_frame": rules.flag(),
        "service_tier": rules.one_of(tiers),
        **{name: rules.flag() for name in sorted(model.arguments)},
    }


def image_rules(request: generations.GenerationRequest, base_url: str) -> Mapping[str, Rule]:
    """Return the rules for the arguments of images."""
    family = model_family(request.model) or ""
    found = {
        "prompt": rules.text(),
        "model": _model_rule(_VOLCENGINE_IMAGE, _BYTEPLUS_IMAGE, base_url),
        "resolution": _size_rule(family),
        "num_images": rules.whole_number(1, 1 if family in _SMALL_GROUPS else _MAX_IMAGES),
        "images": rules.inputs(maximum=10 if family in _SMALL_GROUPS else 14, schemes=("data",)),
        "watermark": rules.flag(),
        "output_format": rules.one_of(("png", "jpeg")),
    }
    if not family.startswith(("4.", "5.")):
        found["seed"] = _seed_rule(base_url)
    return found


def _size_rule(family: str) -> Rule:
    digits = _IMAGE_SIZES.get(family)
    if digits is None:
        half = r"|1\.5[kK]" if family in ("", *_SMALL_GROUPS) else ""
        return rules.pattern(rf"[1-4][kK]{half}|{_PIXELS}", _SIDES_IN_K)
    takes = f"{', '.join(f'{digit}K' for digit in digits)}, auto, a size such as 2048x2048, or adaptive"
    return rules.pattern(rf"[{digits}][kK]|{_PIXELS}", takes)


def _video_model(model: str | None) -> VideoModel:
    return _VIDEO_MODELS.get(model_family(model) or "", _ANY)


def image_problems(request: generations.ImageRequest) -> list[str]:
    """Return problems of the arguments of images in combination."""
    inputs, outputs = len(request.images or ()), request.num_images or 1
    problems = []
    if inputs + outputs > _MAX_IMAGES:
        problems.append(f"{inputs} images in and {outputs} out are more than {_MAX_IMAGES}")
    width, _, height = str(request.resolution).partition("x")
    small = height.isdigit() and int(width) * int(height) < _MIN_PIXELS_4_5
    if small and model_family(request.model) == "4.5":
        problems.append(
            f"resolution={request.resolution!r}: Seedream 4.5 takes at least {_MIN_PIXELS_4_5:,} pixels"
        )
    return problems


def video_problems(request: generations.VideoRequest) -> list[str]:
    """Return problems of the arguments of a video in combination."""
    family, model = model_family(request.model), _video_model(request.model)
    roles = [role for _, role in with_roles(request.images or ())]
    if "draft_task" in roles:
        return _draft_problems(request, family)
    frames = [role for role in roles if role in FRAMES]
    return [
        *(_frame_problems(frames, roles, model) or _reference_problems(roles, model, family)),
        *_ratio_problems(request, family, frames),
        *(
            f"images: {item.role} must be an https or asset:// URL"
            for item in request.images or ()
            if item.role == "reference_video" and item.url.startswith("data:")
        ),
    ]


def _frame_problems(frames: list[str], roles: list[str], model: VideoModel) -> list[str]:
    if frames and any(role in REFERENCES for role in roles):
        return ["images: first and last frames cannot be mixed with references"]
    if len(set(frames)) < len(frames):
        return ["images: each of first_frame and last_frame can be given once"]
    if frames == ["last_frame"]:
        return ["images: a last_frame needs a first_frame"]
    if unsupported := [role for role in frames if role not in model.frames]:
        return [f"images: this model takes no {' and no '.join(unsupported)}"]
    return []


def _reference_problems(roles: list[str], model: VideoModel, family: str | None) -> list[str]:
    counts = {role: roles.count(role) for role in REFERENCES}
    limits = dict(zip(REFERENCES, (model.images, model.clips, model.clips), strict=True))
    found = [
        f"images: {count} of role {role} were given; this model takes {limit or 'none'}"
        for role, count in counts.items()
        if (limit := limits[role]) is not None and count > limit
    ]
    if (family or "").startswith("2.0") and set(roles) == {"reference_audio"}:
        found.append("images: reference_audio needs a reference_image or reference_video beside it")
    return found


def _ratio_problems(request: generations.VideoRequest, family: str | None, frames: list[str]) -> list[str]:
    found = []
    if family == "2.5" and frames and request.aspect_ratio not in (None, "adaptive"):
        found.append("aspect_ratio: Seedance 2.5 takes only adaptive with a first or last frame")
    if (family or "").startswith("1.0") and request.aspect_ratio == "adaptive" and not request.images:
        found.append("aspect_ratio: adaptive needs an image at this model")
    edit = (request.extra_params or {}).get("omni_reference_task_type") == "edit"
    if edit and request.duration not in (None, -1):
        found.append("duration: an edit takes only -1, the length of the clip that it edits")
    return found


def _draft_problems(request: generations.VideoRequest, family: str | None) -> list[str]:
    """Return the problems of a video that is made from a draft, whose request it repeats."""
    names = ("aspect_ratio", "duration", "seed", "generate_audio", "draft")
    given = [name for name in names if getattr(request, name) is not None]
    if request.prompt.strip():
        given.insert(0, "prompt")
    if len(request.images or ()) > 1:
        given.append("other images")
    found = [f"{', '.join(given)} cannot be given beside a draft_task, which has its own"] if given else []
    if family == "2.5" and request.resolution not in (None, "1080p"):
        found.append("resolution: Seedance 2.5 makes the final of a draft in 1080p only")
    return found


def with_roles(inputs: tuple[MediaInput, ...]) -> list[tuple[MediaInput, str]]:
    """Return inputs with roles; without one, their number decides: a frame, two frames, or references."""
    free = [item for item in inputs if item.role is None]
    given = {item.role for item in inputs} - {None}
    if given & set(REFERENCES) or len(free) > 2:
        roles = ["reference_image"] * len(free)
    else:
        roles = [role for role in FRAMES if role not in given][: len(free)]
        roles += ["reference_image"] * (len(free) - len(roles))
    queue = iter(roles)
    return [(item, item.role or next(queue)) for item in inputs]


# ---------------------------------------------------------------------- tokens

_FRAME_RATIOS = ("16:9", "4:3", "1:1", "21:9")
#: Pixels by resolution, in the order of the ratios; Seedance 1.0 renders multiples of 32.
_FRAME_SIZES = {
    "480p": ((864, 496), (752, 560), (640, 640), (992, 432)),
    "720p": ((1280, 720), (1112, 834), (960, 960), (1470, 630)),
    "1080p": ((1920, 1080), (1664, 1248), (1440, 1440), (2206, 946)),
}
_FRAME_SIZES_1_0 = {
    "480p": ((864, 480), (736, 544), (640, 640), (960, 416)),
    "720p": ((1248, 704), (1120, 832), (960, 960), (1504, 640)),
    "1080p": ((1920, 1088), (1664, 1248), (1440, 1440), (2176, 928)),
}
_FRAME_SIZES_2_5 = {**_FRAME_SIZES, "480p": ((854, 480), *_FRAME_SIZES["480p"][1:])}
#: Fields of the service that replace the arguments by which tokens are counted.
_TOKEN_FIELDS = ("content", "duration", "frames", "ratio", "resolution")


def frame_size(family: str, resolution: str, ratio: str) -> tuple[int, int] | None:
    """Return width and height of a video in pixels, or ``None`` where they are not documented."""
    if resolution == "4k" and ratio in ("16:9", "9:16"):
        return (3840, 2160) if ratio == "16:9" else (2160, 3840)
    tables = {"1.0": _FRAME_SIZES_1_0, "2.5": _FRAME_SIZES_2_5}
    sizes = tables.get(family[:3], _FRAME_SIZES).get(resolution, ())
    by_ratio = dict(zip(_FRAME_RATIOS, sizes, strict=False))
    turned = {":".join(reversed(name.split(":"))): (high, wide) for name, (wide, high) in by_ratio.items()}
    return {**turned, **by_ratio}.get(ratio)


def output_tokens(request: generations.VideoRequest) -> int | None:
    """
    Return the tokens of a video, which are billed, or ``None`` where the request does not determine them.

    That is, where the model chooses ratio or duration, and where an input video counts, too.
    """
    family = model_family(request.model) or ""
    ratio = request.aspect_ratio
    if ratio is None and family.startswith("1.0") and not request.images:
        ratio = "16:9"
    resolution, seconds = request.resolution, request.duration
    if family:
        resolution = resolution or ("1080p" if family.startswith("1.0-pro") else "720p")
    if family and family != "2.5" and seconds is None:
        seconds = _DEFAULT_DURATION
    size = frame_size(family, resolution, ratio) if resolution and ratio else None
    roles = {item.role for item in request.images or ()} & {"reference_video", "draft_task"}
    if size is None or not isinstance(seconds, int) or seconds < 1 or roles:
        return None
    if any(name in (request.extra_params or {}) for name in _TOKEN_FIELDS):
        return None
    return size[0] * size[1] * (_FRAMES_PER_SECOND * seconds + 1) // 1024
