"""Request bodies of ModelArk's image endpoint (Seedream)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_provider_seedance.emulator.models import MediaSpec
from airflow_provider_seedance.emulator.services.ark_requests import ENDPOINT, tools, unknown_model
from airflow_provider_seedance.emulator.services.service import Fields, is_http_url

_MODEL = re.compile(
    r"(?:doubao-|dreamina-|dola-)?seedream-(3-0-t2i|4-0|4-5|5-0|5-0-lite|5-0-pro|5-0-flash)-\d{6}"
)
#: Models that make one image at a time, from fewer references, in these sizes.
_SINGLE = ("5-0-pro", "5-0-flash")
_MAX_SINGLE_REFERENCES = 10
_MIN_PIXELS_4_5 = 3_686_400
_SIZES = {
    "3-0-t2i": (),
    "4-0": ("1K", "2K", "4K"),
    "4-5": ("2K", "4K"),
    "5-0": ("1K", "2K", "3K", "4K"),
    "5-0-lite": ("2K", "3K", "4K"),
    "5-0-pro": ("1K", "1.5K", "2K"),
    "5-0-flash": ("1K", "1.5K", "2K"),
}
_SIDES = {"1K": 1024, "1.5K": 1536, "2K": 2048, "3K": 3072, "4K": 4096}
_MAX_IMAGES = 15
_MAX_REFERENCES = 14


@dataclass(frozen=True, kw_only=True)
class ArkImageRequest:
    """
    A valid request.

    :param count: Number of images in the group.
    :param references: Number of input images.
    :param base64: Whether the reply contains the images themselves.
    """

    model: str
    spec: MediaSpec
    count: int
    references: int
    base64: bool
    stream: bool


def parse_images(fields: Fields) -> ArkImageRequest:
    """Read the body of an image call."""
    model = fields.text("model", required=True) or ""
    match = _MODEL.fullmatch(model)
    if match is None and not ENDPOINT.fullmatch(model):
        raise unknown_model(model)
    family = match[1] if match else "4-0"
    references = _references(fields, family)
    if fields.integer("seed", low=-1, high=2**31 - 1) is not None and match and family != "3-0-t2i":
        raise fields.error("seed", "is not supported by this model", "unsupported")
    fields.number("guidance_scale", low=1, high=10)
    for name in ("watermark", "optimize_prompt", "layer_decomposition"):
        fields.flag(name)
    tools(fields)
    if options := fields.nested("optimize_prompt_options"):
        options.text("mode", choices=("standard", "fast"))
        options.raw("thinking")
        options.refuse_unread()
    width, height = _size(fields, family)
    prompt = fields.prompt()
    format = fields.text("output_format", choices=("png", "jpeg")) or "jpeg"
    request = ArkImageRequest(
        model=model,
        spec=MediaSpec(kind="image", prompt=prompt, width=width, height=height, format=format),
        count=_count(fields, references, family),
        references=references,
        base64=fields.text("response_format", choices=("url", "b64_json")) == "b64_json",
        stream=fields.flag("stream") or False,
    )
    fields.refuse_unread()
    return request


def _references(fields: Fields, family: str) -> int:
    value = fields.raw("image")
    images = value if isinstance(value, list) else [] if value is None else [value]
    if not all(is_http_url(image) or str(image).startswith("data:image/") for image in images):
        raise fields.error("image", "must be a URL or data URI, or an array of them", "url")
    longest = _MAX_SINGLE_REFERENCES if family in _SINGLE else _MAX_REFERENCES
    if len(images) > longest:
        raise fields.error("image", f"takes at most {longest}", "max_items", longest)
    return len(images)


def _size(fields: Fields, family: str) -> tuple[int, int]:
    size = fields.text("size")
    if size is None or size in ("auto", "adaptive"):
        side = 1024 if family == "3-0-t2i" else 2048
        return side, side
    if size.upper() in _SIZES[family]:
        return _SIDES[size.upper()], _SIDES[size.upper()]
    match = re.fullmatch(r"(\d{2,5})x(\d{2,5})", size)
    if match is None:
        allowed = ", ".join((*_SIZES[family], "WxH"))
        raise fields.error("size", f"must be one of {allowed}", "enum", allowed)
    width, height = int(match[1]), int(match[2])
    if not 1 / 16 <= width / height <= 16 or not 512 * 512 <= width * height <= 4096 * 4096:
        raise fields.error("size", "is out of range", "range", ["512x512", "4096x4096"])
    if family == "4-5" and width * height < _MIN_PIXELS_4_5:
        raise fields.error("size", f"must have at least {_MIN_PIXELS_4_5} pixels", "range", _MIN_PIXELS_4_5)
    return width, height


def _count(fields: Fields, references: int, family: str) -> int:
    mode = fields.text("sequential_image_generation", choices=("auto", "disabled")) or "disabled"
    max_images: int | None = None
    if options := fields.nested("sequential_image_generation_options"):
        max_images = options.integer("max_images", low=1, high=_MAX_IMAGES)
        options.refuse_unread()
    if mode == "disabled":
        return 1
    if family in _SINGLE:
        raise fields.error("sequential_image_generation", "is not supported by this model", "unsupported")
    if max_images is not None and references + max_images > _MAX_IMAGES:
        raise fields.error(
            "sequential_image_generation_options", f"with references: {_MAX_IMAGES} at most", "range"
        )
    # By default the model chooses the number by the prompt.
    return max_images if max_images is not None else min(3, _MAX_IMAGES - references)
